"""The DALI graphs: from planned samples to normalised clips, on a GPU or on the CPU.

The only place that imports DALI. Graphs know devices, shapes and feeds; they know no lists,
weights or training, and they draw no random numbers.
"""

from omnidali.pipelines.feeds import Graph, PipelineError
from omnidali.pipelines.graphs import DecodedClips, EncodedImages, EncodedVideos, MovingImages

__all__ = [
    "DecodedClips",
    "EncodedImages",
    "EncodedVideos",
    "Graph",
    "MovingImages",
    "PipelineError",
]
