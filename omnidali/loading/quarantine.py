"""The files that failed in a run: each named once a state, with its reason, on all ranks and over all starts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from omnidali.catalog.files import stamp_of

QUARANTINED = "quarantined"  # nothing of it decodes: it is not opened again, by later starts unless it changes
FAILED = "failed"  # a clip of it did not decode, others may
DAMAGED = "damaged"  # frames of it did not decode, and neighbours stand for them
_STATES = (DAMAGED, FAILED, QUARANTINED)
_LOCK_SECONDS = 2.0  # that a rank may hold the file; one that is stopped must not hold up the others
_LOG = logging.getLogger("omnidali")


@dataclass(frozen=True)
class Fault:
    """A line of ``quarantine.jsonl``.

    Attributes:
        source, path, reason: what failed and why. state: ``quarantined``, ``failed`` or ``damaged``.
        step, rank: where it was first seen in this state.
        file: that lies on the disk, a tar for its members. size, mtime_ns: of it then; None where there is none.
        time: seconds since 1970.
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

    @property
    def key(self) -> tuple[str, str]:
        """What makes a file another one."""
        return self.source, self.path

    @property
    def grade(self) -> int:
        """How bad it is: the place of its state in their order."""
        return _STATES.index(self.state)

    @property
    def fails(self) -> bool:
        """Whether clips were lost, not frames alone."""
        return self.state != DAMAGED


class Quarantine:
    """The faults of a run, in a file that its ranks share.

    Args:
        path: a file of JSON lines, made with the first fault; None keeps them in memory. Faults of files that have
            changed since do not count any more.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._faults: dict[tuple[str, str], Fault] = {}
        self._unwritten: list[Fault] = []
        self._named: dict[tuple[str, str], int] = {}  # how bad, as the file says since this start
        self._read, self._told = 0, False
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                for fault in self._lines(file):
                    if stamp_of(fault.file) == (fault.size, fault.mtime_ns):
                        self._learn(fault)

    def blocks(self, source: str, path: str) -> bool:
        """Whether the file is known to be of no use."""
        known = self._faults.get((source, path))
        return known is not None and known.state == QUARANTINED

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
        return [fault for fault in list(self._faults.values()) if fault.source == source and fault.fails]

    def add(self, source: str, path: str, file: str, reason: str, state: str, step: int, rank: int,
            stamp: tuple[int | None, int | None] | None = None) -> None:
        """Name a file, unless it is named already; in the file once more where it is worse than before, in the log only
        where it is of no use now.

        Args:
            file: whose size and time tell whether it is still the same: the path itself, or the tar that it lies in.
            stamp: its size and time, nanoseconds, where they are known.
        """
        fault = Fault(source, path, reason, state, step, rank, file, *(stamp or stamp_of(file)), round(time.time(), 3))
        with self._lock:
            self._look()
            known = fault.key in self._faults
            news = self._learn(fault)
            if news:
                self._unwritten.append(fault)
            self._write()
        if news and (not known or state == QUARANTINED):
            _LOG.warning("%s: %s: %s: %s (step %d, rank %d)", source, state, path, reason, step, rank)

    def _learn(self, fault: Fault) -> bool:
        """Whether it was news: that a file failed, or that it is worse than was known."""
        known = self._faults.get(fault.key)
        news = known is None or fault.grade > known.grade
        if news:
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
                text += "".join(json.dumps(asdict(fault)) + "\n" for fault in self._unwritten
                               if fault.grade > self._named.get(fault.key, -1))
                file.write(text.encode())
                file.flush()
                self._read = file.tell()
            for fault in self._unwritten:
                self._name(fault)
            self._unwritten.clear()
        except OSError as error:
            if not self._told:
                self._told = True
                _LOG.warning("%s cannot be written (%s): faults are kept in memory until it can", self.path,
                             error.strerror)

    def _look(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                file.seek(self._read)
                self._take(file)

    def _take(self, file) -> None:
        """Learn what other ranks have named."""
        for fault in self._lines(file):
            self._name(fault)
            self._learn(fault)

    def _name(self, fault: Fault) -> None:
        self._named[fault.key] = max(fault.grade, self._named.get(fault.key, -1))

    def _lines(self, file) -> Iterator[Fault]:
        """The faults from here to the end."""
        data = file.read()
        data = data[:data.rfind(b"\n") + 1]  # the last line may be under way
        self._read += len(data)
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                fault = Fault(**json.loads(line))
                hash(fault.key), fault.grade  # raise where it is not ours
                yield fault


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
