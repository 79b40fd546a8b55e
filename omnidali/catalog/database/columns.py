"""The packed columns of a source, which a plan loads as arrays."""

import hashlib
import json
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby, islice
from typing import NamedTuple, TypeAlias

import numpy as np

from omnidali.catalog.database.integrity import DamagedCatalogError, crc_of
from omnidali.catalog.database.left_out_table import PIECES, clear_left_out, write_left_out
from omnidali.catalog.database.listed_items import (
    ListedItem,
    read_entries,
    spans,
    stretched_codec,
    stretches_pixels,
)
from omnidali.catalog.database.source_table import COLUMNS, PIECE_COLUMNS
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.probing.probe import IRREGULAR, OK, planned_codec

ANOTHER_SIZE = "piece of another size than its video's first"
NO_POSITIVE = "video without a piece that shows its class"
_SAMPLE_COLUMNS = ("labels", "widths", "heights", "positives", "starts")
_SET_COLUMNS = ("set_sizes", "set_labels")
_CHUNK = 1 << 20  # rows in one row of the table of packed columns
_FETCHED = 10_000  # rows that are in memory at once, apart from the columns
# some samples: their columns by name, and the paths of their files
_Chunk: TypeAlias = tuple[Mapping[str, "array[int]"], list[str]]
# takes an item that is left out, the reason and a detail
LeaveOut: TypeAlias = Callable[[ListedItem, str, str], None]
_SHOWN = 3  # irregular files that are named


class _Piece(NamedTuple):
    """Frames of a file; fields are the values of ``PIECE_COLUMNS``, in their order."""

    record: int
    frames: int
    codec: int
    first: int


