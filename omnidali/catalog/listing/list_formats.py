"""The list formats of other projects, in one table with their readers."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import NamedTuple, TypeGuard

from omnidali.catalog.listing.folders import is_video_name
from omnidali.catalog.listing.labels import NumberLabel
from omnidali.config.patterns import has_number
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import is_line, is_text, is_whole, read_json, read_lines

REMOVED = "removed_clip_inds"  # key of the release's JSON that only we write and read
MAX_PIECES = 200_000  # a second each, of the longest video that is let through
NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{0,30})?")
_KINETICS = ("label", "youtube_id", "time_start", "time_end")


class Entry(NamedTuple):
    """One item of a list.

    Attributes:
        path: relative to the source's root; a folder where the kind is ``frames``.
        label: number of the class.
        unit: what ``first`` and ``last`` (exclusive) count: ``frames`` or ``seconds`` of a piece;
            ``windows`` for a long video that is cut into pieces of ``last`` seconds; empty for the
            whole file.
        first: begin of the piece.
        last: its end.
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


class ListFile(NamedTuple):
    """A list, and what its lines are read with.

    Attributes:
        path: of the list.
        name: of the source.
        source: gives kind, pattern and window length.
        number: gives the label of an item.
        expected: what a line looks like.
        passes_over: see :func:`~omnidali.utils.text_files.read_lines`.
    """

    path: Path
    name: str
    source: MediaConfig
    number: NumberLabel
    expected: str
    passes_over: Callable[[str, str], bool]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield ("FILE, line N", line) of every line that is neither empty nor a comment."""
        lines = read_lines(self.path, "list", self.passes_over)
        return ((where, line) for where, line in lines if line and not line.startswith("#"))

    def wrong(self, where: str, line: str) -> UserError:
        """The error of a line that does not look as expected."""
        return UserError(
            where,
            f"`{self.expected}`",
            repr(line[:200]),
            "Correct the line, or name the list's `format:`.",
        )

    def fill_pattern(self, default: str, **known: object) -> str:
        """Make a path by the source's pattern, or by the default one."""
        pattern = self.source.pattern or default
        try:
            return pattern.format(**known)
        except (LookupError, ValueError, AttributeError, MemoryError, OverflowError) as error:
            raise UserError(
                f"{key_of(self.name)}.pattern",
                f"a pattern with {', '.join(f'{{{key}}}' for key in known)}",
                f"{pattern!r} ({error})",
                "Correct the pattern.",
            ) from None


def whole_files(items: Iterable[tuple[str, int]], source: MediaConfig) -> Iterator[Entry]:
    """The entries of (path, label) of whole files; long videos are cut into windows."""
    if not source.media_kind.has_pieces:
        return starmap(Entry, items)
    seconds = source.window_seconds
    return (Entry(path, label, "windows", 0, seconds, video=path) for path, label in items)


def fields_of(line: str) -> list[str]:
    """Split a line at its commas, or at white space if it has none."""
    if "," not in line:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error:  # a quote that never ends, or a NUL
        return [line]


def _path_label(file: ListFile) -> Iterator[Entry]:
    return whole_files(_labelled_paths(file), file.source)


def _labelled_paths(file: ListFile) -> Iterator[tuple[str, int]]:
    for where, line in file.lines():
        cut = line.rfind("\t") if "\t" in line else max(line.rfind(" "), line.rfind(","))
        path = line[:cut].rstrip(" \t,")
        text: str | None = line[cut + 1 :]
        if cut < 0 or not path or not text or "." in text or "/" in text:  # a path alone
            path = line
            text = None
        yield path, file.number(text, where, path)


