"""What the back ends that decode samples share: their interface, the samples that they work on, and
what a loader has once for all its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.decoding.failure_cause import Cause
from omnidali.loading.device_work import DeviceWork
from omnidali.loading.graph_pool import GraphPool
from omnidali.loading.thread_plan import ThreadPlan
from omnidali.loading.thread_pool import AbandonableThreadPool
from omnidali.planning.samples import Samples

_READERS_CLOSE_SECONDS = 0.5


@dataclass(eq=False)
class PendingSamples:
    """One source's samples of one step while back ends decode them.

    Attributes:
        step: number of the step.
        samples: as planned.
        out: (n, V, T, size, size, 3), their part of the step's buffer.
        earlier: by place, a file that a back end could not decode, and why.
        substitutes: by place, the sample that was decoded in the planned one's stead.
        lost: places of which nothing was decoded: their clips are not valid.
    """

    step: int
    samples: Samples
    out: torch.Tensor
    earlier: dict[int, tuple[Media, Cause]] = field(default_factory=dict)
    substitutes: dict[int, Samples] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def write(self, places: Sequence[int], clips: torch.Tensor, views: slice = slice(None)) -> None:
        """Copy finished clips to their places; one frame of an image fills the whole clip.

        Args:
            places: of the samples, in any order.
            clips: (n, V, T or 1, size, size, 3), normalised.
            views: of the samples, which the clips show.
        """
        out = self.out[:, views]
        clips = clips.expand(-1, -1, out.shape[2], -1, -1, -1)
        if list(places) == list(range(len(out))):
            out.copy_(clips)
        else:
            for place, clip in zip(places, clips, strict=True):
                out[place].copy_(clip)

    def decoded(self) -> Samples:
        """The samples that the clips show: the planned ones, or their substitutes."""
        if not self.substitutes and not self.lost:
            return self.samples

        samples = self.samples.take(np.arange(len(self.samples)))  # a copy to write in
        for column in fields(samples):
            values = getattr(samples, column.name)
            if isinstance(values, np.ndarray):
                for place, substitute in self.substitutes.items():
                    values[place] = getattr(substitute, column.name)[0]
        samples.valid[list(self.lost)] = False
        return samples


class Backend(Protocol):
    """A way to decode samples of one source.

    All methods but :meth:`in_flight` are called by the thread of the source, within its stream of
    the device. What a back end does not decode, the next one does; the last one decodes everything,
    substitutes if it must.
    """

    def start(
        self, pending: PendingSamples, places: Sequence[int], stopped: Callable[[], bool]
    ) -> list[int]:
        """Begin to decode samples.

        Args:
            pending: the samples of a step.
            places: of those that this back end shall decode.
            stopped: whether the clips are no longer wanted.

        Returns:
            The places that it leaves to the next back end.
        """

    def finish(self, pending: PendingSamples, stopped: Callable[[], bool]) -> list[int]:
        """Wait until the clips are written; arguments and result as of :meth:`start`.

        The device is done with them, too: any thread may read them afterwards.

        Raises:
            BadSourceError: if too many files fail.
        """

    def drop(self, pending: PendingSamples) -> None:
        """Release samples that will not be finished."""

    def in_flight(self) -> list[tuple[Media, float]]:
        """The files that are being read or decoded, and for how many seconds."""


class Workers:
    """The threads and graphs of a loader, which all its sources share.

    Args:
        plan: of the threads.
        device: where the clips go.

    Attributes:
        decoders: threads that decode on the CPU.
        readers: threads that read files for DALI.
        graphs: of DALI.
        device: where the clips go.
    """

    def __init__(self, plan: ThreadPlan, device: DeviceWork):
        self.decoders = AbandonableThreadPool(plan.decode, "decode")
        self.readers = AbandonableThreadPool(plan.readers, "read")
        self.graphs = GraphPool(plan, device.device)
        self.device = device

    def close(self, patience: float) -> None:
        """Free the graphs and end the threads; those that need more than ``patience`` seconds are
        left alone.
        """
        self.graphs.close()
        self.readers.close(min(patience, _READERS_CLOSE_SECONDS))
        self.decoders.close(patience)
