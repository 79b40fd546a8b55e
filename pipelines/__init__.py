"""The DALI graphs: from planned samples to normalised clips, on a GPU or on the CPU.

The only package that imports DALI, which takes a second: import it where it is needed. Graphs know
devices, shapes and feeds; they know no lists, weights or training, and draw no random numbers.
"""

from omnidali.pipelines.graph import Feeds, Graph, PipelineError, as_scalars
from omnidali.pipelines.graphs import DecodedClips, EncodedImages, EncodedVideos, MovingImages

__all__ = [
    "DecodedClips",
    "EncodedImages",
    "EncodedVideos",
    "Feeds",
    "Graph",
    "MovingImages",
    "PipelineError",
    "as_scalars",
]
