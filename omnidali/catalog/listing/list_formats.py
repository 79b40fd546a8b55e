"""Which files a list names, with which labels: every list format that users of other projects have.

| format | a line or object | of |
|---|---|---|
| path_label | ``path label`` (spaces, tabs or a comma; the path may hold spaces) | mmaction2, OmniSource release |
| slowfast_csv | ``path,label`` | PySlowFast |
| kinetics_csv | ``label,youtube_id,time_start,time_end,split`` under a header | Kinetics |
| video_ids | ``video_id, num_frames, label_index`` | the K400 validation list of the reference |
| rawframes | ``folder num_frames label`` | mmaction2 |
| rawframes_offset | ``folder offset num_frames label`` | mmaction2 |
| parts | ``folder label num_clips positive positive ...`` | mmaction2's RawVideoDataset |
| parts_json | objects with ``video_dir, label, num_clips, positive_clip_inds`` | OmniSource release |
|  | and where we took pieces out of a video ``removed_clip_inds`` | ours |
| pieces | ``path start end label``, seconds | long videos whose pieces are known |
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.listing.folders import MAX_PATH, escape_reason, is_video_name
from omnidali.catalog.listing.labels import Labels
from omnidali.config.schema import MediaConfig, has_number, key_of
from omnidali.errors import UserError
from omnidali.utils.text_files import is_line, is_text, is_whole, read_json, read_lines

_KINETICS = ("label", "youtube_id", "time_start", "time_end")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{0,30})?")
_LOOKED_AT = 200  # lines that decide on the format
_ENDS = 64  # of paths in a line that is not UTF-8: a path may hold spaces and commas
REMOVED = "removed_clip_inds"  # key of the release's JSON that only we write and read
# of one long video: the longest that the gate lets through, in pieces of a second
MAX_PIECES = 200_000


class Entry(NamedTuple):
    """One item of a list.

    Attributes:
        path: relative to the source's root; a folder where the kind is ``frames``.
        unit: what ``first`` and ``last`` (exclusive) count: ``frames`` or ``seconds`` of a piece;
            ``windows`` for a long video that is cut into pieces of ``last`` seconds; empty for the
            whole file.
        video: of kind ``untrimmed``: entries of one video make one sample, of which each draw takes
            a piece.
        positive: whether the piece shows its class; None for one that was removed, and only counts.
    """

    path: str
    label: int
    unit: str = ""
    first: float = 0
    last: float = 0
    video: str = ""
    positive: bool | None = True


def whole_file(path: str, label: int, source: MediaConfig) -> Entry:
    """A file that is used whole, or cut into windows where it is a long video."""
    if source.kind == "untrimmed":
        return Entry(path, label, "windows", 0, source.window_seconds, video=path)
    return Entry(path, label)


def read_list(
    path: Path,
    source: MediaConfig,
    labels: Labels,
    name: str,
    *,
    root: str | Path | None = None,
    leave_out: Callable[[str, str], None] = lambda path, where: None,
) -> tuple[str, Iterator[Entry]]:
    """The format of a list, and its entries, which are read as they are asked for.

    A line that is not UTF-8 ends the reading, unless it names what lies below the root: then the
    list is right and the file has an odd name, which the catalog cannot hold.

    Args:
        source: gives kind, format, pattern and window length. name: of the source, for errors.
        root: of the source; none: not known. leave_out: is called with path and line of each file
            with an odd name.

    Raises:
        UserError: naming file and line, also while the entries are read.
    """
    form = source.format if source.format != "auto" else recognise(path, source.kind, root)
    read, kinds = FORMATS[form]
    if source.kind not in kinds:
        raise UserError(
            f"{key_of(name)}.format",
            f"a list format for kind {source.kind}",
            f"{form} in {path}",
            f"Use kind: {' or '.join(kinds)}.",
        )
    file = _List(path, partial(_passes_over, root, leave_out))
    return form, _not_empty(path, form, read(file, source, labels, name))


class _List(NamedTuple):
    """A file, and what decides on its lines that are not UTF-8, as
    :func:`~omnidali.utils.text_files.read_lines` asks it.
    """

    path: Path
    passes_over: Callable[[str, str], bool]


def _passes_over(
    root: str | Path | None, leave_out: Callable[[str, str], None], where: str, line: str
) -> bool:
    path = None if root is None else _find_odd_name(os.path.realpath(root), line)
    if path is not None:
        leave_out(path, where)
    return path is not None


def _find_odd_name(root: str, line: str) -> str | None:
    """The path that is not UTF-8 with which a line begins, if it is there below ``root``, or a
    folder on its way is.
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


