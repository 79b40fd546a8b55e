"""Decoding one planned sample on the CPU, and its substitutes while that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.decoders import DECODERS
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.recheck import RECHECK_SECONDS, is_decodable
from omnidali.errors import MACHINE, DecodeError
from omnidali.loading.failures.shortage import Shortage
from omnidali.loading.failures.tracker import FailureTracker, ReplacedFrames
from omnidali.loading.thread_pool import Task
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.samples import Samples
from omnidali.planning.source_plan import CLASS_SUBSTITUTES
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.backoff import Backoff
from omnidali.utils.log import LOG

_SUBSTITUTES = 255  # of one clip; far more than the limits let through


@dataclass(frozen=True)
class DecodedSample:
    """What a sample's pixels show.

    Attributes:
        replaced: frames that a damaged file did not give.
        substitute: the sample that was decoded; None for the planned one.
    """

    replaced: list[ReplacedFrames]
    substitute: Samples | None


class _SampleError(Exception):
    """A file of a sample does not decode.

    Args:
        media: the file.
        cause: why; None where it was not tried, as it is quarantined.
    """

    def __init__(self, media: Media, cause: Cause | None):
        super().__init__(str(cause))
        self.media = media
        self.cause = cause


class SampleDecoder:
    """Decodes samples of one source on the calling thread.

    Args:
        plan: names the substitutes.
        table: of the source.
        tracker: learns of every file that fails.
    """

    def __init__(
        self, plan: TrainPlan | EvaluationPlan, table: SourceTable, tracker: FailureTracker
    ):
        self._plan = plan
        self._table = table
        self._tracker = tracker
        self._shortage = Shortage(table.name, tracker.limits.hang_seconds)

    def decode(
        self,
        task: Task,
        samples: Samples,
        place: int,
        *,
        pixels: np.ndarray,
        step: int,
        earlier: tuple[Media, Cause] | None,
    ) -> DecodedSample | None:
        """Decode a sample, or the first of its substitutes that can be decoded.

        Args:
            task: that this is part of.
            samples: as planned.
            place: of the sample among them.
            pixels: uint8 (V, F, size, size, 3), written; F is T for a moving image.
            step: number of the step.
            earlier: file and cause of an earlier back end's failure.

        Returns:
            None where nothing was decoded: the sample only fills up an evaluation's last step, has
            no substitute, or nobody waits for it any more.

        Raises:
            BadSourceError: if too many files fail.
        """
        sample: Samples | None = samples.take(np.array([place]))
        attempt = 0
        while sample is not None and samples.valid[place] and not task.abandoned:
            try:
                replaced = self._decode_patiently(task, sample, pixels, step)
                return DecodedSample(replaced, substitute=sample if attempt else None)
            except _SampleError as error:
                if task.abandoned:
                    break
                self._report(error, task, step, attempt=attempt, earlier=earlier)

            attempt += 1
            earlier = None
            if attempt > _SUBSTITUTES:
                raise self._tracker.no_substitute_error(_SUBSTITUTES)
            sample = self._plan.substitute(samples, place, attempt)
            if sample is None:
                self._tracker.on_item_lost()
        return None

    def _report(
        self,
        error: _SampleError,
        task: Task,
        step: int,
        *,
        attempt: int,
        earlier: tuple[Media, Cause] | None,
    ) -> None:
        """Report a failure; the trouble of an earlier back end may be its cause."""
        tracker = self._tracker
        media = error.media
        cause = error.cause
        if cause is None or (tracker.blocks(media) and not tracker.is_new_trouble(media, cause)):
            tracker.on_quarantined()
            if attempt > CLASS_SUBSTITUTES:  # a class may be of one file, which is quarantined
                tracker.on_clip_missing()
            return

        # the recheck is no part of the time that the clip took, and has a limit of its own
        task.mark_file(media)
        patience = min(RECHECK_SECONDS, tracker.limits.hang_seconds / 2)
        # DALI reads the frames of a folder: another path, but the same item
        if earlier and (self._table.kind.is_folder or earlier[0].path == media.path):
            cause = earlier[1].then(cause)
        tracker.on_decode_error(
            media,
            cause,
            step,
            is_useless=lambda: is_decodable(media, self._table.kind, patience) is False,
        )

    def _decode_patiently(
        self, task: Task, sample: Samples, pixels: np.ndarray, step: int
    ) -> list[ReplacedFrames]:
        """As :meth:`_decode_once`. Where the machine is to blame, try again until its trouble is
        over, or has lasted too long: no file is replaced for it.
        """
        begun = time.monotonic()
        backoff = Backoff(first=0.05, longest=1.0)
        while True:
            error: _SampleError | None = None
            replaced: list[ReplacedFrames] = []
            try:
                replaced = self._decode_once(task, sample, pixels, step)
                causes = [(part.media, part.cause) for part in replaced]
            except _SampleError as caught:
                error = caught
                causes = [(caught.media, caught.cause)]

            blamed = [
                (media.path, cause)
                for media, cause in causes
                if cause is not None and cause.trouble == MACHINE
            ]
            if blamed and task.is_wanted and self._shortage.holds(*blamed[0], begun):
                task.mark_file(None)  # a file that is not at work does not hang
                backoff.pause()
                continue

            if error is not None:
                raise error
            if not blamed:
                self._shortage.on_decoded()
            return replaced

    def _decode_once(
        self, task: Task, sample: Samples, pixels: np.ndarray, step: int
    ) -> list[ReplacedFrames]:
        """Decode one sample into ``pixels``; returns the frames that were replaced.

        Raises:
            _SampleError: naming the file.
        """
        replaced = []
        for record, places in self._files(sample):
            task.mark_file(None)
            media = self._table.media(record)
            task.mark_file(media)
            if self._tracker.blocks(media) and not self._tracker.is_due(media):
                raise _SampleError(media, None)

            causes: list[Cause] = []
            try:
                count = self._decode_file(media, sample, places, pixels, causes)
            except (DecodeError, OSError, MemoryError) as error:
                raise _SampleError(media, cause_of(error)) from None
            except Exception as error:  # no file may end a run, whatever it does to a decoder
                LOG.debug("%s: %s", self._table.name, media.path, exc_info=True)
                raise _SampleError(media, Cause(f"{type(error).__name__}: {error}")) from None

            if count:
                replaced.append(ReplacedFrames(media, count, causes[0] if causes else None))
            if not task.abandoned:
                self._tracker.on_file_decoded(media, step, is_whole=not count)
        return replaced

    def _decode_file(
        self,
        media: Media,
        sample: Samples,
        places: np.ndarray,
        pixels: np.ndarray,
        causes: list[Cause],
    ) -> int:
        """Decode the frames at these places, which come from one file; returns how many of them
        were replaced.
        """
        boxes = sample.boxes[0]
        if sample.motions is not None:
            decode_image(media, boxes, sample.size, pixels, sample.motions[0])
            return 0

        decode = DECODERS[self._table.kind]
        frames = sample.frames[0, places]
        if len(places) == pixels.shape[1]:
            return decode(media, frames, boxes, sample.size, pixels, causes)

        part = np.empty((len(pixels), len(places), *pixels.shape[2:]), np.uint8)
        count = decode(media, frames, boxes, sample.size, part, causes)
        pixels[:, places] = part
        return count

    def _files(self, sample: Samples) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the catalog ids of a sample's files, and the places of the frames of each."""
        records = self._table.records[sample.pieces[0]]
        count = sample.frames.shape[1] // len(records)
        for record in dict.fromkeys(records.tolist()):
            pieces = np.flatnonzero(records == record)
            yield record, (pieces[:, None] * count + np.arange(count)).reshape(-1)
