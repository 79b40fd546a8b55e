"""A trial before a run relies on DALI: a few clips of each source, by DALI and on the CPU.

Facts choose the decoder, never times: whether DALI decodes a codec here at all, and whether its
pixels are those of the CPU.
"""

import functools
import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import LoaderConfig
from omnidali.decoding.decoders import DECODERS
from omnidali.decoding.routes import CPU, Routes
from omnidali.loading.backend import PendingSamples, Workers
from omnidali.loading.device_work import device_work
from omnidali.loading.failures.dali_failures import DaliFailures
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.thread_plan import thread_plan
from omnidali.loading.thread_pool import AbandonableThreadPool, Task
from omnidali.planning.samples import Samples
from omnidali.utils.constants import MEAN, STD

# Levels of 255 by which DALI's pixels may differ from the CPU's, on average over a frame. Colours
# and chroma cost up to 3; a black frame, another one or another matrix cost far more.
MOST_DIFFERENCE = 6.0
_SIDE = 112  # of the clips; what is cut is not scaled, as the two roads scale with other filters
_FRAMES = 4
_PLAIN = 16  # levels between the darkest and the lightest value of a frame that shows nothing
_CLIPS = {"cpu": 4, "cuda": 8}  # a GPU decodes several at once


@dataclass(frozen=True)
class CodecTrial:
    """What a trial of one codec showed.

    Attributes:
        codec: its name.
        clips: that both roads decoded.
        difference: between their pixels, in levels of 255: the median over the clips of the worst
            frame's mean.
        misplaced: clips of which DALI shows frames that come before or after the wanted ones.
        failure: why DALI decoded none of the clips that the CPU decoded; "" if it did.
        dali_rate: clips a second of DALI.
        cpu_rate: clips a second of the CPU.
    """

    codec: str
    clips: int = 0
    difference: float = 0.0
    misplaced: int = 0
    failure: str = ""
    dali_rate: float = 0.0
    cpu_rate: float = 0.0

    @property
    def is_alike(self) -> bool:
        """Whether the frames are the wanted ones, and their pixels the same within the bound."""
        return self.difference <= MOST_DIFFERENCE and 2 * self.misplaced <= self.clips


class SourceTrial:
    """Decodes a few clips of one source both ways; nothing of them is kept or reported.

    Args:
        table: of the source.
        routes: of its files.
        device: that DALI decodes on.
        threads: of the CPU.
        hang_seconds: after which a file that is still being read or decoded counts as failed.
    """

    def __init__(
        self,
        table: SourceTable,
        routes: Routes,
        *,
        device: torch.device,
        threads: int,
        hang_seconds: float,
    ):
        self._table = table
        self._routes = routes
        self._device = device
        self._threads = threads or len(os.sched_getaffinity(0))
        self._limits = LoaderConfig(
            hang_seconds=hang_seconds, max_bad_ratio=1.0, max_bad_in_a_row=1 << 30
        )

    def try_codecs(self) -> list[CodecTrial]:
        """Try every codec of which DALI shall decode files."""
        return [
            self._try_codec(codec)
            for codec, decoder in self._routes.decoders.items()
            if decoder != CPU
        ]

    def _try_codec(self, codec: str) -> CodecTrial:
        """Both roads' pixels of a few clips, spread over the source."""
        place = self._table.codec_names.index(codec)
        pieces = np.flatnonzero((self._table.codecs == place) & ~self._routes.by_cpu)
        if not len(pieces):
            return CodecTrial(codec)
        count = min(_CLIPS[self._device.type], len(pieces))
        samples = make_samples(
            self._table, pieces[np.linspace(0, len(pieces) - 1, count, dtype=int)]
        )

        begun = time.perf_counter()
        decoded = self._decode_on_cpu(samples)
        cpu_seconds = time.perf_counter() - begun
        # plain frames look as those that DALI makes up; broken files are the quarantine's business
        wanted = {place: pixels for place, pixels in decoded.items() if not _is_plain(pixels)}
        if not wanted:
            return CodecTrial(codec)
        found, failure, dali_seconds = self._decode_by_dali(samples)

        both = sorted(wanted.keys() & found.keys())
        if not both:
            return CodecTrial(
                codec, failure=failure or "frames are missing or not those of the probe"
            )
        worst = [
            np.abs(wanted[place].astype(np.float32) - found[place]).mean(axis=(1, 2, 3)).max()
            for place in both
        ]
        return CodecTrial(
            codec,
            clips=len(both),
            difference=float(np.median(worst)),
            misplaced=sum(_is_misplaced(found[place], wanted[place]) for place in both),
            dali_rate=len(found) / dali_seconds,
            cpu_rate=len(decoded) / cpu_seconds,
        )

    def _decode_on_cpu(self, samples: Samples) -> dict[int, np.ndarray]:
        """By place, the pixels of the clips that decode whole: uint8 (F, S, S, 3)."""
        pool = AbandonableThreadPool(self._threads, "trial")
        tasks = [
            pool.submit(self._table.name, functools.partial(self._decode, samples, place))
            for place in range(len(samples))
        ]
        found = {}
        for place, task in enumerate(tasks):
            while not pool.wait(task, self._limits.hang_seconds):
                pass
            pixels = None if task.abandoned else task.future.result()
            if pixels is not None:
                found[place] = pixels
        pool.close(0.0)
        return found

    def _decode(self, samples: Samples, place: int, task: Task) -> np.ndarray | None:
        media = self._table.media(self._table.records[samples.pieces[place, 0]])
        task.mark_file(media)
        out = np.empty((1, samples.frames.shape[1], _SIDE, _SIDE, 3), np.uint8)
        decode = DECODERS[self._table.kind]
        try:
            replaced = decode(media, samples.frames[place], samples.boxes[place], _SIDE, out)
        except Exception:  # whatever a broken file does, it is no business of the trial
            return None
        return None if replaced else out[0]

    def _decode_by_dali(self, samples: Samples) -> tuple[dict[int, np.ndarray], str, float]:
        """By place, the pixels of the clips that decode, float32 (F, S, S, 3); why others do not,
        and the seconds of a second run, for which everything is made.
        """
        places = list(range(len(samples)))
        shape = (len(samples), 1, samples.frames.shape[1], _SIDE, _SIDE, 3)
        seconds = 1.0
        failure = ""
        workers = Workers(thread_plan(self._threads, 1, 1), device_work(self._device))
        try:
            # imports DALI, which takes a second, or is not there
            from omnidali.loading.dali_backend import DaliBackend

            tracker = FailureTracker(self._table, Quarantine(), 0, self._limits)
            failures = _SilentFailures(self._table, self._routes.by_cpu, Quarantine(), 0)
            backend = DaliBackend(self._table, workers=workers, tracker=tracker, failures=failures)
            for _ in range(2):
                begun = time.perf_counter()
                pending = PendingSamples(0, samples, torch.zeros(shape, device=self._device))
                left = set(backend.start(pending, places, _never))
                left |= set(backend.finish(pending, _never))
                clips = pending.out.cpu().numpy()
                seconds = time.perf_counter() - begun
                failure = failures.reason or _first_reason(pending)
                places = [place for place in places if place not in left]
                if not places:
                    break
        except Exception as error:  # a library that is missing may raise anything
            return {}, f"{type(error).__name__}: {error}", seconds
        finally:
            workers.close(0.5)

        pixels = clips[:, 0] * np.array(STD, np.float32) + np.array(MEAN, np.float32)
        return {place: pixels[place] for place in places}, failure, seconds


