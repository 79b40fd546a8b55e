"""What happens to files that fail in a running loader: they are named, counted, and end the run
past a limit.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.config.schema import LoaderConfig
from omnidali.config.sources import key_of
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import HANG, BadSourceError
from omnidali.loading.failures.quarantine import (
    DAMAGED,
    FAILED,
    QUARANTINED,
    FailureRecord,
    Quarantine,
)
from omnidali.loading.failures.recovery import RECHECK_ALL_SECONDS, Recovery

ALLOWED = 10  # files that may fail in any source: of a handful, a ratio says nothing
_EXAMPLES = 5  # causes that an error names


class ReplacedFrames(NamedTuple):
    """Frames of a clip that did not decode, and were replaced by their neighbours.

    Attributes:
        media: the file.
        frames: their number.
        cause: why they did not decode, if a decoder reported it.
    """

    media: Media
    frames: int
    cause: Cause | None


@dataclass
class FailureTracker:
    """One source's failures on one rank.

    Attributes:
        table: of the source.
        quarantine: names the files.
        rank: of this process.
        limits: ``max_bad_ratio``, ``max_bad_in_a_row`` and ``hang_seconds`` count here.
        substituted: clips that were replaced by another one, or lost in an evaluation.
        replaced_frames: frames that were replaced by a neighbour.
    """

    table: SourceTable
    quarantine: Quarantine
    rank: int
    limits: LoaderConfig
    substituted: int = 0
    replaced_frames: int = 0
    _in_a_row: int = 0
    _files_in_a_row: set[str] = field(default_factory=set)
    _has_counted_earlier: bool = False  # the files that an earlier start has named
    _failed_step: int = 0  # the last one
    _begun: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recovery: Recovery = field(init=False)

    def __post_init__(self) -> None:
        self._recovery = Recovery(self.table, self._on_recovered)

    @property
    def allowed(self) -> int:
        """How many files may fail."""
        ratio = self.limits.max_bad_ratio
        return max(ALLOWED, int(ratio * self.table.source_rows)) if ratio else 0

    def blocks(self, media: Media) -> bool:
        """Whether a file need not be tried."""
        return self.quarantine.blocks(self.table.name, media.path)

    def failure_of(self, media: Media) -> FailureRecord | None:
        """The failure on record for a file."""
        return self.quarantine.get(self.table.name, media.path)

    def is_due(self, media: Media) -> bool:
        """Whether the caller shall try a blocked file all the same: it may be there again."""
        record = self.failure_of(media)
        return record is None or self._recovery.is_due(record)

    def is_new_trouble(self, media: Media, cause: Cause) -> bool:
        """Whether a file that was gone is there again, and broken; ``cause``: why it fails now."""
        record = self.failure_of(media)
        return record is not None and record.may_return and not cause.passes

    def on_file_decoded(self, media: Media, step: int, *, is_whole: bool = True) -> None:
        """A clip of a file decoded: an earlier failure of the file may be over.

        Trouble of the disk is. A broken file decodes in other places, too: it must have changed.

        Args:
            media: the file.
            step: number of the step.
            is_whole: whether all frames decoded.
        """
        record = self.failure_of(media)
        if record is None or not (is_whole or record.costs_clips):
            return
        if record.cause.passes or stamp_of(record.file) != record.stamp:
            self.quarantine.recover(record, step, self.rank)

    def on_clip_decoded(
        self,
        replaced: Sequence[ReplacedFrames] = (),
        step: int = 0,
        *,
        is_substitute: bool = False,
    ) -> None:
        """A clip decoded.

        Args:
            replaced: frames that its files did not give.
            step: number of the step.
            is_substitute: whether it replaces the planned one.
        """
        self._in_a_row = 0
        self._files_in_a_row = set()
        if replaced or is_substitute:
            with self._lock:
                self.replaced_frames += sum(part.frames for part in replaced)
                self.substituted += is_substitute

        for media, frames, cause in replaced:
            reason = f"{frames} frames of a clip do not decode"
            whole = Cause(f"{reason}: {cause.reason}", cause.trouble) if cause else Cause(reason)
            self._name(media, whole, DAMAGED, step)

    def on_clip_missing(self, media: Media | None = None) -> None:
        """A planned clip is not there.

        Args:
            media: the file that failed, which counts once in a row, as the pieces of a long video
                follow each other; None for a clip that was not tried, as its file is quarantined.

        Raises:
            BadSourceError: past a limit.
        """
        with self._lock:
            if media is not None and media.path in self._files_in_a_row:
                return
            if media is not None:
                self._files_in_a_row.add(media.path)
            self._in_a_row += 1
            in_a_row = self._in_a_row
        most = self.limits.max_bad_in_a_row
        if in_a_row > most:
            raise self.limit_error(
                f"at most {most} clips to fail one after the other (loader.max_bad_in_a_row)",
                f"{in_a_row}",
            )

    def on_decode_error(
        self, media: Media, cause: Cause, step: int, *, is_useless: Callable[[], bool]
    ) -> None:
        """A clip of a file did not decode.

        Args:
            media: the file.
            cause: why.
            step: number of the step.
            is_useless: says whether nothing of the file decodes; called if that is not known.

        Raises:
            BadSourceError: past a limit.
        """
        self._failed_step = step
        record = self.failure_of(media)
        is_judged = (
            record is not None and record.costs_clips and not self.is_new_trouble(media, cause)
        )
        state = QUARANTINED if not is_judged and is_useless() else FAILED
        self._name(media, cause, state, step)
        self.on_clip_missing(media)
        self._check_ratio()

    def on_timeout(self, media: Media, step: int) -> None:
        """A file was neither read nor decoded in time; raises as :meth:`on_decode_error`."""
        cause = timeout_cause(self.limits.hang_seconds)
        # the disk is not asked for its size and time: it might hang at that, too
        self._name(media, cause, QUARANTINED, step, stamp=media.stamp)
        self.on_clip_missing(media)
        self._check_ratio()

    def on_quarantined(self) -> None:
        """A clip was not tried, as its file is quarantined.

        A start after one that met a limit meets it, too.

        Raises:
            BadSourceError: past a limit.
        """
        if self._has_counted_earlier:
            return
        self._has_counted_earlier = True
        self._check_ratio()
        hung_before = [
            record
            for record in self.quarantine.failing(self.table.name)
            if record.trouble == HANG and record.time < self._begun
        ]
        self._recovery.recheck_aside(hung_before)

    def on_item_lost(self) -> None:
        """An item of an evaluation did not decode, and has no substitute."""
        with self._lock:
            self.substituted += 1

    def limit_error(self, expected: str, got: str) -> BadSourceError:
        """The error that ends a run, with the causes of the source's failures."""
        records = self.quarantine.failing(self.table.name)
        examples = {str(record.cause): record.path for record in reversed(records)}
        causes = Counter(str(record.cause) for record in records).most_common(_EXAMPLES)
        counts = [f"{count:,} {cause}, such as {examples[cause]}" for cause, count in causes]
        where = f" ({self.quarantine.path})" if self.quarantine.path else ""
        return BadSourceError(
            key_of(self.table.name),
            expected,
            f"{got}{where}: {'; '.join(counts)}",
            f"{_advice(records)} (a training: with --resume auto).",
        )

    def _on_recovered(self, record: FailureRecord) -> None:
        self.quarantine.recover(record, self._failed_step, self.rank)

    def _name(
        self,
        media: Media,
        cause: Cause,
        state: str,
        step: int,
        stamp: tuple[int | None, int | None] | None = None,
    ) -> None:
        """Name a file in the quarantine; ``stamp``: its size and time, where they are known."""
        size, mtime_ns = stamp or stamp_of(media.span.path)
        self.quarantine.add(
            FailureRecord(
                source=self.table.name,
                path=media.path,
                reason=cause.reason,
                state=state,
                step=step,
                rank=self.rank,
                file=media.span.path,
                size=size,
                mtime_ns=mtime_ns,
                time=round(time.time(), 3),
                trouble=cause.trouble,
            )
        )

    def _check_ratio(self) -> None:
        """Raise if too many files fail now; those that have recovered do not count."""
        name = self.table.name
        if len(self.quarantine.failing(name)) <= self.allowed:
            return
        patience = min(RECHECK_ALL_SECONDS, self.limits.hang_seconds / 4)
        if not self._recovery.recheck(self.quarantine.failing(name), patience):
            return
        self.quarantine.count(name)  # reads what other ranks found
        failing = len(self.quarantine.failing(name))
        if failing > self.allowed:
            raise self.limit_error(
                f"at most {self.allowed:,} of {self.table.source_rows:,} files to fail"
                " (loader.max_bad_ratio)",
                f"{failing:,}",
            )


def timeout_cause(seconds: float) -> Cause:
    """Why a file is abandoned that was at work for so long."""
    return Cause(f"not read and decoded within {seconds:g} s", HANG)


def _advice(records: Sequence[FailureRecord]) -> str:
    """What to do about these files: what the disk does not give must not be deleted."""
    passing = sum(record.cause.passes for record in records)
    disk = (
        "Check the disk, the mount and its permissions, and restore what is gone"
        " (the files need not be bad"
    )
    if passing and passing == len(records):
        return f"{disk}), or raise the limit; then start again"
    files = "etch the broken files again or remove them, or raise the limit; then start again"
    return f"{disk}, but for those marked `file:`). F{files}" if passing else f"F{files}"
