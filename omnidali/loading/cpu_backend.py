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
from omnidali.loading.backend import PendingSamples, Workers
from omnidali.loading.device_work import DeviceWork, HeldMemory
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.sample_decoder import DecodedSample, SampleDecoder
from omnidali.loading.thread_pool import Task
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.constants import MEAN, STD

_IMAGES_A_TASK = 4
_UPLOAD_BYTES = 32 << 20  # that a GPU normalises at once: it needs five times as much meanwhile
_SCALE = (1 / np.array(STD)).astype(np.float32)
_SHIFT = (-np.array(MEAN) / STD).astype(np.float32)
_SCALE_AND_SHIFT = np.column_stack([np.diag(_SCALE), _SHIFT])
_SCRATCH = threading.local()


@dataclass(eq=False)
class _Work:
    """Tasks that decode pending samples.

    Attributes:
        pending: the samples.
        tasks: with the places that each of them is to decode.
        done: places that are decoded.
        staged: places, and memory that their pixels wait in for the device: uint8 (n, V, F, size,
            size, 3); F is T for a moving image. None: the tasks write normalised clips.
        rows: by place, its part of that memory.
    """

    pending: PendingSamples
    tasks: deque[tuple[Task[None], list[int]]] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    staged: list[tuple[list[int], torch.Tensor]] = field(default_factory=list)
    rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def stage(self, places: list[int], memory: torch.Tensor) -> None:
        """Let the pixels of these places wait in ``memory``."""
        self.staged.append((places, memory))
        self.rows.update(zip(places, memory, strict=True))

    def put(self, place: int, decoded: DecodedSample | None, pixels: np.ndarray) -> None:
        """Take the decoded sample of a place; ``pixels`` may be written again afterwards."""
        flips = self.pending.samples.flips[place]
        if decoded is None:
            pixels[:] = 0
            self.pending.lost.add(place)
        elif decoded.substitute is not None:
            flips = decoded.substitute.flips[0]
            self.pending.substitutes[place] = decoded.substitute

        if place in self.rows:
            self.rows[place].copy_(torch.from_numpy(pixels))
        else:
            normalise(pixels, flips, self.pending.out[place])
        self.done.add(place)


class CpuBackend:
    """Decodes samples of one source on the CPU. It is the last back end: what cannot be decoded is
    replaced by its planned substitute.

    Args:
        plan: names the substitutes.
        table: of the source.
        workers: their threads decode. If the clips go to a GPU, that normalises them; else the
            threads do.
        tracker: learns of every file that fails.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        table: SourceTable,
        *,
        workers: Workers,
        tracker: FailureTracker,
    ):
        self._table = table
        self._pool = workers.decoders
        self._device = workers.device
        self._tracker = tracker
        self._decoder = SampleDecoder(plan, table, tracker)
        self._works: dict[PendingSamples, _Work] = {}

    def start(
        self, pending: PendingSamples, places: Sequence[int], stopped: Callable[[], bool]
    ) -> list[int]:
        """Hand the samples to the threads."""
        work = self._works.setdefault(pending, _Work(pending))
        if self._device.is_remote and places:
            # one byte a value crosses the bus
            shape = (len(places), *_shape(pending.samples))
            work.stage(list(places), self._device.host_memory(shape, torch.uint8))

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

        if work.staged and not work.tasks:
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
        pixels = _scratch("pixels", _shape(samples), np.uint8)
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
        """Normalise the pixels on the device."""
        flips = work.pending.decoded().flips
        with HeldMemory(self._device, [memory for _, memory in work.staged]):
            for places, memory in work.staged:
                count = max(1, _UPLOAD_BYTES // memory[0].nbytes)
                for first in range(0, len(places), count):
                    part = places[first : first + count]
                    pixels = memory[first : first + count].to(
                        self._device.device, non_blocking=True
                    )
                    work.pending.write(part, _normalise_there(self._device, pixels, flips[part]))


def _shape(samples: Samples) -> tuple[int, int, int, int, int]:
    """The shape of a sample's pixels: (V, F, size, size, 3)."""
    frames = samples.frames if samples.motions is None else samples.motions
    return (samples.boxes.shape[1], frames.shape[1], samples.size, samples.size, 3)


def _normalise_there(device: DeviceWork, pixels: torch.Tensor, flips: np.ndarray) -> torch.Tensor:
    """As :func:`normalise`, on the device.

    Args:
        device: that has the pixels.
        pixels: uint8 (n, V, F, S, S, 3), RGB.
        flips: bool (n, V), which views are mirrored left to right.

    Returns:
        float32, of the same shape.
    """
    mirrors = device.upload(flips)[:, :, None, None, None, None]
    scale, shift = device.upload(np.stack([_SCALE, _SHIFT]))
    mirrored = torch.where(mirrors, pixels.flip(-2), pixels)
    return torch.addcmul(shift, mirrored, scale)


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
