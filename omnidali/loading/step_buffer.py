"""One step while it is made: a buffer for each clip shape, which the sources fill side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.loading.batch import ClipBatch, StepBatch
from omnidali.loading.buffer_pool import BufferPool
from omnidali.loading.device_work import DeviceWork
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan


@dataclass(frozen=True)
class _Blend:
    """Partners and weights of one group of N clips.

    Attributes:
        slots: as in :class:`~omnidali.planning.samples.Samples`, like the next three.
        partners: slot that each clip is blended with.
        own_weights: of each clip in its blend.
        partner_frames: which frame of a longer partner an image takes.
        targets: float32 (N, classes), 1 for each label of the clips.
    """

    slots: np.ndarray
    partners: np.ndarray
    own_weights: np.ndarray
    partner_frames: np.ndarray
    targets: np.ndarray


class StepBuffer:
    """The clips of one step while the sources fill them, a slice of a shared buffer each.

    Args:
        plan: of the run.
        step: number of the step.
        rank: of this process.
        world: number of ranks.
        device: where the clips go.
        dtype: of the clips.
        target_apart: whether the first source has buffers of its own.
        pool: gives the memory.

    Attributes:
        samples: one entry a source: as planned, and once a source is finished as decoded.
        places: by source, (n, V, T, size, size, 3), its slice of a buffer; none for no samples.
        finished_at: when each source was finished, perf_counter seconds; 0 where it is not.
        unfinished: number of sources that are not finished.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        step: int,
        *,
        rank: int,
        world: int,
        device: DeviceWork,
        dtype: torch.dtype,
        target_apart: bool,
        pool: BufferPool,
    ):
        self.samples: list[Samples] = list(plan(step, rank, world))
        self.places: dict[int, torch.Tensor] = {}
        self.finished_at = [0.0] * len(self.samples)
        self.unfinished = len(self.samples)
        self._step = step
        self._plan = plan
        self._device = device

        # the sources that share a shape share a buffer, in the order of their first source
        groups: dict[tuple[int, int, bool], list[int]] = {}
        for source, samples in enumerate(self.samples):
            shape = (samples.clip_frames, samples.size, target_apart and source > 0)
            members = groups.setdefault(shape, [])
            if len(samples):
                members.append(source)

        self._groups: list[tuple[list[int], torch.Tensor]] = []
        for (frames, size, _), members in groups.items():
            counts = [len(self.samples[i]) * self.samples[i].boxes.shape[1] for i in members]
            if not members:
                continue
            buffer = pool.take((sum(counts), frames, size, size, 3), dtype, device.device)
            self._groups.append((members, buffer))
            for source, place in zip(members, buffer.split(counts), strict=True):
                self.places[source] = place.view(len(self.samples[source]), -1, *buffer.shape[1:])

    def batch(self) -> StepBatch:
        """The finished step; its memory is the consumer's from now on, who is this thread."""
        buffers = [buffer for _, buffer in self._groups]
        for buffer in buffers:
            self._device.lend(buffer)

        targets = None
        if isinstance(self._plan, TrainPlan) and self.samples[0].partners is not None:
            blends = [self._columns(members) for members, _ in self._groups]
            buffers, targets = _blend(buffers, blends, device=self._device)
        elif isinstance(self._plan, TrainPlan) and self._plan.multi_label:
            targets = [self._targets(members) for members, _ in self._groups]

        batches = []
        for number, (members, _) in enumerate(self._groups):
            facts = torch.cat([self._facts(source) for source in members], dim=1)
            labels, source, record, slot, valid = self._device.upload(facts).unbind()
            if targets is not None:
                labels = self._device.upload(targets[number])
            clips = buffers[number].permute(0, 4, 1, 2, 3)
            batches.append(ClipBatch(clips, labels, source, record, slot, valid.bool()))

        return StepBatch(
            self._step,
            tuple(batches),
            auxiliary=tuple(0 not in members for members, _ in self._groups),
            samples=tuple(self.samples),
            slots=tuple(map(self._slots, (members for members, _ in self._groups))),
        )

    def _slots(self, members: list[int]) -> np.ndarray:
        """The slot of every clip of a group."""
        parts = [self.samples[source] for source in members]
        return np.concatenate([part.slots.repeat(part.boxes.shape[1]) for part in parts])

    def _columns(self, members: list[int]) -> _Blend:
        """What a group is blended with: the columns of its sources, one after the other."""
        parts = [self.samples[source] for source in members]
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("slots", "partners", "own_weights", "partner_frames")
        }
        return _Blend(**columns, targets=self._targets(members))

    def _targets(self, members: list[int]) -> np.ndarray:
        """float32 (N, classes): 1 for each label of the clips of a group of a training."""
        assert isinstance(self._plan, TrainPlan) and self._plan.classes is not None
        parts = [self.samples[source] for source in members]
        return np.concatenate(
            [
                self._plan.tables[part.source].targets(part.rows, self._plan.classes)
                for part in parts
            ]
        )

    def _facts(self, source: int) -> torch.Tensor:
        """int64 (5, n * V): label, source, record, slot and valid of every clip."""
        samples = self.samples[source]
        table = self._plan.tables[source]
        rows = [
            table.labels[samples.rows],
            np.full(len(samples), source),
            table.records[samples.pieces[:, 0]],
            samples.slots,
            samples.valid,
        ]
        facts = torch.stack([torch.as_tensor(row, dtype=torch.int64) for row in rows])
        return facts.repeat_interleave(samples.boxes.shape[1], dim=1)


