"""From the list's entries and the probed files to the packed columns that a plan loads."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from omnidali.catalog.database.integrity import crc_of
from omnidali.catalog.database.store import CHUNK, COLUMNS, PIECE_COLUMNS
from omnidali.catalog.listing.list_formats import MAX_PIECES
from omnidali.catalog.probing.image_probe import stretched
from omnidali.catalog.probing.probe import DAMAGED, IRREGULAR, unpack_times
from omnidali.catalog.probing.sniff import OK


class ListedFile(NamedTuple):
    """An entry with its file, in the order of the query below."""

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


class _Piece(NamedTuple):
    """Frames of a file; fields as the packed columns of pieces, and in their order."""

    record: int
    frames: int
    codec: str
    first: int


ENTRIES = (
    "SELECT e.label, m.width, m.height, m.id, m.frames, m.codec, m.path, e.unit, e.first, e.last, e.video,"
    " e.positive, m.frame_rate, m.tick, CASE WHEN e.unit IN ('seconds', 'windows') THEN m.timing END, m.aspect"
    " FROM entries e JOIN media m ON m.id = e.media WHERE e.source = ? AND m.state = ? ORDER BY e.id"
)
RATE_IF_UNKNOWN = 25.0  # frames a second of a file that has neither timestamps nor a rate
OUTSIDE = "piece outside of its file"
ANOTHER_SIZE = "piece of another size than its video's first"
TOO_MANY = f"video of more than {MAX_PIECES:,} windows: raise window_seconds or --window"
_SAMPLE_COLUMNS = ("labels", "widths", "heights", "positives")
_FETCHED = 10_000  # rows that are read from the catalog at once
_SHOWN = 3  # irregular files that are named
NO_POSITIVE = "video without a piece that shows its class"


def pack(db: sqlite3.Connection, source: int, by_video: bool, keep_all: bool = False) -> None:
    """Write the packed columns of a source's usable rows, its fingerprint, and why pieces were left
    out.

    Args:
        by_video: whether the pieces of one video make one sample. keep_all: also of videos that
            never show their class.
    """
    stretches = db.execute(
        "SELECT pixel_aspect FROM sources WHERE id = ?", (source,)
    ).fetchone() == ("apply",)
    codecs = sorted(
        {
            _codec(name, stretches and not is_square)
            for name, is_square in db.execute(
                "SELECT DISTINCT codec, aspect = 1 FROM media WHERE source = ? AND state = ?",
                (source, OK),
            )
        }
    )
    db.execute("DELETE FROM packed WHERE source = ?", (source,))
    rows = _Rows(db.execute(ENTRIES, (source, OK)), stretches)
    unusable: Counter = Counter()
    digest = hashlib.sha256()
    has_firsts = bool(
        by_video
        or db.execute(
            "SELECT 1 FROM entries WHERE source = ? AND unit <> '' LIMIT 1", (source,)
        ).fetchone()
    )
    batches = _videos(rows, keep_all, unusable) if by_video else _pieces(rows, unusable)
    place = {name: index for index, name in enumerate(codecs)}
    # damage that was found later makes no other plan
    told = sorted({name.removesuffix(DAMAGED) for name in codecs})
    told_place = np.array([told.index(name.removesuffix(DAMAGED)) for name in codecs])

    def keep(name: str, chunk: int, data: bytes | str) -> None:
        db.execute(
            "INSERT INTO packed VALUES (?, ?, ?, ?, ?)",
            (source, name, chunk, data, crc_of(source, name, chunk, data)),
        )

    pieces_before = 0
    for chunk, (samples, counts, pieces, paths) in enumerate(batches):
        columns = dict(zip(_SAMPLE_COLUMNS, samples))
        columns |= dict(zip(PIECE_COLUMNS, pieces))
        columns["codecs"] = [place[name] for name in columns["codecs"]]
        if by_video:
            ends = pieces_before + np.cumsum(counts)
            columns["starts"] = ends if chunk else np.concatenate([[0], ends])
            pieces_before = int(ends[-1])
        else:
            del columns["positives"]
        if not has_firsts:
            del columns["firsts"]
        for name in sorted(columns):
            data = np.asarray(columns[name], COLUMNS[name]).tobytes()
            if name == "codecs":
                digest.update(told_place[columns[name]].astype(COLUMNS[name]).tobytes())
            elif name != "records":  # ids depend on the history of the file, not on its content
                digest.update(data)
            keep(name, chunk, data)
        digest.update("\n".join(paths).encode())
    keep("codec_names", 0, json.dumps(codecs))
    irregular = [
        path
        for (path,) in db.execute(
            f"SELECT path FROM media WHERE source = ? AND state = ? AND codec LIKE '%{IRREGULAR}' ORDER BY path",
            (source, OK),
        )
    ]
    if irregular:  # a run that numbered their frames by timestamps saw other ones
        digest.update("\n".join(["", IRREGULAR, *irregular]).encode("utf-8", "surrogatepass"))
        keep("irregular", 0, json.dumps([irregular[:_SHOWN], len(irregular)]))
    (count,) = db.execute("SELECT COUNT(*) FROM packed WHERE source = ?", (source,)).fetchone()
    keep("fingerprint", 0, f"{digest.hexdigest()} of {count}")
    db.execute(
        "UPDATE sources SET fingerprint = ?, unusable = ? WHERE id = ?",
        (digest.hexdigest(), json.dumps(unusable), source),
    )


def _codec(name: str, is_stretched: bool) -> str:
    """The codec, or a variant of it that only the CPU decodes."""
    return f"{name.partition(':')[0]}:anamorphic" if is_stretched else name


class _Rows:
    """The entries of a source with their files, in the sizes that plans see."""

    def __init__(self, cursor: sqlite3.Cursor, stretches: bool):
        self._cursor = cursor
        self._stretches = stretches

    def __iter__(self) -> Iterator[ListedFile]:
        return map(self._row, self._cursor)

    def fetchmany(self, count: int) -> list[ListedFile]:
        """The next rows, at most ``count``."""
        return [self._row(values) for values in self._cursor.fetchmany(count)]

    def _row(self, values: tuple) -> ListedFile:
        row = ListedFile._make(values)
        if not self._stretches or row.aspect == 1:
            return row
        width, height = stretched(row.width, row.height, row.aspect)
        return row._replace(width=width, height=height, codec=_codec(row.codec, is_stretched=True))


def _pieces(rows: _Rows, unusable: Counter):
    """Batches of (columns of samples, pieces a sample, columns of pieces, paths), where every entry
    is a sample.
    """
    ended = False
    while not ended:
        samples = [_empty(name) for name in _SAMPLE_COLUMNS]
        pieces = [[] if name == "codecs" else _empty(name) for name in PIECE_COLUMNS]
        paths = []
        # a million rows as they are read would take several times the memory of what is kept of
        # them
        for begin in range(0, CHUNK, _FETCHED):
            batch = rows.fetchmany(min(_FETCHED, CHUNK - begin))
            ended = not batch
            if ended:
                break
            found = [
                (row, first, count) for row in batch for _, first, count in spans(row, unusable)
            ]
            _extend(samples, [(row.label, row.width, row.height, 1) for row, _, _ in found])
            _extend(
                pieces, [_Piece(row.record, count, row.codec, first) for row, first, count in found]
            )
            paths += [row.path for row, _, _ in found]
        if paths:
            yield samples, None, pieces, paths


def _empty(column: str) -> array:
    """An array for the values of a column, which refuses those that do not fit."""
    return array(np.dtype(COLUMNS[column]).char)


def _extend(columns: Sequence[array | list], rows: Sequence[tuple]) -> None:
    for column, values in zip(columns, zip(*rows)):
        column.extend(values)


def _videos(rows: _Rows, keep_all: bool, unusable: Counter):
    """The same, where the entries of one video and label make a sample; those that show the class
    come first.
    """
    samples, counts, pieces, paths = [], [], [], []
    for _, entries in groupby(rows, key=lambda row: (row.video, row.label)):
        shown, others, removed, size, files = [], [], [], None, {}
        for row in entries:
            files[row.record] = row.path
            for _, first, count in spans(row, unusable):
                if row.positive is None:
                    removed.append(_Piece(row.record, count, row.codec, first))
                    continue
                size = size or (row.width, row.height)
                if (row.width, row.height) != size:  # one box is cut out of all frames of a sample
                    unusable[ANOTHER_SIZE] += 1
                    continue
                (shown if row.positive else others).append(
                    _Piece(row.record, count, row.codec, first)
                )
        if not shown and not (others and keep_all):
            unusable[NO_POSITIVE] += 1
            continue
        if not others and row.unit == "seconds":
            others = _gaps(shown, removed, row.frames)
        samples.append((row.label, *size, len(shown)))
        counts.append(len(shown) + len(others))
        pieces += shown + others
        paths += dict.fromkeys(files[piece.record] for piece in shown + others)
        if len(pieces) >= CHUNK:
            yield zip(*samples), counts, zip(*pieces), paths
            samples, counts, pieces, paths = [], [], [], []
    if samples:
        yield zip(*samples), counts, zip(*pieces), paths


def _gaps(shown: list[_Piece], removed: list[_Piece], frames: int) -> list[_Piece]:
    """What lies between the listed pieces of a file, where it is at least half as long as the
    shortest shown one.
    """
    shortest, gaps, end = min(piece.frames for piece in shown), [], 0
    listed = sorted(shown + removed, key=lambda piece: piece.first)
    for piece in [*listed, shown[0]._replace(frames=0, first=frames)]:
        if piece.first - end >= max(1, shortest // 2):
            gaps.append(piece._replace(frames=piece.first - end, first=end))
        end = max(end, piece.first + piece.frames)
    return gaps


def spans(row: ListedFile, unusable: Counter) -> Iterator[tuple[int, int, int]]:
    """Yield (number of the window, first frame, frames) of what an entry names; windows without a
    frame are not.

    A written list has windows by their numbers: the frames depend on these and the seconds alone,
    so that it reads back to the same ones, and there are never more of them than a list may have.
    """
    if not row.unit:  # a whole file, by far the most common
        yield 0, 0, row.frames
        return
    if row.unit == "frames":
        cuts = [(int(row.first), int(row.last))] if row.last <= row.frames else []
    else:
        times = unpack_times(row.timing, row.frames)
        seconds = (
            (times - times[0]) * row.tick
            if times is not None
            else np.arange(row.frames) / (row.rate or RATE_IF_UNKNOWN)
        )
        edges = [row.first, row.last]
        # a remainder of less than half a window belongs to the one before
        if row.unit == "windows":
            length = seconds[-1] + (seconds[-1] - seconds[0]) / max(row.frames - 1, 1)
            count = max(1, int(min(length / row.last + 0.5, MAX_PIECES + 1)))
            # left out, not refused: a stranger's video of a day shall not stop a run
            if count > MAX_PIECES:
                unusable[TOO_MANY] += 1
                return
            edges = [number * row.last for number in range(count)] + [length + 1]
        # half a millisecond: timestamps are rounded, and a frame belongs to the piece it begins
        places = np.searchsorted(seconds, np.asarray(edges) - 0.0005).tolist()
        cuts = list(zip(places, places[1:]))
    if not any(end > begin for begin, end in cuts):
        unusable[OUTSIDE] += 1
    yield from (
        (number, begin, end - begin) for number, (begin, end) in enumerate(cuts) if end > begin
    )
