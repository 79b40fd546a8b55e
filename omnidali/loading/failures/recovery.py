"""Files that failed, checked again: whether their trouble is over."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.decoding.recheck import is_decodable
from omnidali.errors import HANG
from omnidali.loading.failures.quarantine import QUARANTINED, FailureRecord
from omnidali.utils.log import LOG

RETRY_SECONDS = 300.0  # after which a file that was gone or forbidden is opened again
RECHECK_ALL_SECONDS = 10.0  # for all files together, before a limit ends a run
_AGAIN_SECONDS = 60.0  # in which a file is checked once
_THREADS = 4


class Recovery:
    """Checks again files of one source that failed.

    Args:
        table: of the source.
        on_recovered: is called with the record of each file that decodes again, on any thread.
    """

    def __init__(self, table: SourceTable, on_recovered: Callable[[FailureRecord], object]):
        self._table = table
        self._on_recovered = on_recovered
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._checked_at: dict[str, float] = {}  # in vain
        self._in_flight: set[str] = set()
        self._retried_at: dict[str, float] = {}  # seconds since 1970

    def is_due(self, record: FailureRecord) -> bool:
        """Whether the caller shall try a quarantined file once more, now.

        One that is gone or forbidden costs no more than a failing open. One that hangs would cost a
        thread.
        """
        if record.state != QUARANTINED or not record.may_return:
            return False
        now = time.time()
        with self._lock:
            last = max(record.time, self._retried_at.get(record.path, 0.0))
            if 0 <= now - last < RETRY_SECONDS:
                return False
            self._retried_at[record.path] = now
        return True

    def recheck(
        self, records: Sequence[FailureRecord], seconds: float = RECHECK_ALL_SECONDS
    ) -> bool:
        """Check all files whose trouble may be over: the disk's, and those that have changed.

        A disk that hangs does not hold up the caller, and a file checked in vain is left alone
        for a while: in a real outage there are many failures, and each of them asks.

        Args:
            records: of the files.
            seconds: to wait for all of them together. Results that come later count, too.

        Returns:
            False if another thread is at it: its result is enough.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            end = now + seconds
            with self._lock:
                due = [
                    record
                    for record in records
                    if record.path not in self._in_flight
                    and now - self._checked_at.get(record.path, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
                ]
            # one that hangs takes its thread along: the others come first
            todo = iter(sorted(due, key=lambda record: record.trouble == HANG))

            threads = [
                threading.Thread(target=self._work, args=(todo, end), daemon=True, name="recovery")
                for _ in range(min(_THREADS, len(due)))
            ]
            for thread in [thread for thread in threads if _starts(thread)]:
                thread.join(max(0.0, end - time.monotonic()))
        finally:
            self._busy.release()
        return True

    def recheck_aside(self, records: Sequence[FailureRecord]) -> None:
        """As :meth:`recheck`, without waiting: for files that hung at an earlier start."""
        if records:
            _starts(
                threading.Thread(target=self.recheck, args=(records,), daemon=True, name="recovery")
            )

    def _work(self, todo: Iterator[FailureRecord], end: float) -> None:
        """Check files until ``end``; several threads take them from the same iterator."""
        for record in todo:
            if time.monotonic() >= end:
                return
            with self._lock:
                self._in_flight.add(record.path)

            try:
                if self._decodes_again(record, end - time.monotonic()):
                    self._on_recovered(record)
            except Exception:  # no file may end a run
                LOG.debug("%s: %s", record.source, record.path, exc_info=True)
            finally:
                with self._lock:
                    self._in_flight.discard(record.path)
                    self._checked_at[record.path] = time.monotonic()

    def _decodes_again(self, record: FailureRecord, patience: float) -> bool:
        if not record.cause.passes and stamp_of(record.file) == record.stamp:
            return False
        media = self._table.media_at(record.path)
        return media is not None and is_decodable(media, self._table.kind, patience) is True


def _starts(thread: threading.Thread) -> bool:
    """Start a thread, where the system lets it: a failed start must not end a run."""
    try:
        thread.start()
        return True
    except (RuntimeError, MemoryError) as error:
        LOG.debug("a recovery thread cannot start: %s", error)
        return False
