"""The CPU's back end: samples are decoded by threads that can be abandoned."""

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.failure_cause import Cause
from omnidali.loading.backend import GraphPool, PendingSamples
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.sample_decoder import DecodedSample, SampleDecoder
from omnidali.loading.thread_pool import AbandonableThreadPool, Task
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.constants import MEAN, STD

_IMAGES_A_TASK = 4
_SCALE_AND_SHIFT = np.column_stack([np.diag(1 / np.array(STD)), -np.array(MEAN) / STD]).astype(
    np.float32
)
_SCRATCH = threading.local()


@dataclass(eq=False)
class _Work:
    """Tasks that decode pending samples.

    Attributes:
        pending: the samples.
        normalises: whether the tasks write normalised clips; else they keep ``pixels``.
        tasks: with the places that each of them is to decode.
        done: places that are decoded.
        pixels: by place, uint8 (V, F, size, size, 3); F is T for a moving image.
    """

    pending: PendingSamples
    normalises: bool
    tasks: deque[tuple[Task[None], list[int]]] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    pixels: dict[int, np.ndarray] = field(default_factory=dict)

    def put(self, place: int, decoded: DecodedSample | None, pixels: np.ndarray) -> None:
        """Take the decoded sample of a place; ``pixels`` may be written again afterwards."""
        flips = self.pending.samples.flips[place]
        if decoded is None:
            pixels[:] = 0
            self.pending.lost.add(place)
        elif decoded.substitute is not None:
            flips = decoded.substitute.flips[0]
            self.pending.substitutes[place] = decoded.substitute

        if self.normalises:
            normalise(pixels, flips, self.pending.out[place])
        else:
            self.pixels[place] = pixels.copy()
        self.done.add(place)


