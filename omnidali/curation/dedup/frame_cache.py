"""Values of every frame of a source, kept on disk: a killed run does not compute them again."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omnidali.config.schema import Config, ViewsConfig
from omnidali.config.sources import MediaConfig
from omnidali.curation.dedup.compared_items import ComparedItems
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError, start_of
from omnidali.evaluation.score import allow_again, run_over
from omnidali.loading.trial_outcome import hold_trial
from omnidali.models.precision import make_autocast

TODO, DONE, UNREADABLE = 0, 1, 2  # marks of items
_FLUSH_SECONDS = 5.0


class FrameCache:
    """Rows of numbers for the frames of items, in a folder that all ranks write to.

    Args:
        folder: of its files; it is made, or keeps its values of the same items.
        items: that the frames belong to.
        width: numbers of a frame.
        dtype: of the numbers.
        ranks: all of them make the cache together.

    Attributes:
        items: that the frames belong to.
        values: (F, width), a memory map; zeros for items that could not be read.
        done: uint8 (n,), a mark of every item: TODO, DONE or UNREADABLE.

    Raises:
        UserError: if the disk has no room for all values.
    """

    def __init__(
        self, folder: Path, items: ComparedItems, width: int, dtype: type[np.generic], ranks: Ranks
    ):
        self.items = items
        ranks.on_main(lambda: _make_files(folder, items, width, np.dtype(dtype)))
        self.values = np.lib.format.open_memmap(folder / "values.npy", "r+")
        self.done = np.lib.format.open_memmap(folder / "done.npy", "r+")
        self._unflushed: list[tuple[np.ndarray, np.ndarray]] = []
        self._flushed_at = time.monotonic()

    def put(self, places: np.ndarray, decoded: np.ndarray, values: np.ndarray) -> None:
        """Keep the values of items with equally many frames.

        Args:
            places: int (n,), of the items.
            decoded: bool (n,), False for items that could not be decoded.
            values: (n * frames, width).
        """
        count = int(self.items.counts[places[0]]) if len(places) else 0
        frames = (self.items.starts[places][:, None] + np.arange(count)).reshape(-1)
        self.values[frames] = np.where(np.repeat(decoded, count)[:, None], values, 0)
        self._unflushed.append((places, np.where(decoded, DONE, UNREADABLE)))
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def find_missing(self) -> tuple[np.ndarray, int]:
        """Places of the items that are not done, and how many of them were unreadable."""
        return np.flatnonzero(self.done != DONE), int((self.done == UNREADABLE).sum())

    def flush(self) -> None:
        """Write everything to the disk; values before the marks that say they are there."""
        self.values.flush()
        for places, marks in self._unflushed:
            self.done[places] = marks
        self.done.flush()
        self._unflushed = []
        self._flushed_at = time.monotonic()


def fill_cache(
    folder: Path,
    items: ComparedItems,
    source: MediaConfig,
    *,
    width: int,
    dtype: type[np.generic],
    network: Callable[[torch.Tensor], torch.Tensor],
    pack: Callable[[np.ndarray], np.ndarray],
    size: int,
    precision: str,
    title: str,
    config: Config,
    ranks: Ranks,
) -> FrameCache:
    """Make a cache, or compute what it lacks and what was unreadable, each rank its share.

    Args:
        folder: of the cache.
        items: that the frames belong to.
        source: settings of the items' source.
        width: numbers of a frame.
        dtype: of the numbers.
        network: computes them: (N, 3, T, size, size) to (N, T * D).
        pack: turns its outputs, float64 (n, T * D), into rows of the cache, (n * T, width).
        size: side of the square that the middle of a frame is scaled to, pixels.
        precision: of the network, as in ``train.precision``.
        title: of the progress bar.
        config: how clips are loaded.
        ranks: all of them call this.

    Raises:
        UserError: if more files fail than the limits allow, or the disk has no room.
    """
    cache = FrameCache(folder, items, width, dtype, ranks)
    todo, tried = ranks.on_main(cache.find_missing)
    clip = replace(config.clip, clip_len=1, frame_interval=1)
    config = replace(allow_again(config, tried), clip=clip)
    trial = hold_trial([(items.table, source)], ranks, config.loader)
    try:
        for count in np.unique(items.counts[todo]).tolist():
            rows = todo[items.counts[todo] == count]
            batch = max(1, 8 * config.evaluation.batch // count)
            for places, outputs, decoded in run_over(
                network,
                clip_len=None,
                table=items.table.take(rows, "chosen"),
                source=source,
                views=ViewsConfig(num_clips=count, crops="center", size=size, short_side=size),
                config=replace(config, evaluation=replace(config.evaluation, batch=batch)),
                ranks=ranks,
                autocast=make_autocast(precision, ranks.device),
                trial=trial,
                title=f"{title}, {count} frame{'s' if count > 1 else ''} each",
            ):
                cache.put(rows[places], decoded, pack(outputs))
    finally:
        cache.flush()
    ranks.barrier()  # until all have written
    return cache


def _make_files(folder: Path, items: ComparedItems, width: int, dtype: np.dtype) -> None:
    """Make the files of a cache, with the values of those items that an earlier one had, too.

    The room on the disk is allocated at once: a full disk is an error here, where a write to a
    memory map would end the process.
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
        for item, mark, known in _known_items(folder, items):
            values[items.starts[item] : items.starts[item + 1]] = known
            done[item] = mark
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
            f"{error.strerror or error}{start_of(folder)}",
            "Make room, or choose another --out or a smaller --fps.",
        ) from None


def _allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _known_items(folder: Path, items: ComparedItems) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the items that the cache in a folder holds, too, their marks, and their values."""
    try:
        stamps = np.load(folder / "stamps.npy")
        counts = np.load(folder / "counts.npy")
        done = np.load(folder / "done.npy")
        values = np.load(folder / "values.npy", mmap_mode="r")
    except (OSError, ValueError):
        return

    starts = np.concatenate([[0], np.cumsum(counts)])
    places = {stamp: place for place, stamp in enumerate(stamps.tolist()) if done[place] != TODO}
    for item, stamp in enumerate(items.stamps.tolist()):
        place = places.get(stamp)
        if place is not None:
            yield item, done[place], values[starts[place] : starts[place + 1]]
