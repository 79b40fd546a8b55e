"""What was computed of every frame of a source, on disk: what a killed run has done is not done
again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from omnidali.catalog.database.columns import RATE_IF_UNKNOWN
from omnidali.catalog.database.listed_items import read_items
from omnidali.catalog.database.store import Media, SourceTable, connect
from omnidali.config.schema import Config, MediaConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.forward import allow_again, run_over
from omnidali.planning.frame_sampling import sample_test

# frames of an item: few kinds, so few passes
_COUNTS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
_FLUSH_SECONDS = 5.0
TODO, DONE, UNREADABLE = 0, 1, 2


@dataclass(frozen=True)
class Items:
    """What is compared of a source: its photos, videos, or pieces of long videos, with the frames
    to look at.

    Attributes:
        table: a row an item, as listed. rows: int64 (n,), equal for pieces of one video.
        counts: int64 (n,), frames to look at. stamps: uint64 (n,), change with the file, the piece
            or the count.
        sizes: int64 (n,), bytes of the file. shown: bool (n,), False for pieces of long videos
            without their class.
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
        """int64 (F,): whose frame it is."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, items: np.ndarray, note: str) -> Items:
        """Some of the items; see :meth:`~omnidali.catalog.database.store.SourceTable.take`."""
        columns = {
            name: getattr(self, name)[items]
            for name in ("rows", "counts", "stamps", "sizes", "shown")
        }
        return replace(self, table=self.table.take(items, note), **columns)

    def media(self, item: int) -> Media:
        """The item's file."""
        return self.table.media(self.table.records[item])

    def frame(self, place: int) -> int:
        """Number in its file of the frame that is the ``place``-th of the source."""
        item = int(self.of_frames[place])
        if self.table.kind == "image":
            return 0
        first = 0 if self.table.firsts is None else int(self.table.firsts[item])
        frames = sample_test(self.table.frames[[item]], 1, 1, int(self.counts[item]))[0]
        return first + int(frames[place - self.starts[item]])


