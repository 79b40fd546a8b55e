"""Decoding threads that a hanging disk cannot take along.

The standard library's pool waits for its threads when it is shut down and when the process ends:
one thread that never comes back from a read would hold a run for ever. These threads can be given
up and are then replaced.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future

from omnidali.errors import UserError
from omnidali.utils.heartbeat import watched
from omnidali.utils.log import LOG

_LOOK = 0.5  # seconds between two looks at whether a file hangs


class _GivenUp(BaseException):
    """Ends the work of a thread that nobody waits for; no handler of a file's errors takes it."""


class Job:
    """Work on a thread, and which file it is at.

    Attributes:
        source: whose work it is. future: of its result.
        into: what it fills, read under ``lock``; None once it was given up: nobody waits for it any
            more, and a thread that hangs must not keep the memory of a batch.
        hung_at: the file that it was given up at.
    """

    def __init__(self, workers: Workers, source: str, work: Callable[[Job], object], into: object):
        self.source, self.into, self.future, self.hung_at = source, into, Future(), None
        self.lock, self.given_up = threading.Lock(), False
        self._workers, self._work, self._at = workers, work, None

    def at(self, file: object | None) -> None:
        """Tell that ``file`` is begun now, or that the last one is done."""
        self._at = None if file is None else (file, time.monotonic(), self._workers.clock)

    @property
    def in_flight(self) -> tuple[object, float, float] | None:
        """The file that is being read or decoded, for how many seconds, and for how many of them
        somebody looked on; None where there is none.
        """
        at = self._at
        if at is None or self.future.done():
            return None
        return at[0], time.monotonic() - at[1], self._workers.clock - at[2]

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for the work: it was not given up, and the threads were not told
        to end.
        """
        return not self.given_up and not self._workers.is_closed

    def run(self) -> None:
        """Do the work on this thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            with watched(self._end_if_given_up):
                self.future.set_result(self._work(self))
        except BaseException as error:  # whoever waits gets it
            self.future.set_exception(error)

    def _end_if_given_up(self) -> None:
        """Raise between two packets of a long video: it would keep a core busy for nothing."""
        if self.given_up:
            raise _GivenUp


def cannot_start(count: int, started: int, name: str, error: BaseException) -> UserError:
    """The error of a loader whose threads the system does not let start."""
    return UserError(
        "loader.threads",
        f"{count} {name} threads that can be started",
        f"{started}: {error}",
        "Lower it, or raise the limits of processes and memory (ulimit -u, ulimit -v).",
    )


class Workers:
    """A fixed number of threads that work; they start with the first job.

    Args:
        count: of threads. name: of them, for debuggers.

    Attributes:
        clock: seconds for which somebody has waited here. It stands still where nobody does, and
            while the whole process is paused, so that no file is blamed for that.
    """

    def __init__(self, count: int, name: str):
        self._count, self._name = count, name
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._at_work: dict[Job, threading.Thread] = {}
        self._lock = threading.Lock()
        self.is_closed = False
        # once it was, a thread that cannot be replaced slows the run, and does not end it
        self._was_full = False
        self.clock, self._looked = 0.0, time.monotonic()

    def submit(self, source: str, work: Callable[[Job], object], into: object = None) -> Job:
        """Queue ``work``, which is called with its job."""
        job = Job(self, source, work, into)
        self._queue.put(job)
        if len(self._threads) < self._count:
            with self._lock:
                self._fill()
        return job

    def in_flight(self, source: str) -> list[tuple[object, float]]:
        """The files of a source that are being read or decoded, and for how many seconds."""
        jobs = [job.in_flight for job in list(self._at_work) if job.source == source]
        return [flight[:2] for flight in jobs if flight is not None]

    def wait(self, job: Job, hang_seconds: float) -> bool:
        """Whether a job is over, or given up, within a moment; else look for those that hang.

        Args:
            hang_seconds: after which at one file a job is given up, whosever it is.
        """
        if job.given_up:
            return True
        try:
            job.future.exception(_LOOK)
            return True
        except futures.CancelledError:
            return True
        except futures.TimeoutError:
            pass
        with self._lock:
            now = time.monotonic()
            self.clock += min(now - self._looked, _LOOK)
            self._looked = now
        for other, thread in list(self._at_work.items()):
            flight = other.in_flight
            if flight is not None and flight[2] >= hang_seconds:
                self._give_up(other, thread, hang_seconds)
        return job.given_up

    def _give_up(self, job: Job, thread: threading.Thread, hang_seconds: float) -> None:
        """Another thread takes the place of the one that hangs with this job."""
        with job.lock:
            flight = job.in_flight
            # it went on at this moment
            if job.given_up or flight is None or flight[2] < hang_seconds:
                return
            job.given_up, job.into, job.hung_at = True, None, flight[0]
        with self._lock:
            self._threads.discard(thread)
            self._fill()

    def close(self, patience: float) -> None:
        """End the threads behind the jobs they are at; those that take longer than ``patience``
        seconds are left.
        """
        self.is_closed = True
        with self._lock:
            threads, self._threads, self._count = self._threads, set(), 0
        for _ in threads:
            self._queue.put(None)
        end = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _fill(self) -> None:
        """Start the threads that are not there yet.

        Raises:
            UserError: if the system lets none start that the work needs: at the first time all of
                them, later one.
        """
        while len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                if not (self._was_full and self._threads):
                    raise cannot_start(self._count, len(self._threads), self._name, error) from None
                LOG.warning(
                    "%d of %d %s threads work: another one cannot start (%s)",
                    len(self._threads),
                    self._count,
                    self._name,
                    error,
                )
                return
            self._threads.add(thread)  # one that did not start cannot be waited for
        self._was_full = True

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._at_work[job] = threading.current_thread()
            job.run()
            del self._at_work[job]
            if job.given_up:  # it came back after all, but its place is taken
                return
            del job  # and with it the memory of its batch