def recognise(path: Path, kind: str, root: str | Path | None = None) -> str:
    """Tell a list's format from its first lines.

    Args:
        root: of the source; none: not known.

    Raises:
        UserError: if it cannot be read, or holds no line.
    """
    odd: list[str] = []  # where there are lines that are left out
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
    if kind == "untrimmed" and lines[0].startswith(("[", "{")):
        return "parts_json"
    if "youtube_id" in _fields(lines[0]):
        return "kinetics_csv"

    def fit(count: int, *numbers: int) -> bool:
        """Whether all lines have ``count`` fields, those at ``numbers`` being numbers."""
        return all(
            len(row) == count and all(_NUMBER.fullmatch(row[i]) for i in numbers) for row in rows
        )

    rows = [_fields(line) for line in lines]
    if kind == "frames":
        if all(len(row) >= 4 and all(is_whole(field) for field in row[-3:]) for row in rows):
            return "rawframes_offset"
        return (
            "rawframes"
            if all(len(row) >= 3 and is_whole(row[-2]) for row in rows)
            else "path_label"
        )
    if kind == "untrimmed":
        files = all(is_video_name(row[0]) for row in rows)
        pieces = files and all(len(row) == 4 for row in rows)
        parts = all(
            len(row) >= 3 and "." not in row[1] and all(is_whole(field) for field in row[2:])
            for row in rows
        )
        if pieces and parts and all(int(field) < int(row[2]) for row in rows for field in row[3:]):
            if not (fit(4, 1) and all(float(row[1]) < float(row[2]) for row in rows)):
                return "parts"
            raise UserError(
                str(path),
                "lines that are clearly `path start end label` or `video label num_clips"
                " positive ...`",
                repr(lines[0][:200]),
                "Name the list's format: pieces or parts.",
            )
        return "pieces" if pieces else "parts" if parts else "path_label"
    commas = all("," in line for line in lines)
    if commas and fit(3, 1, 2) and not any(is_video_name(row[0]) for row in rows):
        return "video_ids"
    return (
        "slowfast_csv"
        if commas and fit(2) and not any(re.search(r"\s\d+$", row[1]) for row in rows)
        else "path_label"
    )


def find_class_names(
    path: Path, source: MediaConfig, name: str, root: str | Path | None = None
) -> list[str] | None:
    """The sorted class names that a list's labels are, or None where they are numbers.

    Args:
        root: of the source; none: not known.
    """
    names: set[str] = set()

    class Collecting(Labels):
        def number(self, text, where, path=""):
            if text is None or text.isdigit():
                raise _NumberedLineError
            names.add(text)
            return 0

    try:
        for _ in read_list(path, source, Collecting(), name, root=root)[1]:
            pass
    except _NumberedLineError:
        return None
    return sorted(names)


class _NumberedLineError(Exception):
    """A list's labels are numbers, or missing."""


def _fields(line: str) -> list[str]:
    if "," in line:
        try:
            return [field.strip() for field in next(csv.reader([line]))]
        except csv.Error:  # a quote that never ends, or a NUL
            return [line]
    return line.split()


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


def _rows(file: _List) -> Iterator[tuple[str, str]]:
    lines = read_lines(file.path, "list", file.passes_over)
    return ((where, line) for where, line in lines if line and not line.startswith("#"))


def _wrong(where: str, expected: str, line: str) -> UserError:
    return UserError(
        where, f"`{expected}`", repr(line[:200]), "Correct the line, or name the list's `format:`."
    )


