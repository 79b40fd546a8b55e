"""Running a DALI pipeline batch by batch from arrays that are already planned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np


class PipelineError(RuntimeError):
    """DALI could not process a batch; the next batch is not affected."""


class Graph:
    """One built pipeline. Subclasses define :meth:`define`, which names its external sources.

    Args:
        size: side of the output pictures, pixels.
        views: crops of each sample.
        batch: largest number of samples of one run, also as ``capacity``.
        threads: DALI's CPU threads.
        device_id: CUDA device, or None to run on the CPU.
        frames: of a clip, where a graph makes several of one picture.

    One run is under way at most: DALI's own queue would run the first batch as often as it is deep.
    Who wants several takes several graphs in turn, and a batch that fails takes no other one along.
    """

    def __init__(
        self,
        size: int,
        views: int,
        batch: int,
        threads: int,
        device_id: int | None,
        frames: int = 1,
    ):
        self.size, self.views, self.capacity, self.frames = size, views, batch, frames
        self.on_gpu, self.under_way = device_id is not None, False
        self._feeds = self._feeds_before = None
        # with the first graph: it takes a second, and runs without DALI need none
        from nvidia.dali import Pipeline

        self._pipe = Pipeline(
            batch_size=batch, num_threads=threads, device_id=device_id, prefetch_queue_depth=1
        )
        with self._pipe:
            self._pipe.set_outputs(*self.define())
        self._pipe.build()

    def define(self) -> Sequence:
        """The graph; returns its outputs, one a view, each (F, size, size, 3) and normalised."""
        raise NotImplementedError

    def start(self, feeds: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Begin with one batch: a list of arrays, one a sample, for each external source.

        Raises:
            RuntimeError: if a run is under way.
            PipelineError: if DALI does not take the feeds.
        """
        if self.under_way:
            raise RuntimeError("a run is under way: collect it first")
        # behind an error, threads of DALI may still be at the arrays of the batch, which are not
        # copied
        self._feeds_before, self._feeds = self._feeds, feeds
        try:
            for name, arrays in feeds.items():
                self._pipe.feed_input(name, list(arrays))
            self._pipe.schedule_run()
        except RuntimeError as error:
            raise PipelineError(first_reason(str(error))) from None
        self.under_way = True

    def collect(self) -> list:
        """Wait for the run that was started.

        Returns:
            One DALI tensor a view: (n, F, size, size, 3), float32 on the CPU and float16 on a GPU,
            readable through DLPack until the next call.

        Raises:
            PipelineError: if any sample fails; DALI does not say reliably which.
        """
        self.under_way = False
        try:
            return [output.as_tensor() for output in self._pipe.outputs()]
        except RuntimeError as error:
            raise PipelineError(first_reason(str(error))) from None

    def run(self, feeds: Mapping[str, Sequence[np.ndarray]]) -> list:
        """:meth:`start` and :meth:`collect` at once."""
        self.start(feeds)
        return self.collect()


def first_reason(text: str) -> str:
    """The telling part of DALI's many-line error texts.

    >>> first_reason(
    ...     "Critical error in pipeline:\\nencountered:\\n\\nno such codec\\nCurrent pipeline object is gone"
    ... )
    'no such codec'
    """
    telling = re.split(
        r"C\+\+ context|Current pipeline|Stacktrace", text.partition("encountered:")[2] or text
    )[0]
    return " ".join(telling.split())[:300] or "unknown DALI error"