class _SilentFailures(DaliFailures):
    """Failures of a trial, which tells of them itself.

    Attributes:
        reason: of the last one.
    """

    reason = ""

    def on_decoded(self, pieces: np.ndarray) -> None:
        """Do nothing."""

    def on_failed(self, pieces: np.ndarray, reason: str, step: int) -> None:
        self.reason = reason

    def give_up(self, pieces: np.ndarray, reason: str) -> None:
        self.reason = reason


def _is_plain(pixels: np.ndarray) -> bool:
    """Whether a frame of a clip, uint8 (F, S, S, 3), shows nothing."""
    spread = np.ptp(pixels.reshape(len(pixels), -1, 3), axis=1).max(axis=1)
    return bool((spread < _PLAIN).any())


def _is_misplaced(shown: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a frame of a clip, float32 (F, S, S, 3), is clearly its neighbour in the right one.

    Neighbours of the clip are neighbours in the video. Where nothing moves, nobody can tell.
    """
    right = wanted.astype(np.float32)
    for place in range(0, len(right) - 1, 2):
        for own, other in ((place, place + 1), (place + 1, place)):
            distance = np.abs(shown[own] - right[own]).mean()
            if np.abs(shown[own] - right[other]).mean() < distance / 2:
                return True
    return False


def _never() -> bool:
    return False


def _first_reason(pending: PendingSamples) -> str:
    """Why a sample was left over, if its file says it."""
    return next((str(cause) for _, cause in pending.earlier.values()), "")


def make_samples(table: SourceTable, pieces: np.ndarray) -> Samples:
    """Clips of a few frames, spread over each piece, cut out of the middle of the picture.

    Args:
        table: of the source.
        pieces: int (n,), one a clip.
    """
    count = len(pieces)
    rows = pieces
    if table.starts is not None:
        rows = np.searchsorted(table.starts, pieces, side="right") - 1

    frames = np.zeros((count, 1), np.int32)
    if not table.kind.is_still:
        # the first and the last frames are often black; the second of a pair follows the first
        last = table.frames[pieces][:, None] - 1
        pairs = np.linspace(0.1, 0.8, _FRAMES // 2).repeat(2)
        spread = (pairs * last).astype(np.int32) + np.arange(_FRAMES) % 2
        first = 0 if table.firsts is None else table.firsts[pieces][:, None]
        frames = np.ascontiguousarray(np.minimum(spread, last) + first, np.int32)

    widths, heights = (sides[rows].astype(np.int32) for sides in (table.widths, table.heights))
    side = np.minimum(np.minimum(widths, heights), _SIDE)
    top, left = (heights - side) // 2, (widths - side) // 2
    boxes = np.stack([top, left, top + side, left + side], axis=1)[:, None]
    return Samples(
        source=0,
        size=_SIDE,
        repeat=1,
        draws=np.arange(count),
        slots=np.arange(count),
        rows=rows,
        pieces=pieces[:, None],
        frames=frames,
        boxes=np.ascontiguousarray(boxes, np.int32),
        flips=np.zeros((count, 1), bool),
        valid=np.ones(count, bool),
        attempts=np.zeros(count, np.int64),
    )
