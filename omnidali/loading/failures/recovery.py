"""Files that failed, looked at again: whether their trouble is over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from omnidali.catalog.database.store import SourceTable
from omnidali.catalog.file_span import stamp_of
from omnidali.decoding.recheck import surely_decodes
from omnidali.errors import HANG
from omnidali.loading.failures.quarantine import QUARANTINED, Fault
from omnidali.utils.log import LOG

RETRY_SECONDS = 300.0  # after which a file that was gone or forbidden is opened again
LOOK_SECONDS = 10.0  # for all files together, before a limit ends a run
_AGAIN_SECONDS = 60.0  # in which a file is looked at once
_THREADS = 4


class Recovery:
    """Looks again at files of one source that failed.

    Args:
        found: is called with the fault of each file that decodes again, on any thread.
    """

    def __init__(self, table: SourceTable, found: Callable[[Fault], object]):
        self._table = table
        self._found = found
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._looked: dict[str, float] = {}  # when each file was looked at in vain
        self._hanging: set[str] = set()  # whose look is not over
        self._tried: dict[str, float] = {}  # when each file was opened again, seconds since 1970

    def is_due(self, fault: Fault) -> bool:
        """Whether a quarantined file is to be tried once more, now, by whoever asks.

        One that is gone or forbidden costs no more than a failing open. One that hangs would cost a
        thread.
        """
        if fault.state != QUARANTINED or not fault.may_return:
            return False
        now = time.time()
        with self._lock:
            if 0 <= now - max(fault.time, self._tried.get(fault.path, 0.0)) < RETRY_SECONDS:
                return False
            self._tried[fault.path] = now
        return True

    def look(self, faults: Sequence[Fault], seconds: float = LOOK_SECONDS) -> bool:
        """Look at all files whose trouble may be over: those of the disk, and those that have
        changed.

        A disk that hangs does not hold up the caller, and what was looked at in vain is left alone
        for a while: in a real outage there are many failures, and each of them asks.

        Args:
            seconds: to wait for all of them together. What is found later counts, too.

        Returns:
            False if another thread is looking: its verdict is enough.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            with self._lock:
                left = [
                    fault
                    for fault in faults
                    if fault.path not in self._hanging
                    and now - self._looked.get(fault.path, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
                ]
            # one that hangs takes its thread along: the others come first
            todo = deque(sorted(left, key=lambda fault: fault.trouble == HANG))
            threads = [
                threading.Thread(
                    target=self._work, args=(todo, now + seconds), daemon=True, name="recovery"
                )
                for _ in range(min(_THREADS, len(todo)))
            ]
            for thread in [thread for thread in threads if _starts(thread)]:
                thread.join(max(0.0, now + seconds - time.monotonic()))
        finally:
            self._busy.release()
        return True

    def look_aside(self, faults: Sequence[Fault]) -> None:
        """The same without waiting: for files that hung at an earlier start, which nobody else
        opens.
        """
        if faults:
            _starts(
                threading.Thread(target=self.look, args=(faults,), daemon=True, name="recovery")
            )

    def _work(self, todo: deque[Fault], end: float) -> None:
        while time.monotonic() < end:
            try:
                fault = todo.popleft()
            except IndexError:
                return
            with self._lock:
                self._hanging.add(fault.path)
            try:
                if self._is_back(fault, end - time.monotonic()):
                    self._found(fault)
            except Exception:  # no file may end a run
                LOG.debug("%s: %s", fault.source, fault.path, exc_info=True)
            finally:
                with self._lock:
                    self._hanging.discard(fault.path)
                    self._looked[fault.path] = time.monotonic()

    def _is_back(self, fault: Fault, patience: float) -> bool:
        if not fault.cause.passes and stamp_of(fault.file) == fault.stamp:
            return False
        media = self._table.media_at(fault.path)
        return media is not None and surely_decodes(media, self._table.kind, patience) is True


def _starts(thread: threading.Thread) -> bool:
    """Start a thread, where the system lets it: a look that cannot be had must not end a run."""
    try:
        thread.start()
        return True
    except (RuntimeError, MemoryError) as error:
        LOG.debug("a recovery thread cannot start: %s", error)
        return False
