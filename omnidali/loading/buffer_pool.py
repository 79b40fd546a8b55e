"""Memory of batches, used again: on the CPU, fresh pages cost as much as filling them."""

from __future__ import annotations

import math
import weakref

import torch

_KEPT = 8  # unused buffers


class BufferPool:
    """Buffers that come back by themselves when the last tensor over them is gone."""

    def __init__(self) -> None:
        self._free: dict[int, torch.Tensor] = {}

    def take(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """An uninitialised tensor. On a GPU torch's own allocator uses memory again already."""
        if device.type != "cpu" or 0 in shape:
            return torch.empty(shape, dtype=dtype, device=device)

        count = math.prod(shape) * dtype.itemsize
        memory = None
        for key, free in list(self._free.items()):
            if count <= free.nbytes <= 2 * count + (1 << 20):
                # another one that comes back at this moment may have pushed it out
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
        """Free the buffers that nobody uses: a rare pile-up of steps leaves many."""
        for key in list(self._free):
            self._free.pop(key, None)

    def _give_back(self, memory: torch.Tensor) -> None:
        self._free[id(memory)] = memory
        # this may run in any thread at any moment: no lock, one step at a time
        for key in list(self._free)[:-_KEPT]:
            self._free.pop(key, None)
