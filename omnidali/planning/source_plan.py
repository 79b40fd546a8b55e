"""The plan of one training source: what each of its draws shows."""

from dataclasses import replace
from functools import cached_property

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.planning import camera_motion, crops
from omnidali.planning.camera_motion import Motion
from omnidali.planning.fingerprint import describe_content
from omnidali.planning.frame_sampling import sample_train
from omnidali.planning.philox import Purpose, Stream, below
from omnidali.planning.resampling import RowOrder
from omnidali.planning.samples import Samples

# Substitutes that have the class of the lost sample; a class of which so many fail may have
# nothing else.
CLASS_SUBSTITUTES = 8


class SourcePlan:
    """The samples of one source, a function of their draws.

    Args:
        number: place of the source in the config.
        table: its rows.
        settings: resampling, inflation and pieces.
        clip: sampling and cropping.
        seed: of the run.
        motion: for ``inflate: warp``.

    Raises:
        UserError: if the source lacks labels.
    """

    def __init__(
        self,
        number: int,
        table: SourceTable,
        settings: SourceConfig,
        *,
        clip: ClipConfig,
        seed: int,
        motion: Motion | None,
    ):
        if len(table) and (table.labels < 0).any():
            raise UserError(
                f"sources.{table.name}",
                "a label for every file",
                "files without label",
                "Use class folders or a list.",
            )
        self.number = number
        self.table = table
        self.settings = settings
        self.clip = clip
        self.motion = motion
        self._stream = Stream(seed, number)
        self.order = RowOrder(table.labels, settings.resample, self._stream)

    @cached_property
    def fingerprint(self) -> dict[str, object]:
        """The settings and the contents that the order depends on."""
        settings = self.settings
        return {
            "weight": settings.weight,
            "batch": settings.batch,
            "inflate": settings.inflate,
            "resample": settings.resample and vars(settings.resample).copy(),
            "pieces": settings.pieces,
            "motion": self.motion and self.motion.fingerprint,
            **describe_content(self.table, settings.pattern),
        }

    def substitute(self, one: Samples, attempt: int) -> Samples:
        """See :meth:`omnidali.planning.train_plan.TrainPlan.substitute`; of the only sample."""
        words = self._stream.words(Purpose.SUBSTITUTE, one.draws, 1, attempt)
        if attempt <= CLASS_SUBSTITUTES:
            rows = self.order.other_of_class(one.rows, words[:, 0])
        else:
            rows = below(words[:, 0], np.array([len(self.table)]))
        other = self.samples(one.draws, one.slots, rows, attempt)
        return replace(
            other,
            partners=one.partners,
            own_weights=one.own_weights,
            partner_frames=one.partner_frames,
        )

    def samples(
        self, draws: np.ndarray, slots: np.ndarray, rows: np.ndarray, attempt: int = 0
    ) -> Samples:
        """The samples of ``rows``.

        Args:
            draws: int64 (n,), which seed them.
            slots: int64 (n,), which they fill.
            rows: int64 (n,), of the table.
            attempt: 0, or which substitutes they are.
        """
        pieces, frames = self._frames(draws, rows, attempt)
        boxes = self._boxes(draws, rows, attempt)
        repeat = 1
        if self.settings.inflate != "single":
            repeat = self.clip.num_clips * self.clip.clip_len

        return Samples(
            source=self.number,
            size=self.clip.size,
            repeat=repeat,
            draws=draws,
            slots=slots,
            rows=rows,
            pieces=pieces,
            frames=frames,
            boxes=boxes,
            flips=self._stream.uniform(Purpose.FLIP, draws, 1, attempt) < self.clip.flip,
            valid=np.ones(len(rows), bool),
            attempts=np.full(len(rows), attempt),
            motions=self._motions(draws, rows, boxes[:, 0], repeat, attempt),
        )

    def _frames(
        self, draws: np.ndarray, rows: np.ndarray, attempt: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pieces int64 (n, P) and frames int32 (n, F): a clip's from its piece, or each segment's
        from a piece of its own.
        """
        table = self.table
        clip = self.clip
        if table.kind.is_still:
            return rows[:, None], np.zeros((len(rows), 1), np.int32)

        pieces = self._pieces(draws, rows, attempt)
        lengths = table.frames[pieces]
        words = self._stream.words(Purpose.FRAMES, draws, clip.num_clips, attempt)
        if pieces.shape[1] == 1:
            frames = sample_train(
                lengths[:, 0], words, clip.clip_len, clip.frame_interval, clip.num_clips
            )
        else:
            frames = sample_train(lengths.reshape(-1), words.reshape(-1, 1), 1, 1, 1)
            frames = frames.reshape(pieces.shape)
        return pieces, frames if table.firsts is None else frames + table.firsts[pieces]

    def _pieces(self, draws: np.ndarray, rows: np.ndarray, attempt: int) -> np.ndarray:
        """The pieces that a sample's frames come from: int64 (n, P); P is 1, or one a segment."""
        table = self.table
        policy = self.settings.pieces
        if table.starts is None:
            return rows[:, None]

        assert table.positives is not None
        first = table.starts[rows][:, None]
        count = table.starts[rows + 1][:, None] - first
        positives = table.positives[rows][:, None].astype(np.int64)
        segments = self.clip.num_clips if policy == "one_positive_rest_negative" else 1
        words = self._stream.words(Purpose.PIECE, draws, segments, attempt)
        if policy == "all":
            return first + below(words, count)

        pieces = below(words, positives)
        if segments > 1:
            # A video that shows its class all the time has no negative pieces to offer.
            negatives = positives + below(words, np.maximum(count - positives, 1))
            negatives = np.where(count > positives, negatives, pieces)
            pieces[:, 1:] = negatives[:, 1:]
        return first + pieces

    def _boxes(self, draws: np.ndarray, rows: np.ndarray, attempt: int) -> np.ndarray:
        """The training crop: int32 (n, 1, 4)."""
        widths, heights = self.table.widths[rows], self.table.heights[rows]
        if self.clip.crop == "center":
            return crops.centered(widths, heights, size=1, short_side=1)
        if self.clip.crop == "multi_scale":
            numbers = self._stream.uniform(Purpose.CROP, draws, crops.MULTI_SCALE_NUMBERS, attempt)
            return crops.multi_scale(widths, heights, numbers)[:, None]
        numbers = self._stream.uniform(Purpose.CROP, draws, crops.RANDOM_RESIZED_NUMBERS, attempt)
        return crops.random_resized(widths, heights, numbers, self.clip.area)[:, None]

    def _motions(
        self, draws: np.ndarray, rows: np.ndarray, boxes: np.ndarray, frames: int, attempt: int
    ) -> np.ndarray | None:
        """The camera's motion over an image: float32 (n, frames, 3, 3); None if it stands."""
        inflate = self.settings.inflate
        if inflate in ("single", "still") or frames == 1:
            return None

        widths, heights = self.table.widths[rows], self.table.heights[rows]
        size = self.clip.size
        if inflate == "warp":
            assert self.motion is not None
            uniform = self._stream.uniform(
                Purpose.MOTION, draws, camera_motion.PARAMETERS * (frames - 1), attempt
            )
            mean, factor = self.motion.of_labels(self.table.labels[rows])
            motions = camera_motion.warped(
                boxes, widths, heights, frames, size, uniform, mean, factor
            )
        else:
            uniform = self._stream.uniform(Purpose.MOTION, draws, 2 * frames, attempt)
            motions = camera_motion.translated(
                boxes, widths, heights, frames, size, uniform, inflate == "translate_constant"
            )
        return motions.astype(np.float32)
