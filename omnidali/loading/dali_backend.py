"""DALI's back end: files are read by threads of its own and decoded by a graph."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.limits import MAX_IMAGE_BYTES
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.image import has_readable_header
from omnidali.loading.backend import GraphPool, PendingSamples
from omnidali.loading.failures.tracker import FailureTracker, timeout_cause
from omnidali.loading.thread_pool import AbandonableThreadPool, Task
from omnidali.pipelines import (
    EncodedImages,
    EncodedVideos,
    Feeds,
    Graph,
    MovingImages,
    PipelineError,
    as_scalars,
)
from omnidali.planning.camera_motion import through_region
from omnidali.planning.samples import Samples
from omnidali.utils.log import LOG

_READERS = 4
_CLOSE_SECONDS = 0.5  # for the threads that read


@dataclass(frozen=True)
class _Inputs:
    """What a graph decodes of some samples: n * P files, P being pieces, or frames of a folder.

    Attributes:
        places: of the n samples.
        files: n * P.
        data: their bytes, uint8 (bytes,) each.
        frames: int32 (F / P,) each, which frames of a video.
        failed_before: files and folders whose failures are on record.
    """

    places: list[int]
    files: list[Media]
    data: list[np.ndarray]
    frames: list[np.ndarray]
    failed_before: list[Media]

    @property
    def files_a_sample(self) -> int:
        return len(self.files) // len(self.places)


@dataclass(frozen=True, eq=False)
class _GraphRun:
    """A graph at work, since ``begun`` by the monotonic clock."""

    graph: Graph
    feeds: Feeds
    inputs: _Inputs
    begun: float


class DaliBackend:
    """Decodes samples of one source with DALI; what it cannot decode is left to the next back end.

    Args:
        table: of the source.
        graphs: of DALI, for this back end alone.
        tracker: learns of files that decode again.
    """

    def __init__(self, table: SourceTable, *, graphs: GraphPool, tracker: FailureTracker):
        self._table = table
        self._graphs = graphs
        self._tracker = tracker
        self._readers = AbandonableThreadPool(_READERS, "read")
        self._runs: dict[PendingSamples, _GraphRun] = {}
        self._has_warned = False

    def start(
        self, pending: PendingSamples, places: Sequence[int], stopped: Callable[[], bool]
    ) -> list[int]:
        """Read the files and start a graph; returns the places of samples of which a file has
        changed or cannot be read.
        """
        inputs = self._read(pending, places, stopped)
        if not inputs.places:
            return list(places)
        kind, feeds = self._feeds(pending.samples, inputs)
        graph = self._graphs.take(kind, pending.samples, len(inputs.files))

        run = _GraphRun(graph, feeds, inputs, time.monotonic())
        try:
            graph.start(feeds)
        except PipelineError as error:
            LOG.warning(
                "%s: DALI does not take a batch (%s); the CPU decodes it", self._table.name, error
            )
            # it is unknown how much it has taken of the feeds
            self._graphs.discard(graph)
            return list(places)
        self._runs[pending] = run
        return [place for place in places if place not in inputs.places]

    def finish(self, pending: PendingSamples, stopped: Callable[[], bool]) -> list[int]:
        """Write what the graph made; returns the places that it could not decode."""
        run = self._runs.pop(pending, None)
        if run is None:
            return []
        try:
            self._write_views(pending, run.inputs.places, run.graph.collect())
        except PipelineError as error:
            count = len(run.inputs.places)
            failed = self._run_halves(pending, run, list(range(count)), reason=str(error))
            for number, reason in failed:
                self._note_failure(pending, run, number, reason=reason)
            return [run.inputs.places[number] for number, _ in failed]

        for media in run.inputs.failed_before:
            # the disk may hang when it is asked for a file's time
            note = functools.partial(self._note_decoded, media, pending.step)
            self._readers.submit(self._table.name, note)
        return []

    def drop(self, pending: PendingSamples) -> None:
        """Let the graph end; it is free for other samples then."""
        run = self._runs.pop(pending, None)
        if run is not None:
            with contextlib.suppress(PipelineError):
                run.graph.collect()

    def in_flight(self) -> list[tuple[Media, float]]:
        now = time.monotonic()
        decoding = [
            (media, now - run.begun)
            for run in list(self._runs.values())
            for media in run.inputs.files
        ]
        return self._readers.in_flight(self._table.name) + decoding

    def close(self) -> None:
        self._readers.close(_CLOSE_SECONDS)

    def _read(
        self, pending: PendingSamples, places: Sequence[int], stopped: Callable[[], bool]
    ) -> _Inputs:
        """Read the files of the samples; those of which one cannot be had are left out."""
        reads = []
        for place in places:
            records = self._table.records[pending.samples.pieces[place]]
            media = [self._table.media(record) for record in records]
            if any(map(self._tracker.blocks, media)):
                continue
            files = self._files(media, pending.samples.frames[place])
            tasks = [
                self._readers.submit(self._table.name, functools.partial(self._read_file, file))
                for file, _ in files
            ]
            reads.append((place, media, files, tasks))

        inputs = _Inputs([], [], [], [], [])
        for place, media, files, tasks in reads:
            contents = [self._result(task, stopped) for task in tasks]
            for (file, _), content in zip(files, contents, strict=True):
                if isinstance(content, Cause):
                    pending.earlier[place] = (file, content)
            data = [content for content in contents if isinstance(content, np.ndarray)]
            if len(data) == len(files):
                inputs.places.append(place)
                inputs.files.extend(file for file, _ in files)
                inputs.frames.extend(frames for _, frames in files)
                inputs.data.extend(data)
                inputs.failed_before.extend(filter(self._tracker.failure_of, media))
        return inputs

    def _files(self, media: Sequence[Media], frames: np.ndarray) -> list[tuple[Media, np.ndarray]]:
        """What to decode for a sample: (file, frames), one a piece, or one a frame of a folder."""
        if self._table.kind.is_folder:
            return [(media[0].frame(frame), frames[:0]) for frame in frames.tolist()]
        return list(zip(media, frames.reshape(len(media), -1), strict=True))

    def _read_file(self, media: Media, task: Task) -> np.ndarray | Cause | None:
        """Read a file: its bytes, None if it is not what the probe saw, or why it fails."""
        task.mark_file(media)
        try:
            if self._table.kind.has_images:
                content = media.span.read_bytes(MAX_IMAGE_BYTES)
                is_same = _is_probed_image(content, media)
                return np.frombuffer(content, np.uint8) if is_same else None
            is_same = stamp_of(media.span.path) == media.stamp
            return np.frombuffer(media.span.read_bytes(), np.uint8) if is_same else None
        except Exception as error:  # the CPU tries as well, and may say something else
            return cause_of(error)

    def _result(
        self, task: Task[np.ndarray | Cause | None], stopped: Callable[[], bool]
    ) -> np.ndarray | Cause | None:
        """What was read, or why it was not; None if it is of no use."""
        hang_seconds = self._tracker.limits.hang_seconds
        while not self._readers.wait(task, hang_seconds):
            if stopped():
                return None
        return timeout_cause(hang_seconds) if task.abandoned else task.future.result()

    def _feeds(self, samples: Samples, inputs: _Inputs) -> tuple[type[Graph], Feeds]:
        """The graph that decodes the samples, and its feeds."""
        kind: type[Graph] = EncodedVideos
        feeds: Feeds = {"data": inputs.data}
        boxes, flips = (
            np.repeat(array[inputs.places], inputs.files_a_sample, axis=0)
            for array in (samples.boxes, samples.flips)
        )
        if samples.motions is not None:
            kind = MovingImages
            regions = [
                through_region(motions, media.width, media.height, samples.size)
                for motions, media in zip(samples.motions[inputs.places], inputs.files, strict=True)
            ]
            feeds["sides"] = [sides.astype(np.float32) for _, sides, _ in regions]
            feeds["matrices"] = [matrices.astype(np.float32) for *_, matrices in regions]
            boxes = np.stack([region for region, *_ in regions])[:, None]
        elif self._table.kind.has_images:
            kind = EncodedImages
        else:
            feeds["frames"] = inputs.frames

        for view in range(boxes.shape[1]):
            edges = boxes[:, view].astype(np.float32)
            feeds[f"start{view}"] = list(edges[:, :2])
            feeds[f"end{view}"] = list(edges[:, 2:])
            feeds[f"flip{view}"] = as_scalars(flips[:, view])
        return kind, feeds

    def _run_halves(
        self, pending: PendingSamples, run: _GraphRun, part: list[int], *, reason: str
    ) -> list[tuple[int, str]]:
        """Run a batch that failed again in ever smaller parts: DALI does not say which file it was.

        Args:
            pending: the samples.
            run: that failed.
            part: which of the run's samples to run again.
            reason: of the failure of all of them together.

        Returns:
            Of those that fail alone: which of the run's samples, and why.
        """
        if len(part) == 1:
            return [(part[0], reason)]

        failed = []
        count = run.inputs.files_a_sample
        for half in np.array_split(part, 2):
            files = (half[:, None] * count + np.arange(count)).reshape(-1).tolist()
            feeds = {name: [values[file] for file in files] for name, values in run.feeds.items()}
            try:
                views = run.graph.run(feeds)
                self._write_views(pending, [run.inputs.places[number] for number in half], views)
                if pending.out.is_cuda:  # the next run may use the memory again
                    torch.cuda.current_stream(pending.out.device).synchronize()
            except PipelineError as error:
                failed += self._run_halves(pending, run, half.tolist(), reason=str(error))
        return failed

    def _note_failure(
        self, pending: PendingSamples, run: _GraphRun, number: int, *, reason: str
    ) -> None:
        """Keep the cause for the next back end; ``number`` is that of one of the run's samples."""
        media = run.inputs.files[number * run.inputs.files_a_sample]
        pending.earlier[run.inputs.places[number]] = (media, Cause(f"DALI: {reason}"))
        if not self._has_warned:
            self._has_warned = True
            LOG.warning(
                "%s: DALI cannot decode %s (%s); the CPU tries, here and from now on",
                self._table.name,
                media.path,
                reason,
            )

    def _note_decoded(self, media: Media, step: int, task: Task) -> None:
        task.mark_file(media)
        self._tracker.on_file_decoded(media, step)

    def _write_views(
        self, pending: PendingSamples, places: Sequence[int], outputs: Sequence[object]
    ) -> None:
        """Write what a graph made, one tensor a view."""
        for view, output in enumerate(outputs):
            clips = torch.from_dlpack(output)
            clips = clips.view(len(places), 1, -1, *clips.shape[2:])
            pending.write(places, clips, slice(view, view + 1))
        self._tracker.on_clip_decoded()


def _is_probed_image(content: bytes, media: Media) -> bool:
    """Whether the image is still what the probe saw, and DALI's decoder reads its header, too."""
    header = read_image_header(content)
    seen = (header.codec, header.width, header.height)
    return seen == (media.codec, media.width, media.height) and has_readable_header(content)
