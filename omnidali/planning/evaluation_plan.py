"""The plan of an evaluation: every item once, with all its views."""

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.planning import crops
from omnidali.planning.fingerprint import describe_content
from omnidali.planning.frame_sampling import sample_test
from omnidali.planning.samples import Samples

_CROPS = {"center": crops.centered, "three": crops.three, "ten": crops.five}


class EvaluationPlan:
    """Every item of one source once, with all its views; ranks run the same number of steps.

    Args:
        table: the source.
        clip: clip length and interval.
        views: clips and crops of an item.
        batch: items of one rank in one step.
    """

    def __init__(self, table: SourceTable, clip: ClipConfig, views: ViewsConfig, batch: int):
        self.tables = (table,)
        self.clip = clip
        self.views = views
        self.batch = batch

    def steps(self, world: int) -> int:
        """Steps until every item was seen, on each of ``world`` ranks."""
        return -(-len(self.tables[0]) // (self.batch * world))

    def fingerprint(self) -> dict[str, object]:
        """Everything that the order depends on."""
        return {
            "batch": self.batch,
            "clip": vars(self.clip).copy(),
            "views": self.views.identity,
            "sources": {self.tables[0].name: describe_content(self.tables[0])},
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The items of ``step`` for one rank; those past the end repeat the last item and are not
        valid.
        """
        (table,) = self.tables
        views = self.views
        slots = (step * world + rank) * self.batch + np.arange(self.batch)
        rows = np.minimum(slots, len(table) - 1)

        boxes = _CROPS[views.crops](
            table.widths[rows], table.heights[rows], views.size, views.short_side
        )
        flips = np.zeros(boxes.shape[:2], bool)
        if views.crops == "ten":
            boxes = np.concatenate([boxes, boxes], axis=1)
            flips = np.concatenate([flips, ~flips], axis=1)
        return (
            Samples(
                source=0,
                size=views.size,
                repeat=1,
                draws=slots,
                slots=slots,
                rows=rows,
                pieces=rows[:, None],
                frames=self._frames(table, rows),
                boxes=boxes,
                flips=flips,
                valid=slots < len(table),
                attempts=np.zeros(len(rows), np.int64),
            ),
        )

    def _frames(self, table: SourceTable, rows: np.ndarray) -> np.ndarray:
        if table.kind.is_still:
            return np.zeros((len(rows), 1), np.int32)
        frames = sample_test(
            table.frames[rows],
            self.clip.clip_len,
            interval=self.clip.frame_interval,
            clips=self.views.num_clips,
            positions=self.views.positions,
        )
        return frames if table.firsts is None else frames + table.firsts[rows][:, None]

    def substitute(self, samples: Samples, index: int, attempt: int) -> None:
        """None: no other item takes the place of an item of an evaluation."""
