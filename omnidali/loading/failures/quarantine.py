"""The files that failed in a run: each named once a state, with its reason, on all ranks and over
all starts.
"""

import contextlib
import fcntl
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

from omnidali.catalog.probing.file_span import stamp_of
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import FILE, HANG
from omnidali.utils.log import LOG

# nothing of it decodes: it is not opened again, by later starts unless it changes
QUARANTINED = "quarantined"
FAILED = "failed"  # a clip of it did not decode, others may
DAMAGED = "damaged"  # frames of it did not decode and were replaced by their neighbours
RECOVERED = "recovered"  # it decodes again, and earlier records of it do not count any more
LEFT_TO_CPU = "left to the CPU"  # DALI does not decode it; in a file of its own, beside the others
_GRADES = {RECOVERED: -1, LEFT_TO_CPU: 0, DAMAGED: 0, FAILED: 1, QUARANTINED: 2}
# how often a file may recover; one that keeps failing again stays counted
_RECOVERIES = 3
_RECOVERIES_SECONDS = 3600.0
# that a rank may hold the file; one that is stopped must not hold up the others
_LOCK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """A line of ``quarantine.jsonl``.

    Attributes:
        source: name of the source.
        path: what failed, as in :attr:`~omnidali.catalog.database.media.Media.path`.
        reason: why.
        state: ``quarantined``, ``failed``, ``damaged`` or ``recovered``; in the file of what DALI
            does not decode ``left to the CPU``.
        step: where the file was first seen in this state.
        rank: that saw it.
        file: that lies on the disk: the path, or the tar of a member.
        size: of the file then, bytes; None if there was none.
        mtime_ns: of the file then; None if there was none.
        time: seconds since 1970.
        trouble: what is to blame, as in :class:`~omnidali.decoding.failure_cause.Cause`; older
            lines do not say it.
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
    def costs_clips(self) -> bool:
        """Whether clips were lost, not frames alone."""
        return self.state != DAMAGED

    @property
    def cause(self) -> Cause:
        """The reason, and what is to blame."""
        return Cause(self.reason, self.trouble)

    @property
    def stamp(self) -> tuple[int | None, int | None]:
        """Size and time of the file then."""
        return self.size, self.mtime_ns

    @property
    def may_return(self) -> bool:
        """Whether the trouble is of the moment, and another try is cheap."""
        return self.cause.passes and self.trouble != HANG

    def is_news(self, known: Self | None) -> bool:
        """Whether it adds to the earlier records of the file."""
        if self.state == RECOVERED:
            return known is not None
        if known is None:
            return True
        # a file that was gone may come back broken
        is_new_trouble = self.costs_clips and known.may_return and not self.cause.passes
        return _GRADES[self.state] > _GRADES[known.state] or is_new_trouble


_Records = dict[tuple[str, str], FailureRecord]


class Quarantine:
    """The failures of a run, in a file that its ranks share.

    Args:
        path: a file of JSON lines, made with the first record; None keeps them in memory. Records
            of files that have changed since do not count any more, nor do those of files that have
            recovered.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._records: _Records = {}
        self._unwritten: list[FailureRecord] = []
        # when files recovered
        self._recoveries: defaultdict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=_RECOVERIES)
        )
        self._read_to = 0
        self._has_warned = False

        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                for record in self._lines(file):
                    if record.state == RECOVERED or stamp_of(record.file) == record.stamp:
                        _update(self._records, record)
        self._in_file: _Records = dict(self._records)

    def get(self, source: str, path: str) -> FailureRecord | None:
        """The failure on record for a file."""
        return self._records.get((source, path))

    def blocks(self, source: str, path: str) -> bool:
        """Whether the file is known to be useless."""
        known = self.get(source, path)
        return known is not None and known.state == QUARANTINED

    def count(self, source: str) -> int:
        """How many files of a source are named, by any rank."""
        with self._lock:
            self._look()
            self._write()
        return sum(1 for name, _ in list(self._records) if name == source)

    def failing(self, source: str) -> list[FailureRecord]:
        """The records of a source's files that cost clips."""
        return [record for record in self.records(source) if record.costs_clips]

    def records(self, source: str) -> list[FailureRecord]:
        """The records of a source's files, as far as this rank has read them."""
        return [record for record in list(self._records.values()) if record.source == source]

    def add(self, record: FailureRecord) -> None:
        """Name a file, unless it is named already.

        The quarantine's file names it once more where it is worse than before, the log only where
        it is useless now.
        """
        with self._lock:
            self._look()
            is_known = record.key in self._records
            is_news = self._learn(record)
            if is_news and self.path is not None:
                self._unwritten.append(record)
            self._write()
        has_recovered = record.state == RECOVERED
        is_harmless = record.state == LEFT_TO_CPU
        is_told = not is_known or has_recovered or record.state == QUARANTINED
        if is_news and is_told and not is_harmless:
            LOG.warning(
                "%s: %s: %s%s: %s (step %d, rank %d)",
                record.source,
                record.state,
                record.path,
                ", which failed before" if has_recovered else "",
                record.cause,
                record.step,
                record.rank,
            )

    def recover(self, known: FailureRecord, step: int, rank: int) -> None:
        """Name a file that decodes again: it does not count any more, unless it has come and gone
        too often.

        Args:
            known: its failure so far.
            step: where it decoded.
            rank: that decoded it.
        """
        with self._lock:
            self._look()
            times = self._recoveries[known.key]
            if len(times) == _RECOVERIES and time.monotonic() - times[0] < _RECOVERIES_SECONDS:
                return
        self.add(replace(known, state=RECOVERED, step=step, rank=rank, time=round(time.time(), 3)))

    def _learn(self, record: FailureRecord) -> bool:
        """Note a record; returns whether it was news."""
        is_news = _update(self._records, record)
        if is_news and record.state == RECOVERED:
            self._recoveries[record.key].append(time.monotonic())
        return is_news

    def _write(self) -> None:
        """Append the records that neither this nor another rank has written yet."""
        if self.path is None or not self._unwritten:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                _lock(file)
                self._take(file)
                file.seek(self._read_to)
                text = "\n" if file.read() else ""  # after a line that a crash cut off

                in_file = dict(self._in_file)
                news = [record for record in self._unwritten if _update(in_file, record)]
                text += "".join(json.dumps(asdict(record)) + "\n" for record in news)
                file.write(text.encode())
                file.flush()
                self._read_to = file.tell()

            self._in_file = in_file
            for record in news:  # what others have written meanwhile lies before it
                self._learn(record)
            self._unwritten.clear()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                LOG.warning(
                    "%s cannot be written (%s): failures are kept in memory until it can",
                    self.path,
                    error.strerror,
                )

    def _look(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                self._take(file)

    def _take(self, file: BinaryIO) -> None:
        """Learn what other ranks have named."""
        file.seek(self._read_to)
        for record in self._lines(file):
            _update(self._in_file, record)
            self._learn(record)

    def _lines(self, file: BinaryIO) -> Iterator[FailureRecord]:
        """The records from here to the end."""
        data = file.read()
        data = data[: data.rfind(b"\n") + 1]  # another rank may be at the last line
        self._read_to += len(data)
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                record = FailureRecord(**json.loads(line))
                is_ours = isinstance(record.source, str) and isinstance(record.path, str)
                if is_ours and record.state in _GRADES:
                    yield record


def _update(records: _Records, record: FailureRecord) -> bool:
    """Add a record; returns whether it added to the earlier ones."""
    is_news = record.is_news(records.get(record.key))
    if is_news and record.state == RECOVERED:
        del records[record.key]
    elif is_news:
        records[record.key] = record
    return is_news


def _lock(file: BinaryIO) -> None:
    """Keep other ranks from appending.

    Raises:
        BlockingIOError: if another rank does not release it.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        except OSError:  # a file system without locks: two ranks may name the same file
            return
