"""Decoding one planned sample on the CPU, and its substitutes while that fails."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.decoders import DECODERS
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.recheck import RECHECK_SECONDS, is_decodable
from omnidali.errors import MACHINE, DecodeError
from omnidali.loading.failures.tracker import FailureTracker, ReplacedFrames
from omnidali.loading.thread_pool import Task
from omnidali.planning.samples import Samples
from omnidali.planning.source_plan import CLASS_SUBSTITUTES
from omnidali.utils.backoff import Backoff
from omnidali.utils.log import LOG

_SUBSTITUTES = 255  # of one clip; far more than the limits let through
_WARN_AGAIN_SECONDS = 60.0

# a file that does not decode, and why; None if it was not tried, as it is quarantined
_Failure = tuple[Media, Cause | None]


class Substitutes(Protocol):
    """What names the substitutes of samples that cannot be decoded: a plan."""

    def substitute(self, samples: Samples, index: int, attempt: int) -> Samples | None:
        """See :meth:`omnidali.planning.train_plan.TrainPlan.substitute`; None if there is none."""


@dataclass(frozen=True)
class DecodedSample:
    """What a sample's pixels show.

    Attributes:
        replaced: frames that a damaged file did not give.
        substitute: the sample that was decoded; None for the planned one.
    """

    replaced: list[ReplacedFrames]
    substitute: Samples | None


class SampleDecoder:
    """Decodes samples of one source on the calling thread.

    Args:
        plan: names the substitutes.
        table: of the source.
        tracker: learns of every file that fails.
    """

    def __init__(self, plan: Substitutes, table: SourceTable, tracker: FailureTracker):
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
            None if nothing was decoded: the sample only fills up an evaluation's last step, has
            no substitute, or nobody waits for it any more.

        Raises:
            BadSourceError: if too many files fail.
        """
        # not taken out of the others: that would cost a small image a twentieth of its time
        sample: Samples | None = samples
        index = place
        attempt = 0
        while sample is not None and samples.valid[place] and not task.abandoned:
            replaced, failure = self._decode_patiently(task, sample, index, pixels, step)
            if failure is None:
                return DecodedSample(replaced, substitute=sample if attempt else None)
            if task.abandoned:
                break
            self._report(*failure, task=task, step=step, attempt=attempt, earlier=earlier)

            attempt += 1
            earlier = None
            if attempt > _SUBSTITUTES:
                raise self._tracker.limit_error(
                    f"one of {_SUBSTITUTES} substitutes of a clip to decode", "none"
                )
            sample = self._plan.substitute(samples, place, attempt)
            index = 0
            if sample is None:
                self._tracker.on_item_lost()
        return None

    def _report(
        self,
        media: Media,
        cause: Cause | None,
        *,
        task: Task,
        step: int,
        attempt: int,
        earlier: tuple[Media, Cause] | None,
    ) -> None:
        """Report a failure; the trouble of an earlier back end may be its cause."""
        tracker = self._tracker
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
        self, task: Task, samples: Samples, index: int, pixels: np.ndarray, step: int
    ) -> tuple[list[ReplacedFrames], _Failure | None]:
        """As :meth:`_decode_once`. Where the machine is to blame, try again until its trouble is
        over, or has lasted too long: no file is replaced for it.
        """
        begun = time.monotonic()
        backoff = Backoff(first=0.05, longest=1.0)
        while True:
            replaced, failure = self._decode_once(task, samples, index, pixels, step)
            causes = [failure] if failure else [(part.media, part.cause) for part in replaced]
            blamed = [
                (media.path, cause)
                for media, cause in causes
                if cause is not None and cause.trouble == MACHINE
            ]
            if blamed and task.is_wanted and self._shortage.holds(*blamed[0], begun):
                task.mark_file(None)  # a file that is not at work does not hang
                backoff.pause()
                continue

            if not failure and not blamed:
                self._shortage.on_decoded()
            return replaced, failure

    def _decode_once(
        self, task: Task, samples: Samples, index: int, pixels: np.ndarray, step: int
    ) -> tuple[list[ReplacedFrames], _Failure | None]:
        """Decode one sample into ``pixels``; returns the frames that were replaced, and the first
        failure.
        """
        replaced: list[ReplacedFrames] = []
        for record, places in self._files(samples, index):
            task.mark_file(None)
            media = self._table.media(record)
            task.mark_file(media)
            if self._tracker.blocks(media) and not self._tracker.is_due(media):
                return replaced, (media, None)

            causes: list[Cause] = []
            try:
                count = self._decode_file(
                    media, samples, index, places, pixels=pixels, causes=causes
                )
            except (DecodeError, OSError, MemoryError) as error:
                return replaced, (media, cause_of(error))
            except Exception as error:  # no file may end a run, whatever it does to a decoder
                LOG.debug("%s: %s", self._table.name, media.path, exc_info=True)
                return replaced, (media, Cause(f"{type(error).__name__}: {error}"))

            if count:
                replaced.append(ReplacedFrames(media, count, causes[0] if causes else None))
            if not task.abandoned:
                self._tracker.on_file_decoded(media, step, is_whole=not count)
        return replaced, None

    def _decode_file(
        self,
        media: Media,
        samples: Samples,
        index: int,
        places: np.ndarray,
        *,
        pixels: np.ndarray,
        causes: list[Cause],
    ) -> int:
        """Decode the frames at these places, which come from one file; returns how many of them
        were replaced.
        """
        boxes = samples.boxes[index]
        size = samples.size
        if samples.motions is not None:
            decode_image(media, boxes, size, pixels, samples.motions[index])
            return 0

        decode = DECODERS[self._table.kind]
        frames = samples.frames[index, places]
        if len(places) == pixels.shape[1]:
            return decode(media, frames, boxes, size, pixels, causes)

        part = np.empty((len(pixels), len(places), *pixels.shape[2:]), np.uint8)
        count = decode(media, frames, boxes, size, part, causes)
        pixels[:, places] = part
        return count

    def _files(self, samples: Samples, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the catalog ids of a sample's files, and the places of the frames of each."""
        records = self._table.records[samples.pieces[index]]
        count = samples.frames.shape[1] // len(records)
        if len(records) == 1:
            yield int(records[0]), np.arange(count)
            return
        for record in dict.fromkeys(records.tolist()):
            pieces = np.flatnonzero(records == record)
            yield record, (pieces[:, None] * count + np.arange(count)).reshape(-1)


class Shortage:
    """Holds up the clips of one source while the machine lacks memory or descriptors.

    No file is to blame, so the same one is tried again.

    A shortage that lasts holds up everything once. A file that asks for more memory than there ever
    is holds up its own clip once, for as long as one that hangs: others decode meanwhile.

    Args:
        name: of the source.
        patience: seconds for which a clip, and the whole source, are held up at most.
    """

    def __init__(self, name: str, patience: float):
        self._name = name
        self._patience = patience
        self._lock = threading.Lock()
        self._since: float | None = None  # nothing has decoded since then
        self._warned_at = -_WARN_AGAIN_SECONDS
        self._hopeless: set[str] = set()  # files that were waited for to the end

    def on_decoded(self) -> None:
        """A clip decoded: the shortage is over."""
        with self._lock:
            since = self._since
            self._since = None
        if since is not None and self._warned_at >= since:
            LOG.warning(
                "%s: the machine is out of trouble after %.1f s",
                self._name,
                time.monotonic() - since,
            )

    def holds(self, path: str, cause: Cause, begun: float) -> bool:
        """Whether a clip is to be tried again, as the machine is to blame.

        Args:
            path: of the file that failed.
            cause: why it failed.
            begun: when its clip was tried first, by the monotonic clock.
        """
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if now - begun >= self._patience:
                self._hopeless.add(path)
            if path in self._hopeless or now - self._since >= self._patience:
                return False
            if now - self._warned_at >= _WARN_AGAIN_SECONDS:
                self._warned_at = now
                LOG.warning(
                    "%s: the machine is in trouble, not a file (%s): clips wait for up to %g s",
                    self._name,
                    cause.reason,
                    self._patience,
                )
        return True
