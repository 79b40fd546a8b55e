"""What the back ends that decode samples share: their interface, the samples that they work on, and
DALI's graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.decoding.failure_cause import Cause
from omnidali.planning.samples import Samples

if TYPE_CHECKING:  # imports DALI, which takes a second
    from omnidali.pipelines import Graph

# an H200 has seven video engines, and each needs a stream of its own
_DECODES_ON_GPU = 8


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
            places: of the n samples.
            clips: (n, V, T or 1, size, size, 3), normalised.
            views: of the samples, which the clips show.
        """
        out = self.out[:, views]
        clips = clips.expand(-1, -1, out.shape[2], -1, -1, -1)
        if len(places) == len(out):
            out.copy_(clips)
        else:
            out[torch.as_tensor(places, device=out.device)] = clips.to(out.dtype)

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

    All methods but :meth:`in_flight` are called by the thread of the source. What a back end does
    not decode, the next one does; the last one decodes everything, substitutes if it must.
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

        Raises:
            BadSourceError: if too many files fail.
        """

    def drop(self, pending: PendingSamples) -> None:
        """Release samples that will not be finished."""

    def in_flight(self) -> list[tuple[Media, float]]:
        """The files that are being read or decoded, and for how many seconds."""

    def close(self) -> None:
        """End the threads that belong to this back end alone."""


class GraphPool:
    """Built graphs by kind and shape.

    Args:
        threads: DALI's CPU threads.
        device: where the clips go.
    """

    def __init__(self, threads: int, device: torch.device):
        on_gpu = device.type == "cuda"
        self._device_id = device.index or 0 if on_gpu else None
        self._threads = max(threads, _DECODES_ON_GPU) if on_gpu else threads
        self._graphs: dict[tuple[type[Graph], int, int, int], list[Graph]] = {}

    def take(self, kind: type[Graph], samples: Samples, count: int) -> Graph:
        """A graph that is not at work, made if there is none: at most one for each step ahead.

        Args:
            kind: of the graph.
            samples: for their size, views and frames.
            count: of samples in one run.
        """
        views = samples.boxes.shape[1]
        graphs = self._graphs.setdefault((kind, samples.size, views, samples.clip_frames), [])
        idle = next((graph for graph in graphs if not graph.under_way), None)
        if idle is not None and idle.capacity >= count:
            return idle
        if idle is not None:  # outgrown
            graphs.remove(idle)

        # a source's slots differ by one between steps: room for it saves building the graph twice
        graph = kind(
            samples.size,
            views,
            batch=count + samples.frames.shape[1],
            threads=self._threads,
            device_id=self._device_id,
            frames=samples.clip_frames,
        )
        graphs.append(graph)
        return graph

    def discard(self, graph: Graph) -> None:
        """Forget a graph that is in an unknown state."""
        for graphs in self._graphs.values():
            if graph in graphs:
                graphs.remove(graph)
