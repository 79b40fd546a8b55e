"""The plan: which sample, frames, crop and flip stand in which slot of which step.

A pure function of (config, catalog, seed, step). It draws no number in order and keeps no state,
so every step can be asked for at any time, on any rank, for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.config.schema import ClipConfig, SourceConfig, ViewsConfig
from omnidali.errors import UserError
from omnidali.planning import camera_motion as motion
from omnidali.planning import crops
from omnidali.planning.fingerprint import describe_content
from omnidali.planning.frame_sampling import sample_test, sample_train
from omnidali.planning.mixing import Alternating, Batches, Weighted
from omnidali.planning.mixup import Mixup, deal
from omnidali.planning.philox import Purpose, Stream, below
from omnidali.planning.resampling import Rows

OF_THE_CLASS = 8  # substitutes; a class of which so many fail may have nothing else
_WHOLE_PLAN = 0xFFFF  # number of the stream that belongs to no source


@dataclass(frozen=True)
class Samples:
    """The planned samples of one source in one step on one rank; n samples with V views of F
    frames.

    Attributes:
        source: place of the source in the config.
        size: side of the output picture, pixels.
        repeat: how often a frame is repeated in the clip (1, or T for an image).
        draws: int64 (n,), numbers in the source's endless stream.
        slots: int64 (n,), global slot numbers; items in an evaluation.
        rows: int64 (n,), rows of the source's table.
        pieces: int64 (n, P), pieces of the table that the frames come from, F / P of them each.
        frames: int32 (n, F), frame indices in the files, in presentation order.
        boxes: int32 (n, V, 4), see :mod:`omnidali.planning.crops`.
        flips: bool (n, V).
        valid: bool (n,), False for samples that only pad the last step of an evaluation.
        motions: float32 (n, T, 3, 3), see :mod:`omnidali.planning.camera_motion`; None where nothing
            moves.
        partners: int64 (n,), slot that the clip is blended with; its own for none.
        own_weights: float32 (n,), of its own clip in the blend.
        partner_frames: float32 (n,) in [0, 1), which frame of a longer partner a single picture
            takes.
        attempts: int64 (n,), 0, or which substitute this is.
    """

    source: int
    size: int
    repeat: int
    draws: np.ndarray
    slots: np.ndarray
    rows: np.ndarray
    pieces: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray
    valid: np.ndarray
    attempts: np.ndarray
    motions: np.ndarray | None = None
    partners: np.ndarray | None = None
    own_weights: np.ndarray | None = None
    partner_frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clip_frames(self) -> int:
        """Frames of the finished clip."""
        return self.frames.shape[1] * self.repeat

    def take(self, index: np.ndarray) -> Samples:
        """The samples at ``index`` (an array of places or of truth values)."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{
                name: value[index]
                for name, value in arrays.items()
                if isinstance(value, np.ndarray)
            },
        )

    def put(self, index: int, other: Samples) -> None:
        """Set a sample to the first one of ``other``, in place."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value[index] = getattr(other, field.name)[0]


class TrainPlan:
    """The endless training plan.

    Args:
        tables: one catalog table for each source, in the order of ``sources``.
        sources: settings of the sources (weight or batch, resample, inflate, pieces).
        clip: sampling and cropping.
        batch: slots of one step on all ranks together; ignored where the sources have batches.
        seed: of the run.
        ratio: of :class:`Alternating` steps; None for steps on all sources at once.
        mixup: ``none``, ``intra`` (pairs of the first source) or ``cross``. mixup_alpha: of its
            Beta distribution.
        motions: of the sources with ``inflate: warp``, by their place.
        classes: of the soft labels that mixup makes.

    Raises:
        UserError: if a source lacks labels.
    """

    def __init__(
        self,
        tables: Sequence[SourceTable],
        sources: Sequence[SourceConfig],
        clip: ClipConfig,
        batch: int,
        seed: int,
        *,
        ratio: Sequence[int] | None = None,
        mixup: str = "none",
        mixup_alpha: float = 0.2,
        motions: Mapping[int, motion.Motion] | None = None,
        classes: int | None = None,
    ):
        self.tables, self.sources, self.clip, self.seed = tuple(tables), tuple(sources), clip, seed
        batches = [source.batch for source in sources]
        if ratio is not None:
            self.mixing = Alternating(batches, ratio)
        elif None not in batches:
            self.mixing = Batches(batches)
        else:
            self.mixing = Weighted([source.weight for source in sources], batch)
        self.ratio, self.mixup, self.classes = ratio, mixup, classes
        self.motions = dict(motions or {})
        self._mixup = Mixup(mixup_alpha, Stream(seed, _WHOLE_PLAN)) if mixup != "none" else None
        for table in tables:
            if len(table) and (table.labels < 0).any():
                raise UserError(
                    f"sources.{table.name}",
                    "a label for every file",
                    "files without label",
                    "Use class folders or a list.",
                )
        self._streams = [Stream(seed, number) for number in range(len(tables))]
        self._rows = [
            Rows(table.labels, source.resample, stream)
            for table, source, stream in zip(tables, sources, self._streams)
        ]

    @property
    def batch(self) -> float:
        """Slots of one step on all ranks; the mean where steps alternate."""
        return self.mixing.batch

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which the first source, the target, is seen once."""
        return self.mixing.steps(self._rows[0].epoch)

    def fingerprint(self) -> dict[str, object]:
        """Everything that the order depends on, for comparison at a resume."""
        return {
            "seed": self.seed,
            "batch": self.batch,
            "clip": vars(self.clip).copy(),
            "ratio": self.ratio,
            "mixup": self._mixup and [self.mixup, self._mixup.alpha],
            "order of sources": [table.name for table in self.tables],
            "sources": {
                table.name: {
                    "weight": source.weight,
                    "batch": source.batch,
                    "inflate": source.inflate,
                    "resample": source.resample and vars(source.resample).copy(),
                    "pieces": source.pieces,
                    "motion": self.motions[number].fingerprint if number in self.motions else None,
                    **self._contents[number],
                }
                for number, (table, source) in enumerate(zip(self.tables, self.sources))
            },
        }

    @cached_property
    def _contents(self) -> list[dict[str, object]]:
        return [
            describe_content(table, source.pattern)
            for table, source in zip(self.tables, self.sources)
        ]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The samples of ``step`` for one rank, one entry a source (an entry may be empty).

        The slots of a step lie source by source and are dealt to the ranks in turn, by another rank
        first in every step. So all ranks have the same number of slots (if world divides the
        batch), of each source the same number but for one, and over time the same share; and the
        step's content does not depend on the number of ranks. With mixup, pairs of slots are dealt.
        """
        before, after = self.mixing.before(step), self.mixing.before(step + 1)
        start, count = int(before.sum()), int((after - before).sum())
        if self._mixup is None:
            ranks = (np.arange(count) + step) % world
        else:
            eligible = np.arange(count if self.mixup == "cross" else int(after[0] - before[0]))
            pairs, weights, frames = self._mixup.pairs(step, eligible)
            ranks = deal(count, pairs, step, world)
            partners, own_weights = np.arange(start, start + count), np.ones(count, np.float32)
            partner_frames = np.zeros(count, np.float32)
            partners[pairs], own_weights[pairs] = start + pairs[:, ::-1], weights[:, None]
            partner_frames[pairs] = frames
        planned, place = [], 0
        for source, (low, high) in enumerate(zip(before.tolist(), after.tolist())):
            places = np.arange(place, place + high - low)
            mine = places[ranks[places] == rank]
            samples = self._plan(source, low + mine - place, start + mine)
            if self._mixup is not None:
                samples = replace(
                    samples,
                    partners=partners[mine],
                    own_weights=own_weights[mine],
                    partner_frames=partner_frames[mine],
                )
            planned.append(samples)
            place += high - low
        return tuple(planned)

    def substitute(self, samples: Samples, index: int, attempt: int) -> Samples:
        """What takes the place of a planned sample that cannot be decoded: same source, same slot,
        and same class unless several of that have failed, too.

        Every run agrees on it: it depends on the draw and the attempt (1 to 255) alone.
        """
        one = samples.take(np.array([index]))
        words = self._streams[one.source].words(Purpose.SUBSTITUTE, one.draws, 1, attempt)
        if attempt <= OF_THE_CLASS:
            rows = self._rows[one.source].other(one.rows, words[:, 0])
        else:
            rows = below(words[:, 0], np.array([len(self.tables[one.source])]))
        other = self._fill(one.source, one.draws, one.slots, rows, attempt)
        return replace(
            other,
            partners=one.partners,
            own_weights=one.own_weights,
            partner_frames=one.partner_frames,
        )

    def _plan(self, source: int, draws: np.ndarray, slots: np.ndarray) -> Samples:
        return self._fill(source, draws, slots, self._rows[source](draws), 0)

    def _fill(
        self, source: int, draws: np.ndarray, slots: np.ndarray, rows: np.ndarray, attempt: int
    ) -> Samples:
        table, clip, stream, settings = (
            self.tables[source],
            self.clip,
            self._streams[source],
            self.sources[source],
        )
        motions, repeat = None, 1
        widths, heights = table.widths[rows], table.heights[rows]
        if table.kind == "image":
            pieces, frames = rows[:, None], np.zeros((len(rows), 1), np.int32)
        else:
            pieces = self._draw_pieces(source, draws, rows, attempt)
            words = stream.words(Purpose.FRAMES, draws, clip.num_clips, attempt)
            frames = _sample_pieces(table, pieces, words, clip)
        if clip.crop == "random_resized":
            numbers = stream.uniform(Purpose.CROP, draws, crops.RANDOM_RESIZED_NUMBERS, attempt)
            boxes = crops.random_resized(widths, heights, numbers, clip.area)[:, None]
        elif clip.crop == "multi_scale":
            numbers = stream.uniform(Purpose.CROP, draws, crops.MULTI_SCALE_NUMBERS, attempt)
            boxes = crops.multi_scale(widths, heights, numbers)[:, None]
        else:
            boxes = crops.centered(widths, heights, 1, 1)
        if settings.inflate != "single":
            repeat = clip.num_clips * clip.clip_len
            if settings.inflate != "still" and repeat > 1:
                motions = self._move(
                    source, draws, rows, boxes[:, 0], widths, heights, repeat, attempt
                )
        flips = stream.uniform(Purpose.FLIP, draws, 1, attempt) < clip.flip
        return Samples(
            source,
            clip.size,
            repeat,
            draws,
            slots,
            rows,
            pieces,
            frames,
            boxes,
            flips,
            np.ones(len(rows), bool),
            np.full(len(rows), attempt),
            motions,
        )

    def _draw_pieces(
        self, source: int, draws: np.ndarray, rows: np.ndarray, attempt: int
    ) -> np.ndarray:
        """The pieces that a sample's frames come from: int64 (n, P); P is 1, or one a segment."""
        table, policy = self.tables[source], self.sources[source].pieces
        if table.starts is None:
            return rows[:, None]
        first, shown = table.starts[rows][:, None], table.positives[rows][:, None].astype(np.int64)
        every = table.starts[rows + 1][:, None] - first
        count = self.clip.num_clips if policy == "one_positive_rest_negative" else 1
        words = self._streams[source].words(Purpose.PIECE, draws, count, attempt)
        if policy == "all":
            return first + below(words, every)
        pieces = below(words, shown)
        if count > 1:  # a video that shows its class all the time has no negative frames to offer
            negative = np.where(
                every > shown, shown + below(words, np.maximum(every - shown, 1)), pieces
            )
            pieces[:, 1:] = negative[:, 1:]
        return first + pieces

    def _move(
        self, source: int, draws, rows, boxes, widths, heights, frames: int, attempt: int
    ) -> np.ndarray:
        kind, size, stream = self.sources[source].inflate, self.clip.size, self._streams[source]
        if kind == "warp":
            uniform = stream.uniform(
                Purpose.MOTION, draws, motion.PARAMETERS * (frames - 1), attempt
            )
            mean, factor = self.motions[source].of(self.tables[source].labels[rows])
            return motion.warped(
                boxes, widths, heights, frames, size, uniform, mean, factor
            ).astype(np.float32)
        uniform = stream.uniform(Purpose.MOTION, draws, 2 * frames, attempt)
        return motion.translated(
            boxes, widths, heights, frames, size, uniform, kind == "translate_constant"
        ).astype(np.float32)


