"""Probes files in processes: bounded in number, memory and time, started for the first new file."""

import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from itertools import islice
from typing import Self

from omnidali.catalog.probing.file_span import stamp_of
from omnidali.catalog.probing.probe import HUNGRY
from omnidali.catalog.probing.probe_child import (
    ProbeRequest,
    ProbeResult,
    ProbeTask,
    patience,
    probe_from_json,
)
from omnidali.config.sources import MediaConfig
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import IsolatedProcess, ProcessDiedError

# Bytes of one process: the packets of the longest video that is let in take 1 GiB.
MEMORY = 4 << 30
# For the size and time of a file that killed its process, maybe because its mount hangs.
STAMP_SECONDS = 5.0
# Files that a process is sent at once; of other kinds one, which takes longer than sending it.
BATCH = {MediaKind.IMAGE: 64}
FRAME_PATTERN = "img_{:05}.jpg"  # of the reference's folders of frames
_MAIN = "from omnidali.catalog.probing.probe_child import main; main({memory})"
_QUEUED = 1000  # results that wait for the catalog; more make the processes wait


class ProbePool:
    """Up to ``processes`` processes that probe, used for all sources of a build.

    A context manager.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._is_closed = False
        # They live as long as the pool: the kernel ends a process together with the thread that
        # started it.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="probe")
        self._idle: list[IsolatedProcess] = []
        self._all: list[IsolatedProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes, also those that hang."""
        with self._lock:
            self._is_closed = True
            for process in self._all:
                process.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def probe(
        self,
        source: MediaConfig,
        root: str,
        requests: Sequence[ProbeRequest],
        decodes_all: bool = False,
    ) -> Iterator[ProbeResult]:
        """Probe files of a source; yields the results as they come, in any order.

        A file that kills its process is tried once more, alone in a new one; one that does it again
        is left out.

        Args:
            source: its settings.
            root: real path of its folder.
            requests: the files.
            decodes_all: whether to decode whole files, and to believe no header.

        Raises:
            UserError: if no process can be started.
        """
        task = ProbeTask(
            kind=source.media_kind,
            pattern=source.pattern or FRAME_PATTERN,
            root=root,
            decodes_all=decodes_all,
            follows_links=source.follows_links,
        )
        batch_size = BATCH.get(source.media_kind, 1)
        waiting = iter(requests)
        results: queue.Queue[ProbeResult | BaseException] = queue.Queue(_QUEUED)

        def serve() -> None:
            try:
                while batch := self._next_batch(waiting, batch_size):
                    for result in self._results(task, batch):
                        if not self._put(results, result):
                            return
            except BaseException as error:
                self._put(results, error)

        threads = min(self._processes, -(-len(requests) // batch_size))
        served = [self._threads.submit(serve) for _ in range(threads)]
        for _ in range(len(requests)):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
        wait(served)  # they give their processes back for the next source

    def _next_batch(self, waiting: Iterator[ProbeRequest], size: int) -> list[ProbeRequest]:
        with self._lock:
            return [] if self._is_closed else list(islice(waiting, size))

    def _put(
        self,
        results: queue.Queue[ProbeResult | BaseException],
        result: ProbeResult | BaseException,
    ) -> bool:
        """Hand a result over; false if the pool was closed and nobody takes it."""
        while not self._is_closed:
            try:
                results.put(result, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def _results(self, task: ProbeTask, batch: list[ProbeRequest]) -> Iterator[ProbeResult]:
        """Yield the result of every file of a batch, whatever becomes of the processes."""
        while batch:
            process = self._take_process()
            try:
                for result in _ask(process, task, batch):
                    batch = batch[1:]
                    yield result
                self._idle.append(process)
            # The first without an answer did it, or an earlier one through what it left behind.
            except ProcessDiedError as death:
                suspect, *batch = batch
                yield self._probe_alone(task, suspect, death)

    def _probe_alone(
        self, task: ProbeTask, request: ProbeRequest, death: ProcessDiedError
    ) -> ProbeResult:
        if not death.too_slow:
            process = self._take_process(new=True)
            try:
                (result,) = _ask(process, task, [request])
                self._idle.append(process)
                return result
            except ProcessDiedError as again:
                death = again

        stamp = _stamp_in_time(os.path.join(task.root, request.file))
        if death.too_slow:
            state = f"takes more than {patience(request.size or stamp[0]):.0f} s to probe"
        else:
            state = HUNGRY if death.too_large else "crashes the probe"
        return ProbeResult(request.record, state, None, stamp)

    def _take_process(self, new: bool = False) -> IsolatedProcess:
        with self._lock:
            if self._is_closed:
                raise ProcessDiedError(None)
            if self._idle and not new:
                return self._idle.pop()
            process = IsolatedProcess(_MAIN.format(memory=MEMORY))
            self._all = [other for other in self._all if other.is_alive] + [process]
            return process


def _stamp_in_time(path: str) -> tuple[int | None, int | None]:
    """As :func:`stamp_of`; None if a mount does not give it in time.

    The next start then tries the file again.
    """
    found: queue.SimpleQueue[tuple[int | None, int | None]] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(stamp_of(path)), daemon=True, name="stamp").start()
    try:
        return found.get(timeout=STAMP_SECONDS)
    except queue.Empty:
        return None, None


def _ask(
    process: IsolatedProcess, task: ProbeTask, batch: list[ProbeRequest]
) -> Iterator[ProbeResult]:
    """Yield the result of each file, in order.

    Raises:
        ProcessDiedError: if the process ends before the last answer, or answers nonsense.
        UserError: if it never began.
    """
    question = {"task": asdict(task), "requests": batch}
    answers = process.ask(json.dumps(question), len(batch))
    for request, line in zip(batch, answers, strict=False):  # the answers may end early
        try:
            record, state, fields, (size, mtime_ns) = json.loads(line)
            if record != request.record:
                raise ValueError("an answer for another file")
            probe = None if fields is None else probe_from_json(fields)
            result = ProbeResult(record, str(state), probe, stamp=(size, mtime_ns))
        except (ValueError, TypeError, KeyError):
            raise process.died() from None
        yield result
