"""What dedup compares of a source: its images, videos, or pieces of long videos."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.listed_items import RATE_IF_UNKNOWN, SampleKey, read_items
from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.planning.frame_sampling import sample_test

# Frames of an item: few different counts, so that few passes over the source are needed.
_COUNTS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
_FILE_FACTS = np.dtype([("stamp", np.uint64), ("size", np.int64), ("rate", np.float64)])


@dataclass(frozen=True)
class ComparedItems:
    """The items of a source, with the frames of each to look at.

    Attributes:
        table: a row for each item, as listed.
        rows: int64 (n,), equal for the pieces of one video.
        counts: int64 (n,), number of frames to look at.
        stamps: uint64 (n,), change with the file, the piece or the count.
        sizes: int64 (n,), bytes of the file.
        shown: bool (n,), False for pieces of long videos that do not show their class.
    """

    table: SourceTable
    rows: np.ndarray
    counts: np.ndarray
    stamps: np.ndarray
    sizes: np.ndarray
    shown: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (n + 1,): the frames of item i are starts[i] to starts[i + 1] (exclusive)."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @cached_property
    def of_frames(self) -> np.ndarray:
        """int64 (F,): the item of each frame."""
        return np.repeat(np.arange(len(self)), self.counts)

    def with_one_frame(self) -> ComparedItems:
        """The same items with a single frame of each."""
        return replace(self, counts=np.ones(len(self), np.int64))

    def take(self, items: np.ndarray, note: str) -> ComparedItems:
        """Some of the items; ``note`` says how they were chosen."""
        return ComparedItems(
            self.table.take(items, note),
            rows=self.rows[items],
            counts=self.counts[items],
            stamps=self.stamps[items],
            sizes=self.sizes[items],
            shown=self.shown[items],
        )

    def media(self, item: int) -> Media:
        """The item's file."""
        return self.table.media(self.table.records[item])

    def frame(self, place: int) -> int:
        """Number in its file of the frame that is the ``place``-th of the source."""
        item = int(self.of_frames[place])
        if self.table.kind.is_still:
            return 0
        first = 0 if self.table.firsts is None else int(self.table.firsts[item])
        frames = sample_test(self.table.frames[[item]], 1, 1, int(self.counts[item]))[0]
        return first + int(frames[place - self.starts[item]])


def find_compared_items(catalog: str, table: SourceTable, rate: float) -> ComparedItems:
    """Find the items of a source.

    Args:
        catalog: its file.
        table: with a row for each listed item.
        rate: frames to look at in a second, about; an item has at most 96.
    """
    rows = np.arange(len(table))
    shown = np.ones(len(table), bool)
    if table.kind.has_pieces:
        videos: dict[SampleKey, int] = {}
        for place, item in enumerate(read_items(catalog, table.name)):
            rows[place] = videos.setdefault(item.sample, len(videos))
            shown[place] = item.positive

    facts = _read_file_facts(catalog, table)
    counts = np.ones(len(table), np.int64)
    if not table.kind.is_still:
        wanted = np.clip(np.ceil(table.frames / facts["rate"] * rate), 1, _COUNTS[-1])
        counts = _COUNTS[np.searchsorted(_COUNTS, wanted)]

    stamps = facts["stamp"].copy()
    firsts = table.firsts if table.firsts is not None else np.zeros_like(counts)
    for column in (counts, table.frames, firsts):
        stamps = (stamps ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
        stamps ^= stamps >> np.uint64(29)
    return ComparedItems(table, rows, counts, stamps, sizes=facts["size"], shown=shown)


def _read_file_facts(catalog: str, table: SourceTable) -> np.ndarray:
    """A stamp, the bytes and the frame rate of every row's file: (n,) of _FILE_FACTS."""
    facts = np.zeros(len(table.records), _FILE_FACTS)
    order = np.argsort(table.records, kind="stable")
    sorted_records = table.records[order]

    with contextlib.closing(connect(catalog, read_only=True)) as db:
        for record, path, size, mtime, offset, part, frame_rate in db.execute(
            "SELECT m.id, m.path, m.bytes, m.mtime_ns, m.offset, m.size, m.frame_rate FROM media m"
            " JOIN sources s ON s.id = m.source WHERE s.name = ?",
            (table.name,),
        ):
            first, last = np.searchsorted(sorted_records, [record, record + 1])
            if first < last:
                identity = repr((path, size, mtime, offset)).encode("utf-8", "surrogateescape")
                facts[order[first:last]] = (
                    int.from_bytes(blake2b(identity, digest_size=8).digest(), "little"),
                    size if part is None else part,
                    frame_rate or RATE_IF_UNKNOWN,
                )
    return facts