def _places_of(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def write_columns(
    db: sqlite3.Connection,
    source: int,
    by_video: bool,
    keep_all: bool = False,
    *,
    multi_label: bool = False,
) -> None:
    """Write the columns of a source's usable rows, its fingerprint, and why pieces were left out.

    Args:
        db: the open catalog.
        source: its id of the source.
        by_video: whether the pieces of one video make one sample.
        keep_all: whether to keep videos that never show their class, too.
        multi_label: whether to keep all labels of a row.
    """
    codecs = _codec_names(db, source)
    has_units = db.execute(
        "SELECT 1 FROM entries WHERE source = ? AND unit <> '' LIMIT 1", (source,)
    ).fetchone()
    db.execute("DELETE FROM packed WHERE source = ?", (source,))

    clear_left_out(db, source, PIECES)
    left_out = LeftOut(partial(write_left_out, db, source, PIECES))
    leave_out = partial(_leave_out, left_out, _lists_of(db, source))
    files = read_entries(db, source)
    pack = partial(_pack_videos, keep_all=keep_all) if by_video else _pack_pieces
    chunks = pack(files, _places_of(codecs), leave_out, sets=_SET_COLUMNS if multi_label else ())

    # damage that was found later makes no other plan
    sound = [planned_codec(name) for name in codecs]
    sound_places = np.array([sorted(set(sound)).index(name) for name in sound])

    digest = hashlib.sha256()
    for number, (columns, paths) in enumerate(chunks):
        for name in sorted(columns):
            if name == "firsts" and not by_video and not has_units:
                continue
            values = np.asarray(columns[name], COLUMNS[name])
            if name == "codecs":
                digest.update(sound_places[values].astype(COLUMNS[name]).tobytes())
            elif name != "records":  # ids depend on the history of the file, not on its content
                digest.update(values.tobytes())
            _write(db, source, name, number, values.tobytes())
        digest.update("\n".join(paths).encode())
    _write(db, source, "codec_names", 0, json.dumps(codecs))

    irregular = _irregular_paths(db, source)
    if irregular:  # a run that numbered their frames by timestamps saw other ones
        digest.update("\n".join(["", IRREGULAR, *irregular]).encode("utf-8", "surrogatepass"))
        _write(db, source, "irregular", 0, json.dumps([irregular[:_SHOWN], len(irregular)]))

    (count,) = db.execute("SELECT COUNT(*) FROM packed WHERE source = ?", (source,)).fetchone()
    _write(db, source, "fingerprint", 0, f"{digest.hexdigest()} of {count}")
    db.execute(
        "UPDATE sources SET fingerprint = ?, unusable = ? WHERE id = ?",
        (digest.hexdigest(), json.dumps(left_out.counts), source),
    )
    left_out.flush()


def read_columns(db: sqlite3.Connection, source: int, fingerprint: str) -> dict[str, list[bytes]]:
    """Read the packed columns of a source, each as its chunks.

    Raises:
        DamagedCatalogError: if they, or the fingerprint, are not those that were written.
    """
    packed: dict[str, list[bytes]] = {}
    for name, chunk, data, crc in db.execute(
        "SELECT name, chunk, data, crc FROM packed WHERE source = ? ORDER BY name, chunk", (source,)
    ):
        if crc != crc_of(source, name, chunk, data) or chunk != len(packed.setdefault(name, [])):
            raise DamagedCatalogError(f"column {ascii(name)} changed")
        packed[name].append(data)

    if packed.pop("fingerprint", None) != [f"{fingerprint} of {sum(map(len, packed.values()))}"]:
        raise DamagedCatalogError("the fingerprint changed")
    return packed


def _write(db: sqlite3.Connection, source: int, name: str, chunk: int, data: bytes | str) -> None:
    db.execute(
        "INSERT INTO packed VALUES (?, ?, ?, ?, ?)",
        (source, name, chunk, data, crc_of(source, name, chunk, data)),
    )


def _lists_of(db: sqlite3.Connection, source: int) -> list[str]:
    """The lists of a source, as its entries number them."""
    (watched,) = db.execute("SELECT watched FROM sources WHERE id = ?", (source,)).fetchone()
    return json.loads(watched or "[]")


def _leave_out(
    left_out: LeftOut, lists: Sequence[str], item: ListedItem, reason: str, detail: str
) -> None:
    """Note an item that is left out, of a long video the video."""
    where = f"{lists[item.list]}, line {item.line}" if item.line else ""
    path = item.video if reason == NO_POSITIVE else item.path
    left_out.add(path, reason, where, detail)


def _codec_names(db: sqlite3.Connection, source: int) -> list[str]:
    stretches = stretches_pixels(db, source)
    rows = db.execute(
        "SELECT DISTINCT codec, aspect = 1 FROM media WHERE source = ? AND state = ?", (source, OK)
    )
    return sorted(
        {stretched_codec(name) if stretches and not is_square else name for name, is_square in rows}
    )


def _irregular_paths(db: sqlite3.Connection, source: int) -> list[str]:
    rows = db.execute(
        "SELECT path FROM media WHERE source = ? AND state = ?"
        f" AND codec LIKE '%{IRREGULAR}' ORDER BY path",
        (source, OK),
    )
    return [path for (path,) in rows]


def _empty_columns(*names: str) -> dict[str, "array[int]"]:
    """Arrays for the values of columns, which refuse those that do not fit."""
    return {name: array(np.dtype(COLUMNS[name]).char) for name in names}


def _extend(
    columns: Mapping[str, "array[int]"], names: Sequence[str], rows: Iterable[tuple[int, ...]]
) -> None:
    """Append rows, whose values belong to the columns of these names."""
    for name, values in zip(names, zip(*rows, strict=True), strict=False):
        columns[name].extend(values)


def _extend_sets(columns: Mapping[str, "array[int]"], items: Iterable[ListedItem]) -> None:
    """Append the labels of samples, where the columns are to hold all of them."""
    if "set_sizes" in columns:
        for item in items:
            columns["set_sizes"].append(len(item.label_set))
            columns["set_labels"].extend(item.label_set)


def _pack_pieces(
    files: Iterator[ListedItem],
    codec_places: Mapping[str, int],
    leave_out: LeaveOut,
    *,
    sets: Sequence[str],
) -> Iterator[_Chunk]:
    """Yield chunks in which every entry is a sample of one piece."""
    for file in files:
        entries = chain([file], islice(files, _CHUNK - 1))
        columns = _empty_columns("labels", "widths", "heights", *PIECE_COLUMNS, *sets)
        paths: list[str] = []
        # a million rows would take several times the memory of the columns made of them
        while part := list(islice(entries, _FETCHED)):
            found = [
                (row, first, count) for row in part for _, first, count in spans(row, leave_out)
            ]
            samples = [(row.label, row.width, row.height) for row, _, _ in found]
            pieces = [
                _Piece(row.record, count, codec_places[row.codec], first=first)
                for row, first, count in found
            ]

            _extend(columns, _SAMPLE_COLUMNS, samples)
            _extend(columns, PIECE_COLUMNS, pieces)
            _extend_sets(columns, (row for row, _, _ in found))
            paths += [row.path for row, _, _ in found]
        if paths:
            yield columns, paths


def _pack_videos(
    files: Iterator[ListedItem],
    codec_places: Mapping[str, int],
    leave_out: LeaveOut,
    *,
    sets: Sequence[str],
    keep_all: bool,
) -> Iterator[_Chunk]:
    """Yield chunks in which the entries of one video with the same labels make a sample.

    Pieces that show the class come first.
    """
    columns = _empty_columns(*_SAMPLE_COLUMNS, *PIECE_COLUMNS, *sets)
    columns["starts"].append(0)
    paths: list[str] = []
    end = 0
    for (_, label, _), entries in groupby(files, key=lambda file: file.sample):
        shown: list[_Piece] = []
        others: list[_Piece] = []
        removed: list[_Piece] = []
        paths_by_record = {}
        for file in entries:
            paths_by_record[file.record] = file.path
            for _, first, count in spans(file, leave_out):
                piece = _Piece(file.record, count, codec_places[file.codec], first=first)
                if file.positive is None:
                    removed.append(piece)
                    continue
                if not shown and not others:
                    size = (file.width, file.height)
                if (file.width, file.height) == size:
                    (shown if file.positive else others).append(piece)
                else:  # one box is cut out of all frames of a sample
                    leave_out(file, ANOTHER_SIZE, f"{file.width}x{file.height}")

        if not shown and not (others and keep_all):
            leave_out(file, NO_POSITIVE, "")
            continue
        if not others and file.unit == "seconds":
            others = _gaps(shown, removed, file.frames)

        pieces = shown + others
        end += len(pieces)
        _extend(columns, _SAMPLE_COLUMNS, [(label, *size, len(shown), end)])
        _extend(columns, PIECE_COLUMNS, pieces)
        _extend_sets(columns, [file])
        paths += dict.fromkeys(paths_by_record[piece.record] for piece in pieces)
        if len(columns["records"]) >= _CHUNK:
            yield columns, paths
            columns = _empty_columns(*_SAMPLE_COLUMNS, *PIECE_COLUMNS, *sets)
            paths = []
    if paths:
        yield columns, paths


def _gaps(shown: list[_Piece], removed: list[_Piece], frames: int) -> list[_Piece]:
    """Find what lies between the listed pieces of a file.

    A gap must be at least half as long as the shortest piece that shows the class.
    """
    shortest = min(piece.frames for piece in shown)
    gaps: list[_Piece] = []
    end = 0
    listed = sorted(shown + removed, key=lambda piece: piece.first)
    for piece in [*listed, shown[0]._replace(frames=0, first=frames)]:
        if piece.first - end >= max(1, shortest // 2):
            gaps.append(piece._replace(frames=piece.first - end, first=end))
        end = max(end, piece.first + piece.frames)
    return gaps
