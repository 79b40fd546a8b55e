"""The files that failed in a run: each named once a state, with its reason, on all ranks and over
all starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omnidali.catalog.file_span import stamp_of
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import FILE, HANG
from omnidali.utils.log import LOG

# nothing of it decodes: it is not opened again, by later starts unless it changes
QUARANTINED = "quarantined"
FAILED = "failed"  # a clip of it did not decode, others may
DAMAGED = "damaged"  # frames of it did not decode, and neighbours stand for them
RECOVERED = "recovered"  # it decodes again, and what was said of it before does not count any more
_STATES = (DAMAGED, FAILED, QUARANTINED)
# how often a file may recover; what comes and goes stays counted
_RETURNS, _RETURNS_SECONDS = 3, 3600.0
# that a rank may hold the file; one that is stopped must not hold up the others
_LOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Fault:
    """A line of ``quarantine.jsonl``.

    Attributes:
        source, path, reason: what failed and why.
        state: ``quarantined``, ``failed``, ``damaged`` or ``recovered``.
        step, rank: where it was first seen in this state.
        file: that lies on the disk, a tar for its members. size, mtime_ns: of it then; None where
            there is none.
        time: seconds since 1970.
        trouble: who is to blame, as in :class:`~omnidali.decoding.failure_cause.Cause`; older lines do not
            say it.
    """

    source: str
    path: str
    reason: str
    state: str
    step: int
    rank: int
    file: str
    size: int | None
    mtime_ns: int | None
    time: float
    trouble: str = FILE

    @property
    def key(self) -> tuple[str, str]:
        """What makes a file another one."""
        return self.source, self.path

    @property
    def grade(self) -> int:
        """How bad it is: the place of its state in their order."""
        return -1 if self.state == RECOVERED else _STATES.index(self.state)

    @property
    def fails(self) -> bool:
        """Whether clips were lost, not frames alone."""
        return self.state != DAMAGED

    @property
    def cause(self) -> Cause:
        """The reason, and who is to blame."""
        return Cause(self.reason, self.trouble)

    @property
    def stamp(self) -> tuple[int | None, int | None]:
        """Size and time of the file then."""
        return self.size, self.mtime_ns

    def is_news(self, known: Fault | None) -> bool:
        """Whether it says more than what was known of the file."""
        if self.state == RECOVERED:
            return known is not None
        # what was gone may come back broken
        turns = known is not None and self.fails and known.may_return and not self.cause.passes
        return known is None or self.grade > known.grade or turns

    @property
    def may_return(self) -> bool:
        """Whether the trouble is of the moment, and asking again is cheap."""
        return self.cause.passes and self.trouble != HANG


class Quarantine:
    """The faults of a run, in a file that its ranks share.

    Args:
        path: a file of JSON lines, made with the first fault; None keeps them in memory. Faults of
            files that have changed since do not count any more, nor do those of files that have
            recovered.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._faults: dict[tuple[str, str], Fault] = {}
        self._unwritten: list[Fault] = []
        self._named: dict[tuple[str, str], Fault] = {}  # as the file says it
        self._returns: dict[tuple[str, str], deque[float]] = {}  # when files recovered
        self._read, self._told = 0, False
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                for fault in open_faults(self._lines(file)):
                    if stamp_of(fault.file) == fault.stamp:
                        self._learn(fault)
            self._named = dict(self._faults)

    def blocks(self, source: str, path: str) -> bool:
        """Whether the file is known to be of no use."""
        known = self._faults.get((source, path))
        return known is not None and known.state == QUARANTINED

    def get(self, source: str, path: str) -> Fault | None:
        """What is known to be wrong with a file."""
        return self._faults.get((source, path))

    def fails(self, source: str, path: str) -> bool:
        """Whether clips of the file have failed before."""
        known = self._faults.get((source, path))
        return known is not None and known.fails

    def count(self, source: str) -> int:
        """How many files of a source are named, by any rank."""
        with self._lock:
            self._look()
            self._write()
        return sum(1 for name, _ in list(self._faults) if name == source)

    def failing(self, source: str) -> list[Fault]:
        """The faults of a source that cost clips."""
        return [
            fault for fault in list(self._faults.values()) if fault.source == source and fault.fails
        ]

    def add(
        self,
        source: str,
        path: str,
        file: str,
        reason: str,
        state: str,
        step: int,
        rank: int,
        stamp: tuple[int | None, int | None] | None = None,
        trouble: str = FILE,
    ) -> None:
        """Name a file, unless it is named already; in the file once more where it is worse than
        before, in the log only where it is of no use now.

        Args:
            file: whose size and time tell whether it is still the same: the path itself, or the tar
                that it lies in.
            stamp: its size and time, nanoseconds, where they are known.
            trouble: who is to blame, as in :class:`~omnidali.decoding.failure_cause.Cause`.
        """
        fault = Fault(
            source,
            path,
            reason,
            state,
            step,
            rank,
            file,
            *(stamp or stamp_of(file)),
            round(time.time(), 3),
            trouble,
        )
        with self._lock:
            self._look()
            known = fault.key in self._faults
            news = self._learn(fault)
            if news:
                self._unwritten.append(fault)
            self._write()
        if news and (not known or state == QUARANTINED):
            LOG.warning(
                "%s: %s: %s: %s (step %d, rank %d)", source, state, path, fault.cause, step, rank
            )

    def recover(self, known: Fault, step: int, rank: int) -> bool:
        """Let a file leave the count, as it decodes again; False for one that has come and gone too
        often.

        Args:
            known: what was wrong with it.
        """
        with self._lock:
            self._look()
            returns = self._returns.get(known.key, ())
            if len(returns) == _RETURNS and time.monotonic() - returns[0] < _RETURNS_SECONDS:
                return False
            fault = replace(
                known, state=RECOVERED, step=step, rank=rank, time=round(time.time(), 3)
            )
            news = self._learn(fault)
            if news:
                self._unwritten.append(fault)
            self._write()
        if news:
            LOG.warning(
                "%s: %s: %s, which failed before: %s (step %d, rank %d)",
                known.source,
                RECOVERED,
                known.path,
                known.cause,
                step,
                rank,
            )
        return True

    def _learn(self, fault: Fault) -> bool:
        """Whether it was news: that a file failed, is worse than was known, or has recovered."""
        news = fault.is_news(self._faults.get(fault.key))
        if news and fault.state == RECOVERED:
            del self._faults[fault.key]
            self._returns.setdefault(fault.key, deque(maxlen=_RETURNS)).append(time.monotonic())
        elif news:
            self._faults[fault.key] = fault
        return news

    def _write(self) -> None:
        """Append what is not written yet and no other rank has named meanwhile."""
        if self.path is None:
            self._unwritten.clear()
        if not self._unwritten:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                _lock(file)
                file.seek(self._read)
                self._take(file)
                file.seek(self._read)
                text = "\n" if file.read() else ""  # behind a line that a crash cut off
                named = dict(self._named)
                news = [fault for fault in self._unwritten if _name(named, fault)]
                text += "".join(json.dumps(asdict(fault)) + "\n" for fault in news)
                file.write(text.encode())
                file.flush()
                self._read = file.tell()
            self._named = named
            for fault in news:  # what others have said meanwhile lies before it
                self._learn(fault)
            self._unwritten.clear()
        except OSError as error:
            if not self._told:
                self._told = True
                LOG.warning(
                    "%s cannot be written (%s): faults are kept in memory until it can",
                    self.path,
                    error.strerror,
                )

    def _look(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                file.seek(self._read)
                self._take(file)

    def _take(self, file) -> None:
        """Learn what other ranks have named."""
        for fault in self._lines(file):
            _name(self._named, fault)
            self._learn(fault)

    def _lines(self, file) -> Iterator[Fault]:
        """The faults from here to the end."""
        data = file.read()
        data = data[: data.rfind(b"\n") + 1]  # the last line may be under way
        self._read += len(data)
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                fault = Fault(**json.loads(line))
                hash(fault.key), fault.grade  # raise where it is not ours
                yield fault


def open_faults(lines: Iterable[Fault]) -> list[Fault]:
    """The faults of a quarantine, but for those before a line that says that the file has
    recovered.
    """
    found: dict[tuple[str, str], list[Fault]] = {}
    for fault in lines:
        if fault.state == RECOVERED:
            found.pop(fault.key, None)
        else:
            found.setdefault(fault.key, []).append(fault)
    return [fault for faults in found.values() for fault in faults]


def _name(named: dict[tuple[str, str], Fault], fault: Fault) -> bool:
    """Note what a file of faults says; whether that was news to its readers."""
    news = fault.is_news(named.get(fault.key))
    if news and fault.state == RECOVERED:
        del named[fault.key]
    elif news:
        named[fault.key] = fault
    return news


def _lock(file) -> None:
    """Keep other ranks from appending; raises BlockingIOError where one does not let go."""
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        except OSError:  # a file system without locks: two ranks may name the same file
            return None
