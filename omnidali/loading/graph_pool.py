"""DALI's graphs of one back end, built when they are first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from omnidali.planning.samples import Samples

if TYPE_CHECKING:  # imports DALI, which takes a second
    from omnidali.pipelines import Graph

# an H200 has seven video engines, and each needs a stream of its own
_DECODES_ON_GPU = 8


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
        """A graph that is not at work; there come to be as many as there are steps ahead.

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