class CpuBackend:
    """Decodes samples of one source on the CPU. It is the last back end: what cannot be decoded is
    replaced by its planned substitute.

    Args:
        plan: names the substitutes.
        table: of the source.
        pool: threads that decode, shared by all sources.
        graphs: normalise the clips on a GPU; None: the threads do it on the CPU.
        tracker: learns of every file that fails.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        table: SourceTable,
        *,
        pool: AbandonableThreadPool,
        graphs: GraphPool | None,
        tracker: FailureTracker,
    ):
        self._table = table
        self._pool = pool
        self._graphs = graphs
        self._tracker = tracker
        self._decoder = SampleDecoder(plan, table, tracker)
        self._works: dict[PendingSamples, _Work] = {}

    def start(
        self, pending: PendingSamples, places: Sequence[int], stopped: Callable[[], bool]
    ) -> list[int]:
        """Hand the samples to the threads."""
        # one byte a value crosses the bus; the GPU normalises
        work = self._works.setdefault(pending, _Work(pending, normalises=self._graphs is None))

        # an image is done so soon that handing over each one alone would cost a tenth of the time
        count = _IMAGES_A_TASK if self._table.kind.is_still else 1
        for first in range(0, len(places), count):
            self._submit(work, list(places[first : first + count]))
        return []

    def finish(self, pending: PendingSamples, stopped: Callable[[], bool]) -> list[int]:
        """Wait for the threads; submit again what an abandoned one has not done."""
        work = self._works[pending]
        while work.tasks and not stopped():
            task, places = work.tasks[0]
            if not self._pool.wait(task, self._tracker.limits.hang_seconds):
                continue
            work.tasks.popleft()
            if task.abandoned_file is None:
                task.future.result()
                continue

            left = [place for place in places if place not in work.done]
            if left:
                self._tracker.on_timeout(task.abandoned_file, pending.step)
            for place in left:
                self._submit(work, [place])

        if work.pixels and not work.tasks:
            self._write(work)
        self.drop(pending)
        return []

    def drop(self, pending: PendingSamples) -> None:
        """Cancel the tasks that have not begun."""
        work = self._works.pop(pending, None)
        if work is not None:
            for task, _ in work.tasks:
                task.future.cancel()

    def in_flight(self) -> list[tuple[Media, float]]:
        return self._pool.in_flight(self._table.name)

    def close(self) -> None:
        """Do nothing: other sources use the threads, too."""

    def _submit(self, work: _Work, places: list[int]) -> None:
        pending = work.pending
        # the arguments must not hold the buffer of the step: a thread that hangs keeps them
        decode = functools.partial(
            self._decode,
            pending.step,
            pending.samples,
            places,
            {place: pending.earlier[place] for place in places if place in pending.earlier},
        )
        task = self._pool.submit(self._table.name, decode, target=work)
        work.tasks.append((task, places))

    def _decode(
        self,
        step: int,
        samples: Samples,
        places: Sequence[int],
        earlier: dict[int, tuple[Media, Cause]],
        task: Task[None],
    ) -> None:
        """Decode samples on this thread, each with substitutes if need be."""
        frames = samples.frames if samples.motions is None else samples.motions
        shape = (samples.boxes.shape[1], frames.shape[1], samples.size, samples.size, 3)
        pixels = _scratch("pixels", shape, np.uint8)
        for place in places:
            decoded = self._decoder.decode(
                task, samples, place, pixels=pixels, step=step, earlier=earlier.get(place)
            )
            if not _deliver(task, place, decoded, pixels):
                return
            if decoded is not None:
                # asks the disk for a damaged file's time: it may hang
                self._tracker.on_clip_decoded(
                    decoded.replaced, step, is_substitute=decoded.substitute is not None
                )
            task.mark_file(None)

    def _write(self, work: _Work) -> None:
        """Normalise the pixels on the GPU."""
        # imports DALI, which takes a second
        from omnidali.pipelines import DecodedClips, as_scalars

        assert self._graphs is not None
        places = sorted(work.pixels)
        samples = work.pending.decoded()
        pixels = np.concatenate([work.pixels[place] for place in places])  # (n * V, F, S, S, 3)

        graph = self._graphs.take(DecodedClips, samples, len(places))
        (output,) = graph.run({"pixels": list(pixels), "flip": as_scalars(samples.flips[places])})
        clips = torch.from_dlpack(output)
        work.pending.write(places, clips.view(len(places), -1, *clips.shape[1:]))


def _deliver(
    task: Task[None], place: int, decoded: DecodedSample | None, pixels: np.ndarray
) -> bool:
    """Hand over the decoded sample; False if it is no longer wanted."""
    # an abandoned task must not write after the one that replaces it
    with task.lock:
        if task.target is None:
            return False
        assert isinstance(task.target, _Work)
        task.target.put(place, decoded, pixels)
        return True


def _scratch(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Uninitialised memory of this thread's own, the same one for the same name and shape."""
    held = getattr(_SCRATCH, name, None)
    if held is None or held.shape != shape:
        held = np.empty(shape, dtype)
        setattr(_SCRATCH, name, held)
    return held


def normalise(pixels: np.ndarray, flips: np.ndarray, out: torch.Tensor) -> None:
    """Normalise and mirror a sample's clips.

    Args:
        pixels: uint8 (V, F, S, S, 3), RGB.
        flips: bool (V,), which views are mirrored left to right.
        out: (V, T, S, S, 3), float32, float16 or bfloat16, written; T is F, or F is 1 and all T
            frames are the same.
    """
    mirrored = _scratch("mirrored", pixels.shape[2:], np.uint8)
    floats = _scratch("floats", pixels.shape[2:], np.float32)
    # OpenCV writes no half precision
    out_array = out.numpy() if out.dtype == torch.float32 else None

    for view, frames in enumerate(pixels):
        for number, frame in enumerate(frames):
            np.copyto(floats, cv2.flip(frame, 1, dst=mirrored) if flips[view] else frame)
            if out_array is not None:
                cv2.transform(floats, _SCALE_AND_SHIFT, dst=out_array[view, number])
            else:
                cv2.transform(floats, _SCALE_AND_SHIFT, dst=floats)
                out[view, number].copy_(torch.from_numpy(floats))
        if len(frames) < out.shape[1]:
            out[view, 1:] = out[view, :1]
