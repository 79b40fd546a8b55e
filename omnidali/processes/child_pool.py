"""Processes that open strangers' files for this one, with limits of memory and time: what crashes
one costs it alone.

A thread that is stuck in a library cannot be stopped, and goes on for hours; a process can.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from omnidali.errors import FILE, TROUBLES, DecodeError, UserError
from omnidali.processes.child import TOO_MUCH_MEMORY

if TYPE_CHECKING:
    from omnidali.catalog.database.store import Media

# bytes of one process: a decoder holds up to 16 of the largest frames, an encoder about as many
MEMORY = 4 << 30
# without a frame, of a photo in all; and as long again as reading takes from a disk that gives
SECONDS = 60.0
BYTES_PER_SECOND = 4 << 20  # this much
_ROOT = str(Path(__file__).parents[2])
_MAIN = "from omnidali.processes.child import main; main({memory}, {modules})"
_LONGEST_ANSWER = 1 << 28  # bytes: four times the packets of the longest video


class ChildDiedError(Exception):
    """A process ended within a file."""

    def __init__(self, status: int | None):
        super().__init__(f"exit status {status}")
        self.too_slow = status == -signal.SIGALRM
        self.too_large = status == TOO_MUCH_MEMORY


class Child:
    """One process; its pipes, and what it said of why it could not start.

    Args:
        main: Python code that takes limits upon itself, says ``ready``, and answers lines with
            lines.
    """

    def __init__(self, main: str):
        self._errors = tempfile.TemporaryFile()
        # the current folder is no place to import from
        path = [_ROOT, *filter(None, sys.path)]
        code = f"import sys; sys.path[:] = {path!r}; {main}"
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, question: str, count: int = 1) -> Iterator[bytes]:
        """Yield ``count`` lines that the process says to a line.

        Raises:
            ChildDiedError: if it ends before the last one.
            UserError: if it never began.
        """
        try:
            self._begin()
            self._process.stdin.write(question.encode() + b"\n")
            self._process.stdin.flush()
            for _ in range(count):
                line = self._process.stdout.readline(_LONGEST_ANSWER)
                if not line.endswith(b"\n"):
                    raise ValueError("no answer")
                yield line
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise self.died() from None

    def died(self) -> ChildDiedError:
        """Why it gives no answers, or nonsense; it runs no longer."""
        try:  # where the answers ended, so did the process, or it is about to
            return ChildDiedError(self._process.wait(timeout=1))
        except subprocess.TimeoutExpired:
            return ChildDiedError(self.kill())

    def _begin(self) -> None:
        if self._ready:
            return
        if self._process.stdout.readline(100) != b"ready\n":
            self.kill()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise UserError(
                "probe",
                "a process that probes files",
                f"its end at the start: {said[-1][:200]}",
                "Check the installation and the limits of memory and processes.",
            )
        self._ready = True

    def kill(self) -> int | None:
        """End the process, if it still runs; returns its exit status, or None where it is stuck in
        the kernel.
        """
        self._process.kill()
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # at a disk that is gone
            return None


class _Idle:
    """Processes that wait for calls: as many as there ever were calls at the same time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._children: list[Child] = []
        # it lives as long as this process: the kernel ends a child together with the thread that
        # started it
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="children")

    def take(self, new: bool = False) -> tuple[Child, bool]:
        """A process, and whether it is a new one."""
        with self._lock:
            while self._children and not new:
                child = self._children.pop()
                if child.alive:
                    return child, False
        return self._starter.submit(self._start).result(), True

    def fill(self, count: int, modules: Sequence[str]) -> None:
        """Begin to start processes until ``count`` of them wait."""

        def start() -> None:
            if len(self._children) < count:
                self.give(self._start(modules))

        for _ in range(count):
            self._starter.submit(start)

    def _start(self, modules: Sequence[str] = ()) -> Child:
        return Child(_MAIN.format(memory=MEMORY, modules=list(modules)))

    def give(self, child: Child) -> None:
        """Give a process back."""
        with self._lock:
            self._children.append(child)

    def end(self) -> None:
        """End those that wait."""
        with self._lock:
            children, self._children = self._children, []
        for child in children:
            child.kill()


_IDLE = _Idle()
# files that held a process: a long video has thousands of pieces
_HELD: dict[tuple[str, object], str] = {}


def end_idle() -> None:
    """End the processes that wait for calls."""
    _IDLE.end()


def start_ahead(count: int, *modules: str) -> None:
    """Start processes in the background, while this one reads lists or imports libraries: each
    takes half a second.

    Args:
        count: 0 for one a core. modules: that they import at once.
    """
    _IDLE.fill(count or len(os.sched_getaffinity(0)), modules)


def call(function: Callable, media: Media, *others: object) -> object:
    """What ``function(media, *others)`` gives, called in a process with limits of memory and time.

    Args:
        function: of a module of ours. It says :func:`~omnidali.utils.heartbeat.moves_on` at every frame,
            which gives it ``SECONDS`` again, and what it gives is made of lists, numbers, text and
            arrays; tuples become lists.
        media: what it is about; larger files have more time. others: arguments, of the kinds that
            :mod:`omnidali.processes.messages` knows.

    Raises:
        DecodeError: if the function raises it, or the file crashes, starves or holds the process.
        OSError: if the function raises it, or an error of FFmpeg's with a number.
        UserError: if no process can be started.
    """
    from omnidali.processes.messages import to_plain

    file = media.path, media.stamp
    if file in _HELD:
        raise DecodeError(_HELD[file])
    seconds = SECONDS + (media.span.size or media.stamp[0] or 0) / BYTES_PER_SECOND
    task = json.dumps(
        {
            "function": f"{function.__module__}:{function.__qualname__}",
            "seconds": seconds,
            "arguments": to_plain([media, *others]),
        }
    )
    for is_last in (False, True):
        child, is_new = _IDLE.take(new=is_last)
        try:
            return _ask(child, task)
        except ChildDiedError as death:
            reason = _reason(death, seconds)
            if death.too_slow:
                _HELD[file] = reason
            # else an earlier file may have done it, through what it left behind
            if death.too_slow or is_new:
                raise DecodeError(reason) from None
    raise AssertionError("the second process is a new one")


def _ask(child: Child, task: str) -> object:
    from omnidali.processes.messages import from_plain

    try:
        (line,) = child.ask(task)
        answer = json.loads(line)
        (kind,) = answer
        if kind == "value":
            value = from_plain(answer["value"], trusted=False)
        elif kind == "error":
            number, text, file = answer["error"]
            value = OSError(number, text) if file is None else OSError(number, text, file)
        else:
            reason, trouble = answer["cannot"]
            value = DecodeError(str(reason), trouble if trouble in TROUBLES else FILE)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise child.died() from None
    _IDLE.give(child)
    if isinstance(value, Exception):
        raise value
    return value


def _reason(death: ChildDiedError, seconds: float) -> str:
    if death.too_slow:
        return f"nothing came of it for {seconds:.0f} s"
    return "needs too much memory" if death.too_large else "crashes its decoder"
