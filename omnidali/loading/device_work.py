"""What loading asks of the device that clips go to: an order of work, and memory to copy from.

A GPU does what it is told later. Until then the memory that it reads must stay as it is, and nobody
may look at what it writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch


class DeviceWork:
    """Work on the CPU: everything is done at once, and no memory is pinned.

    Attributes:
        device: where the clips go.
        is_remote: whether clips that the CPU decoded have to be copied there.
    """

    is_remote = False

    def __init__(self, device: torch.device):
        self.device = device

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Within it, what this thread asks of the device waits for no other thread's work."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Wait until the device has done what this thread has asked of it."""

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialised memory of the CPU, which the device may copy from."""
        return torch.empty(shape, dtype=dtype)

    def upload(self, values: np.ndarray | torch.Tensor) -> torch.Tensor:
        """A copy of small host values on the device, without waiting for the work before it."""
        return torch.as_tensor(values)

    def lend(self, memory: torch.Tensor) -> None:
        """Keep memory of the device until this thread's work with it is done, too."""


class CudaWork(DeviceWork):
    """Work on a GPU."""

    is_remote = True

    def stream(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def wait(self) -> None:
        # unlike a stream's, an event's waiting can sleep: it leaves the core to a decoder
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        event.synchronize()

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        # torch keeps pinned memory and gives it out again, once the copies from it are over
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, values: np.ndarray | torch.Tensor) -> torch.Tensor:
        tensor = torch.as_tensor(values)
        pinned = self.host_memory(tuple(tensor.shape), tensor.dtype)
        pinned.copy_(tensor)
        # a copy from other memory would wait for all work before it: for a step of the training
        return pinned.to(self.device, non_blocking=True)

    def lend(self, memory: torch.Tensor) -> None:
        memory.record_stream(torch.cuda.current_stream(self.device))


def device_work(device: torch.device) -> DeviceWork:
    """The work on a device."""
    if device.type != "cuda":
        return DeviceWork(device)
    if device.index is None:  # every thread has a current GPU of its own
        device = torch.device("cuda", torch.cuda.current_device())
    return CudaWork(device)


class HeldMemory:
    """Keeps memory while this thread's work on the device may read it.

    DALI gives an output to its next run as soon as the last reference is gone, and does not know of
    the copies that torch has queued. Leaving the block waits for them, after an error, too.

    Args:
        work: of the device.
        memory: DALI's outputs, or other memory that the block copies from.
    """

    def __init__(self, work: DeviceWork, memory: Sequence[object]):
        self._work = work
        self._held = list(memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._work.wait()
        self._held.clear()
