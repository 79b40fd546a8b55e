"""What happens to files that fail in a running loader: they are named, counted, and stop the run past a limit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omnidali.catalog.store import Media, SourceTable
from omnidali.config import LoaderConfig, key_of
from omnidali.errors import BadSource
from omnidali.loading.quarantine import DAMAGED, FAILED, QUARANTINED, Quarantine

ALLOWED = 10  # files that may fail in any source: of a handful, a ratio says nothing
SUBSTITUTES = 255  # of one clip; far more than the limits let through


@dataclass(frozen=True)
class Limits:
    """Fields of :class:`~omnidali.config.LoaderConfig`."""

    max_bad_ratio: float = LoaderConfig.max_bad_ratio
    max_bad_in_a_row: int = LoaderConfig.max_bad_in_a_row
    hang_seconds: float = LoaderConfig.hang_seconds
    stall_seconds: float = LoaderConfig.stall_seconds


@dataclass
class Faults:
    """One source's failures on one rank.

    Attributes:
        substituted: clips that another one stands for, or in an evaluation none. replaced_frames: frames that a
            neighbour stands for.
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
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def allowed(self) -> int:
        """How many files may fail."""
        ratio = self.limits.max_bad_ratio
        return max(ALLOWED, int(ratio * self.table.source_rows)) if ratio else 0

    def blocks(self, media: Media) -> bool:
        """Whether a file need not be tried."""
        return self.quarantine.blocks(self.table.name, media.path)

    def blocked(self) -> None:
        """A clip was not tried, as its file is quarantined: a start behind one that met a limit meets it, too.

        Raises:
            BadSource: past a limit.
        """
        if not self._counted:
            self._counted = True
            self._check_ratio()

    def failed(self, media: Media, reason: str, step: int, hopeless: Callable[[], bool]) -> None:
        """A clip of ``media`` did not decode.

        Args:
            hopeless: tells whether nothing of the file decodes; asked where that is not known.

        Raises:
            BadSource: past a limit.
        """
        known = self.quarantine.fails(self.table.name, media.path)
        self._add(media, reason, QUARANTINED if not known and hopeless() else FAILED, step)
        self._count(media)

    def hung(self, media: Media, step: int) -> None:
        """A file was neither read nor decoded in time; raises as :meth:`failed`."""
        # the disk is not asked for its size and time: it might hang at that, too
        self._add(media, f"not read and decoded within {self.limits.hang_seconds:g} s", QUARANTINED, step, media.stamp)
        self._count(media)

    def _add(self, media: Media, reason: str, state: str, step: int, stamp=None) -> None:
        self.quarantine.add(self.table.name, media.path, media.span.path, reason, state, step, self.rank, stamp)

    def _count(self, media: Media) -> None:
        self.skipped(media)
        self._check_ratio()

    def _check_ratio(self) -> None:
        failing = len(self.quarantine.failing(self.table.name))
        if failing > self.allowed:
            raise self._stop(f"{failing:,}", f"at most {self.allowed:,} of {self.table.source_rows:,} files to fail"
                             " (loader.max_bad_ratio)")

    def skipped(self, media: Media | None = None) -> None:
        """A clip is not there.

        Args:
            media: the file that failed, which counts once in a row, as the pieces of a long video follow each other;
                None for a clip that was not tried, as its file is quarantined.

        Raises:
            BadSource: past a limit.
        """
        with self._lock:
            if media is not None and media.path in self._files_in_a_row:
                return
            if media is not None:
                self._files_in_a_row.add(media.path)
            self._in_a_row += 1
            in_a_row, most = self._in_a_row, self.limits.max_bad_in_a_row
        if in_a_row > most:
            raise self._stop(f"{in_a_row}", f"at most {most} clips to fail one after the other"
                             " (loader.max_bad_in_a_row)")

    def decoded(self, holes: Sequence[tuple[Media, int]], step: int, attempt: int) -> None:
        """A clip is there.

        Args:
            holes: its files that gave less than was wanted, and for how many frames a neighbour stands.
            attempt: 0, or which substitute it is.
        """
        self._in_a_row, self._files_in_a_row = 0, set()
        if holes or attempt:
            with self._lock:
                self.replaced_frames += sum(frames for _, frames in holes)
                self.substituted += attempt > 0
        for media, frames in holes:
            self._add(media, f"{frames} frames of a clip do not decode", DAMAGED, step)

    def lost(self) -> None:
        """An item of an evaluation, for which nothing stands."""
        with self._lock:
            self.substituted += 1

    def no_substitute(self) -> BadSource:
        """The error for a clip none of whose substitutes decodes."""
        return self._stop("none", f"one of {SUBSTITUTES} substitutes of a clip to decode")

    def _stop(self, got: str, expected: str) -> BadSource:
        faults = self.quarantine.failing(self.table.name)
        reasons = Counter(fault.reason for fault in faults).most_common(5)
        told = "; ".join(f"{count:,} {reason}, such as {next(f.path for f in faults if f.reason == reason)}"
                         for reason, count in reasons)
        where = f" ({self.quarantine.path})" if self.quarantine.path else ""
        return BadSource(f"{key_of(self.table.name)}", expected, f"{got}{where}: {told}",
                         "Check the disk and restore the files, or raise the limit; then start again"
                         " (train.py: with --resume auto).")
