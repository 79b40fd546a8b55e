"""What happens to files that fail in a running loader: they are named, counted, and stop the run
past a limit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omnidali.catalog.database.store import Media, SourceTable
from omnidali.catalog.file_span import stamp_of
from omnidali.config.schema import LoaderConfig, key_of
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import HANG, BadSourceError
from omnidali.loading.failures.quarantine import DAMAGED, FAILED, QUARANTINED, Fault, Quarantine
from omnidali.loading.failures.recovery import LOOK_SECONDS, Recovery

ALLOWED = 10  # files that may fail in any source: of a handful, a ratio says nothing
SUBSTITUTES = 255  # of one clip; far more than the limits let through


@dataclass(frozen=True)
class Limits:
    """Fields of :class:`~omnidali.config.schema.LoaderConfig`."""

    max_bad_ratio: float = LoaderConfig.max_bad_ratio
    max_bad_in_a_row: int = LoaderConfig.max_bad_in_a_row
    hang_seconds: float = LoaderConfig.hang_seconds
    stall_seconds: float = LoaderConfig.stall_seconds


@dataclass
class Faults:
    """One source's failures on one rank.

    Attributes:
        substituted: clips that another one stands for, or in an evaluation none. replaced_frames:
            frames that a neighbour stands for.
    """

    table: SourceTable
    quarantine: Quarantine
    rank: int
    limits: Limits
    substituted: int = 0
    replaced_frames: int = 0
    _in_a_row: int = 0
    _files_in_a_row: set[str] = field(default_factory=set)
    _counted: bool = False  # the files that an earlier start has named
    _step: int = 0  # that failed last
    _begun: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recovery: Recovery = field(init=False)

    def __post_init__(self):
        self._recovery = Recovery(
            self.table, lambda fault: self.quarantine.recover(fault, self._step, self.rank)
        )

    @property
    def allowed(self) -> int:
        """How many files may fail."""
        ratio = self.limits.max_bad_ratio
        return max(ALLOWED, int(ratio * self.table.source_rows)) if ratio else 0

    def blocks(self, media: Media) -> bool:
        """Whether a file need not be tried."""
        return self.quarantine.blocks(self.table.name, media.path)

    def known(self, media: Media) -> Fault | None:
        """What is wrong with a file."""
        return self.quarantine.get(self.table.name, media.path)

    def is_due(self, media: Media) -> bool:
        """Whether a file that is blocked is to be tried all the same, once by whoever asks: it may
        be there again.
        """
        fault = self.known(media)
        return fault is None or self._recovery.is_due(fault)

    def turns(self, media: Media, cause: Cause) -> bool:
        """Whether a file that was gone is there again, and broken; ``cause``: why it fails now."""
        fault = self.known(media)
        return fault is not None and fault.may_return and not cause.passes

    def came(self, media: Media, step: int, is_whole: bool = True) -> None:
        """A clip of a file decoded: what was wrong with it may be over.

        Trouble of the disk is. A broken file decodes in other places, too: it must have changed.

        Args:
            is_whole: whether all frames came.
        """
        fault = self.known(media)
        if fault is None or not (is_whole or fault.fails):
            return
        if fault.cause.passes or stamp_of(fault.file) != fault.stamp:
            self.quarantine.recover(fault, step, self.rank)

    def blocked(self) -> None:
        """A clip was not tried, as its file is quarantined: a start behind one that met a limit
        meets it, too.

        Raises:
            BadSourceError: past a limit.
        """
        if not self._counted:
            self._counted = True
            self._check_ratio()
            self._recovery.look_aside(
                [
                    fault
                    for fault in self.quarantine.failing(self.table.name)
                    if fault.trouble == HANG and fault.time < self._begun
                ]
            )

    def failed(self, media: Media, cause: Cause, step: int, hopeless: Callable[[], bool]) -> None:
        """A clip of ``media`` did not decode.

        Args:
            hopeless: tells whether nothing of the file decodes; asked where that is not known.

        Raises:
            BadSourceError: past a limit.
        """
        self._step = step
        is_judged = self.quarantine.fails(self.table.name, media.path) and not self.turns(
            media, cause
        )
        self._add(media, cause, QUARANTINED if not is_judged and hopeless() else FAILED, step)
        self._count(media)

    def hung(self, media: Media, step: int) -> None:
        """A file was neither read nor decoded in time; raises as :meth:`failed`."""
        # the disk is not asked for its size and time: it might hang at that, too
        self._add(media, hang(self.limits.hang_seconds), QUARANTINED, step, media.stamp)
        self._count(media)

    def _add(self, media: Media, cause: Cause, state: str, step: int, stamp=None) -> None:
        self.quarantine.add(
            self.table.name,
            media.path,
            media.span.path,
            cause.reason,
            state,
            step,
            self.rank,
            stamp,
            cause.trouble,
        )

    def _count(self, media: Media) -> None:
        self.skipped(media)
        self._check_ratio()

    def _check_ratio(self) -> None:
        """Compare the present: what has recovered since it failed does not count."""
        if len(self.quarantine.failing(self.table.name)) <= self.allowed:
            return
        patience = min(LOOK_SECONDS, self.limits.hang_seconds / 4)
        if not self._recovery.look(self.quarantine.failing(self.table.name), patience):
            return
        self.quarantine.count(self.table.name)  # what other ranks found
        failing = len(self.quarantine.failing(self.table.name))
        if failing > self.allowed:
            raise self._stop(
                f"{failing:,}",
                f"at most {self.allowed:,} of {self.table.source_rows:,} files to fail"
                " (loader.max_bad_ratio)",
            )

    def skipped(self, media: Media | None = None) -> None:
        """A clip is not there.

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
            in_a_row, most = self._in_a_row, self.limits.max_bad_in_a_row
        if in_a_row > most:
            raise self._stop(
                f"{in_a_row}",
                f"at most {most} clips to fail one after the other (loader.max_bad_in_a_row)",
            )

    def decoded(
        self, holes: Sequence[tuple[Media, int, Cause | None]], step: int, attempt: int
    ) -> None:
        """A clip is there.

        Args:
            holes: its files that gave less than was wanted, for how many frames a neighbour stands,
                and why.
            attempt: 0, or which substitute it is.
        """
        self._in_a_row, self._files_in_a_row = 0, set()
        if holes or attempt:
            with self._lock:
                self.replaced_frames += sum(frames for _, frames, _ in holes)
                self.substituted += attempt > 0
        for media, frames, cause in holes:
            told = Cause(f"{frames} frames of a clip do not decode")
            if cause is not None:
                told = Cause(f"{told.reason}: {cause.reason}", cause.trouble)
            self._add(media, told, DAMAGED, step)

    def lost(self) -> None:
        """An item of an evaluation, for which nothing stands."""
        with self._lock:
            self.substituted += 1

    def no_substitute(self) -> BadSourceError:
        """The error for a clip none of whose substitutes decodes."""
        return self._stop("none", f"one of {SUBSTITUTES} substitutes of a clip to decode")

    def _stop(self, got: str, expected: str) -> BadSourceError:
        faults = self.quarantine.failing(self.table.name)
        causes = Counter(str(fault.cause) for fault in faults).most_common(5)
        told = "; ".join(
            f"{count:,} {cause}, such as {next(f.path for f in faults if str(f.cause) == cause)}"
            for cause, count in causes
        )
        where = f" ({self.quarantine.path})" if self.quarantine.path else ""
        return BadSourceError(
            f"{key_of(self.table.name)}",
            expected,
            f"{got}{where}: {told}",
            f"{_advice(faults)} (train.py: with --resume auto).",
        )


def hang(seconds: float) -> Cause:
    """Why a file is given up that was at work for so long."""
    return Cause(f"not read and decoded within {seconds:g} s", HANG)


def _advice(faults: Sequence[Fault]) -> str:
    """What to do about these files: what the disk does not give must not be deleted."""
    passing = sum(fault.cause.passes for fault in faults)
    disk = "Check the disk, the mount and its permissions, and restore what is gone (the files need not be bad"
    if passing and passing == len(faults):
        return f"{disk}), or raise the limit; then start again"
    files = "etch the broken files again or remove them, or raise the limit; then start again"
    return f"{disk}, but for those marked `file:`). F{files}" if passing else f"F{files}"
