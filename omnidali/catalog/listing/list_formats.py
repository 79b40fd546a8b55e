"""The list formats of other projects, in one table with their readers."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeGuard

from omnidali.catalog.listing import dataset_lists
from omnidali.catalog.listing.folders import endings_of, is_video_name
from omnidali.catalog.listing.labels import UNLABELLED
from omnidali.catalog.listing.list_file import (
    NUMBER,
    Entry,
    ListFile,
    cut_into_windows,
    fields_of,
)
from omnidali.config.patterns import has_number
from omnidali.config.sources import key_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import is_text, is_whole

REMOVED = "removed_clip_inds"  # key of the release's JSON that only we write and read
MAX_PIECES = 200_000  # a second each, of the longest video that is let through
_KINETICS = ("label", "youtube_id", "time_start", "time_end")
_MEDIA_ENDINGS = endings_of(MediaKind.IMAGE) | endings_of(MediaKind.VIDEO)


def split_label(line: str) -> tuple[str, str | None]:
    """The path of a line, and the label after it; None if the line is a path alone."""
    cut = line.rfind("\t") if "\t" in line else max(line.rfind(" "), line.rfind(","))
    path = line[:cut].rstrip(" \t,")
    text = line[cut + 1 :]
    is_alone = cut < 0 or not path or not text or "." in text or "/" in text
    return (line, None) if is_alone else (path, text)


def _path_label(file: ListFile) -> Iterator[Entry]:
    return cut_into_windows(_labelled_paths(file), file.source)


def _labelled_paths(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        path, text = split_label(line)
        yield file.entry(path, file.number(text, where, path), where)


def _paths(file: ListFile) -> Iterator[Entry]:
    entries = (file.entry(line, UNLABELLED, where) for where, line in file.lines())
    return cut_into_windows(entries, file.source)


def _fits_path_label(line: str) -> bool:
    path, text = split_label(line)
    has_ending = any(path.lower().endswith(ending) for ending in _MEDIA_ENDINGS)
    return has_ending or (text is not None and is_whole(text))


def _slowfast_csv(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = fields_of(line)
        if len(row) != 2 or not row[0]:
            raise file.wrong(where, line)
        yield file.entry(row[0], file.number(row[1], where, row[0]), where)


def _fits_slowfast(line: str) -> bool:
    row = fields_of(line)
    return "," in line and len(row) == 2 and not re.search(r"\s\d+$", row[1])


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
        entry = file.labelled(path, file.texts_of(label), where)
        if whole:
            entry = entry._replace(unit="seconds", first=start, last=end, video=path)
        yield entry


def _video_ids(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = fields_of(line)
        if row[0] == "video_id":  # a header
            continue
        if len(row) != 3:
            raise file.wrong(where, line)
        path = file.fill_pattern("{id}.mp4", id=row[0], label=row[2])
        yield file.entry(path, file.number(row[2], where, row[0]), where)


def _fits_video_ids(line: str) -> bool:
    row = fields_of(line)
    is_row = "," in line and len(row) == 3 and not is_video_name(row[0])
    return is_row and all(NUMBER.fullmatch(field) for field in row[1:])


def _rawframes(file: ListFile, has_offset: bool = False) -> Iterator[Entry]:
    count = 4 if has_offset else 3
    for where, line in file.lines():
        row = fields_of(line) if "," in line else line.rsplit(None, count - 1)
        numbers = row[1:-1]
        if len(row) != count or not all(map(is_whole, numbers)) or int(numbers[-1]) < 1:
            raise file.wrong(where, line)
        first = int(numbers[0]) if has_offset else 0
        label = file.number(row[-1], where, row[0])
        last = first + int(numbers[-1])
        entry = file.entry(row[0], label, where)
        yield entry._replace(unit="frames", first=first, last=last)


def _fits_rawframes(line: str, has_offset: bool = False) -> bool:
    row = fields_of(line)
    if "," in line:
        return len(row) == 3 + has_offset and all(map(is_whole, row[1:-1]))
    if has_offset:
        return len(row) >= 4 and all(map(is_whole, row[-3:]))
    return len(row) >= 3 and is_whole(row[-2])


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
        entry = file.entry(path, file.number(label, where, path), where)
        yield entry._replace(unit="seconds", first=float(first), last=float(last), video=path)


def _fits_pieces(line: str) -> bool:
    row = fields_of(line) if "," in line else line.rsplit(None, 3)
    # words are a label, and times in another notation are an error to be told
    has_times = len(row) == 4 and all(field[:1].isdigit() for field in row[1:3])
    return has_times and is_video_name(row[0])


def _parts(file: ListFile) -> Iterator[Entry]:
    for where, line in file.lines():
        row = line.split()
        if len(row) < 3 or not all(map(is_whole, row[2:])):
            raise file.wrong(where, line)
        entry = file.labelled(row[0], file.texts_of(row[1]), where)
        count, *positives = map(int, row[2:])
        yield from _parts_of(file, where, entry, count, positives=positives)


def _fits_parts(line: str) -> bool:
    row = fields_of(line)
    return len(row) >= 3 and "." not in row[1] and all(map(is_whole, row[2:]))


def _parts_json(file: ListFile) -> Iterator[Entry]:
    for where, item in file.objects():
        values = item if isinstance(item, dict) else {}
        video = values.get("video_dir")
        texts = file.texts_in(values.get("label"))
        count = values.get("num_clips")
        positives = values.get("positive_clip_inds")
        removed = values.get(REMOVED, [])

        if (
            not isinstance(video, str)
            or not is_text(video)
            or texts is None
            or type(count) is not int
            or not _are_numbers(positives)
            or not _are_numbers(removed)
        ):
            raise file.wrong_object(where, item)

        entry = file.labelled(video, texts, where)
        yield from _parts_of(file, where, entry, count, positives=positives, removed=removed)


def _are_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _parts_of(
    file: ListFile,
    where: str,
    entry: Entry,
    count: int,
    *,
    positives: list[int],
    removed: Iterable[int] = (),
) -> Iterator[Entry]:
    """Yield the pieces of one long video: its part files, or windows of the video where it is one.

    Args:
        file: the list.
        where: file and line, for errors.
        entry: with the path of its folder of parts, or of the video itself, and its labels.
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

    video = entry.path
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
        if whole:
            # a remainder of less than half a window belongs to the last one, as without numbers
            end = index + (1 if index < count - 1 else 1.5)
            piece = entry._replace(unit="seconds", first=index * length, last=end * length)
        else:
            piece = entry._replace(path=f"{video}/{pattern.format(index)}")
        yield piece._replace(video=video, positive=positive)


