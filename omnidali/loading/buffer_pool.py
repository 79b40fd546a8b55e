"""Memory of batches, used again: on the CPU, fresh pages cost as much as normalising what goes into
them.
"""

from __future__ import annotations

import math
import weakref

import torch

_KEPT = 8  # buffers that nobody uses at the moment


class BufferPool:
    """Buffers that come back by themselves when the last tensor over them is gone."""

    def __init__(self):
        self._free: dict[int, torch.Tensor] = {}

    def take(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """A tensor with anything in it. On a GPU torch's own allocator does this already."""
        if device.type != "cpu" or 0 in shape:
            return torch.empty(shape, dtype=dtype, device=device)
        count = math.prod(shape) * dtype.itemsize
        memory = None
        for key, free in list(self._free.items()):
            if count <= free.nbytes <= 2 * count + (1 << 20):
                # none: one that comes back at this moment has pushed it out
                memory = self._free.pop(key, None)
                if memory is not None:
                    break
        # a source's share differs by a slot between steps: room for it saves another buffer
        if memory is None:
            memory = torch.empty(count + count // 8, dtype=torch.uint8)
        lease = memory.numpy()
        weakref.finalize(lease, self._give_back, memory).atexit = False
        return torch.from_numpy(lease)[:count].view(dtype).view(shape)

    def forget(self) -> None:
        """Free what nobody uses: a rare pile-up of steps needs buffers that are not needed again."""
        for key in list(self._free):
            self._free.pop(key, None)

    def _give_back(self, memory: torch.Tensor) -> None:
        self._free[id(memory)] = memory
        # this may run in any thread at any moment: no lock, one step at a time
        for key in list(self._free)[:-_KEPT]:
            self._free.pop(key, None)
