"""Which format a list has, by what most of its first lines look like."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omnidali.catalog.listing import dataset_lists
from omnidali.catalog.listing.comments import CommentRule
from omnidali.catalog.listing.list_file import NUMBER, fields_of
from omnidali.catalog.listing.list_formats import FORMATS, split_label
from omnidali.catalog.probing.root_guard import RootPaths, escape_reason
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import read_lines

_LOOKED_AT = 200  # lines that decide on the format
# The formats of a kind, the ones that ask most of a line first. All lines fit path_label.
_BY_KIND = {
    MediaKind.VIDEO: ("ucf101", "hmdb51", "something_csv", "video_ids", "slowfast_csv"),
    MediaKind.IMAGE: ("video_ids", "slowfast_csv"),
    MediaKind.FRAMES: ("something_csv", "rawframes_offset", "rawframes"),
    MediaKind.UNTRIMMED: ("pieces", "parts"),
}
_CATCH_ALL = "path_label"
# The path of a line, by format: of those that are told apart by the files that they find.
_PATHS: dict[str, Callable[[str], str]] = {
    "path_label": lambda line: split_label(line)[0],
    "rawframes": lambda line: _before(line, 2),
    "rawframes_offset": lambda line: _before(line, 3),
    "slowfast_csv": lambda line: fields_of(line)[0],
}


def recognise(path: Path, kind: MediaKind, root: str | Path | None = None) -> str:
    """Recognise a list's format from its first lines.

    The format is the one that asks most of a line and that two thirds of the lines fit. So an odd
    line is an error of that format when it is read, and not a reason for another format. Where some
    lines do not fit, a format that finds more files below the root is preferred.

    Args:
        path: of the list.
        kind: of the source.
        root: of the source; none: not known.

    Raises:
        UserError: if the list cannot be read, holds no line, or may be one format or another.
    """
    lines = _first_lines(path, root)
    if lines[0].startswith(("[", "{")):
        if kind is MediaKind.UNTRIMMED:
            return "parts_json"
        if kind is MediaKind.VIDEO and _is_json(lines[0]):
            return "something_json"
    if "youtube_id" in fields_of(lines[0]):
        return "kinetics_csv"
    if kind is MediaKind.UNTRIMMED:
        return _recognise_untrimmed(path, lines)

    form = _choose(path, lines, kind, root)
    if form == "ucf101" and dataset_lists.counts_otherwise(_lines(path)):
        return _CATCH_ALL
    return form


def _first_lines(path: Path, root: str | Path | None) -> list[str]:
    """The first lines that are neither empty nor comments."""
    odd: list[str] = []
    rule = CommentRule(root, lambda path, reason, where: odd.append(where))
    known = itertools.islice(read_lines(path, "list", rule.leaves_out), _LOOKED_AT)
    listed = [(where, line) for where, line in known if line]
    lines = [line for where, line in listed if not rule.is_comment(where, line)]
    # names that begin with # in folders that only the format knows
    lines = lines or [line for _, line in listed if line[1:2].strip()]

    if not lines and odd:
        raise UserError(
            odd[0],
            "a path in UTF-8",
            "one that is not, as in all lines",
            "Rename the files, here too.",
        )
    if not lines:
        raise UserError(
            str(path),
            "lines of `path label`",
            "an empty list",
            "Check that the right file is named.",
        )
    return lines


def _lines(path: Path) -> Iterator[str]:
    return (line for _, line in read_lines(path, "list", lambda where, line: True))


def _is_json(line: str) -> bool:
    """Whether a first line is JSON's, and no path that begins with a bracket."""
    return line.rstrip() in ("[", "{", "[{") or line.replace(" ", "").startswith(('[{"', '{"'))


