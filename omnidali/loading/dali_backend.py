"""DALI's back end: files are read by threads of its own and decoded by a graph."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.loading.backend import PendingSamples, Workers
from omnidali.loading.dali_inputs import FileContent, read_content
from omnidali.loading.failures.dali_failures import DaliFailures
from omnidali.loading.failures.tracker import FailureTracker, timeout_cause
from omnidali.loading.graph_output import write_views
from omnidali.loading.graph_pool import GraphRun
from omnidali.loading.thread_pool import Task
from omnidali.pipelines import (
    EncodedImages,
    EncodedVideos,
    FeedError,
    Feeds,
    Graph,
    GraphBuildError,
    MovingImages,
    PipelineError,
    as_scalars,
)
from omnidali.planning.camera_motion import through_region
from omnidali.planning.samples import Samples
from omnidali.utils.log import LOG


@dataclass(frozen=True)
class _Inputs:
    """What a graph decodes of some samples: n * P files, P being pieces, or frames of a folder.

    Attributes:
        places: of the n samples.
        files: n * P.
        contents: what a graph is fed of them.
        failed_before: files and folders whose failures are on record.
    """

    places: list[int]
    files: list[Media]
    contents: list[FileContent]
    failed_before: list[Media]

    @property
    def files_a_sample(self) -> int:
        return len(self.files) // len(self.places)


@dataclass(frozen=True, eq=False)
class _Run:
    """Samples on their way through a graph, since ``begun`` by the monotonic clock."""

    graph: GraphRun
    feeds: Feeds
    inputs: _Inputs
    begun: float


class DaliBackend:
    """Decodes samples of one source with DALI; what it cannot decode is left to the next back end.

    Args:
        table: of the source.
        workers: their threads read, and their graphs decode.
        tracker: learns of files that decode again.
        failures: learns of files that DALI does not decode.
    """

    def __init__(
        self,
        table: SourceTable,
        *,
        workers: Workers,
        tracker: FailureTracker,
        failures: DaliFailures,
    ):
        self._table = table
        self._graphs = workers.graphs
        self._readers = workers.readers
        self._device = workers.device
        self._tracker = tracker
        self._failures = failures
        self._runs: dict[PendingSamples, _Run] = {}

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
        graph = self._graphs.submit(
            self._table.name,
            kind,
            samples=pending.samples,
            count=len(inputs.files),
            feeds=feeds,
        )
        run = _Run(graph, feeds, inputs, time.monotonic())
        self._runs[pending] = run
        return [place for place in places if place not in inputs.places]

    def finish(self, pending: PendingSamples, stopped: Callable[[], bool]) -> list[int]:
        """Write what the graph made; returns the places that it could not decode."""
        run = self._runs.pop(pending, None)
        if run is None:
            return []
        try:
            return self._collect(pending, run)
        finally:
            run.graph.release()

    def drop(self, pending: PendingSamples) -> None:
        """Let the graph end; it is free for other samples then."""
        run = self._runs.pop(pending, None)
        if run is not None:
            run.graph.release()

    def in_flight(self) -> list[tuple[Media, float]]:
        now = time.monotonic()
        decoding = [
            (media, now - run.begun)
            for run in list(self._runs.values())
            for media in run.inputs.files
        ]
        return self._readers.in_flight(self._table.name) + decoding

    def _collect(self, pending: PendingSamples, run: _Run) -> list[int]:
        """Write what the graph made; returns the places that are left to the next back end."""
        places = run.inputs.places
        pieces = pending.samples.pieces[places]
        try:
            blank = self._write_views(pending, places, run.graph.collect())
        except GraphBuildError as error:
            if self._failures.takes(pieces).any():  # else an earlier step has told it
                self._failures.give_up(pieces, str(error))
            return places
        except FeedError as error:
            LOG.warning(
                "%s: DALI does not take a batch (%s); the CPU decodes it", self._table.name, error
            )
            return places
        except PipelineError as error:
            part = list(range(len(places)))
            left, failed = self._run_halves(pending, run, part, reason=str(error))
            for number, reason in failed:
                self._note_failure(pending, run, number, reason=reason)
            return left + [places[number] for number, _ in failed]

        self._failures.on_decoded(pieces)
        for media in run.inputs.failed_before:
            # the disk may hang when it is asked for a file's time
            note = functools.partial(self._note_decoded, media, pending.step)
            self._readers.submit(self._table.name, note)
        return blank

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
                self._readers.submit(
                    self._table.name, functools.partial(self._read_file, file, wanted)
                )
                for file, wanted in files
            ]
            reads.append((place, media, files, tasks))

        inputs = _Inputs([], [], [], [])
        for place, media, files, tasks in reads:
            results = [self._result(task, stopped) for task in tasks]
            for (file, _), result in zip(files, results, strict=True):
                if isinstance(result, Cause):
                    pending.earlier[place] = (file, result)
            contents = [result for result in results if isinstance(result, FileContent)]
            if len(contents) == len(files):
                inputs.places.append(place)
                inputs.files.extend(file for file, _ in files)
                inputs.contents.extend(contents)
                inputs.failed_before.extend(filter(self._tracker.failure_of, media))
        return inputs

    def _files(
        self, media: Sequence[Media], frames: np.ndarray
    ) -> list[tuple[Media, np.ndarray | None]]:
        """What to decode for a sample: one file a piece with its frames, or one image a frame."""
        if self._table.kind.is_folder:
            return [(media[0].frame(frame), None) for frame in frames.tolist()]
        if self._table.kind.has_images:
            return [(file, None) for file in media]
        return list(zip(media, frames.reshape(len(media), -1), strict=True))

    def _read_file(
        self, media: Media, frames: np.ndarray | None, task: Task
    ) -> FileContent | Cause | None:
        """Read what is needed of a file; None if it is not what the probe saw, or why it fails."""
        task.mark_file(media)
        try:
            return read_content(media, frames, shows_hidden=self._graphs.on_gpu)
        except Exception as error:  # the CPU tries as well, and may say something else
            return cause_of(error)

    def _result(
        self, task: Task[FileContent | Cause | None], stopped: Callable[[], bool]
    ) -> FileContent | Cause | None:
        """What was read, or why it was not; None if it is of no use."""
        hang_seconds = self._tracker.limits.hang_seconds
        while not self._readers.wait(task, hang_seconds):
            if stopped():
                return None
        return timeout_cause(hang_seconds) if task.abandoned else task.future.result()

    def _feeds(self, samples: Samples, inputs: _Inputs) -> tuple[type[Graph], Feeds]:
        """The graph that decodes the samples, and its feeds."""
        kind: type[Graph] = EncodedVideos
        feeds: Feeds = {"data": [content.data for content in inputs.contents]}
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
            feeds["frames"] = [content.frames for content in inputs.contents]
            feeds["sides"] = [np.array(media.stored[::-1], np.int32) for media in inputs.files]
            feeds["colours"] = [content.colours for content in inputs.contents]

        for view in range(boxes.shape[1]):
            edges = boxes[:, view].astype(np.float32)
            feeds[f"start{view}"] = list(edges[:, :2])
            feeds[f"end{view}"] = list(edges[:, 2:])
            feeds[f"flip{view}"] = as_scalars(flips[:, view])
        return kind, feeds

    def _run_halves(
        self, pending: PendingSamples, run: _Run, part: list[int], *, reason: str
    ) -> tuple[list[int], list[tuple[int, str]]]:
        """Run a batch that failed again in ever smaller parts: DALI does not say which file it was.

        Args:
            pending: the samples.
            run: that failed.
            part: which of the run's samples to run again.
            reason: of the failure of all of them together.

        Returns:
            Places that decode and are left to the next back end all the same; and of those that
            fail alone, which of the run's samples, and why.
        """
        pieces = pending.samples.pieces[[run.inputs.places[number] for number in part]]
        if len(part) == 1:
            for failing in self._failing_alone(run, part[0], pieces[0]):
                self._failures.on_failed(failing, reason, pending.step)
            return [], [(part[0], reason)]

        # those that an earlier run has shown to fail go, and the others are tried together
        is_taken = self._failures.takes(pieces)
        numbers = np.array(part)
        failed = [(number, reason) for number in numbers[~is_taken].tolist()]
        others = numbers[is_taken]
        if not len(others):
            return [], failed
        left: list[int] = []
        count = run.inputs.files_a_sample
        for half in [others] if failed else np.array_split(others, 2):
            files = (half[:, None] * count + np.arange(count)).reshape(-1).tolist()
            feeds = {name: [values[file] for file in files] for name, values in run.feeds.items()}
            places = [run.inputs.places[number] for number in half]
            try:
                left += self._write_views(pending, places, run.graph.again(feeds))
                self._failures.on_decoded(pending.samples.pieces[places])
            except PipelineError as error:
                more = self._run_halves(pending, run, half.tolist(), reason=str(error))
                left += more[0]
                failed += more[1]
        return left, failed

    def _failing_alone(self, run: _Run, number: int, pieces: np.ndarray) -> list[np.ndarray]:
        """Of a sample's pieces, int (P,), those that fail alone; all together if none does.

        Args:
            run: that failed.
            number: of the sample in it.
            pieces: of the sample.
        """
        count = run.inputs.files_a_sample
        if len(pieces) == 1 or len(pieces) != count:  # one file, or a folder's images
            return [pieces]
        failing = []
        for place, file in enumerate(range(number * count, (number + 1) * count)):
            try:
                run.graph.again({name: [values[file]] for name, values in run.feeds.items()})
            except PipelineError:
                failing.append(pieces[place : place + 1])
        return failing or [pieces]

    def _note_failure(
        self, pending: PendingSamples, run: _Run, number: int, *, reason: str
    ) -> None:
        """Keep the cause for the next back end; ``number`` is that of one of the run's samples."""
        media = run.inputs.files[number * run.inputs.files_a_sample]
        pending.earlier[run.inputs.places[number]] = (media, Cause(f"DALI: {reason}"))

    def _note_decoded(self, media: Media, step: int, task: Task) -> None:
        task.mark_file(media)
        self._tracker.on_file_decoded(media, step)

    def _write_views(
        self, pending: PendingSamples, places: Sequence[int], outputs: Sequence[object]
    ) -> list[int]:
        """Write what a graph made; arguments and result as of :func:`write_views`."""
        is_video = not self._table.kind.has_images
        blank = write_views(
            pending, places, outputs=outputs, device=self._device, is_video=is_video
        )
        self._tracker.on_clip_decoded()
        return blank