def _slowfast_csv(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = fields_of(line)
        if len(row) != 2 or not row[0]:
            raise file.wrong(where, line)
        yield Entry(row[0], file.number(row[1], where, row[0]))


def _kinetics_csv(file: ListFile) -> Iterator[Entry]:
    lines = file.lines()
    where, line = next(lines, (str(file.path), ""))
    header = fields_of(line)
    if not all(column in header for column in _KINETICS):
        raise file.wrong(where, line)

    whole = file.source.media_kind.has_pieces  # the video that the clip was cut from
    default = "{id}.mp4" if whole else "{id}_{start:06d}_{end:06d}.mp4"
    for where, line in lines:
        row = dict(zip(header, fields_of(line), strict=False))
        try:
            label, name, *seconds = (row[column] for column in _KINETICS)
            start, end = (int(float(field)) for field in seconds)
        except (KeyError, ValueError, OverflowError):
            raise file.wrong(where, line) from None
        if not 0 <= start <= end < 10**6:  # they become digits of a file's name
            raise file.wrong(where, line)

        split = row.get("split", "")
        path = file.fill_pattern(default, label=label, id=name, start=start, end=end, split=split)
        entry = Entry(path, file.number(label, where, name))
        if whole:
            entry = entry._replace(unit="seconds", first=start, last=end, video=path)
        yield entry


def _video_ids(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = fields_of(line)
        if len(row) != 3:
            raise file.wrong(where, line)
        path = file.fill_pattern("{id}.mp4", id=row[0], label=row[2])
        yield Entry(path, file.number(row[2], where, row[0]))


def _rawframes(file: ListFile, has_offset: bool = False) -> Iterator[Entry]:
    count = 4 if has_offset else 3
    for where, line in file.lines():
        row = fields_of(line) if "," in line else line.rsplit(None, count - 1)
        numbers = row[1:-1]
        if len(row) != count or not all(map(is_whole, numbers)) or int(numbers[-1]) < 1:
            raise file.wrong(where, line)
        first = int(numbers[0]) if has_offset else 0
        label = file.number(row[-1], where, row[0])
        yield Entry(row[0], label, "frames", first, first + int(numbers[-1]))


def _pieces(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = fields_of(line) if "," in line else line.rsplit(None, 3)
        if len(row) != 4 or not all(NUMBER.fullmatch(field) for field in row[1:3]):
            raise file.wrong(where, line)
        path, first, last, label = row
        if not float(first) < float(last):
            raise UserError(
                where, "start before end, in seconds", f"{first} to {last}", "Correct the line."
            )
        number = file.number(label, where, path)
        yield Entry(path, number, "seconds", float(first), float(last), video=path)


def _parts(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = line.split()
        if len(row) < 3 or not all(map(is_whole, row[2:])):
            raise file.wrong(where, line)
        label = file.number(row[1], where, row[0])
        count, *positives = map(int, row[2:])
        yield from _parts_of(file, where, row[0], label, count, positives=positives)


def _parts_json(file: ListFile) -> Iterator[Entry]:
    for where, item in _read_objects(file.path):
        values = item if isinstance(item, dict) else {}
        video = values.get("video_dir")
        label = values.get("label")
        count = values.get("num_clips")
        positives = values.get("positive_clip_inds")
        removed = values.get(REMOVED, [])

        if (
            not isinstance(video, str)
            or not is_text(video)
            or type(label) not in (int, str)
            or not is_line(str(label))
            or type(count) is not int
            or not _are_numbers(positives)
            or not _are_numbers(removed)
        ):
            raise UserError(where, file.expected, json.dumps(item)[:200], "Correct the object.")

        number = file.number(str(label), where, video)
        yield from _parts_of(
            file, where, video, number, count, positives=positives, removed=removed
        )


def _are_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _read_objects(path: Path) -> Iterator[tuple[str, object]]:
    """Yield ("FILE, line N", object) of a JSON list, or of JSON lines."""
    text = "\n".join(line for _, line in read_lines(path, "list"))
    starts = re.compile(r"[^\s,\[\]]")  # anything but a separator
    position = 0
    line = 1
    while match := starts.search(text, position):
        line += text.count("\n", position, match.start())
        item, end = read_json(text, match.start(), str(path))
        yield f"{path}, line {line}", item
        line += text.count("\n", match.start(), end)
        position = end


def _parts_of(
    file: ListFile,
    where: str,
    video: str,
    label: int,
    count: int,
    *,
    positives: list[int],
    removed: Iterable[int] = (),
) -> Iterator[Entry]:
    """Yield the pieces of one long video: its part files, or windows of the video where it is one.

    Args:
        file: the list.
        where: file and line, for errors.
        video: path of its folder of parts, or of the video itself.
        label: of the video.
        count: how many pieces it has.
        positives: numbers of those that show the class.
        removed: numbers of those that curation took out.
    """
    if count > MAX_PIECES:
        raise UserError(
            where, f"at most {MAX_PIECES:,} pieces of one video", str(count), "Correct the number."
        )
    for what, indices in (("positive", positives), ("removed", removed)):
        wrong = [index for index in indices if not 0 <= index < count]
        if wrong:
            raise UserError(
                where, f"{what} pieces from 0 to {count - 1}", str(wrong[0]), "Correct the indices."
            )

    whole = is_video_name(video)
    pattern = file.source.pattern or "part_{}.mp4"
    if not whole and not has_number(pattern):
        raise UserError(
            f"{key_of(file.name)}.pattern",
            "a pattern with one number",
            repr(pattern),
            "The release uses part_{}.mp4.",
        )

    length = file.source.window_seconds
    shows_class: dict[int, bool | None] = {
        **dict.fromkeys(range(count), False),
        **dict.fromkeys(positives, True),
        **dict.fromkeys(removed, None),
    }
    for index, positive in shows_class.items():
        if not whole:
            yield Entry(f"{video}/{pattern.format(index)}", label, video=video, positive=positive)
            continue
        # a remainder of less than half a window belongs to the last one, as without numbers
        end = index + (1 if index < count - 1 else 1.5)
        yield Entry(video, label, "seconds", index * length, end * length, video, positive)


class ListFormat(NamedTuple):
    """How a list is read.

    Attributes:
        line: what a line or an object looks like.
        kinds: of the sources that may use the format.
        read: gives the entries; UserError with file and line if it cannot.
    """

    line: str
    kinds: tuple[MediaKind, ...]
    read: Callable[[ListFile], Iterator[Entry]]


_FILES = (MediaKind.VIDEO, MediaKind.IMAGE)
_LONG = (MediaKind.UNTRIMMED,)
FORMATS = {
    # mmaction2, OmniSource's release; spaces, tabs or a comma, and the path may hold spaces
    "path_label": ListFormat("path label", tuple(MediaKind), _path_label),
    # PySlowFast
    "slowfast_csv": ListFormat("path,label", _FILES, _slowfast_csv),
    # Kinetics, under a header that may also name a split
    "kinetics_csv": ListFormat(",".join(_KINETICS), (MediaKind.VIDEO, *_LONG), _kinetics_csv),
    # the K400 validation list of the reference
    "video_ids": ListFormat("video_id, num_frames, label_index", _FILES, _video_ids),
    # mmaction2
    "rawframes": ListFormat("folder num_frames label", (MediaKind.FRAMES,), _rawframes),
    "rawframes_offset": ListFormat(
        "folder offset num_frames label", (MediaKind.FRAMES,), partial(_rawframes, has_offset=True)
    ),
    # mmaction2's RawVideoDataset
    "parts": ListFormat("folder label num_clips positive positive ...", _LONG, _parts),
    # OmniSource's release; ours also have removed_clip_inds, of pieces that curation took out
    "parts_json": ListFormat(
        "an object with video_dir, label, num_clips and positive_clip_inds", _LONG, _parts_json
    ),
    # long videos whose pieces are known, in seconds
    "pieces": ListFormat("path start end label", _LONG, _pieces),
}