def _choose(path: Path, lines: Sequence[str], kind: MediaKind, root: str | Path | None) -> str:
    """The format of a list of files or of folders of frames."""
    real_root = None if root is None else os.path.realpath(root)
    forms = list(_BY_KIND[kind])
    if not dataset_lists.is_hmdb51_name(path.stem) and "hmdb51" in forms:
        forms.remove("hmdb51")
    # a name may begin with a number and a semicolon, too
    others = [form for form in (*forms, _CATCH_ALL) if form in _PATHS]
    if any(_count_found(form, lines, real_root) for form in others) and "something_csv" in forms:
        forms.remove("something_csv")

    best = None
    unclear = []
    for form in forms:
        count = sum(map(FORMATS[form].fits, lines))
        if best is None and count == len(lines):
            return form
        if form == "slowfast_csv" and _mixes_separators(lines):
            continue

        if _is_most(count, lines):
            if best is None or _finds_more(form, best, lines, root=real_root):
                best = form
        elif 3 * count > len(lines):
            unclear.append(form)

    if best is None:
        for form in unclear:
            _require_unlike(path, form, lines, real_root)
    if best is None or _finds_more(_CATCH_ALL, best, lines, root=real_root):
        return _CATCH_ALL
    return best


def _mixes_separators(lines: Sequence[str]) -> bool:
    """Whether some lines have a comma before their label, and all others a space."""
    others = [line for line in lines if not FORMATS["slowfast_csv"].fits(line)]
    return all("," not in line and split_label(line)[1] is not None for line in others)


def _is_most(count: int, lines: Sequence[str]) -> bool:
    return 3 * count >= 2 * len(lines)


def _finds_more(form: str, other: str, lines: Sequence[str], root: str | None) -> bool:
    """Whether more files are found if the lines are of a format than if they are of another one.

    Never if the other one is clear by itself: there an odd line is odd, though it names a file.
    """
    if other not in _PATHS:
        return False
    return _count_found(form, lines, root) > _count_found(other, lines, root)


def _require_unlike(path: Path, form: str, lines: Sequence[str], root: str | None) -> None:
    """Refuse a list of which a part fits a format that finds files, and a part does not.

    Raises:
        UserError: unless more files are found where each line is a path and its label.
    """
    if not _count_found(form, lines, root) or _finds_more(_CATCH_ALL, form, lines, root=root):
        return
    raise UserError(
        str(path),
        f"lines that are clearly `{FORMATS[form].line}` or `{FORMATS[_CATCH_ALL].line}`",
        repr(lines[0][:200]),
        f"Name the list's format: {form} or {_CATCH_ALL}.",
    )


def _before(line: str, count: int) -> str:
    """The path before so many other fields."""
    return fields_of(line)[0] if "," in line else line.rsplit(None, count)[0]


def _count_found(form: str, lines: Sequence[str], root: str | None) -> int:
    """How many lines name what lies below the root, if they are of a format."""
    if root is None or form not in _PATHS:
        return 0
    below = RootPaths(root).relative
    own_name = f"{os.path.basename(root)}/"  # with which lists may begin
    paths = [
        below(_PATHS[form](line))
        for line in lines
        if form == _CATCH_ALL or FORMATS[form].fits(line)
    ]
    return sum(
        any(
            escape_reason(root, name) is None and os.path.lexists(os.path.join(root, name))
            for name in {path, path.removeprefix(own_name)}
        )
        for path in paths
    )


def _recognise_untrimmed(path: Path, lines: Sequence[str]) -> str:
    pieces = [line for line in lines if FORMATS["pieces"].fits(line)]
    parts = [line for line in lines if FORMATS["parts"].fits(line)]
    if (len(pieces) == len(lines)) != (len(parts) == len(lines)):
        return "pieces" if len(pieces) == len(lines) else "parts"

    parts_too = set(parts)
    both = [line for line in pieces if line in parts_too]
    if _is_most(len(both), lines) and all(map(_counts_parts, both)):
        if not all(map(_counts_seconds, both)):
            return "parts"
        raise UserError(
            str(path),
            "lines that are clearly `path start end label` or `video label num_clips positive ...`",
            repr(lines[0][:200]),
            "Name the list's format: pieces or parts.",
        )

    if _is_most(len(pieces), lines):
        return "pieces"
    return "parts" if _is_most(len(parts), lines) else _CATCH_ALL


def _counts_parts(line: str) -> bool:
    """Whether all positives of `video label num_clips positive ...` are parts of the video."""
    row = fields_of(line)
    return all(int(field) < int(row[2]) for field in row[3:])


def _counts_seconds(line: str) -> bool:
    """Whether the fields of `path start end label` are a span of time."""
    row = fields_of(line)
    return bool(
        len(row) == 4
        and NUMBER.fullmatch(row[1])
        and NUMBER.fullmatch(row[2])
        and float(row[1]) < float(row[2])
    )