def _blend(
    buffers: Sequence[torch.Tensor],
    blends: Sequence[_Blend],
    *,
    device: DeviceWork,
) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Blend the groups of a step.

    Args:
        buffers: (N, T, S, S, 3) each, T being 1 or the clip's length.
        blends: of the groups.
        device: that has the buffers.

    Returns:
        w * clip + (1 - w) * partner for every clip of every group; and of every group the labels,
            float32 (N, classes), blended alike.
    """
    place_of = {
        slot: (number, place)
        for number, group in enumerate(blends)
        for place, slot in enumerate(group.slots.tolist())
    }
    clips = []
    labels = []
    for buffer, group in zip(buffers, blends, strict=True):
        partners = np.array([place_of[slot] for slot in group.partners.tolist()])
        clips.append(_blend_clips(buffer, group, buffers=buffers, partners=partners, device=device))
        labels.append(_blend_labels(group, blends, partners))
    return clips, labels


def _blend_clips(
    buffer: torch.Tensor,
    group: _Blend,
    *,
    buffers: Sequence[torch.Tensor],
    partners: np.ndarray,
    device: DeviceWork,
) -> torch.Tensor:
    """Blend one group's clips.

    An image is spread over all frames of its partner's clip. Where the image is the slot's own, it
    is blended with the planned frame of the partner alone, so that it stays one image.

    Args:
        buffer: the group's clips.
        group: what they are blended with.
        buffers: as of :func:`_blend`.
        partners: int (N, 2), group of each partner and its place there.
        device: that has the buffers.
    """
    weights = device.upload(group.own_weights).to(buffer.dtype).view(-1, 1, 1, 1, 1)
    out = buffer * weights

    for theirs, other in enumerate(buffers):
        mine = np.flatnonzero((partners[:, 0] == theirs) & (group.partners != group.slots))
        if not len(mine):
            continue
        places = device.upload(partners[mine, 1])
        if buffer.shape[1] == 1 < other.shape[1]:
            frames = (group.partner_frames[mine] * other.shape[1]).astype(np.int64)
            clips = other[places, device.upload(frames)][:, None]
        else:
            clips = other[places]
        rows = device.upload(mine)
        out[rows] += clips * (1 - weights[rows])
    return out


def _blend_labels(group: _Blend, blends: Sequence[_Blend], partners: np.ndarray) -> np.ndarray:
    theirs = np.stack([blends[other].targets[place] for other, place in partners.tolist()])
    own = group.own_weights[:, None]
    return own * group.targets + (1 - own) * theirs
