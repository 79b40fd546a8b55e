"""One source of a running loader: from planned samples to clips in the step's buffer."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from omnidali.catalog.database.store import Media, SourceTable
from omnidali.catalog.file_span import stamp_of
from omnidali.catalog.probing.sniff import MAX_IMAGE_BYTES, read_image_header
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.frame_folder import decode_frames
from omnidali.decoding.image import decode_image, has_readable_header
from omnidali.decoding.recheck import LOOK_SECONDS, anything_decodes
from omnidali.decoding.routes import CPU, HYBRID, on_cpu
from omnidali.decoding.video import decode_video
from omnidali.errors import MACHINE, DecodeError
from omnidali.loading.failures.shortage import Pauses, Shortage
from omnidali.loading.failures.tracker import SUBSTITUTES, Faults, hang
from omnidali.loading.normalise import normalise, scratch
from omnidali.loading.thread_pool import Job, Workers
from omnidali.pipelines import (
    DecodedClips,
    EncodedImages,
    EncodedVideos,
    Graph,
    MovingImages,
    PipelineError,
)
from omnidali.planning.camera_motion import through_region
from omnidali.planning.plan import OF_THE_CLASS, EvaluationPlan, Samples, TrainPlan
from omnidali.utils.log import LOG

_DECODES_ON_GPU = 8
_PHOTOS_A_TASK = 4
_READERS = 4


@dataclass
class Started:
    """Samples that are being decoded.

    Attributes:
        out: (n, V, T, size, size, 3), the place in the step's buffer.
        on_dali: int array, places of the samples that DALI decodes.
        pixels: of the others, uint8 (V, F, size, size, 3) each by its place; F is T for a moving
            image. None where the jobs write into ``out`` themselves.
        jobs: of the CPU, with the places that each of them is to decode. done: places that are.
        run: of DALI, which has begun.
        causes: by place, the file that DALI could not be given or did not decode, and why.
        named: by place, files for DALI that have failed before.
    """

    step: int
    samples: Samples
    out: torch.Tensor
    on_dali: np.ndarray
    pixels: dict[int, np.ndarray] | None
    jobs: deque[tuple[Job, list[int]]] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    run: _GraphRun | None = None
    causes: dict[int, tuple[Media, Cause]] = field(default_factory=dict)
    named: dict[int, list[Media]] = field(default_factory=dict)


@dataclass(eq=False)
class _GraphRun:
    """A DALI graph at work: on which files, ``each`` of them a sample, and since when."""

    graph: Graph
    feeds: dict[str, list[np.ndarray]]
    files: list[Media]
    each: int
    since: float


class _Failed(Exception):
    """A file of a sample does not decode.

    Args:
        cause: why; None where it was not tried, as it is quarantined.
    """

    def __init__(self, media: Media, cause: Cause | None):
        super().__init__(str(cause))
        self.media = media
        self.cause = cause


class Producer:
    """Decodes the samples of one source.

    Args:
        plan: names the substitutes of what fails. source: place of the source in the plan.
        routes: {codec: decoder} of :func:`choose_routes`.
        workers: threads for decoding on the CPU, shared by all sources.
        threads: DALI's threads. device: where the clips go.
        faults: are told of every file that fails. cpu_share: of the slots of codecs that DALI and
            the CPU share.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        source: int,
        routes: dict[str, str],
        workers: Workers,
        threads: int,
        device: torch.device,
        faults: Faults,
        cpu_share: float = 0.0,
    ):
        self.table: SourceTable = plan.tables[source]
        self.faults, self._plan, self._cpu_share = faults, plan, cpu_share
        self._cpu_codecs, self._shared_codecs = (
            np.array([routes[name] == route for name in self.table.codec_names])
            for route in (CPU, HYBRID)
        )
        self._device_id = device.index or 0 if device.type == "cuda" else None
        # an H200 has seven video engines, and each wants a stream of its own to work on
        self._workers, self._threads = (
            workers,
            threads if self._device_id is None else max(threads, _DECODES_ON_GPU),
        )
        self._readers = Workers(_READERS, "read")
        self._shortage = Shortage(self.table.name, faults.limits.hang_seconds)
        self._graphs: dict[tuple, list[Graph]] = {}
        self._runs: deque[_GraphRun] = deque()
        self._rescued = False

    def start(
        self,
        step: int,
        samples: Samples,
        out: torch.Tensor,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Started:
        """Hand the CPU's part of the work to the workers; read the files for DALI and start its
        graph.

        Args:
            stopped: once true, nobody wants the clips any more.
        """
        codecs = self.table.codecs[samples.pieces]
        cpu = self._cpu_codecs[codecs].any(axis=1)
        cpu |= (
            self._shared_codecs[codecs].any(axis=1) & on_cpu(samples.slots, self._cpu_share)
            | ~samples.valid
        )
        # one byte a value crosses the bus; the GPU normalises
        started = Started(
            step, samples, out, np.flatnonzero(~cpu), None if self._device_id is None else {}
        )
        by_cpu = np.flatnonzero(cpu).tolist()
        if len(started.on_dali):
            by_cpu += self._start_dali(started, stopped)
        # a photo is done so soon that handing over each one alone would cost a tenth of the time
        each = _PHOTOS_A_TASK if self.table.kind == "image" else 1
        for first in range(0, len(by_cpu), each):
            self._submit(started, by_cpu[first : first + each])
        return started

    def finish(self, started: Started, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait for DALI and for the CPU's part, and write the clips; what fails is replaced by its
        substitute.

        Args:
            stopped: once true, nobody wants the clips any more.

        Raises:
            BadSourceError: where too much fails.
        """
        if started.run is not None:
            for place in self._finish_dali(started):
                self._submit(started, [place])
        while started.jobs and not stopped():
            job, places = started.jobs[0]
            if self._workers.wait(job, self.faults.limits.hang_seconds):
                started.jobs.popleft()
                if job.given_up:
                    self._hung(started, job, places)
                else:
                    job.future.result()
        if started.jobs:
            self.drop(started)
        elif started.pixels:
            places, pixels = map(list, zip(*sorted(started.pixels.items())))
            flat = np.concatenate(pixels)  # (n * V, F, size, size, 3)
            graph = self._graph(DecodedClips, started.samples, len(places))
            clips = torch.from_dlpack(
                graph.run({"pixels": list(flat), "flip": _scalars(started.samples.flips[places])})[
                    0
                ]
            )
            self._write(
                started.out, np.array(places), clips.view(len(places), -1, *clips.shape[1:])
            )

    def drop(self, started: Started) -> None:
        """Let go of what nobody will finish; its graph is free again."""
        for job, _ in started.jobs:
            job.future.cancel()
        if started.run in self._runs:
            self._runs.remove(started.run)
            with contextlib.suppress(PipelineError):
                started.run.graph.collect()

    def close(self) -> None:
        """End the threads of its own."""
        self._readers.close(patience=0.5)

    def in_flight(self) -> list[tuple[str, float]]:
        """Files that are being read or decoded, and for how many seconds."""
        flights = self._workers.in_flight(self.table.name) + self._readers.in_flight(
            self.table.name
        )
        now = time.monotonic()
        flights += [(media, now - run.since) for run in list(self._runs) for media in run.files]
        return [(media.path, seconds) for media, seconds in flights]

    def _submit(self, started: Started, places: list[int]) -> None:
        causes = {place: started.causes[place] for place in places if place in started.causes}
        work = functools.partial(self._decode, started.step, started.samples, places, causes)
        job = self._workers.submit(self.table.name, work, into=started)
        started.jobs.append((job, places))

    def _hung(self, started: Started, job: Job, places: list[int]) -> None:
        """A thread was given up with this job: what it has not done is another's."""
        rest = [place for place in places if place not in started.done]
        if rest:
            self.faults.hung(job.hung_at, started.step)
        for place in rest:
            self._submit(started, [place])

    def _decode(
        self,
        step: int,
        samples: Samples,
        places: Sequence[int],
        causes: dict[int, tuple[Media, Cause]],
        job: Job,
    ) -> None:
        """Decode samples on this thread, each with substitutes if need be.

        Args:
            causes: by place, what DALI met before.
        """
        frames = samples.frames.shape[1] if samples.motions is None else samples.motions.shape[1]
        into = scratch(
            "pixels", (samples.boxes.shape[1], frames, samples.size, samples.size, 3), np.uint8
        )
        for place in places:
            mine, index, attempt, holes = samples, place, 0, []
            if not samples.valid[place]:  # it fills up an evaluation's last step
                mine = None
            while mine is not None and not job.given_up:
                try:
                    holes = self._decode_patiently(job, mine, index, into, step)
                    break
                except _Failed as failure:
                    if job.given_up:
                        return
                    self._tell(failure, job, step, attempt, causes.pop(place, None))
                attempt, index = attempt + 1, 0
                mine = self._substitute(samples, place, attempt)
            with job.lock:  # who is given up on must not write behind the one that stands in for it
                started = job.into
                if started is None:
                    return
                if mine is None:
                    into[:] = 0
                    samples.valid[place] = False
                else:
                    if attempt:
                        samples.put(place, mine)
                if started.pixels is None:
                    normalise(into, samples.flips[place], started.out[place])
                else:
                    started.pixels[place] = into.copy()
                started.done.add(place)
                del started
            if mine is not None:
                # asks the disk for a damaged file's time: it may hang
                self.faults.decoded(holes, step, attempt)
            job.at(None)

    def _substitute(self, samples: Samples, place: int, attempt: int) -> Samples | None:
        """The next one to try; None for an item of an evaluation, which is lost."""
        if attempt > SUBSTITUTES:
            raise self.faults.no_substitute()
        other = self._plan.substitute(samples, place, attempt)
        if other is None:
            self.faults.lost()
        return other

    def _tell(
        self,
        failure: _Failed,
        job: Job,
        step: int,
        attempt: int,
        before: tuple[Media, Cause] | None,
    ) -> None:
        """Report a failure, of which ``before`` may tell the cause."""
        cause = failure.cause
        if (
            cause is None
            or self.faults.blocks(failure.media)
            and not self.faults.turns(failure.media, cause)
        ):
            self.faults.blocked()
            if attempt > OF_THE_CLASS:  # a class may be of one file, which is quarantined
                self.faults.skipped()
        else:
            # what comes is no part of the time that the clip took, and must not hang in its turn
            job.at(failure.media)
            patience = min(LOOK_SECONDS, self.faults.limits.hang_seconds / 2)
            # of a folder, DALI gets the frames
            if before is not None and (
                self.table.kind == "frames" or before[0].path == failure.media.path
            ):
                cause = before[1].then(cause)
            self.faults.failed(
                failure.media,
                cause,
                step,
                hopeless=lambda: not anything_decodes(failure.media, self.table.kind, patience),
            )

    def _decode_patiently(
        self, job: Job, samples: Samples, index: int, out: np.ndarray, step: int
    ) -> list[tuple[Media, int, Cause | None]]:
        """As :meth:`_decode_one`. Where the machine is to blame, once more until that is over, or
        has lasted too long: no file is substituted for what it has not done.
        """
        begun, pause = time.monotonic(), Pauses()
        while True:
            failure, holes = None, []
            try:
                holes = self._decode_one(job, samples, index, out, step)
                causes = [(media, cause) for media, _, cause in holes]
            except _Failed as error:
                failure, causes = error, [(error.media, error.cause)]

            blamed = [
                (media, cause)
                for media, cause in causes
                if cause is not None and cause.trouble == MACHINE
            ]
            if blamed and job.is_wanted:
                media, cause = blamed[0]
                if self._shortage.holds(media.path, cause, begun):
                    job.at(None)  # a file that is not at work does not hang
                    pause()
                    continue
            if failure is not None:
                raise failure
            if not blamed:
                self._shortage.is_over()
            return holes

    def _decode_one(
        self, job: Job, samples: Samples, index: int, out: np.ndarray, step: int
    ) -> list[tuple[Media, int, Cause | None]]:
        """Decode one sample into ``out`` (V, F, size, size, 3); returns its files for whose frames
        neighbours stand, for how many, and why.

        Raises:
            _Failed: naming the file.
        """
        boxes, holes = samples.boxes[index], []
        decode = decode_frames if self.table.kind == "frames" else decode_video
        for record, places in self._files(samples, index):
            job.at(None)
            media = self.table.media(record)
            job.at(media)
            if self.faults.blocks(media) and not self.faults.is_due(media):
                raise _Failed(media, None)
            replaced, causes = 0, []
            try:
                if self.table.kind == "image":
                    motions = None if samples.motions is None else samples.motions[index]
                    decode_image(media, boxes, samples.size, out, motions)
                else:
                    whole = len(places) == out.shape[1]
                    part = (
                        out
                        if whole
                        else np.empty((len(out), len(places), *out.shape[2:]), np.uint8)
                    )
                    replaced = decode(
                        media, samples.frames[index, places], boxes, samples.size, part, causes
                    )
                    if not whole:
                        out[:, places] = part
            except (DecodeError, OSError, MemoryError) as error:
                raise _Failed(media, cause_of(error)) from None
            except Exception as error:  # no file may end a run, whatever it does to a decoder
                LOG.debug("%s: %s", self.table.name, media.path, exc_info=True)
                raise _Failed(media, Cause(f"{type(error).__name__}: {error}")) from None
            if replaced:
                holes.append((media, replaced, causes[0] if causes else None))
            if not job.given_up:
                self.faults.came(media, step, is_whole=not replaced)
        return holes

    def _files(self, samples: Samples, index: int) -> list[tuple[int, np.ndarray]]:
        """The files of one sample: catalog id, and places of the frames that come from it."""
        pieces = samples.pieces[index]
        records, each = self.table.records[pieces], samples.frames.shape[1] // len(pieces)
        if len(pieces) == 1:
            return [(int(records[0]), np.arange(each))]
        found = []
        for record in dict.fromkeys(records.tolist()):
            mine = np.flatnonzero(records == record)
            found.append((record, (mine[:, None] * each + np.arange(each)).reshape(-1)))
        return found

    def _start_dali(self, started: Started, stopped: Callable[[], bool]) -> list[int]:
        """Read the files and hand them to a graph; returns the places of samples whose files have
        changed or cannot be read, which are the CPU's.
        """
        samples, items, data, left = started.samples, [], [], []
        wanted = [(place, self._dali_items(started, place)) for place in started.on_dali.tolist()]
        reading = [[self._read(media) for media, _ in mine] for _, mine in wanted]
        for (place, mine), jobs in zip(wanted, reading):
            read = [self._result(job, stopped) for job in jobs] or [None]
            for (media, _), cause in zip(mine, read):
                if isinstance(cause, Cause):
                    started.causes[place] = media, cause
            if any(not isinstance(content, np.ndarray) for content in read):
                left.append(place)
            else:
                items += mine
                data += read
        index = started.on_dali = np.setdiff1d(started.on_dali, left)
        if not len(index):
            return left
        feeds: dict[str, list[np.ndarray]] = {"data": data}
        files, each = [media for media, _ in items], len(items) // len(index)
        boxes, flips = (
            np.repeat(array[index], each, axis=0) for array in (samples.boxes, samples.flips)
        )
        if samples.motions is not None:
            kind = MovingImages
            regions = [
                through_region(motions, media.width, media.height, samples.size)
                for motions, media in zip(samples.motions[index], files)
            ]
            feeds |= {
                "sides": [sides.astype(np.float32) for _, sides, _ in regions],
                "matrices": [matrices.astype(np.float32) for *_, matrices in regions],
            }
            boxes = np.stack([region for region, *_ in regions])[:, None]
        elif self.table.kind in ("image", "frames"):
            kind = EncodedImages
        else:
            kind = EncodedVideos
            feeds["frames"] = [frames for _, frames in items]
        for view in range(boxes.shape[1]):
            edges = boxes[:, view].astype(np.float32)
            feeds |= {
                f"start{view}": list(edges[:, :2]),
                f"end{view}": list(edges[:, 2:]),
                f"flip{view}": _scalars(flips[:, view]),
            }
        run = _GraphRun(
            self._graph(kind, samples, len(items)), feeds, files, each, time.monotonic()
        )
        try:
            run.graph.start(feeds)
        except PipelineError as error:  # what it has taken of the feeds, nobody knows
            LOG.warning(
                "%s: DALI does not take a batch (%s); the CPU decodes it", self.table.name, error
            )
            for graphs in self._graphs.values():
                graphs[:] = [graph for graph in graphs if graph is not run.graph]
            return left + index.tolist()
        started.run = run
        self._runs.append(run)
        return left

    def _read(self, media: Media) -> Job:
        """Begin to read a file for DALI; the job gives None where it is not what the probe saw, or
        why it fails.
        """

        def read(job: Job) -> np.ndarray | Cause | None:
            job.at(media)
            try:
                if self.table.kind in ("image", "frames"):
                    data = media.span.read(MAX_IMAGE_BYTES)
                    content = data.tobytes()
                    header = read_image_header(content)
                    same = (header.codec, header.width, header.height) == (
                        media.codec,
                        media.width,
                        media.height,
                    )
                    return data if same and has_readable_header(content) else None
                return media.span.read() if stamp_of(media.span.path) == media.stamp else None
            except Exception as error:  # the CPU tries, and may say something else
                return cause_of(error)

        return self._readers.submit(self.table.name, read)

    def _result(self, job: Job, stopped: Callable[[], bool]) -> np.ndarray | Cause | None:
        """What was read, or why it was not; None where it is of no use."""
        while not self._readers.wait(job, self.faults.limits.hang_seconds):
            if stopped():
                return None
        return hang(self.faults.limits.hang_seconds) if job.given_up else job.future.result()

    def _finish_dali(self, started: Started) -> list[int]:
        """Write what the graph made; returns the places that it could not do, which are the CPU's
        now.
        """
        run = self._runs.popleft()
        try:
            self._write_views(started.out, started.on_dali, run.graph.collect())
            for place in started.on_dali.tolist():
                # the disk may hang when it is asked for a file's time
                for media in started.named.get(place, ()):
                    self._readers.submit(
                        self.table.name, functools.partial(self._came, media, started.step)
                    )
            return []
        except PipelineError as error:
            failed = self._by_halves(started, np.arange(len(started.on_dali)), str(error))
        for place, reason in failed:
            media = run.files[int(np.flatnonzero(started.on_dali == place)[0]) * run.each]
            started.causes[place] = media, Cause(f"DALI: {reason}")
            if not self._rescued:
                self._rescued = True
                LOG.warning(
                    "%s: DALI cannot decode %s (%s); the CPU tries, here and from now on",
                    self.table.name,
                    media.path,
                    reason,
                )
        return [place for place, _ in failed]

    def _came(self, media: Media, step: int, job: Job) -> None:
        job.at(media)
        self.faults.came(media, step)

    def _by_halves(self, started: Started, part: np.ndarray, reason: str) -> list[tuple[int, str]]:
        """A batch that failed, again in ever smaller parts: DALI does not say whose fault it was.

        Args:
            part: int array, which of the graph's samples. reason: of the failure of all of them
                together.

        Returns:
            (place, reason) of those that fail alone.
        """
        if len(part) == 1:
            return [(int(started.on_dali[part[0]]), reason)]
        failed, run = [], started.run
        for half in np.array_split(part, 2):
            items = (half[:, None] * run.each + np.arange(run.each)).reshape(-1).tolist()
            try:
                views = run.graph.run(
                    {name: [values[item] for item in items] for name, values in run.feeds.items()}
                )
                self._write_views(started.out, started.on_dali[half], views)
                if started.out.is_cuda:  # the next run may use the memory again
                    torch.cuda.current_stream(started.out.device).synchronize()
            except PipelineError as error:
                failed += self._by_halves(started, half, str(error))
        return failed

    def _write_views(self, out: torch.Tensor, places: np.ndarray, outputs: list) -> None:
        """Write what a graph made, one tensor a view."""
        for view, clips in enumerate(outputs):
            clips = torch.from_dlpack(clips)
            self._write(
                out[:, view : view + 1], places, clips.view(len(places), 1, -1, *clips.shape[2:])
            )
        self.faults.decoded((), 0, 0)

    def _dali_items(self, started: Started, index: int) -> list[tuple[Media, np.ndarray]]:
        """What DALI decodes for one sample: (file, frames), one a piece, or one a frame of a
        folder; none if a file is known to be of no use.
        """
        pieces, frames = started.samples.pieces[index], started.samples.frames[index]
        media = [self.table.media(self.table.records[piece]) for piece in pieces]
        if any(map(self.faults.blocks, media)):
            return []
        started.named[index] = list(filter(self.faults.known, media))
        if self.table.kind != "frames":
            return list(zip(media, frames.reshape(len(pieces), -1)))
        return [(media[0].frame(frame), frames[:0]) for frame in frames.tolist()]

    def _graph(self, kind: type, samples: Samples, amount: int) -> Graph:
        """A built graph of this kind and shape that is not at work; one more where all are, as many
        as steps ahead.
        """
        key = (kind, samples.size, samples.boxes.shape[1], samples.clip_frames)
        idle = [graph for graph in self._graphs.setdefault(key, []) if not graph.under_way]
        if idle and idle[0].capacity >= amount:
            return idle[0]
        if idle:  # outgrown
            self._graphs[key].remove(idle[0])
        # a source's slots differ by one between steps: room for it saves building the graph twice
        room = amount + samples.frames.shape[1]
        self._graphs[key].append(
            kind(
                samples.size,
                samples.boxes.shape[1],
                room,
                self._threads,
                self._device_id,
                samples.clip_frames,
            )
        )
        return self._graphs[key][-1]

    @staticmethod
    def _write(out: torch.Tensor, index: np.ndarray, clips: torch.Tensor) -> None:
        """Copy (n, V, F, ...) clips to their rows; one frame of a still image fills the whole clip."""
        clips = clips.expand(-1, -1, out.shape[2], -1, -1, -1)
        if len(index) == len(out):
            out.copy_(clips)
        else:
            out[torch.as_tensor(index, device=out.device)] = clips.to(out.dtype)


def _scalars(values: np.ndarray) -> list[np.ndarray]:
    return [np.array(value, np.int32) for value in values.reshape(-1)]