def _path_label(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, line in _rows(file):
        cut = line.rfind("\t") if "\t" in line else max(line.rfind(mark) for mark in " ,")
        item, text = line[:cut].rstrip(" \t,"), line[cut + 1 :]
        if cut < 0 or not item or not text or "." in text or "/" in text:  # a path alone
            item, text = line, None
        yield whole_file(item, labels.number(text, where, item), source)


def _slowfast_csv(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, line in _rows(file):
        row = _fields(line)
        if len(row) != 2 or not row[0]:
            raise _wrong(where, "path,label", line)
        yield Entry(row[0], labels.number(row[1], where, row[0]))


def _kinetics_csv(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    rows = _rows(file)
    where, line = next(rows, (str(file.path), ""))
    header = _fields(line)
    if not all(column in header for column in _KINETICS):
        raise _wrong(where, ",".join(_KINETICS), line)
    whole = source.kind == "untrimmed"  # the video that the clip was cut from
    pattern = source.pattern or ("{id}.mp4" if whole else "{id}_{start:06d}_{end:06d}.mp4")
    for where, line in rows:
        row = dict(zip(header, _fields(line)))
        try:
            start, end = (int(float(row[column])) for column in _KINETICS[2:])
            if not 0 <= start <= end < 10**6:  # they become digits of a file's name
                raise ValueError
            known = {
                "label": row["label"],
                "id": row["youtube_id"],
                "start": start,
                "end": end,
                "split": row.get("split", ""),
            }
        except (KeyError, ValueError, OverflowError):
            raise _wrong(where, ",".join(_KINETICS), line) from None
        item, label = (
            _fill(pattern, name, **known),
            labels.number(row["label"], where, row["youtube_id"]),
        )
        yield Entry(item, label, "seconds", start, end, item) if whole else Entry(item, label)


def _video_ids(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, line in _rows(file):
        row = _fields(line)
        if len(row) != 3:
            raise _wrong(where, "video_id, num_frames, label_index", line)
        yield Entry(
            _fill(source.pattern or "{id}.mp4", name, id=row[0], label=row[2]),
            labels.number(row[2], where, row[0]),
        )


def _fill(pattern: str, name: str, **known: object) -> str:
    try:
        return pattern.format(**known)
    except (KeyError, IndexError, ValueError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(
            f"{key_of(name)}.pattern",
            f"a pattern with {', '.join(f'{{{key}}}' for key in known)}",
            f"{pattern!r} ({error})",
            "Correct the pattern.",
        ) from None


def _rawframes(
    file: _List, source: MediaConfig, labels: Labels, name: str, offset: bool = False
) -> Iterator[Entry]:
    form = "folder offset num_frames label" if offset else "folder num_frames label"
    for where, line in _rows(file):
        row = line.rsplit(None, 3 if offset else 2) if "," not in line else _fields(line)
        numbers = row[1:-1]
        if (
            len(row) != (4 if offset else 3)
            or not all(is_whole(field) for field in numbers)
            or int(numbers[-1]) < 1
        ):
            raise _wrong(where, form, line)
        first = int(numbers[0]) if offset else 0
        yield Entry(
            row[0], labels.number(row[-1], where, row[0]), "frames", first, first + int(numbers[-1])
        )


def _pieces(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, line in _rows(file):
        row = line.rsplit(None, 3) if "," not in line else _fields(line)
        if len(row) != 4 or not all(_NUMBER.fullmatch(field) for field in row[1:3]):
            raise _wrong(where, "path start end label", line)
        first, last = float(row[1]), float(row[2])
        if not first < last:
            raise UserError(
                where, "start before end, in seconds", f"{row[1]} to {row[2]}", "Correct the line."
            )
        yield Entry(row[0], labels.number(row[3], where, row[0]), "seconds", first, last, row[0])


def _parts(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, line in _rows(file):
        row = line.split()
        if len(row) < 3 or not all(is_whole(field) for field in row[2:]):
            raise _wrong(where, "folder label num_clips positive positive ...", line)
        yield from _parts_of(
            where,
            row[0],
            labels.number(row[1], where, row[0]),
            int(row[2]),
            [int(field) for field in row[3:]],
            source,
            name,
        )


def _parts_json(file: _List, source: MediaConfig, labels: Labels, name: str) -> Iterator[Entry]:
    for where, item in _objects(file.path):
        values = (
            [item.get(key) for key in ("video_dir", "label", "num_clips", "positive_clip_inds")]
            if isinstance(item, dict)
            else [None]
        )
        removed = item.get(REMOVED, []) if isinstance(item, dict) else None
        if (
            values[0] is None
            or not isinstance(values[0], str)
            or type(values[1]) not in (int, str)
            or type(values[2]) is not int
            or not _are_numbers(values[3])
            or not _are_numbers(removed)
            or not is_text(values[0])
            or not is_line(str(values[1]))
        ):
            raise UserError(
                where,
                "an object with video_dir, label, num_clips and positive_clip_inds",
                json.dumps(item)[:200],
                "Correct the object.",
            )
        folder, label, count, positives = values
        yield from _parts_of(
            where,
            folder,
            labels.number(str(label), where, folder),
            count,
            positives,
            source,
            name,
            removed,
        )


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _objects(path: Path) -> Iterator[tuple[str, object]]:
    """The objects of a JSON list, or of JSON lines, with the line that each begins on."""
    text = "\n".join(line for _, line in read_lines(path, "list"))
    position, between = 0, re.compile(r"[\s,\[\]]*")
    line, counted = 1, 0
    while (position := between.match(text, position).end()) < len(text):
        line, counted = line + text.count("\n", counted, position), position
        item, position = read_json(text, position, str(path))
        yield f"{path}, line {line}", item


def _parts_of(
    where: str,
    video: str,
    label: int,
    count: int,
    positives: list[int],
    source: MediaConfig,
    name: str,
    removed: Iterable[int] = (),
) -> Iterator[Entry]:
    """The pieces of one long video: its part files, or windows of the video itself where it is one
    file.
    """
    if count > MAX_PIECES:
        raise UserError(
            where, f"at most {MAX_PIECES:,} pieces of one video", str(count), "Correct the number."
        )
    for what, indices in (("positive", positives), ("removed", removed)):
        for index in indices:
            if not 0 <= index < count:
                raise UserError(
                    where,
                    f"{what} pieces from 0 to {count - 1}",
                    str(index),
                    "Correct the indices.",
                )
    whole = is_video_name(video)
    pattern = source.pattern or "part_{}.mp4"
    if not whole and not has_number(pattern):
        raise UserError(
            f"{key_of(name)}.pattern",
            "a pattern with one number",
            repr(pattern),
            "The release uses part_{}.mp4.",
        )
    shown, gone = set(positives), set(removed)
    for index in range(count):
        positive = index in shown if index not in gone else None
        # as where windows have no numbers, a remainder of less than half a window belongs to the
        # last one
        if whole:
            end = index + (1 if index < count - 1 else 1.5)
            yield Entry(
                video,
                label,
                "seconds",
                index * source.window_seconds,
                end * source.window_seconds,
                video,
                positive,
            )
        else:
            yield Entry(f"{video}/{pattern.format(index)}", label, video=video, positive=positive)


# reader, and the kinds of source that it is for
FORMATS: dict[str, tuple[Callable[..., Iterator[Entry]], tuple[str, ...]]] = {
    "path_label": (_path_label, ("video", "image", "frames", "untrimmed")),
    "slowfast_csv": (_slowfast_csv, ("video", "image")),
    "kinetics_csv": (_kinetics_csv, ("video", "untrimmed")),
    "video_ids": (_video_ids, ("video", "image")),
    "rawframes": (_rawframes, ("frames",)),
    "rawframes_offset": (partial(_rawframes, offset=True), ("frames",)),
    "parts": (_parts, ("untrimmed",)),
    "parts_json": (_parts_json, ("untrimmed",)),
    "pieces": (_pieces, ("untrimmed",)),
}
