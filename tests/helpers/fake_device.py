"""A stand-in for a GPU behind loading's interfaces: DALI's CPU operators decode, and memory and
order of work are as careless of the reader as a GPU's.

Memory that the host gives up is poisoned at once. What a thread asks of the device is done with
what lies in memory when the thread waits, not before.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from omnidali.loading import fusion
from omnidali.loading.device_work import DeviceWork
from omnidali.pipelines import Graph, PipelineError
from omnidali.pipelines import graph as graph_module
from omnidali.pipelines.graph import first_reason
from omnidali.utils.constants import MEAN, STD

POISON = 0xFF  # of every byte: not a number in floats, white in pixels

# what DALI says in a container without the driver's video capability
NO_NVCUVID = """Critical error in pipeline:
Error in MIXED operator `nvidia.dali.fn.decoders.video`,
which was used in the pipeline definition with the following traceback:

  File "graphs.py", line 106, in define

encountered:

CUDA driver API error CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND (302):
shared object symbol not found
Current pipeline object is no longer valid."""


class Memory:
    """Blocks that are poisoned when the last reference to what was lent of them is gone."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def lend(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Poisoned memory, and a name of it that does not count as a reference."""
        block = np.full(int(np.prod(shape)) * dtype.itemsize, POISON, np.uint8)
        self._blocks.append(block)
        lease = block.view(dtype).reshape(shape)
        weakref.finalize(lease, block.fill, POISON).atexit = False
        return lease, block.view(dtype).reshape(shape)

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same memory, but no reference to it; other memory than ours as it is."""
        start = tensor.untyped_storage().data_ptr()
        for block in self._blocks:
            first = block.ctypes.data
            if first <= start < first + block.nbytes:
                whole = torch.from_numpy(block)
                end = start - first + tensor.untyped_storage().nbytes()
                values = whole[start - first : end].view(tensor.dtype)
                return values.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return tensor


class LateStream(TorchDispatchMode):
    """Does what torch is asked within it when the stream is waited for; until then, what that
    writes is poison.
    """

    def __init__(self, memory: Memory):
        super().__init__()
        self._memory = memory
        self._queue: list[Callable[[], object]] = []

    def queue(self, work: Callable[[], object]) -> None:
        """Do something when the stream is waited for."""
        self._queue.append(work)

    def run(self) -> None:
        """Do what was asked, in order."""
        queue, self._queue = self._queue, []
        with torch.utils._python_dispatch._disable_current_modes():
            for work in queue:
                work()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)  # at once, for its shape
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # memory that is only made is no work
        if operation.is_view or not given:
            return result

        late = tree_map_only(torch.Tensor, self._memory.alias, (args, kwargs, result))
        self.queue(lambda: self._repeat(operation, *late))
        for argument, value in zip(operation._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                _poison(value)
        places = {tensor.data_ptr() for tensor in given}
        if isinstance(result, torch.Tensor) and result.data_ptr() not in places:
            _poison(result)
        return result

    def _repeat(self, operation, args, kwargs, result) -> None:
        again = operation(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.data_ptr() != again.data_ptr():
            result.copy_(again)


def _poison(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        tensor.fill_(torch.nan)
    else:
        tensor.fill_(POISON)


class FakeWork(DeviceWork):
    """Work on the fake device, one late stream a thread."""

    is_remote = True

    def __init__(self, memory: Memory):
        super().__init__(torch.device("cpu"))
        self._memory = memory
        self._local = threading.local()

    @property
    def late(self) -> LateStream | None:
        """This thread's stream."""
        return getattr(self._local, "stream", None)

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        self._local.stream = LateStream(self._memory)
        try:
            with self._local.stream:
                yield
        finally:
            self._local.stream = None

    def wait(self) -> None:
        if self.late is not None:
            self.late.run()

    def host_memory(self, shape, dtype):
        lease, _ = self._memory.lend(shape, torch.empty(0, dtype=dtype).numpy().dtype)
        return torch.from_numpy(lease)

    def upload(self, values):
        return torch.as_tensor(values).clone()


class FakeDevice:
    """Lets loaders that are opened from now on work with the fake device.

    Args:
        monkeypatch: of the test.

    Attributes:
        work: of the device.
        lacks_nvcuvid: whether every run of a graph fails for want of the driver's library.
        drops: ``black`` or ``short``: some videos lose their last frame; None: none does.
        dropped: number of frames that were lost.
        refuses: contents of files that make a batch fail.
        runs: number of graph runs that were collected.
    """

    def __init__(self, monkeypatch):
        self.memory = Memory()
        self.work = FakeWork(self.memory)
        self.lacks_nvcuvid = False
        self.drops: str | None = None
        self.dropped = 0
        self.refuses: set[bytes] = set()
        self.runs = 0
        self._monkeypatch = monkeypatch
        self._collect = Graph.collect
        monkeypatch.setattr(fusion, "device_work", lambda device: self.work)
        monkeypatch.setattr(Graph, "collect", lambda graph: self._outputs(graph))

    def refuse_to_build(self) -> None:
        """Let no graph be built, as DALI does where the driver is too old."""

        def fail(pipeline):
            raise RuntimeError(NO_NVCUVID)

        self._monkeypatch.setattr(graph_module.Pipeline, "build", fail)

    def output(self, values: np.ndarray) -> np.ndarray:
        """Memory of the device as DALI gives it: the values are there once the thread waits."""
        lease, memory = self.memory.lend(values.shape, values.dtype)
        is_held = weakref.ref(lease)

        def fill() -> None:
            if is_held() is not None:
                np.copyto(memory, values)

        late = self.work.late
        if late is None:
            fill()
        else:
            late.queue(fill)
        return lease

    def _outputs(self, graph: Graph) -> list[object]:
        self.runs += 1
        clips = [np.array(output) for output in self._collect(graph)]
        if self.lacks_nvcuvid:
            raise PipelineError(first_reason(NO_NVCUVID))
        if any(data.tobytes() in self.refuses for data in graph._feeds["data"]):
            raise PipelineError("no such codec")
        if self.drops is not None and "frames" in graph._feeds:
            clips = self._drop_frames(clips, graph._feeds["data"])
        return [self.output(clip) for clip in clips]

    def _drop_frames(self, clips: list[np.ndarray], files: list[np.ndarray]) -> list[np.ndarray]:
        """Take the last frame of a third of the files."""
        hit = [number for number, data in enumerate(files) if int(data.sum()) % 3 == 0]
        self.dropped += len(hit)
        if self.drops == "short" and hit:
            if len(hit) < len(files):  # DALI makes no tensor of them
                raise PipelineError("the samples differ in shape")
            return [clip[:, :-1] for clip in clips]
        for clip in clips:
            clip[hit, -1] = -np.array(MEAN) / STD
        return clips