class ListFormat(NamedTuple):
    """How a list is read.

    Attributes:
        line: what a line or an object looks like.
        kinds: of the sources that may use the format.
        read: gives the entries; UserError with file and line if it cannot.
        fits: whether a line may be one of the format.
    """

    line: str
    kinds: tuple[MediaKind, ...]
    read: Callable[[ListFile], Iterator[Entry]]
    fits: Callable[[str], bool] = lambda line: False


_FILES = (MediaKind.VIDEO, MediaKind.IMAGE)
_LONG = (MediaKind.UNTRIMMED,)
FORMATS = {
    # mmaction2, OmniSource's release; spaces, tabs or a comma, and the path may hold spaces
    "path_label": ListFormat("path label", tuple(MediaKind), _path_label, _fits_path_label),
    # a path alone: of files that nobody has labelled
    "paths": ListFormat("path", tuple(MediaKind), _paths),
    # PySlowFast
    "slowfast_csv": ListFormat("path,label", _FILES, _slowfast_csv, _fits_slowfast),
    # Kinetics, under a header that may also name a split
    "kinetics_csv": ListFormat(",".join(_KINETICS), (MediaKind.VIDEO, *_LONG), _kinetics_csv),
    # the K400 validation list of the reference
    "video_ids": ListFormat(
        "video_id, num_frames, label_index", _FILES, _video_ids, _fits_video_ids
    ),
    # mmaction2
    "rawframes": ListFormat(
        "folder num_frames label", (MediaKind.FRAMES,), _rawframes, _fits_rawframes
    ),
    "rawframes_offset": ListFormat(
        "folder offset num_frames label",
        (MediaKind.FRAMES,),
        partial(_rawframes, has_offset=True),
        partial(_fits_rawframes, has_offset=True),
    ),
    # mmaction2's RawVideoDataset
    "parts": ListFormat("folder label num_clips positive positive ...", _LONG, _parts, _fits_parts),
    # OmniSource's release; ours also have removed_clip_inds, of pieces that curation took out
    "parts_json": ListFormat(
        "an object with video_dir, label, num_clips and positive_clip_inds", _LONG, _parts_json
    ),
    # long videos whose pieces are known, in seconds
    "pieces": ListFormat("path start end label", _LONG, _pieces, _fits_pieces),
    # the data sets' own
    "ucf101": ListFormat(
        "class/v_class_g01_c01.avi number",
        (MediaKind.VIDEO,),
        dataset_lists.read_ucf101,
        dataset_lists.fits_ucf101,
    ),
    "hmdb51": ListFormat(
        "file 0|1|2", (MediaKind.VIDEO,), dataset_lists.read_hmdb51, dataset_lists.fits_hmdb51
    ),
    "something_json": ListFormat(
        "an object with id and template", (MediaKind.VIDEO,), dataset_lists.read_something_json
    ),
    "something_csv": ListFormat(
        "id;label",
        (MediaKind.VIDEO, MediaKind.FRAMES),
        dataset_lists.read_something_csv,
        dataset_lists.fits_something_csv,
    ),
}
