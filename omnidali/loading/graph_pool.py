"""DALI's graphs of one rank: built once, shared by its sources, and few of them at work at once."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from omnidali.loading.thread_plan import RUNS_A_SOURCE, ThreadPlan
from omnidali.planning.samples import Samples

if TYPE_CHECKING:  # imports DALI, which takes a second
    from omnidali.pipelines import Feeds, Graph

_Key = tuple[type["Graph"], int, int, int]


class GraphRun:
    """One batch on its way through a graph; :meth:`GraphPool.submit` makes it.

    Args:
        pool: of the graphs.
        source: name of the source that the samples belong to.
        key: kind and shape of the graph.
        capacity: samples that the graph must take.
        room: more samples, for which a new graph is built.
        feeds: of the graph.
    """

    def __init__(
        self, pool: GraphPool, source: str, *, key: _Key, capacity: int, room: int, feeds: Feeds
    ):
        self.source = source
        self.key = key
        self.capacity = capacity
        self.room = room
        self._pool = pool
        self._feeds = feeds
        self._begun = threading.Event()
        self._graph: Graph | None = None
        self._error: BaseException | None = None

    def collect(self) -> list[object]:
        """Wait for the run's turn, and for its end; the result is that of the graph.

        Raises:
            PipelineError: if a sample fails.
            GraphBuildError: if there is no such graph on this machine.
            FeedError: if DALI does not take the feeds.
        """
        self._begun.wait()
        if self._error is not None:
            raise self._error
        assert self._graph is not None
        return self._graph.collect()

    def again(self, feeds: Feeds) -> list[object]:
        """Run other feeds through the graph of this run, which is over.

        Raises:
            PipelineError: if a sample fails.
        """
        assert self._graph is not None
        return self._graph.run(feeds)

    def release(self) -> None:
        """Let other runs have the graph; call it once the run is over or no longer wanted."""
        self._pool.release(self)

    def begin(self, graph: Graph) -> None:
        """Start with a graph that is not at work."""
        graph.start(self._feeds)
        self._graph = graph

    def end(self) -> Graph | None:
        """Wait for the end; returns the graph, if it is in a known state."""
        self._begun.wait()
        graph = self._graph
        if graph is None or not graph.is_usable:
            return None
        if graph.under_way:
            # imports DALI, which takes a second
            from omnidali.pipelines import PipelineError

            with contextlib.suppress(PipelineError):
                graph.collect()
        return graph

    def mark_begun(self, error: BaseException | None) -> None:
        """Let :meth:`collect` go on, or fail with ``error``."""
        self._error = error
        self._begun.set()


class GraphPool:
    """Built graphs by kind and shape, for all sources of a rank.

    Runs begin in the order in which they are submitted, but those of a source that has
    ``RUNS_A_SOURCE`` at work let the others' go first.

    Args:
        plan: of the threads.
        device: where the clips go.

    Attributes:
        on_gpu: whether the graphs run there.
    """

    def __init__(self, plan: ThreadPlan, device: torch.device):
        self._plan = plan
        self._device_id = device.index or 0 if device.type == "cuda" else None
        self.on_gpu = self._device_id is not None
        self._lock = threading.Lock()
        self._waiting: list[GraphRun] = []
        self._at_work: list[GraphRun] = []
        self._idle: dict[_Key, list[Graph]] = {}
        self._missing: dict[_Key, BaseException] = {}

    def submit(
        self,
        source: str,
        kind: type[Graph],
        *,
        samples: Samples,
        count: int,
        feeds: Feeds,
    ) -> GraphRun:
        """Let a graph work on a batch, now or when others are released.

        Args:
            source: name of the source.
            kind: of the graph.
            samples: for their size, views and frames.
            count: of samples in the batch.
            feeds: of the graph.
        """
        key = (kind, samples.size, samples.boxes.shape[1], samples.clip_frames)
        # a source's slots differ by one between steps: room for it saves building the graph twice
        room = samples.frames.shape[1]
        run = GraphRun(self, source, key=key, capacity=count, room=room, feeds=feeds)
        with self._lock:
            self._waiting.append(run)
        self._begin_runs()
        return run

    def release(self, run: GraphRun) -> None:
        """Take back what a run has, and begin those that wait for it."""
        with self._lock:
            if run in self._waiting:
                self._waiting.remove(run)
                return
        graph = run.end()
        with self._lock:
            if run not in self._at_work:  # released before
                return
            self._at_work.remove(run)
            if graph is not None:
                self._idle.setdefault(run.key, []).append(graph)
        self._begin_runs()

    def close(self) -> None:
        """Free the graphs that are not at work, and with them memory of the GPU."""
        with self._lock:
            self._idle.clear()

    def _begin_runs(self) -> None:
        """Begin the runs whose turn it is, on this thread; the lock is free while graphs are
        built.
        """
        while (run := self._next()) is not None:
            error: BaseException | None = None
            try:
                run.begin(self._graph_for(run))
            except BaseException as raised:  # the run's own thread gets it
                error = raised
            run.mark_begun(error)

    def _next(self) -> GraphRun | None:
        with self._lock:
            if len(self._at_work) >= self._plan.graph_runs:
                return None
            busy = [run.source for run in self._at_work]
            for run in self._waiting:
                if busy.count(run.source) < RUNS_A_SOURCE:
                    self._waiting.remove(run)
                    self._at_work.append(run)
                    return run
            return None

    def _graph_for(self, run: GraphRun) -> Graph:
        """A graph that is not at work, made if there is none.

        Raises:
            GraphBuildError: if it cannot be made here; it is tried once.
        """
        with self._lock:
            if run.key in self._missing:
                raise self._missing[run.key]
            idle = self._idle.get(run.key, [])
            while idle:
                graph = idle.pop()
                if graph.capacity >= run.capacity:
                    return graph  # those that were outgrown are gone

        kind, size, views, frames = run.key
        try:
            return kind(
                size,
                views,
                batch=run.capacity + run.room,
                threads=self._plan.dali,
                device_id=self._device_id,
                frames=frames,
            )
        except RuntimeError as error:
            with self._lock:
                self._missing[run.key] = error
            raise
