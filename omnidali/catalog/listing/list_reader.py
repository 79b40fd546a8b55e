"""The entries of a list, in any format, and the names of its classes."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from omnidali.catalog.listing.folders import is_video_name
from omnidali.catalog.listing.labels import NumberLabel
from omnidali.catalog.listing.list_formats import FORMATS, NUMBER, Entry, ListFile, fields_of
from omnidali.catalog.probing.root_guard import MAX_PATH, escape_reason
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import is_text, is_whole, read_lines

_LOOKED_AT = 200  # lines that decide on the format
_NUMBERED = ""  # collected for a label that is a number, or missing
_Rows = Sequence[Sequence[str]]  # the fields of lines
_ENDS = 64  # of paths in a line that is not UTF-8: a path may hold spaces and commas


def read_list(
    path: Path,
    source: MediaConfig,
    number: NumberLabel,
    name: str,
    *,
    root: str | Path | None = None,
    leave_out: Callable[[str, str], None] = lambda path, where: None,
) -> tuple[str, Iterator[Entry]]:
    """The format of a list, and its entries, which are read as they are requested.

    A line that is not UTF-8 ends the reading, unless it names what lies below the root: then the
    list is right and the file has an odd name, which the catalog cannot hold.

    Args:
        path: of the list.
        source: gives kind, format, pattern and window length.
        number: gives the label of an item.
        name: of the source, for errors.
        root: of the source; none: not known.
        leave_out: is called with path and line of each file with an odd name.

    Raises:
        UserError: naming file and line, also while the entries are read.
    """
    is_known = source.format != "auto"
    form = source.format if is_known else recognise(path, source.media_kind, root)
    expected, kinds, read = FORMATS[form]
    if source.media_kind not in kinds:
        raise UserError(
            f"{key_of(name)}.format",
            f"a list format for kind {source.kind}",
            f"{form} in {path}",
            f"Use kind: {' or '.join(kinds)}.",
        )

    passes_over = partial(_passes_over, root, leave_out)
    file = ListFile(path, name, source, number, expected=expected, passes_over=passes_over)
    return form, _not_empty(path, form, read(file))


def recognise(path: Path, kind: MediaKind, root: str | Path | None = None) -> str:
    """Recognise a list's format from its first lines.

    Args:
        path: of the list.
        kind: of the source.
        root: of the source; none: not known.

    Raises:
        UserError: if the list cannot be read, or holds no line.
    """
    odd: list[str] = []  # if there are lines that are left out
    known = read_lines(
        path, "list", partial(_passes_over, root, lambda path, where: odd.append(where))
    )
    lines = [
        line for _, line in itertools.islice(known, _LOOKED_AT) if line and not line.startswith("#")
    ]

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

    if kind.has_pieces and lines[0].startswith(("[", "{")):
        return "parts_json"
    rows = [fields_of(line) for line in lines]
    if "youtube_id" in rows[0]:
        return "kinetics_csv"
    return _RECOGNISE[kind](path, lines, rows)


def find_class_names(
    path: Path, source: MediaConfig, name: str, root: str | Path | None = None
) -> list[str] | None:
    """Find the sorted class names that a list's labels are; None if they are numbers.

    Args:
        path: of the list.
        source: gives kind, format, pattern and window length.
        name: of the source, for errors.
        root: of the source; none: not known.
    """
    found: set[str] = set()

    def collect(text: str | None, where: str, path: str) -> int:
        found.add(_NUMBERED if text is None or text.isdigit() else text)
        return 0

    _, entries = read_list(path, source, collect, name, root=root)
    for _ in entries:
        if _NUMBERED in found:
            return None
    return sorted(found)


def _not_empty(path: Path, form: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    first = next(entries, None)
    if first is None:
        raise UserError(
            str(path),
            f"lines of the format {form}",
            "none that can be used",
            "Check that the right file is named.",
        )
    yield first
    yield from entries


def _passes_over(
    root: str | Path | None, leave_out: Callable[[str, str], None], where: str, line: str
) -> bool:
    path = None if root is None else _find_odd_name(os.path.realpath(root), line)
    if path is not None:
        leave_out(path, where)
    return path is not None


def _find_odd_name(root: str, line: str) -> str | None:
    """Find the path that is not UTF-8 with which a line begins.

    It counts if it is there below ``root``, or a folder on its way is.
    """
    ends = itertools.islice(re.finditer(r"[ \t,]+|$", line[: MAX_PATH + 1]), _ENDS)
    for path in (line[: end.start()].strip('"') for end in ends):
        if is_text(path):
            continue

        parts = path.split("/")
        odd = next(place for place, part in enumerate(parts) if not is_text(part))
        # lists may begin with the root's own name
        for first in (0, 1) if parts[0] == os.path.basename(root) else (0,):
            name = "/".join(parts[first : odd + 1])
            if (
                name
                and escape_reason(root, name) is None
                and os.path.lexists(os.path.join(root, name))
            ):
                return path
    return None


def _recognise_files(path: Path, lines: Sequence[str], rows: _Rows) -> str:
    if not all("," in line for line in lines):
        return "path_label"
    if _have_numbers(rows, 3, at=(1, 2)) and not any(is_video_name(row[0]) for row in rows):
        return "video_ids"
    is_csv = all(len(row) == 2 for row in rows) and not any(
        re.search(r"\s\d+$", row[1]) for row in rows
    )
    return "slowfast_csv" if is_csv else "path_label"


def _recognise_frames(path: Path, lines: Sequence[str], rows: _Rows) -> str:
    if all(len(row) >= 4 and all(map(is_whole, row[-3:])) for row in rows):
        return "rawframes_offset"
    if all(len(row) >= 3 and is_whole(row[-2]) for row in rows):
        return "rawframes"
    return "path_label"


def _recognise_untrimmed(path: Path, lines: Sequence[str], rows: _Rows) -> str:
    files = all(is_video_name(row[0]) for row in rows)
    pieces = files and all(len(row) == 4 for row in rows)
    parts = all(len(row) >= 3 and "." not in row[1] and all(map(is_whole, row[2:])) for row in rows)

    if pieces and parts and all(int(field) < int(row[2]) for row in rows for field in row[3:]):
        seconds = _have_numbers(rows, 4, at=(1,)) and all(
            float(row[1]) < float(row[2]) for row in rows
        )
        if not seconds:
            return "parts"
        raise UserError(
            str(path),
            "lines that are clearly `path start end label` or `video label num_clips positive ...`",
            repr(lines[0][:200]),
            "Name the list's format: pieces or parts.",
        )

    if pieces:
        return "pieces"
    return "parts" if parts else "path_label"


def _have_numbers(rows: _Rows, count: int, at: tuple[int, ...]) -> bool:
    """Whether all rows have ``count`` fields, those ``at`` these places being numbers."""
    return all(
        len(row) == count and all(NUMBER.fullmatch(row[place]) for place in at) for row in rows
    )


_RECOGNISE: Mapping[MediaKind, Callable[[Path, Sequence[str], _Rows], str]] = {
    MediaKind.VIDEO: _recognise_files,
    MediaKind.IMAGE: _recognise_files,
    MediaKind.FRAMES: _recognise_frames,
    MediaKind.UNTRIMMED: _recognise_untrimmed,
}
