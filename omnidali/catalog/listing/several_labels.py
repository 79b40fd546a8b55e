"""Lists whose lines have several labels: `path 1 3 5`, and the same after numbers of frames.

The labels stand after the path and the numbers. Between them are ``|``, ``;``, commas, tabs or
spaces, the first of these that occurs; the last ones only where spaces cannot belong to a name,
which they can after a tab or a comma. A path with spaces has a media file's ending, a tab or quotes
after it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.listing import dataset_lists
from omnidali.catalog.listing.folders import endings_of, is_video_name
from omnidali.catalog.listing.labels import split_labels
from omnidali.catalog.listing.list_file import (
    NUMBER,
    Entry,
    ListFile,
    cut_into_windows,
    fields_of,
)
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import is_whole

# The formats whose lines may have several labels, with the numbers between path and labels.
_COUNTS = {
    "path_label": 0,
    "slowfast_csv": 0,
    "video_ids": 1,
    "rawframes": 1,
    "rawframes_offset": 2,
    "pieces": 2,
}
# By kind, those that are recognised, the ones that ask most of a line first. A list of video ids
# looks like paths with two labels, and one with offsets may look like one without.
RECOGNISED = {
    MediaKind.VIDEO: ("ucf101", "hmdb51", "something_csv", "slowfast_csv"),
    MediaKind.IMAGE: ("slowfast_csv",),
    MediaKind.FRAMES: ("something_csv", "rawframes", "rawframes_offset"),
}
_ENDING = re.compile(
    "(?:"
    + "|".join(
        re.escape(ending)
        for ending in sorted(endings_of(MediaKind.IMAGE) | endings_of(MediaKind.VIDEO))
    )
    + r")(?=[\s,;|]|$)",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[\s,;|]")
_BREAKS = 64  # that are tried as the end of a path
_NUMBER = re.compile(rf"[\s,]*({NUMBER.pattern})(?=[\s,]|$)")


class SeveralFields(NamedTuple):
    """The fields of a line.

    Attributes:
        path: of the item.
        numbers: between the path and the labels.
        labels: as text; none where the line has no label.
        separator: what stands after the path; empty after a path in quotes, or alone.
    """

    path: str
    numbers: list[str]
    labels: list[str]
    separator: str


def split_several(line: str, count: int = 0) -> SeveralFields | None:
    """The fields of a line; None if fewer than ``count`` numbers follow the path.

    >>> split_several("a clip.mp4 1 3 5")
    SeveralFields(path='a clip.mp4', numbers=[], labels=['1', '3', '5'], separator=' ')
    >>> split_several("folder 30 run,high jump", count=1)
    SeveralFields(path='folder', numbers=['30'], labels=['run', 'high jump'], separator=' ')
    """
    for path, separator, rest in _cuts(line, count):
        numbers: list[str] = []
        while len(numbers) < count and (match := _NUMBER.match(rest)):
            numbers.append(match[1])
            rest = rest[match.end() :]
        if len(numbers) == count:
            text = rest.lstrip(" \t,")
            labels = split_labels(text, by_space=separator not in ("\t", ",", ""))
            return SeveralFields(path, numbers, labels, separator)
    return None


def _cuts(line: str, count: int) -> Iterator[tuple[str, str, str]]:
    """Yield path, separator and rest of a line, the likeliest first."""
    if "\t" in line:
        path, separator, rest = line.partition("\t")
        yield path.rstrip(), separator, rest
        return
    if '"' in line and "," in line:
        row = fields_of(line)
        yield row[0], "", ",".join(row[1:])
        return

    breaks = [match.end() for match in _ENDING.finditer(line)][-1:]
    if not breaks:
        # before numbers a folder's name may hold spaces, alone it ends with the first one
        found = [match.start() for match in islice(_BREAK.finditer(line), _BREAKS)]
        breaks = found if count else sorted(found, key=lambda place: line[place] in ";|")[:1]
    for end in breaks or [len(line)]:
        yield line[:end].rstrip(), line[end : end + 1], line[end + 1 :]


def read_several(file: ListFile) -> Iterator[Entry]:
    """The entries of a list of any format that :func:`reads_several` names.

    Args:
        file: the list.

    Raises:
        UserError: with file and line.
    """
    for where, line in file.lines():
        fields = split_several(line, _COUNTS[file.form])
        if file.form == "video_ids" and line.startswith("video_id"):  # a header
            continue
        if fields is None or not _fits_numbers(file.form, fields.numbers):
            raise file.wrong(where, line)

        path = fields.path
        if file.form == "video_ids":
            path = file.fill_pattern("{id}.mp4", id=path, label=" ".join(fields.labels))
        entry = file.labelled(path, fields.labels, where)
        numbers = [float(number) for number in fields.numbers]
        if file.form == "pieces":
            first, last = numbers
            if not first < last:
                got = f"{first:g} to {last:g}"
                raise UserError(where, "start before end, in seconds", got, "Correct the line.")
            entry = entry._replace(unit="seconds", first=first, last=last, video=path)
        elif file.form.startswith("rawframes"):
            first = int(sum(numbers[:-1]))
            entry = entry._replace(unit="frames", first=first, last=first + int(numbers[-1]))
        if file.form == "path_label":
            yield from cut_into_windows(iter([entry]), file.source)
        else:
            yield entry


def reads_several(form: str) -> bool:
    """Whether :func:`read_several` reads the lines of a format."""
    return form in _COUNTS


def recognise_long(path: Path, lines: Sequence[str]) -> str:
    """The format of a list of long videos.

    Args:
        path: of the list.
        lines: its first ones.

    Raises:
        UserError: if two whole numbers may be labels, or seconds.
    """
    if all(_fits_parts(line) and not is_video_name(line.split()[0]) for line in lines):
        return "parts"
    pieces = [fields for line in lines if (fields := split_several(line, 2)) and fields.labels]
    if any("." in number for fields in pieces for number in fields.numbers):
        return "pieces"
    if len(pieces) < len(lines):
        return "path_label"
    raise UserError(
        str(path),
        "lines that are clearly `path label ...` or `path start end label ...`",
        repr(lines[0][:200]),
        "Name the list's format: path_label or pieces.",
    )


def several_path(line: str, form: str) -> str:
    """The path of a line."""
    fields = split_several(line, _COUNTS.get(form, 0))
    return line if fields is None else fields.path


def _fits_numbers(form: str, numbers: list[str]) -> bool:
    if not form.startswith("rawframes"):
        return True
    return all(map(is_whole, numbers)) and int(numbers[-1]) >= 1


def _fits_frames(line: str, form: str) -> bool:
    fields = split_several(line, _COUNTS[form])
    return bool(fields and fields.labels and _fits_numbers(form, fields.numbers))


def _fits_parts(line: str) -> bool:
    """Spaces alone divide the fields, as commas may divide the labels."""
    row = line.split()
    return len(row) >= 3 and "." not in row[1] and all(map(is_whole, row[2:]))


def _fits_csv(line: str) -> bool:
    fields = split_several(line)
    is_cut = fields is not None and (fields.separator == "," or '"' in line)
    return bool(is_cut and fields and fields.labels)


# Whether a line may be one of a format; of the others one label a line is read.
FITS: dict[str, Callable[[str], bool]] = {
    "ucf101": dataset_lists.fits_ucf101,
    "hmdb51": dataset_lists.fits_hmdb51,
    "something_csv": dataset_lists.fits_something_csv,
    "slowfast_csv": _fits_csv,
    "rawframes": partial(_fits_frames, form="rawframes"),
    "rawframes_offset": partial(_fits_frames, form="rawframes_offset"),
}
