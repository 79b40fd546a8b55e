"""One DALI pipeline, and how it is fed and collected."""

import re
from collections.abc import Sequence

import numpy as np
from nvidia.dali import Pipeline
from nvidia.dali.data_node import DataNode

Feeds = dict[str, list[np.ndarray]]  # by external source, one array a sample


class PipelineError(RuntimeError):
    """DALI could not process a batch; the next batch is not affected."""


class GraphBuildError(PipelineError):
    """This machine cannot run such a graph, whatever its batches are."""


class FeedError(PipelineError):
    """DALI does not take a batch; how much of it the graph has taken is unknown: discard it."""


class Graph:
    """One built pipeline. Subclasses define :meth:`define`, which names its external sources.

    One run is under way at most: DALI's own queue would run the first batch as often as it is deep.
    Several graphs in turn do several runs, and a batch that fails takes no other one along.

    Args:
        size: side of the output images, pixels.
        views: crops of each sample.
        batch: largest number of samples of one run, also as ``capacity``.
        threads: DALI's CPU threads.
        device_id: CUDA device, or None to run on the CPU.
        frames: of a clip, where a graph makes several of one image.

    Raises:
        GraphBuildError: if this machine lacks what the graph needs.
    """

    def __init__(
        self,
        size: int,
        views: int,
        *,
        batch: int,
        threads: int,
        device_id: int | None,
        frames: int = 1,
    ):
        self.size = size
        self.views = views
        self.capacity = batch
        self.frames = frames
        self.on_gpu = device_id is not None
        self.under_way = False
        self.is_usable = True  # until it does not take a batch
        self._feeds: Feeds | None = None
        self._feeds_before: Feeds | None = None

        self._pipeline = Pipeline(
            batch_size=batch,
            num_threads=threads,
            device_id=device_id,
            prefetch_queue_depth=1,
        )
        with self._pipeline:
            self._pipeline.set_outputs(*self.define())
        try:
            self._pipeline.build()
        except RuntimeError as error:
            raise GraphBuildError(first_reason(str(error))) from None

    def define(self) -> Sequence[DataNode]:
        """The graph; returns its outputs, one a view, each (F, size, size, 3) and normalised."""
        raise NotImplementedError

    def start(self, feeds: Feeds) -> None:
        """Begin with one batch.

        Args:
            feeds: a list of arrays, one a sample, for each external source.

        Raises:
            RuntimeError: if a run is under way.
            FeedError: if DALI does not take the feeds.
        """
        if self.under_way:
            raise RuntimeError("a run is under way: collect it first")
        # DALI does not copy the arrays of a batch, and after an error its threads may still read
        # them: they are kept until the batch after the next one
        self._feeds_before = self._feeds
        self._feeds = feeds
        try:
            for name, arrays in feeds.items():
                self._pipeline.feed_input(name, list(arrays))
            self._pipeline.schedule_run()
        except RuntimeError as error:
            self.is_usable = False
            raise FeedError(first_reason(str(error))) from None
        self.under_way = True

    def collect(self) -> list[object]:
        """Wait for the run that was started.

        Returns:
            One DALI tensor a view: (n, F, size, size, 3), float32 on the CPU and float16 on a GPU,
            finished, and readable through DLPack. DALI uses the memory again once the last
            reference to the tensor is gone: hold it until all copies out of it are over.

        Raises:
            PipelineError: if any sample fails; DALI does not say reliably which.
        """
        self.under_way = False
        try:
            return [output.as_tensor() for output in self._pipeline.outputs()]
        except RuntimeError as error:
            raise PipelineError(first_reason(str(error))) from None

    def run(self, feeds: Feeds) -> list[object]:
        """:meth:`start` and :meth:`collect` at once."""
        self.start(feeds)
        return self.collect()


def as_scalars(values: np.ndarray) -> list[np.ndarray]:
    """The values of an array as a feed of int32 ()."""
    return [np.array(value, np.int32) for value in values.reshape(-1)]


def first_reason(text: str) -> str:
    """The reason in DALI's many-line error texts.

    >>> first_reason("Critical error:\\nencountered:\\n\\nno such codec\\nCurrent pipeline is gone")
    'no such codec'
    """
    reason = text.partition("encountered:")[2] or text
    reason = re.split(r"C\+\+ context|Current pipeline|Stacktrace", reason)[0]
    return " ".join(reason.split())[:300] or "unknown DALI error"
