"""Memory of batches, used again, and free memory returned to the system now and then.

On the CPU, fresh pages cost as much as filling them; and decoders leave holes in the heaps of their
threads.
"""

import ctypes
import math
import time
import weakref

import torch

_KEPT = 8  # unused buffers
_TRIM_SECONDS = 10.0  # between two trims; one takes milliseconds
_M_ARENA_MAX = -8  # of malloc.h
_THREADS_A_HEAP = 8  # small pieces never meet a heap's lock: each thread keeps a few of them


class BufferPool:
    """Buffers that return to the pool by themselves when the last tensor over them is gone."""

    def __init__(self) -> None:
        self._free: dict[int, torch.Tensor] = {}

    def take(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """An uninitialised tensor. On a GPU torch's own allocator uses memory again already."""
        if device.type != "cpu" or 0 in shape:
            return torch.empty(shape, dtype=dtype, device=device)

        count = math.prod(shape) * dtype.itemsize
        for key, free in list(self._free.items()):
            if count <= free.nbytes <= 2 * count + (1 << 20):
                # another one that comes back at this moment may have pushed it out
                memory = self._free.pop(key, None)
                if memory is not None:
                    break
        else:
            # a source's share differs by a slot between steps: room for it saves another buffer
            memory = torch.empty(count + count // 8, dtype=torch.uint8)

        lease = memory.numpy()
        weakref.finalize(lease, self._give_back, memory).atexit = False
        return torch.from_numpy(lease)[:count].view(dtype).view(shape)

    def forget(self) -> None:
        """Free the buffers that nobody uses: a rare pile-up of steps leaves many."""
        self._free.clear()

    def _give_back(self, memory: torch.Tensor) -> None:
        self._free[id(memory)] = memory
        # this may run in any thread at any moment: no lock, one step at a time
        for key in list(self._free)[:-_KEPT]:
            self._free.pop(key, None)


class Trimmer:
    """Frees unused buffers every ten seconds and calls glibc's ``malloc_trim``.

    It also makes the threads of the process share few heaps. With another C library, it frees the
    buffers alone.

    Without it, resident memory of a loader over damaged files grew by 10 % in half a million clips,
    all of it free: what is in use stays the same, but decoders take and leave pieces of all sizes,
    and each heap keeps its own holes.

    Args:
        buffers: of the batches.
        threads: number of threads that decode.
    """

    def __init__(self, buffers: BufferPool, threads: int):
        library = ctypes.CDLL(None)
        self._buffers = buffers
        self._trim = getattr(library, "malloc_trim", None)
        if hasattr(library, "mallopt"):
            library.mallopt(_M_ARENA_MAX, 1 + threads // _THREADS_A_HEAP)
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Trim, unless that was done a moment ago: call it as often as you like."""
        if time.monotonic() - self._last <= _TRIM_SECONDS:
            return
        self._last = time.monotonic()
        self._buffers.forget()
        if self._trim is not None:
            self._trim(0)
