"""Decoding threads that a hanging disk cannot take along.

The standard library's pool waits for its threads when it is shut down and when the process ends:
one thread that never returns from a read would hold a run forever. These threads can be abandoned
and are then replaced.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Generic, NamedTuple, TypeVar

from omnidali.catalog.database.media import Media
from omnidali.errors import UserError
from omnidali.utils.heartbeat import on_progress
from omnidali.utils.log import LOG

_CHECK_SECONDS = 0.5  # between two checks for files that hang

Result = TypeVar("Result")


class _Abandoned(BaseException):
    """Ends the work of an abandoned thread; no handler of a file's errors catches it."""


class Flight(NamedTuple):
    """A file that a thread is at.

    Attributes:
        file: that is being read or decoded.
        seconds: since the thread began with it.
        watched_seconds: for how many of them some thread waited for the pool.
    """

    file: Media
    seconds: float
    watched_seconds: float


class Task(Generic[Result]):
    """Work on a thread of the pool, and the file that it is at.

    Attributes:
        source: name of the source that the work belongs to.
        future: of its result.
        target: what it fills, read under ``lock``. An abandoned task has none: a thread that hangs
            must not keep the memory of a batch.
        abandoned: whether nobody waits for it any more.
        abandoned_file: the file that it was at then.
    """

    def __init__(
        self,
        pool: AbandonableThreadPool,
        source: str,
        work: Callable[[Task[Result]], Result],
        target: object,
    ):
        self.source = source
        self.future: futures.Future[Result] = futures.Future()
        self.lock = threading.Lock()
        self.target: object = target
        self.abandoned = False
        self.abandoned_file: Media | None = None
        self._pool = pool
        self._work = work
        self._mark: tuple[Media, float, float] | None = None

    def mark_file(self, file: Media | None) -> None:
        """Note that the work begins with ``file`` now, or with None that the last one is done."""
        self._mark = None if file is None else (file, time.monotonic(), self._pool.clock)

    @property
    def in_flight(self) -> Flight | None:
        """The file that is being read or decoded; None if there is none."""
        mark = self._mark
        if mark is None or self.future.done():
            return None
        file, begun, clock = mark
        return Flight(file, time.monotonic() - begun, self._pool.clock - clock)

    @property
    def is_wanted(self) -> bool:
        """Whether the result is still needed: the task is not abandoned, and the pool is open."""
        return not self.abandoned and not self._pool.is_closed

    def run(self) -> None:
        """Do the work on this thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            with on_progress(self._end_if_abandoned):
                self.future.set_result(self._work(self))
        except BaseException as error:  # the waiting thread gets it
            self.future.set_exception(error)

    def _end_if_abandoned(self) -> None:
        """Raise between two packets of a long video: it would keep a core busy for nothing."""
        if self.abandoned:
            raise _Abandoned


def cannot_start(count: int, started: int, name: str, error: BaseException) -> UserError:
    """The error of a loader for which the system does not start enough threads."""
    return UserError(
        "loader.threads",
        f"{count} {name} threads that can be started",
        f"{started}: {error}",
        "Lower it, or raise the limits of processes and memory (ulimit -u, ulimit -v).",
    )


class AbandonableThreadPool:
    """A fixed number of threads, started with the first task. Those that hang are replaced.

    Args:
        count: number of threads.
        name: of the threads, for debuggers.

    Attributes:
        clock: seconds for which some thread has waited here. It stops while no thread waits, and
            while the whole process is paused, so that no file is blamed for that.
        is_closed: whether :meth:`close` was called.
    """

    def __init__(self, count: int, name: str):
        self.clock = 0.0
        self.is_closed = False
        self._count = count
        self._name = name
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._at_work: dict[Task, threading.Thread] = {}
        self._lock = threading.Lock()
        self._checked_at = time.monotonic()
        # once it was, a thread that cannot be replaced slows the run, and does not end it
        self._was_full = False

    def submit(
        self, source: str, work: Callable[[Task[Result]], Result], target: object = None
    ) -> Task[Result]:
        """Queue ``work``, which is called with its task.

        Args:
            source: name of the source that it belongs to.
            work: is called on a thread of the pool.
            target: what the work fills; see :class:`Task`.
        """
        task = Task(self, source, work, target)
        self._queue.put(task)

        if len(self._threads) < self._count:
            with self._lock:
                self._fill()
        return task

    def in_flight(self, source: str) -> list[tuple[Media, float]]:
        """The files of a source that are being read or decoded, and for how many seconds."""
        flights = [task.in_flight for task in list(self._at_work) if task.source == source]
        return [(flight.file, flight.seconds) for flight in flights if flight is not None]

    def wait(self, task: Task, hang_seconds: float) -> bool:
        """Wait for a moment; abandon the tasks that hang meanwhile.

        Args:
            task: the one to wait for.
            hang_seconds: a task that is at one file for longer is abandoned; every task counts.

        Returns:
            Whether the task is over or abandoned.
        """
        if not task.abandoned and not task.future.done():
            futures.wait([task.future], _CHECK_SECONDS)
        if task.abandoned or task.future.done():
            return True

        with self._lock:
            now = time.monotonic()
            self.clock += min(now - self._checked_at, _CHECK_SECONDS)
            self._checked_at = now

        for other, thread in list(self._at_work.items()):
            if _hangs(other, hang_seconds):
                self._abandon(other, thread, hang_seconds)
        return task.abandoned

    def _abandon(self, task: Task, thread: threading.Thread, hang_seconds: float) -> None:
        """Replace the thread that hangs with this task."""
        with task.lock:
            flight = task.in_flight
            # it may have gone on at this moment
            if flight is None or not _hangs(task, hang_seconds):
                return
            task.abandoned = True
            task.abandoned_file = flight.file
            task.target = None

        with self._lock:
            self._threads.discard(thread)
            self._fill()

    def close(self, patience: float) -> None:
        """End the threads after the tasks that they are at.

        Args:
            patience: seconds to wait for them; those that take longer are left to themselves.
        """
        self.is_closed = True
        with self._lock:
            threads = self._threads
            self._threads = set()
            self._count = 0

        for _ in threads:
            self._queue.put(None)
        end = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _fill(self) -> None:
        """Start the threads that are missing.

        Raises:
            UserError: if the system does not start those that the work needs: at first all of
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
        while (task := self._queue.get()) is not None:
            self._at_work[task] = threading.current_thread()
            task.run()
            del self._at_work[task]
            if task.abandoned:  # it came back after all, but its place is taken
                return
            del task  # and with it the memory of its batch


def _hangs(task: Task, hang_seconds: float) -> bool:
    flight = task.in_flight
    return not task.abandoned and flight is not None and flight.watched_seconds >= hang_seconds
