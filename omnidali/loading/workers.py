"""Decoding threads that a hanging disk cannot take along.

The standard library's pool waits for its threads when it is shut down and when the process ends: one thread that never
comes back from a read would hold a run for ever. These threads can be given up and are then replaced.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future


class Job:
    """Work on a thread, and which file it is at.

    Attributes:
        source: whose work it is. future: of its result.
        into: what it fills, read under ``lock``; None once it was given up: nobody waits for it any more, and a thread
            that hangs must not keep the memory of a batch.
    """

    def __init__(self, source: str, work: Callable[["Job"], object], into: object = None):
        self.source, self.into, self.future = source, into, Future()
        self.lock, self.given_up = threading.Lock(), False
        self._work, self._at = work, None

    def at(self, file: object) -> None:
        """Tell that ``file`` is begun now."""
        self._at = (file, time.monotonic())

    @property
    def in_flight(self) -> tuple[object, float] | None:
        """The file that is being read or decoded, and for how many seconds; None before the first and at the end."""
        at = self._at
        return None if at is None or self.future.done() else (at[0], time.monotonic() - at[1])

    def run(self) -> None:
        """Do the work on this thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work(self))
        except BaseException as error:  # whoever waits gets it
            self.future.set_exception(error)


class Workers:
    """A fixed number of threads that work; they start with the first job.

    Args:
        count: of threads. name: of them, for debuggers.
    """

    def __init__(self, count: int, name: str):
        self._count, self._name = count, name
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._at_work: dict[Job, threading.Thread] = {}
        self._lock = threading.Lock()

    def submit(self, source: str, work: Callable[[Job], object], into: object = None) -> Job:
        """Queue ``work``, which is called with its job."""
        job = Job(source, work, into)
        self._queue.put(job)
        if len(self._threads) < self._count:
            with self._lock:
                self._fill()
        return job

    def in_flight(self, source: str) -> list[tuple[object, float]]:
        """The files of a source that are being read or decoded, and for how many seconds."""
        jobs = [job.in_flight for job in list(self._at_work) if job.source == source]
        return [flight for flight in jobs if flight is not None]

    def wait(self, job: Job, seconds: float) -> bool:
        """Whether a job ends within ``seconds``; a thread that is at one file for longer than that is replaced."""
        try:
            job.future.exception(seconds)
            return True
        except futures.TimeoutError:
            return False
        except futures.CancelledError:
            return True

    def give_up_hanging(self, seconds: float) -> None:
        """Give up every job that has been at one file for so long: another thread takes the place of its own."""
        for job, thread in list(self._at_work.items()):
            flight = job.in_flight
            if flight is None or flight[1] < seconds:
                continue
            with job.lock:
                job.given_up, job.into = True, None
            with self._lock:
                self._threads.discard(thread)
                self._fill()

    def close(self, patience: float) -> None:
        """End the threads behind the jobs they are at; those that take longer than ``patience`` seconds are left."""
        with self._lock:
            threads, self._threads, self._count = self._threads, set(), 0
        for _ in threads:
            self._queue.put(None)
        end = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _fill(self) -> None:
        while len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._at_work[job] = threading.current_thread()
            job.run()
            del self._at_work[job]
            if job.given_up:  # it came back after all, but its place is taken
                return
            del job  # and with it the memory of its batch
