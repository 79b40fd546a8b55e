"""The plan of a training: which sample, frames, crop and flip stand in which slot of which step.

It is a pure function of (config, catalog, seed, step). It draws no number in order and keeps no
state, so every step can be computed at any time, on any rank, for any number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.planning.camera_motion import Motion
from omnidali.planning.mixing import make_mixing
from omnidali.planning.mixup import Mixup, assign_ranks
from omnidali.planning.philox import Stream
from omnidali.planning.samples import Samples
from omnidali.planning.source_plan import SourcePlan

# Number of the stream that belongs to no source.
_WHOLE_PLAN = 0xFFFF


class TrainPlan:
    """The endless training plan.

    Args:
        tables: one catalog table for each source, in the order of ``sources``.
        sources: settings of the sources (weight or batch, resample, inflate, pieces).
        clip: sampling and cropping.
        batch: slots of one step on all ranks together; ignored if the sources have batches.
        seed: of the run.
        ratio: of :class:`~omnidali.planning.mixing.AlternatingMixing`; None for steps on all
            sources at once.
        mixup: ``none``, ``intra`` (pairs of the first source) or ``cross``.
        mixup_alpha: of mixup's Beta distribution.
        motions: of the sources with ``inflate: warp``, by their place.
        classes: number of classes, for mixup's soft labels and for several labels a row.

    Attributes:
        batch: slots of one step on all ranks; the mean if steps alternate.
        multi_label: whether rows may have several labels.
        steps_per_epoch: steps in which the first source, the target, is seen once.

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
        motions: Mapping[int, Motion] | None = None,
        classes: int | None = None,
    ):
        self.tables = tuple(tables)
        self.clip = clip
        self.seed = seed
        self.ratio = ratio
        self.classes = classes
        self.multi_label = any(table.label_sets is not None for table in self.tables)
        self.mixing = make_mixing(sources, batch, ratio)
        self.batch = self.mixing.batch
        self._is_cross = mixup == "cross"
        self._mixup = Mixup(mixup_alpha, Stream(seed, _WHOLE_PLAN)) if mixup != "none" else None
        self._sources = [
            SourcePlan(
                number, table, source, clip=clip, seed=seed, motion=(motions or {}).get(number)
            )
            for number, (table, source) in enumerate(zip(tables, sources, strict=True))
        ]
        self.steps_per_epoch = self.mixing.steps_until(self._sources[0].order.epoch)

    def fingerprint(self) -> dict[str, object]:
        """Everything that the order depends on, for comparison at a resume."""
        mixup = self._mixup and ["cross" if self._is_cross else "intra", self._mixup.alpha]
        return {
            "seed": self.seed,
            "batch": self.batch,
            "clip": vars(self.clip).copy(),
            "ratio": self.ratio,
            "mixup": mixup,
            "order of sources": [table.name for table in self.tables],
            "sources": {source.table.name: source.fingerprint for source in self._sources},
            # what was saved before there was the setting has one label a row
            **({"multi_label": True} if self.multi_label else {}),
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Samples, ...]:
        """The samples of ``step`` for one rank, one entry a source (an entry may be empty).

        The slots of a step lie source by source. The ranks get them in turn, beginning with another
        rank in every step. So all ranks have the same number of slots (if world divides the batch),
        of each source the same number but for one, and over time the same share; and the step's
        content does not depend on the number of ranks. With mixup, the ranks get pairs of slots.
        """
        before, after = self.mixing.slots_before(step), self.mixing.slots_before(step + 1)
        start = int(before.sum())
        count = int(after.sum()) - start

        blends = None
        pairs = np.empty((0, 2), np.int64)
        if self._mixup is not None:
            eligible = count if self._is_cross else int(after[0] - before[0])
            blends = self._mixup.blends(step, count, eligible)
            pairs = blends.pairs
        ranks = assign_ranks(count, pairs, step, world)

        planned = []
        first = 0  # place of the source's first slot in the step
        for source, low, slots in zip(
            self._sources, before.tolist(), (after - before).tolist(), strict=True
        ):
            mine = first + np.flatnonzero(ranks[first : first + slots] == rank)
            draws = low - first + mine
            samples = source.samples(draws, start + mine, rows=source.order(draws))
            if blends is not None:
                samples = replace(
                    samples,
                    partners=start + blends.partners[mine],
                    own_weights=blends.own_weights[mine],
                    partner_frames=blends.partner_frames[mine],
                )
            planned.append(samples)
            first += slots
        return tuple(planned)

    def substitute(self, samples: Samples, index: int, attempt: int) -> Samples:
        """The replacement of a planned sample that cannot be decoded.

        It has the same source and slot, and the same class unless several samples of the class have
        failed, too. Every run agrees on it: it depends on the draw and the attempt alone.

        Args:
            samples: as planned.
            index: of the sample among them.
            attempt: which substitute, 1 to 255.
        """
        return self._sources[samples.source].substitute(samples.take(np.array([index])), attempt)
