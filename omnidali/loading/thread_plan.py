"""How many threads a rank's loader may have."""

import math
from dataclasses import dataclass

RUNS_A_SOURCE = 2  # of DALI's graphs: one decodes while the other's clips are copied

# readers wait for the disk, most of the time
_CORES_A_READER = 4
_FEWEST_READERS = 2
_MOST_READERS = 4
# an H200 has seven video engines; DALI gives each of its threads one clip at a time
_MOST_A_RUN = 8


@dataclass(frozen=True)
class ThreadPlan:
    """The threads of one rank's loader.

    Attributes:
        decode: decode on the CPU, for all sources together.
        readers: read files for DALI, for all sources together.
        graph_runs: of DALI that may be under way at once, of all sources together.
        dali: DALI's threads of each of them. Its video decoder keeps a thread waiting for each clip
            that it decodes on the GPU, so that this is also the number of clips in flight.
    """

    decode: int
    readers: int
    graph_runs: int
    dali: int

    @property
    def total(self) -> int:
        """Threads that may be at work at once."""
        return self.decode + self.readers + self.graph_runs * self.dali


def thread_plan(cores: int, ranks: int, sources: int) -> ThreadPlan:
    """The threads of each rank of a machine.

    Where a rank has four cores or more, these are at most two for each core: one that decodes on
    the CPU, and one that reads for DALI or waits for the GPU.

    Args:
        cores: of the machine.
        ranks: that share them.
        sources: of the loader.

    >>> thread_plan(64, 8, 5)
    ThreadPlan(decode=8, readers=2, graph_runs=6, dali=1)
    """
    share = max(1, cores // ranks)
    readers = min(_MOST_READERS, max(_FEWEST_READERS, share // _CORES_A_READER))
    left = max(RUNS_A_SOURCE, share - readers)

    most_runs = RUNS_A_SOURCE * sources
    dali = min(_MOST_A_RUN, left // RUNS_A_SOURCE, math.ceil(left / most_runs))
    return ThreadPlan(share, readers, min(most_runs, left // dali), dali)
