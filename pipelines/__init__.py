"""The DALI graphs: from planned samples to normalised clips, on a GPU or on the CPU.

The only package that imports DALI, which takes a second: import it where it is needed. Graphs know
devices, shapes and feeds; they know no lists, weights or training, and draw no random numbers.
"""

from omnidali.pipelines.graph import (
    FeedError,
    Feeds,
    Graph,
    GraphBuildError,
    PipelineError,
    as_scalars,
)
from omnidali.pipelines.graphs import EncodedImages, EncodedVideos, MovingImages

__all__ = [
    "EncodedImages",
    "EncodedVideos",
    "FeedError",
    "Feeds",
    "Graph",
    "GraphBuildError",
    "MovingImages",
    "PipelineError",
    "as_scalars",
]
