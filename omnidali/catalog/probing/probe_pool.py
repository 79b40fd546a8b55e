"""Probing in child processes: bounded in number, memory and time, started when the first new file
needs them.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice

from omnidali.catalog.file_span import stamp_of
from omnidali.catalog.probing.image_probe import Probe
from omnidali.catalog.probing.probe_child import from_plain
from omnidali.catalog.probing.sniff import HUNGRY
from omnidali.config.schema import MediaConfig
from omnidali.processes.child_pool import Child, ChildDiedError

# bytes of one worker: the packets of the longest video that the gate lets in take 1 GiB
MEMORY = 4 << 30
SECONDS = 60.0  # for one file, and as long again as reading takes from a disk that gives
BYTES_PER_SECOND = 4 << 20  # this much
# for the size and time of a file that killed its worker, maybe as its mount hangs
STAMP_SECONDS = 5.0
DECODED_BYTES_PER_SECOND = 1 << 20  # where all of a video is decoded
# files that a worker is sent at once; of other kinds one, which takes longer than sending it
BATCH = {"image": 64}
FRAME_PATTERN = "img_{:05}.jpg"  # of the reference's folders of frames
CRASHED = "crashes the probe"
_MAIN = "from omnidali.catalog.probing.probe_child import main; main({memory})"
_QUEUED = 1000  # answers that wait for the catalog; more make the workers wait

# record, path, archive, offset and size of a file in the archive
Row = tuple[int, str, str | None, int | None, int | None]
# record, state, probe, (size, time) of the file at the probe
Outcome = tuple[int, str, Probe | None, tuple[int | None, int | None]]


class ProbePool:
    """Up to ``processes`` workers, used for all sources of a build. A context manager."""

    def __init__(self, processes: int):
        self._processes, self._closed, self._lock = processes, False, threading.Lock()
        # they live as long as the pool: the kernel ends a worker together with the thread that
        # started it
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="probe")
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []

    def __enter__(self) -> ProbePool:
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

    def probe(
        self, source: MediaConfig, root: str, rows: Sequence[Row], decodes_all: bool = False
    ) -> Iterator[Outcome]:
        """Probe the files of a source below ``root``, a real path; yields as they are done, in any
        order.

        With ``decodes_all`` whole files are decoded, and no header is believed.

        A file that kills its worker is tried once more, alone in a new one; one that does it again
        is left out.

        Raises:
            UserError: if no worker can be started.
        """
        size = BATCH.get(source.kind, 1)
        waiting, results = iter(rows), queue.Queue(_QUEUED)
        task = {
            "kind": source.kind,
            "pattern": source.pattern or FRAME_PATTERN,
            "root": root,
            "seconds": SECONDS,
            "bytes_per_second": BYTES_PER_SECOND,
            "decoded_bytes_per_second": DECODED_BYTES_PER_SECOND,
            "decodes_all": decodes_all,
        }

        def serve() -> None:
            try:
                while batch := self._next(waiting, size):
                    for outcome in self._outcomes(task, batch):
                        if not self._put(results, outcome):
                            return
            except BaseException as error:
                self._put(results, error)

        served = [
            self._threads.submit(serve) for _ in range(min(self._processes, -(-len(rows) // size)))
        ]
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
            # the first without an answer did it, or an earlier one through what it left behind
            except ChildDiedError as death:
                suspect, batch = batch[0], batch[1:]
                yield self._alone(task, suspect, death)

    def _alone(self, task: dict, row: Row, death: ChildDiedError) -> Outcome:
        if not death.too_slow:
            worker = self._worker(new=True)
            try:
                (outcome,) = worker.probe(task, [row])
                self._idle.append(worker)
                return outcome
            except ChildDiedError as again:
                death = again
        stamp = _stamp_in_time(os.path.join(task["root"], row[2] or row[1]))
        patience = task["seconds"] + (row[4] or stamp[0] or 0) / task["bytes_per_second"]
        return (
            row[0],
            f"takes more than {patience:.0f} s to probe"
            if death.too_slow
            else (HUNGRY if death.too_large else CRASHED),
            None,
            stamp,
        )

    def _worker(self, new: bool = False) -> _Worker:
        with self._lock:
            if self._closed:
                raise ChildDiedError(None)
            if self._idle and not new:
                return self._idle.pop()
            worker = _Worker()
            self._all = [other for other in self._all if other.alive] + [worker]
            return worker


def _stamp_in_time(path: str) -> tuple[int | None, int | None]:
    """As :func:`stamp_of`; none where a mount does not give it in time, so that the next start
    tries the file again.
    """
    found: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(stamp_of(path)), daemon=True, name="stamp").start()
    try:
        return found.get(timeout=STAMP_SECONDS)
    except queue.Empty:
        return None, None


class _Worker(Child):
    """A process that probes."""

    def __init__(self):
        super().__init__(_MAIN.format(memory=MEMORY))

    def probe(self, task: dict, batch: list[Row]) -> Iterator[Outcome]:
        """Yield what the process says of each file, in order.

        Raises:
            ChildDiedError: if it ends before the last answer, or answers nonsense.
            UserError: if it never began.
        """
        answers = self.ask(json.dumps({**task, "rows": batch}), len(batch))
        for row, line in zip(batch, answers):
            try:
                record, state, probe, stamp = json.loads(line)
                if record != row[0]:
                    raise ValueError("an answer for another file")
                outcome = record, str(state), from_plain(probe), (stamp[0], stamp[1])
            except (ValueError, TypeError, KeyError):
                raise self.died() from None
            yield outcome
