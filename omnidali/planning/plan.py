"""The plan: which sample, frames, crop and flip stand in which slot of which step.

A pure function of (config, catalog, seed, step). It draws no number in order and keeps no state,
so every step can be asked for at any time, on any rank, for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnidali.catalog.store import SourceTable
from omnidali.config import ClipConfig, SourceConfig, ViewsConfig
from omnidali.errors import UserError
from omnidali.planning import crops
from omnidali.planning.frames import sample_test, sample_train
from omnidali.planning.permutation import permute
from omnidali.planning.philox import Purpose, Stream, below
from omnidali.planning.shares import Shares


@dataclass(frozen=True)
class Samples:
    """The planned samples of one source in one step on one rank; n samples with V views of F frames.

    Attributes:
        source: place of the source in the config.
        size: side of the output picture, pixels.
        repeat: how often a frame is repeated in the clip (1, or T for a still image).
        draws: int64 (n,), numbers in the source's endless stream.
        slots: int64 (n,), global slot numbers; items in an evaluation.
        rows: int64 (n,), rows of the source's table.
        frames: int32 (n, F), frame indices in presentation order.
        boxes: int32 (n, V, 4), see :mod:`omnidali.planning.crops`.
        flips: bool (n, V).
        valid: bool (n,), False for samples that only pad the last step of an evaluation.
        attempt: 0, or which substitute this is.
    """

    source: int
    size: int
    repeat: int
    draws: np.ndarray
    slots: np.ndarray
    rows: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray
    valid: np.ndarray
    attempt: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> "Samples":
        """The samples at ``index`` (an array of places or of truth values)."""
        return Samples(self.source, self.size, self.repeat, self.draws[index], self.slots[index], self.rows[index],
                       self.frames[index], self.boxes[index], self.flips[index], self.valid[index], self.attempt)


class TrainPlan:
    """The endless training plan.

    Args:
        tables: one catalog table for each source, in the order of ``sources``.
        sources: settings of the sources (weight, inflate).
        clip: sampling and cropping.
        batch: slots of one step on all ranks together.
        seed: of the run.
    """

    def __init__(self, tables: Sequence[SourceTable], sources: Sequence[SourceConfig], clip: ClipConfig, batch: int,
                 seed: int):
        self.tables, self.sources, self.clip, self.batch, self.seed = tuple(tables), tuple(sources), clip, batch, seed
        self.shares = Shares([source.weight for source in sources])
        self._streams = [Stream(seed, number) for number in range(len(tables))]
        self._by_class = [_ByClass(table.labels) for table in tables]
        for table in tables:
            if len(table) and (table.labels < 0).any():
                raise UserError(f"sources.{table.name}", "a label for every file", "files without label",
                                "Use class folders or a list.")

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which the first source, the target, is seen once."""
        return float(len(self.tables[0]) / (self.batch * self.shares.shares[0]))

    def fingerprint(self) -> dict[str, object]:
        """Everything that the order depends on, for comparison at a resume."""
        return {"seed": self.seed, "batch": self.batch, "clip": vars(self.clip).copy(),
                "order of sources": [table.name for table in self.tables],
                "sources": {table.name: {"weight": source.weight, "inflate": source.inflate,
                                         "content": table.fingerprint}
                            for table, source in zip(self.tables, self.sources)}}

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The samples of ``step`` for one rank, one entry a source (an entry may be empty).

        The slots of a step lie source by source and are dealt to the ranks in turn, by another rank
        first in every step. So all ranks have the same number of slots (if world divides the batch),
        of each source the same number but for one, and over time the same share; and the step's
        content does not depend on the number of ranks.
        """
        before, after = self.shares.before(step * self.batch), self.shares.before((step + 1) * self.batch)
        first = step * self.batch
        planned = []
        for source, (low, high) in enumerate(zip(before.tolist(), after.tolist())):
            slots = np.arange(first, first + high - low)
            draws = np.arange(low, high)
            mine = (slots - step * self.batch + step) % world == rank
            planned.append(self._plan(source, draws[mine], slots[mine]))
            first += high - low
        return tuple(planned)

    def substitute(self, samples: Samples, index: int, attempt: int) -> Samples:
        """What takes the place of a sample that cannot be decoded: same source, same class, same slot.

        Every run agrees on it: it depends on the draw and the attempt (1, 2, ...) alone.
        """
        where = np.array([index])
        draws, rows = samples.draws[where], samples.rows[where]
        words = self._streams[samples.source].words(Purpose.SUBSTITUTE, draws, 1, attempt)
        rows = self._by_class[samples.source].other(rows, words)
        return self._fill(samples.source, draws, samples.slots[where], rows, attempt)

    def _plan(self, source: int, draws: np.ndarray, slots: np.ndarray) -> Samples:
        epochs, positions = np.divmod(draws, len(self.tables[source]))
        rows = permute(positions, epochs, len(self.tables[source]), self._streams[source])
        return self._fill(source, draws, slots, rows, 0)

    def _fill(self, source: int, draws: np.ndarray, slots: np.ndarray, rows: np.ndarray, attempt: int) -> Samples:
        table, clip, stream = self.tables[source], self.clip, self._streams[source]
        if table.kind == "image":
            frames = np.zeros((len(rows), 1), np.int32)
            repeat = clip.num_clips * clip.clip_len if self.sources[source].inflate == "still" else 1
        else:
            words = stream.words(Purpose.FRAMES, draws, clip.num_clips, attempt)
            frames = sample_train(table.frames[rows], words, clip.clip_len, clip.frame_interval, clip.num_clips)
            repeat = 1
        widths, heights = table.widths[rows], table.heights[rows]
        if clip.crop == "random_resized":
            numbers = stream.uniform(Purpose.CROP, draws, crops.RANDOM_RESIZED_NUMBERS, attempt)
            boxes = crops.random_resized(widths, heights, numbers, clip.area)[:, None]
        elif clip.crop == "multi_scale":
            numbers = stream.uniform(Purpose.CROP, draws, crops.MULTI_SCALE_NUMBERS, attempt)
            boxes = crops.multi_scale(widths, heights, numbers)[:, None]
        else:
            boxes = crops.centered(widths, heights, 1, 1)
        flips = stream.uniform(Purpose.FLIP, draws, 1, attempt) < clip.flip
        return Samples(source, clip.size, repeat, draws, slots, rows, frames, boxes, flips, np.ones(len(rows), bool),
                       attempt)


class EvaluationPlan:
    """Every item of one source once, with all its views; ranks run the same number of steps.

    Args:
        table: the source. clip: gives clip length and interval. views: clips and crops of an item.
        batch: items of one rank in one step.
    """

    def __init__(self, table: SourceTable, clip: ClipConfig, views: ViewsConfig, batch: int):
        self.tables, self.clip, self.views, self.batch = (table,), clip, views, batch

    def steps(self, world: int) -> int:
        """Steps until every item was seen, on each of ``world`` ranks."""
        return -(-len(self.tables[0]) // (self.batch * world))

    def fingerprint(self) -> dict[str, object]:
        """Everything that the order depends on."""
        return {"batch": self.batch, "clip": vars(self.clip).copy(), "views": vars(self.views).copy(),
                "sources": {self.tables[0].name: self.tables[0].fingerprint}}

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The items of ``step`` for one rank; those past the end repeat the last item and are not valid."""
        table, views = self.tables[0], self.views
        slots = (step * world + rank) * self.batch + np.arange(self.batch)
        rows = np.minimum(slots, len(table) - 1)
        widths, heights = table.widths[rows], table.heights[rows]
        cut = {"center": crops.centered, "three": crops.three, "ten": crops.five}[views.crops]
        boxes = cut(widths, heights, views.size, views.short_side)
        flips = np.zeros(boxes.shape[:2], bool)
        if views.crops == "ten":
            boxes, flips = np.concatenate([boxes, boxes], 1), np.concatenate([flips, ~flips], 1)
        if table.kind == "image":
            frames = np.zeros((len(rows), 1), np.int32)
        else:
            frames = sample_test(table.frames[rows], self.clip.clip_len, self.clip.frame_interval, views.num_clips)
        return (Samples(0, views.size, 1, slots, slots, rows, frames, boxes, flips, slots < len(table)),)


class _ByClass:
    """Rows grouped by label, to find another row of the same class."""

    def __init__(self, labels: np.ndarray):
        self._labels, self._order = labels, None

    def other(self, rows: np.ndarray, words: np.ndarray) -> np.ndarray:
        """For each row another one of its class, chosen by ``words`` (n, 1); itself if it is the only one."""
        if self._order is None:  # ten million rows take seconds, and most runs never need it
            self._order = np.argsort(self._labels, kind="stable").astype(np.int32)
            self._place = np.empty_like(self._order)
            self._place[self._order] = np.arange(len(self._order), dtype=np.int32)
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(self._labels))])
        labels = self._labels[rows]
        start, count = self._starts[labels], self._starts[labels + 1] - self._starts[labels]
        shift = 1 + below(words[:, 0], np.maximum(count - 1, 1))
        return self._order[start + (self._place[rows] - start + shift) % count].astype(np.int64)
