"""Processes that open untrusted files for this one, with limits of memory and time.

A crash costs such a process alone. A thread that is stuck in a library cannot be stopped, and goes
on for hours; a process can be killed. They keep the user's rights: this is no security sandbox.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from omnidali.errors import FILE, TROUBLES, DecodeError, UserError
from omnidali.processes.isolated_child import TOO_MUCH_MEMORY

# bytes of one process: a decoder holds up to 16 of the largest frames, an encoder about as many
MEMORY = 4 << 30
# without a frame, or for a whole image; and as long again as reading takes from a working disk
SECONDS = 60.0
BYTES_PER_SECOND = 4 << 20  # of such a disk
_ROOT = str(Path(__file__).parents[2])
_MAIN = "from omnidali.processes.isolated_child import main; main({memory}, {modules})"
_LONGEST_ANSWER = 1 << 28  # bytes: four times the packets of the longest video


class ProcessDiedError(Exception):
    """A process ended within a file.

    Args:
        status: its exit status, if it is known.
    """

    def __init__(self, status: int | None):
        super().__init__(f"exit status {status}")
        self.too_slow = status == -signal.SIGALRM
        self.too_large = status == TOO_MUCH_MEMORY


class IsolatedProcess:
    """One process with its pipes, and what it prints if it cannot start.

    Args:
        main: Python code that limits its own process, prints ``ready``, and answers lines with
            lines.
    """

    def __init__(self, main: str):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        # the current folder is no place to import from; an editable install is none of the places
        path = [place for place in sys.path if place]
        if _ROOT not in path:
            path.insert(0, _ROOT)

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
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, question: str, count: int = 1) -> Iterator[bytes]:
        """Yield the ``count`` lines with which the process answers a line.

        Raises:
            ProcessDiedError: if it ends before the last one.
            UserError: if it never began.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._begin()
        try:
            self._process.stdin.write(question.encode() + b"\n")
            self._process.stdin.flush()
            for _ in range(count):
                line = self._process.stdout.readline(_LONGEST_ANSWER)
                if not line.endswith(b"\n"):
                    raise ValueError("no answer")
                yield line
        except (OSError, ValueError):
            raise self.died() from None

    def died(self) -> ProcessDiedError:
        """End a process that answers nothing or nonsense; returns the error to raise."""
        try:  # if the answers ended, so did the process, or it is about to
            return ProcessDiedError(self._process.wait(timeout=1))
        except subprocess.TimeoutExpired:
            return ProcessDiedError(self.kill())

    def _begin(self) -> None:
        assert self._process.stdout is not None
        if self._ready:
            return
        if self._process.stdout.readline(100) != b"ready\n":
            self.kill()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise UserError(
                "probe",
                "a process that probes files",
                f"its end at the start: {lines[-1][:200]}",
                "Check the installation and the limits of memory and processes.",
            )
        self._ready = True

    def kill(self) -> int | None:
        """End the process, if it still runs.

        Returns:
            Its exit status, or None if it is stuck in the kernel.
        """
        self._process.kill()
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # at a disk that is gone
            return None


# idle processes; there are never more than there were calls at the same time
_IDLE: deque[IsolatedProcess] = deque()
# it starts all of them, and lives as long as this process: the kernel ends a child together with
# the thread that started it
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="isolated")
# reasons by files that were too slow, to be refused at once: a long video has thousands of pieces
_TOO_SLOW: dict[tuple[str, object], str] = {}


def start_isolated(count: int, *modules: str) -> None:
    """Start processes in the background, while this one reads lists or imports libraries.

    Each start takes half a second.

    Args:
        count: 0 for one a core.
        *modules: imported by them at once.
    """
    wanted = count or len(os.sched_getaffinity(0))

    def start() -> None:
        if len(_IDLE) < wanted:
            _IDLE.append(_start_process(modules))

    for _ in range(wanted):
        _STARTER.submit(start)


def end_idle_processes() -> None:
    """End the processes that wait for calls."""
    while _IDLE:
        _IDLE.pop().kill()


def _start_process(modules: Sequence[str] = ()) -> IsolatedProcess:
    return IsolatedProcess(_MAIN.format(memory=MEMORY, modules=list(modules)))


def _take_process(new: bool) -> tuple[IsolatedProcess, bool]:
    """A process, and whether it is a new one."""
    while not new:
        try:
            process = _IDLE.pop()
        except IndexError:
            break
        if process.is_alive:
            return process, False
    return _STARTER.submit(_start_process).result(), True


class _Span(Protocol):
    @property
    def size(self) -> int | None: ...


class _File(Protocol):
    """The facts of a file that bound a call: the catalog's Media has them."""

    @property
    def path(self) -> str: ...

    @property
    def stamp(self) -> tuple[int | None, int | None]: ...

    @property
    def span(self) -> _Span: ...


def call_isolated(function: Callable, media: _File, *others: object) -> object:
    """Call ``function(media, *others)`` in a process with limits of memory and time.

    Args:
        function: of a module of ours. Each :func:`~omnidali.utils.heartbeat.report_progress` gives
            it ``SECONDS`` again. Its result is made of lists, numbers, text and arrays; tuples
            become lists.
        media: the file in question; larger ones have more time.
        *others: arguments, of the kinds that :mod:`omnidali.processes.messages` knows.

    Raises:
        DecodeError: if the function raises it, or the file crashes, starves or blocks the process.
        OSError: if the function raises it, or an error of FFmpeg with a number.
        UserError: if no process can be started.
    """
    from omnidali.processes.messages import encode_message

    file = (media.path, media.stamp)
    if file in _TOO_SLOW:
        raise DecodeError(_TOO_SLOW[file])
    seconds = SECONDS + (media.span.size or media.stamp[0] or 0) / BYTES_PER_SECOND
    call = json.dumps(
        {
            "function": f"{function.__module__}:{function.__qualname__}",
            "seconds": seconds,
            "arguments": encode_message([media, *others]),
        }
    )

    for is_last in (False, True):
        process, is_new = _take_process(new=is_last)
        try:
            return _ask(process, call)
        except ProcessDiedError as death:
            reason = _describe(death, seconds)
            if death.too_slow:
                _TOO_SLOW[file] = reason
            # in a used process an earlier file may be to blame, through what it left behind
            if death.too_slow or is_new:
                raise DecodeError(reason) from None
    raise AssertionError("the second process is a new one")


def _ask(process: IsolatedProcess, call: str) -> object:
    """The function's result; its error is raised."""
    from omnidali.processes.messages import decode_message

    (line,) = process.ask(call)
    try:
        answer = json.loads(line)
        (kind,) = answer
        result: object
        if kind == "value":
            result = decode_message(answer["value"], trusted=False)
        elif kind == "os_error":
            number, text, file = answer["os_error"]
            result = OSError(number, text) if file is None else OSError(number, text, file)
        else:
            reason, trouble = answer["decode_error"]
            result = DecodeError(str(reason), trouble if trouble in TROUBLES else FILE)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise process.died() from None

    _IDLE.append(process)
    if isinstance(result, Exception):
        raise result
    return result


def _describe(death: ProcessDiedError, seconds: float) -> str:
    if death.too_slow:
        return f"nothing came of it for {seconds:.0f} s"
    return "needs too much memory" if death.too_large else "crashes its decoder"
