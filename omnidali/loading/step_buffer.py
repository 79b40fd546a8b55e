"""One step while it is being made: a buffer for each clip shape, which the producers fill side by
side.
"""

from __future__ import annotations

import numpy as np
import torch

from omnidali.loading.batch import ClipBatch, StepBatch
from omnidali.loading.blend import Blend, blend
from omnidali.loading.buffer_pool import BufferPool


class Step:
    """The clips of one step while the producers fill them, a slice of a shared buffer each."""

    def __init__(
        self,
        plan,
        step: int,
        rank: int,
        world: int,
        device: torch.device,
        dtype: torch.dtype,
        apart: bool,
        pool: BufferPool,
    ):
        self.number, self.samples = step, plan(step, rank, world)
        self.tables, self.classes = plan.tables, getattr(plan, "classes", None)
        self.finished = [0.0] * len(self.samples)  # when each source was done, perf_counter seconds
        self.missing = len(self.samples)
        shapes = [
            (samples.clip_frames, samples.size, apart and i > 0)
            for i, samples in enumerate(self.samples)
        ]
        self.members = {
            shape: [i for i, other in enumerate(shapes) if other == shape and len(self.samples[i])]
            for shape in dict.fromkeys(shapes)
        }
        self.buffers, self.places = {}, {}
        for shape, members in self.members.items():
            frames, size, _ = shape
            counts = [len(self.samples[i]) * self.samples[i].boxes.shape[1] for i in members]
            buffer = pool.take((sum(counts), frames, size, size, 3), dtype, device)
            self.buffers[shape] = buffer
            for i, place in zip(members, buffer.split(counts)):
                self.places[i] = place.view(len(self.samples[i]), -1, *buffer.shape[1:])

    def batch(self, device: torch.device) -> StepBatch:
        """The finished step; on a GPU its memory now belongs to the consumer's stream."""
        filled = [(shape, members) for shape, members in self.members.items() if members]
        buffers, soft = [self.buffers[shape] for shape, _ in filled], None
        if device.type == "cuda":
            for buffer in buffers:
                buffer.record_stream(torch.cuda.current_stream(device))
        if self.samples[0].partners is not None:
            blends = [self._blend(members) for _, members in filled]
            buffers, soft = blend(buffers, blends, self.classes)
        groups = []
        for number, (buffer, (_, members)) in enumerate(zip(buffers, filled)):
            facts = torch.cat([self._facts(i) for i in members], dim=1)
            if device.type == "cuda":
                facts = facts.pin_memory().to(device, non_blocking=True)
            labels, source, record, slot, valid = facts.unbind()
            if soft is not None:
                labels = soft[number].to(device)
            groups.append(
                ClipBatch(buffer.permute(0, 4, 1, 2, 3), labels, source, record, slot, valid.bool())
            )
        return StepBatch(
            self.number,
            tuple(groups),
            tuple(0 not in members for _, members in filled),
            self.samples,
        )

    def _blend(self, members: list[int]) -> Blend:
        parts = [self.samples[i] for i in members]
        labels = np.concatenate([self.tables[i].labels[self.samples[i].rows] for i in members])
        return Blend(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("slots", "partners", "own_weights", "partner_frames")
            ),
            labels,
        )

    def _facts(self, source: int) -> torch.Tensor:
        """int64 (5, n * V): label, source, record, slot and valid of every clip."""
        samples, table = self.samples[source], self.tables[source]
        rows = [
            table.labels[samples.rows],
            [source] * len(samples),
            table.records[samples.pieces[:, 0]],
            samples.slots,
            samples.valid,
        ]
        facts = torch.stack([torch.as_tensor(row, dtype=torch.int64) for row in rows])
        return facts.repeat_interleave(samples.boxes.shape[1], dim=1)
