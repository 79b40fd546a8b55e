"""Probing in child processes: bounded in number, memory and time, started when the first new file needs them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from omnidali.catalog.files import stamp_of
from omnidali.catalog.gate import HUNGRY
from omnidali.catalog.photo import Probe
from omnidali.catalog.probe_worker import TOO_MUCH_MEMORY, from_plain
from omnidali.config import MediaConfig
from omnidali.errors import UserError

MEMORY = 4 << 30  # bytes of one worker: the packets of the longest video that the gate lets in take 1 GiB
SECONDS = 60.0  # for one file, and as long again as reading takes from a disk that gives
BYTES_PER_SECOND = 4 << 20  # this much
STAMP_SECONDS = 5.0  # for the size and time of a file that killed its worker, maybe as its mount hangs
DECODED_BYTES_PER_SECOND = 1 << 20  # where all of a video is decoded
BATCH = {"image": 64}  # files that a worker is sent at once; of other kinds one, which takes longer than sending it
FRAME_PATTERN = "img_{:05}.jpg"  # of the reference's folders of frames
CRASHED = "crashes the probe"
_ROOT = str(Path(__file__).parents[2])
_MAIN = "from omnidali.catalog.probe_worker import main; main({memory})"
_LONGEST_ANSWER = 1 << 28  # bytes: four times the packets of the longest video
_QUEUED = 1000  # answers that wait for the catalog; more make the workers wait

# record, path, archive, offset and size of a file in the archive
Row = tuple[int, str, str | None, int | None, int | None]
# record, state, probe, (size, time) of the file at the probe
Outcome = tuple[int, str, Probe | None, tuple[int | None, int | None]]


class ProbePool:
    """Up to ``processes`` workers, used for all sources of a build. A context manager."""

    def __init__(self, processes: int):
        self._processes, self._closed, self._lock = processes, False, threading.Lock()
        # they live as long as the pool: the kernel ends a worker together with the thread that started it
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="probe")
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []

    def __enter__(self) -> "ProbePool":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, also those that hang."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def probe(self, source: MediaConfig, root: str, rows: Sequence[Row],
              decodes_all: bool = False) -> Iterator[Outcome]:
        """Probe the files of a source below ``root``, a real path; yields as they are done, in any order.

        With ``decodes_all`` whole files are decoded, and no header is believed.

        A file that kills its worker is tried once more, alone in a new one; one that does it again is left out.

        Raises:
            UserError: if no worker can be started.
        """
        size = BATCH.get(source.kind, 1)
        waiting, results = iter(rows), queue.Queue(_QUEUED)
        task = {"kind": source.kind, "pattern": source.pattern or FRAME_PATTERN, "root": root, "seconds": SECONDS,
                "bytes_per_second": BYTES_PER_SECOND, "decoded_bytes_per_second": DECODED_BYTES_PER_SECOND,
                "decodes_all": decodes_all}

        def serve() -> None:
            try:
                while batch := self._next(waiting, size):
                    for outcome in self._outcomes(task, batch):
                        if not self._put(results, outcome):
                            return
            except BaseException as error:
                self._put(results, error)

        served = [self._threads.submit(serve) for _ in range(min(self._processes, -(-len(rows) // size)))]
        for _ in range(len(rows)):
            outcome = results.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
        wait(served)  # they give their workers back for the next source

    def _next(self, waiting: Iterator[Row], count: int) -> list[Row]:
        with self._lock:
            return [] if self._closed else list(islice(waiting, count))

    def _put(self, results: queue.Queue, outcome: object) -> bool:
        while not self._closed:
            try:
                results.put(outcome, timeout=0.5)
                return True
            except queue.Full:
                pass
        return False

    def _outcomes(self, task: dict, batch: list[Row]) -> Iterator[Outcome]:
        """What becomes of every file of a batch, whatever becomes of workers."""
        while batch:
            worker = self._worker()
            try:
                for outcome in worker.probe(task, batch):
                    batch = batch[1:]
                    yield outcome
                self._idle.append(worker)
            except _Died as death:  # the first without an answer did it, or an earlier one through what it left behind
                suspect, batch = batch[0], batch[1:]
                yield self._alone(task, suspect, death)

    def _alone(self, task: dict, row: Row, death: "_Died") -> Outcome:
        if not death.too_slow:
            worker = self._worker(new=True)
            try:
                outcome, = worker.probe(task, [row])
                self._idle.append(worker)
                return outcome
            except _Died as again:
                death = again
        stamp = _stamp_in_time(os.path.join(task["root"], row[2] or row[1]))
        patience = task["seconds"] + (row[4] or stamp[0] or 0) / task["bytes_per_second"]
        return row[0], f"takes more than {patience:.0f} s to probe" if death.too_slow else death.state, None, stamp

    def _worker(self, new: bool = False) -> "_Worker":
        with self._lock:
            if self._closed:
                raise _Died(None)
            if self._idle and not new:
                return self._idle.pop()
            worker = _Worker()
            self._all = [other for other in self._all if other.alive] + [worker]
            return worker


def _stamp_in_time(path: str) -> tuple[int | None, int | None]:
    """As :func:`stamp_of`; none where a mount does not give it in time, so that the next start tries the file again."""
    found: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(stamp_of(path)), daemon=True, name="stamp").start()
    try:
        return found.get(timeout=STAMP_SECONDS)
    except queue.Empty:
        return None, None


class _Died(Exception):
    """A worker ended within a file."""

    def __init__(self, status: int | None):
        self.too_slow = status == -signal.SIGALRM
        self.state = HUNGRY if status == TOO_MUCH_MEMORY else CRASHED


class _Worker:
    """One process; its pipes, and what it said of why it could not start."""

    def __init__(self):
        self._errors = tempfile.TemporaryFile()
        # the current folder is no place to import from
        path = [_ROOT, *filter(None, sys.path)]
        code = f"import sys; sys.path[:] = {path!r}; {_MAIN.format(memory=MEMORY)}"
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def probe(self, task: dict, batch: list[Row]) -> Iterator[Outcome]:
        """Yield what the process says of each file, in order.

        Raises:
            _Died: if it ends before the last answer, or answers nonsense.
            UserError: if it never began.
        """
        try:
            self._begin()
            self._process.stdin.write(json.dumps({**task, "rows": batch}).encode() + b"\n")
            self._process.stdin.flush()
            for row in batch:
                line = self._process.stdout.readline(_LONGEST_ANSWER)
                if not line.endswith(b"\n"):
                    raise ValueError("no answer")
                record, state, probe, stamp = json.loads(line)
                if record != row[0]:
                    raise ValueError("an answer for another file")
                yield record, str(state), from_plain(probe), (stamp[0], stamp[1])
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            try:  # where the answers ended, so did the process, or it is about to
                status = self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                status = self.kill()
            raise _Died(status) from None

    def _begin(self) -> None:
        if self._ready:
            return
        if self._process.stdout.readline(100) != b"ready\n":
            self.kill()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise UserError("probe", "a process that probes files", f"its end at the start: {said[-1][:200]}",
                            "Check the installation and the limits of memory and processes.")
        self._ready = True

    def kill(self) -> int | None:
        """End the process, if it still runs; returns its exit status, or None where it is stuck in the kernel."""
        self._process.kill()
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # at a disk that is gone
            return None
