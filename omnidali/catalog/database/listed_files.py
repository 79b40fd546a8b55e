"""The entries of a source's list with their probed files, and the frames that each one names."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from omnidali.catalog.listing.list_formats import MAX_PIECES
from omnidali.catalog.probing.packed_numbers import unpack_times
from omnidali.catalog.probing.probe import OK, stretched

RATE_IF_UNKNOWN = 25.0  # frames a second of a file that has neither timestamps nor a rate
OUTSIDE = "piece outside of its file"
TOO_MANY = f"video of more than {MAX_PIECES:,} windows: raise window_seconds or --window"
_ENTRIES = (
    "SELECT e.label, m.width, m.height, m.id, m.frames, m.codec, m.path, e.unit, e.first, e.last,"
    " e.video, e.positive, m.frame_rate, m.tick,"
    " CASE WHEN e.unit IN ('seconds', 'windows') THEN m.timing END, m.aspect"
    " FROM entries e JOIN media m ON m.id = e.media"
    " WHERE e.source = ? AND m.state = ? ORDER BY e.id"
)


class ListedFile(NamedTuple):
    """An entry with its file; fields in the order of the query above."""

    label: int
    width: int
    height: int
    record: int
    frames: int
    codec: str
    path: str
    unit: str
    first: float
    last: float
    video: str
    positive: int | None
    rate: float
    tick: float
    timing: bytes | None
    aspect: float


def stretches_pixels(db: sqlite3.Connection, source: int) -> bool:
    """Whether the source with this id stretches pixels that are not square."""
    row = db.execute("SELECT pixel_aspect FROM sources WHERE id = ?", (source,)).fetchone()
    return row == ("apply",)


def read_listed_files(db: sqlite3.Connection, source: int) -> Iterator[ListedFile]:
    """Yield the entries of the source with this id whose files are usable, in the list's order.

    Sizes and codecs are those that plans see: after stretching.
    """
    stretches = stretches_pixels(db, source)
    for values in db.execute(_ENTRIES, (source, OK)):
        file = ListedFile._make(values)
        if stretches and file.aspect != 1:
            width, height = stretched(file.width, file.height, file.aspect)
            file = file._replace(width=width, height=height, codec=stretched_codec(file.codec))
        yield file


def stretched_codec(name: str) -> str:
    """The variant of a codec whose pixels are stretched, which only the CPU decodes."""
    return f"{name.partition(':')[0]}:anamorphic"


def spans(file: ListedFile, unusable: Counter[str]) -> Iterator[tuple[int, int, int]]:
    """Yield (number of the window, first frame, frames) of what an entry names.

    Windows without a frame are left out. A written list has windows by their numbers: the frames
    depend on these and the seconds alone, so that it reads back to the same ones, and there are
    never more of them than a list may have.

    Args:
        file: the entry.
        unusable: counts the reasons why nothing comes of an entry.
    """
    # a whole file, by far the most common
    if not file.unit:
        yield 0, 0, file.frames
        return

    if file.unit == "frames":
        cuts = [(int(file.first), int(file.last))] if file.last <= file.frames else []
    else:
        seconds = _frame_seconds(file)
        edges = [file.first, file.last]
        if file.unit == "windows":
            # a remainder of less than half a window belongs to the one before
            length = seconds[-1] + (seconds[-1] - seconds[0]) / max(file.frames - 1, 1)
            count = max(1, int(min(length / file.last + 0.5, MAX_PIECES + 1)))
            # left out, not refused: an untrusted video of a day shall not stop a run
            if count > MAX_PIECES:
                unusable[TOO_MANY] += 1
                return
            edges = [number * file.last for number in range(count)] + [length + 1]

        # half a millisecond: timestamps are rounded, and a frame belongs to the piece it begins
        places = np.searchsorted(seconds, np.asarray(edges) - 0.0005).tolist()
        cuts = list(pairwise(places))

    if not any(end > begin for begin, end in cuts):
        unusable[OUTSIDE] += 1
    for number, (begin, end) in enumerate(cuts):
        if end > begin:
            yield number, begin, end - begin


def _frame_seconds(file: ListedFile) -> np.ndarray:
    """When each frame is shown, in seconds after the first: float64 (frames,)."""
    times = unpack_times(file.timing or b"", file.frames)
    if times is None:
        return np.arange(file.frames) / (file.rate or RATE_IF_UNKNOWN)
    return (times - times[0]) * file.tick