def find_items(catalog: str, table: SourceTable, rate: float) -> Items:
    """The items of a source.

    Args:
        table: with a row for each item that is listed. rate: frames to look at in a second, about:
            at most 96 of an item.
    """
    rows, shown = np.arange(len(table)), np.ones(len(table), bool)
    if table.kind == "untrimmed":
        videos: dict[tuple[str, int], int] = {}
        for place, item in enumerate(read_items(catalog, table.name)):
            rows[place] = videos.setdefault((item.video, item.label), len(videos))
            shown[place] = item.positive
    known = np.zeros(
        len(table.records), [("stamp", np.uint64), ("size", np.int64), ("rate", np.float64)]
    )
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
                digest = blake2b(
                    repr((path, size, mtime, offset)).encode("utf-8", "surrogateescape"),
                    digest_size=8,
                )
                known[order[first:last]] = (
                    int.from_bytes(digest.digest(), "little"),
                    size if part is None else part,
                    frame_rate or RATE_IF_UNKNOWN,
                )
    if table.kind == "image":
        counts = np.ones(len(table), np.int64)
    else:
        wanted = np.clip(np.ceil(table.frames / known["rate"] * rate), 1, _COUNTS[-1])
        counts = _COUNTS[np.searchsorted(_COUNTS, wanted)]
    stamps = known["stamp"].copy()
    for column in (counts, table.frames, table.firsts if table.firsts is not None else 0 * counts):
        stamps = (stamps ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
        stamps ^= stamps >> np.uint64(29)
    return Items(table, rows, counts, stamps, known["size"], shown)


class Kept:
    """Rows of numbers for the frames of items, in a folder that all ranks write to.

    Attributes:
        values: (F, width). done: uint8 (n,), by item: TODO, DONE, or UNREADABLE, whose values are
            zeros.
    """

    def __init__(self, folder: Path, items: Items, width: int, dtype: type, ranks: Ranks):
        self.items = items
        ranks.on_main(lambda: _make(folder, items, width, np.dtype(dtype)))
        self.values = np.lib.format.open_memmap(folder / "values.npy", "r+")
        self.done = np.lib.format.open_memmap(folder / "done.npy", "r+")
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._flushed = time.monotonic()

    def put(self, places: np.ndarray, decoded: np.ndarray, values: np.ndarray) -> None:
        """Keep the values of items with equally many frames.

        Args:
            places: int (n,). decoded: bool (n,), False for those that could not be. values: (n *
                frames, width).
        """
        count = int(self.items.counts[places[0]]) if len(places) else 0
        frames = (self.items.starts[places][:, None] + np.arange(count)).reshape(-1)
        self.values[frames] = np.where(np.repeat(decoded, count)[:, None], values, 0)
        self._waiting.append((places, np.where(decoded, DONE, UNREADABLE)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring everything to the disk; values before the marks that say they are there."""
        self.values.flush()
        for places, marks in self._waiting:
            self.done[places] = marks
        self.done.flush()
        self._waiting, self._flushed = [], time.monotonic()


def fill(
    kept: Kept,
    source: MediaConfig,
    network: Callable[[torch.Tensor], torch.Tensor],
    pack: Callable[[np.ndarray], np.ndarray],
    size: int,
    config: Config,
    ranks: Ranks,
    autocast: torch.autocast,
    title: str,
) -> None:
    """Compute what is missing: every rank its share, through the planned loader.

    What was unreadable is tried again.

    Args:
        network: (N, 3, T, size, size) to (N, T * D). pack: float64 (n, T * D) to what is kept, (n *
            T, width).
        size: of the square that the middle of a frame is scaled to, pixels. title: of the progress
            bar.

    Raises:
        UserError: if more files fail than the config's limits allow.
    """
    items = kept.items
    todo, tried = ranks.on_main(
        lambda: (np.flatnonzero(kept.done != DONE), int((kept.done == UNREADABLE).sum()))
    )
    config = allow_again(config, tried)
    try:
        for count in np.unique(items.counts[todo]).tolist():
            rows = todo[items.counts[todo] == count]
            views = ViewsConfig(num_clips=count, crops="center", size=size, short_side=size)
            settings = replace(
                config,
                clip=replace(config.clip, clip_len=1, frame_interval=1),
                evaluation=replace(
                    config.evaluation, batch=max(1, 8 * config.evaluation.batch // count)
                ),
            )
            table, name = (
                items.table.take(rows, "chosen"),
                f"{title}, {count} frame{'s' if count > 1 else ''} each",
            )
            for places, outputs, decoded in run_over(
                network, None, table, source, views, settings, ranks, autocast, name
            ):
                kept.put(rows[places], decoded, pack(outputs))
    finally:
        kept.flush()
    ranks.meet()  # all have written


def _make(folder: Path, items: Items, width: int, dtype: np.dtype) -> None:
    """Make the folder's files, with the values of items that an earlier one had, too.

    The disk's room is taken at once: a full disk is told here, where a write to a memory map would
    end the process.
    """
    before = folder.with_name(f"{folder.name}.before")
    if not folder.exists() and before.exists():  # killed between the two renames
        os.rename(before, folder)
    with contextlib.suppress(OSError, ValueError):
        if np.array_equal(np.load(folder / "stamps.npy"), items.stamps):
            return
    part = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        values = _allocate(part / "values.npy", (int(items.starts[-1]), width), dtype)
        done = _allocate(part / "done.npy", (len(items),), np.dtype(np.uint8))
        np.save(part / "stamps.npy", items.stamps)
        np.save(part / "counts.npy", items.counts)
        for mine, theirs, old_values, mark in _known(folder, items):
            values[mine], done[mark[0]] = old_values[theirs], mark[1]
        values.flush()
        done.flush()
        if folder.exists():
            shutil.rmtree(before, ignore_errors=True)
            os.rename(folder, before)
        os.rename(part, folder)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        needed = int(items.starts[-1]) * width * dtype.itemsize
        raise UserError(
            str(folder),
            f"a folder with room for {needed:,} bytes",
            str(error.strerror or error),
            "Make room, or choose another --out or a smaller --fps.",
        ) from None


def _allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _known(
    folder: Path, items: Items
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, tuple]]:
    """(frames of items, frames in the folder's values, those values, (item, mark)) of items that
    the folder knows.
    """
    try:
        stamps, done = np.load(folder / "stamps.npy"), np.load(folder / "done.npy")
        values, counts = (
            np.load(folder / "values.npy", mmap_mode="r"),
            np.load(folder / "counts.npy"),
        )
    except (OSError, ValueError):
        return
    starts = np.concatenate([[0], np.cumsum(counts)])
    old = {int(stamp): place for place, stamp in enumerate(stamps.tolist()) if done[place] != TODO}
    for item, stamp in enumerate(items.stamps.tolist()):
        place = old.get(stamp)
        if place is not None:
            count = np.arange(int(items.counts[item]))
            yield items.starts[item] + count, starts[place] + count, values, (item, done[place])
