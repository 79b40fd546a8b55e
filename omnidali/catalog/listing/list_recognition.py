"""Which format a list has, by what most of its first lines look like."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.listing import dataset_lists, several_labels
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
CATCH_ALL = "path_label"
# The path of a line, by format: of those that are told apart by the files that they find.
PATHS: dict[str, Callable[[str], str]] = {
    "path_label": lambda line: split_label(line)[0],
    "rawframes": lambda line: _before(line, 2),
    "rawframes_offset": lambda line: _before(line, 3),
    "slowfast_csv": lambda line: fields_of(line)[0],
}


class _Shapes(NamedTuple):
    """What the lines of lists look like.

    Attributes:
        forms: that are recognised, by kind.
        fits: whether a line may be one of a format, by its name.
        paths: the path of a line, by format: of those that are told apart by the files that they
            find.
    """

    forms: Mapping[MediaKind, tuple[str, ...]]
    fits: Mapping[str, Callable[[str], bool]]
    paths: Mapping[str, Callable[[str], str]]


_ONE = _Shapes(_BY_KIND, {name: form.fits for name, form in FORMATS.items()}, PATHS)
_SEVERAL = _Shapes(
    several_labels.RECOGNISED,
    several_labels.FITS,
    {name: partial(several_labels.several_path, form=name) for name in PATHS},
)


def recognise(
    path: Path, kind: MediaKind, root: str | Path | None = None, multi_label: bool = False
) -> str:
    """Recognise a list's format from its first lines.

    The format is the one that asks most of a line and that two thirds of the lines fit. So an odd
    line is an error of that format when it is read, and not a reason for another format. Where some
    lines do not fit, a format that finds more files below the root is preferred.

    Args:
        path: of the list.
        kind: of the source.
        root: of the source; none: not known.
        multi_label: whether a line may have several labels.

    Raises:
        UserError: if the list cannot be read, holds no line, or may be one format or another.
    """
    lines = first_lines(path, root)
    if lines[0].startswith(("[", "{")):
        if kind is MediaKind.UNTRIMMED:
            return "parts_json"
        if kind is MediaKind.VIDEO and _is_json(lines[0]):
            return "something_json"
    if "youtube_id" in fields_of(lines[0]):
        return "kinetics_csv"
    if kind is MediaKind.UNTRIMMED:
        if multi_label:
            return several_labels.recognise_long(path, lines)
        return _recognise_untrimmed(path, lines)

    shapes = _SEVERAL if multi_label else _ONE
    form = _choose(path, lines, kind, root, shapes=shapes)
    if form == "ucf101" and dataset_lists.counts_otherwise(_lines(path)):
        return CATCH_ALL
    return form


def names_paths_alone(
    path: Path, root: str | Path | None = None, multi_label: bool = False
) -> bool:
    """Whether none of a list's first lines has a label, so that its files are unlabelled.

    Args:
        path: of a list that :func:`recognise` takes for ``path_label``.
        root: of the source; none: not known.
        multi_label: whether a line may have several labels.

    Raises:
        UserError: if the list cannot be read, or holds no line.
    """
    lines = first_lines(path, root)
    if multi_label:
        return all(several_labels.several_path(line, CATCH_ALL) == line for line in lines)
    return all(split_label(line)[1] is None for line in lines)


def first_lines(path: Path, root: str | Path | None) -> list[str]:
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


def _choose(
    path: Path, lines: Sequence[str], kind: MediaKind, root: str | Path | None, *, shapes: _Shapes
) -> str:
    """The format of a list of files or of folders of frames."""
    real_root = None if root is None else os.path.realpath(root)
    best = None
    unclear = []
    for form in _candidates(path, lines, kind, real_root, shapes=shapes):
        count = sum(map(shapes.fits[form], lines))
        if best is None and count == len(lines):
            return form
        if form == "slowfast_csv" and shapes is _ONE and _mixes_separators(lines):
            continue

        if _is_most(count, lines):
            if best is None or _finds_more(form, best, lines, real_root, shapes=shapes):
                best = form
        elif 3 * count > len(lines):
            unclear.append(form)

    if best is None:
        for form in unclear:
            _require_unlike(path, form, lines, real_root, shapes=shapes)
    if best is None or _finds_more(CATCH_ALL, best, lines, real_root, shapes=shapes):
        return CATCH_ALL
    return best


def _candidates(
    path: Path, lines: Sequence[str], kind: MediaKind, root: str | None, *, shapes: _Shapes
) -> list[str]:
    """The formats that a list may have by its name, and by the files that its lines name."""
    forms = list(shapes.forms[kind])
    if not dataset_lists.is_hmdb51_name(path.stem) and "hmdb51" in forms:
        forms.remove("hmdb51")

    # a name may begin with a number and a semicolon, too
    if "something_csv" in forms:
        others = [form for form in (*forms, CATCH_ALL) if form in PATHS]
        if any(_count_found(form, lines, root, shapes) for form in others):
            forms.remove("something_csv")
    return forms


def _mixes_separators(lines: Sequence[str]) -> bool:
    """Whether some lines have a comma before their label, and all others a space."""
    others = [line for line in lines if not FORMATS["slowfast_csv"].fits(line)]
    return all("," not in line and split_label(line)[1] is not None for line in others)


def _is_most(count: int, lines: Sequence[str]) -> bool:
    return 3 * count >= 2 * len(lines)


def _finds_more(
    form: str, other: str, lines: Sequence[str], root: str | None, *, shapes: _Shapes
) -> bool:
    """Whether more files are found if the lines are of a format than if they are of another one.

    Never if the other one is clear by itself: there an odd line is odd, though it names a file.
    """
    if other not in shapes.paths:
        return False
    found = _count_found(form, lines, root, shapes)
    return found > _count_found(other, lines, root, shapes)


def _require_unlike(
    path: Path, form: str, lines: Sequence[str], root: str | None, *, shapes: _Shapes
) -> None:
    """Refuse a list of which a part fits a format that finds files, and a part does not.

    Raises:
        UserError: unless more files are found where each line is a path and its label.
    """
    if not _count_found(form, lines, root, shapes):
        return
    if _finds_more(CATCH_ALL, form, lines, root, shapes=shapes):
        return
    raise UserError(
        str(path),
        f"lines that are clearly `{FORMATS[form].line}` or `{FORMATS[CATCH_ALL].line}`",
        repr(lines[0][:200]),
        f"Name the list's format: {form} or {CATCH_ALL}.",
    )


def _before(line: str, count: int) -> str:
    """The path before so many other fields."""
    return fields_of(line)[0] if "," in line else line.rsplit(None, count)[0]


def _count_found(form: str, lines: Sequence[str], root: str | None, shapes: _Shapes) -> int:
    """How many lines name what lies below the root, if they are of a format."""
    if root is None or form not in shapes.paths:
        return 0
    return sum(
        find_below(root, shapes.paths[form](line)) is not None
        for line in lines
        if form == CATCH_ALL or shapes.fits[form](line)
    )


def find_below(root: str, path: str) -> str | None:
    """Where a path of a list lies below the real root; None if it does not."""
    path = RootPaths(root).relative(path)
    own_name = f"{os.path.basename(root)}/"  # with which lists may begin
    for name in dict.fromkeys([path, path.removeprefix(own_name)]):
        found = os.path.join(root, name)
        if escape_reason(root, name) is None and os.path.lexists(found):
            return found
    return None


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
    return "parts" if _is_most(len(parts), lines) else CATCH_ALL


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
