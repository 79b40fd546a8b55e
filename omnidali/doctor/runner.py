"""Checks run in processes of their own, each with a time limit: none of them can end the report."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import IO

from omnidali.doctor.findings import BAD, NOTE, Context
from omnidali.processes.child_imports import import_variables

_RESTARTS = 4  # after cases that crash or hang
_LEAST_SECONDS = 3.0  # below which a check is not begun
_OUTPUT = 6000  # bytes of what a process printed last


@dataclass(frozen=True)
class Check:
    """Something to look at.

    Attributes:
        name: for people.
        function: ``module:name`` of a function that takes a
            :class:`~omnidali.doctor.findings.Findings`.
        seconds: that it may take.
        case_seconds: that one of its cases may take.
    """

    name: str
    function: str
    seconds: float
    case_seconds: float = 20.0


@dataclass
class Outcome:
    """What came of a check.

    Attributes:
        name: of the check.
        lines: (level, text) in the order of their coming.
        facts: for programs.
        seconds: that it took.
        ended: whether it came to its end.
        tracebacks: of errors, crashes and hangs.
    """

    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    ended: bool = False
    tracebacks: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        """Whether something is broken."""
        return any(level == BAD for level, _ in self.lines)


def run_check(check: Check, context: Context, on_line: Callable[[str, str], None]) -> Outcome:
    """Run a check in processes of its own.

    Args:
        check: what to look at.
        context: of the check; its ``seconds`` are an upper limit, too.
        on_line: called with (level, text) of each finding as it comes.
    """
    outcome = Outcome(check.name)
    begun = time.monotonic()

    def say(level: str, text: str) -> None:
        outcome.lines.append((level, text))
        on_line(level, text)

    seconds = min(check.seconds, context.seconds)
    end = begun + seconds
    for attempt in range(_RESTARTS + 1):
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            say(NOTE, f"out of time: {'not looked at' if attempt == 0 else 'the rest is left out'}")
            break
        child = _Child(check, replace(context, seconds=left), outcome, say)
        reason = child.run(end + 2.0)  # it is asked to end in time, and made to a little later
        if reason is None:
            outcome.ended = True
            break
        if not child.case:
            say(BAD, reason)
            break
        say(NOTE if child.ran_out else BAD, f"{child.case}: {reason}")
        context = replace(context, done=(*context.done, *child.begun))
    else:
        say(NOTE, "too many crashes: the rest is left out")
    outcome.seconds = time.monotonic() - begun
    return outcome


class _Child:
    """One process of a check.

    Args:
        check: that it runs.
        context: of the check.
        outcome: takes the facts.
        say: takes (level, text) of each line.
    """

    def __init__(
        self,
        check: Check,
        context: Context,
        outcome: Outcome,
        say: Callable[[str, str], None],
    ):
        self._check = check
        self._context = context
        self._outcome = outcome
        self._say = say
        self._error: str | None = None
        self._ended = False
        self.ran_out = False  # of the time of all cases
        self.case = ""
        self.begun: list[str] = []

    def run(self, deadline: float) -> str | None:
        """Run it; returns None after a good end, else what became of it."""
        job = json.dumps({"function": self._check.function, "context": asdict(self._context)})
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as output, open(reader, "rb", buffering=0) as pipe:
            try:
                process = subprocess.Popen(
                    # -u: what it prints is not lost with it
                    [sys.executable, "-u", "-m", "omnidali.doctor.child", str(writer), job],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **import_variables()},
                    pass_fds=(writer,),
                    start_new_session=True,  # whatever it starts ends with it
                )
            finally:
                os.close(writer)
            in_time = False
            try:
                in_time = self._listen(pipe, deadline)
            finally:
                status = _end(process, in_time)
            output.seek(0)
            text = output.read()[-_OUTPUT:].decode(errors="replace").strip()
            return self._reason(in_time, status, text)

    def _listen(self, pipe: IO[bytes], deadline: float) -> bool:
        """Take the messages until the process closes its pipe; False if it is too slow."""
        rest = b""
        begun_case = time.monotonic()
        while True:
            limit = deadline
            if self.case:
                limit = min(limit, begun_case + self._check.case_seconds)
            wait = limit - time.monotonic()
            if wait <= 0 or not select.select([pipe], [], [], wait)[0]:
                self.ran_out = limit == deadline
                return False
            data = pipe.read(1 << 16)
            if not data:
                return True
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                before = self.case
                self._take(json.loads(line))
                if self.case != before:
                    begun_case = time.monotonic()

    def _take(self, message: dict) -> None:
        if "level" in message:
            self._say(message["level"], message["text"])
        elif "fact" in message:
            self._outcome.facts[message["fact"]] = message["value"]
        elif "case" in message:
            self.case = message["case"]
            self.begun += [self.case] if self.case else []
        elif "traceback" in message:
            self._outcome.tracebacks.append(message["traceback"])
            self._error = message.get("error", self._error)
        else:
            self._ended = True

    def _reason(self, in_time: bool, status: int, output: str) -> str | None:
        """Why it came to no good end; None if it did."""
        if self._ended:
            return None
        if self._error is not None:
            return self._error
        if output:
            self._outcome.tracebacks.append(output)
        if not in_time:
            return "ended, as time ran out" if self.ran_out else "hangs, or takes too long: ended"
        if status < 0:
            return f"its process died of {signal.Signals(-status).name}"
        return f"its process ended with exit code {status}"


def _end(process: subprocess.Popen, in_time: bool) -> int:
    """End a process, at once if it is late, with all that it has started; returns its status."""
    if not in_time:
        process.send_signal(signal.SIGABRT)  # it prints where its threads are
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # stuck in the kernel, at a driver or a disk
        return 0