def _sample_pieces(
    table: SourceTable, pieces: np.ndarray, words: np.ndarray, clip: ClipConfig
) -> np.ndarray:
    """Frames int32 (n, F) for training: a clip's frames from its piece, or each segment's from a
    piece of its own.
    """
    lengths = table.frames[pieces]
    if pieces.shape[1] == 1:
        frames = sample_train(
            lengths[:, 0], words, clip.clip_len, clip.frame_interval, clip.num_clips
        )
    else:
        frames = sample_train(lengths.reshape(-1), words.reshape(-1, 1), 1, 1, 1).reshape(
            pieces.shape
        )
    return frames if table.firsts is None else frames + table.firsts[pieces]


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
        return {
            "batch": self.batch,
            "clip": vars(self.clip).copy(),
            "views": vars(self.views).copy(),
            "sources": {self.tables[0].name: describe_content(self.tables[0])},
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The items of ``step`` for one rank; those past the end repeat the last item and are not
        valid.
        """
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
            frames = sample_test(
                table.frames[rows], self.clip.clip_len, self.clip.frame_interval, views.num_clips
            )
            if table.firsts is not None:
                frames = frames + table.firsts[rows][:, None]
        return (
            Samples(
                0,
                views.size,
                1,
                slots,
                slots,
                rows,
                rows[:, None],
                frames,
                boxes,
                flips,
                slots < len(table),
                np.zeros(len(rows), np.int64),
            ),
        )

    def substitute(self, samples: Samples, index: int, attempt: int) -> None:
        """None: nothing stands for an item of an evaluation."""
