"""The project's programs, run as users start them, for commands that need several runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omnidali.errors import UserError
from omnidali.processes.child_imports import import_variables
from omnidali.processes.program_log import ProgramLog
from omnidali.processes.signals import FORWARDED, handling_signals
from omnidali.utils.untrusted_text import for_shell, say

_PROGRAM = ("-m", "omnidali")
# after a signal, before torchrun kills a rank that has not ended: 30 are short for a save
_SAVING_SECONDS = "120"


class ProgramFailedError(Exception):
    """A program failed, but not because of a mistake of the user.

    Args:
        message: one line.
        code: the exit code for a command that needed the program.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class ProgramRefusedError(UserError):
    """A mistake of the user that a program has reported, as it reported it.

    Args:
        verb: of the program.
        lines: of its error, one a mistake.
    """

    def __init__(self, verb: str, lines: Sequence[str]):
        ValueError.__init__(self, "\n".join(f"{verb}, {line}" for line in lines))
        self.where = verb
        self.got = "; ".join(lines)


def run_program(verb: str, *arguments: str, ranks: int = 2, log: Path | None = None) -> dict | None:
    """Run a command of ``omnidali`` with torchrun, and echo its output.

    Signals that end this process are forwarded to the program, and its end is waited for.

    Args:
        verb: of the command.
        arguments: of the command.
        ranks: processes of the program.
        log: file that gets what the program prints, after what it holds.

    Returns:
        The JSON object in the last line, if there is one.

    Raises:
        ProgramRefusedError: if the program reports a mistake of the user, with its words.
        ProgramFailedError: if it ended with another error, or by a signal.
        KeyboardInterrupt: after it has ended because of an interrupt from the keyboard.
    """
    _require_no_launcher(verb)
    target = [*_PROGRAM, verb]
    shown = "$ " + for_shell("torchrun", "--nproc-per-node", ranks, *target, *arguments)
    say("", shown)
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "omnidali.distributed.torchrun", str(writer)]
    command += ["--standalone", "--nproc-per-node", str(ranks), *target, *arguments]
    received: list[int] = []
    process: subprocess.Popen[str] | None = None

    def forward(number: int, _: object) -> None:
        received.append(number)
        if process is not None:
            process.send_signal(number)

    last = ""
    with (
        open(reader, encoding="utf-8") as error,
        handling_signals(FORWARDED, forward),
        ProgramLog(log) as kept,
        kept.copying_stderr() as stderr,
    ):
        kept.add(shown)
        try:
            process = _start(command, ranks, writer, stderr)
        finally:
            os.close(writer)
        with process:
            if received:  # while the program was being started
                process.send_signal(received[0])
            assert process.stdout is not None
            for line in process.stdout:
                say(line.removesuffix("\n"))
                kept.add(line.removesuffix("\n"))
                last = line.strip() or last
        text = error.read()

    reason = json.loads(text) if text else ""
    _raise_for(verb, process.returncode, reason, log=kept.path, received=received)
    return json.loads(last) if last.startswith("{") else None


def _require_no_launcher(verb: str) -> None:
    """Refuse to start ranks from within a rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            verb,
            "to be started once, as this command starts ranks itself",
            f"{os.environ['WORLD_SIZE']} ranks of torchrun or srun",
            "Start it without them; --ranks is the number of ranks.",
        )


def _start(
    command: Sequence[str], ranks: int, writer: int, stderr: int | None
) -> subprocess.Popen[str]:
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={
            "OMP_NUM_THREADS": str(threads),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _SAVING_SECONDS,
            **os.environ,
            **import_variables(),
        },
        encoding="utf-8",
        errors="backslashreplace",
        pass_fds=(writer,),
        # a session of its own: it gets every signal once, from here
        start_new_session=True,
    )


def _raise_for(
    verb: str, code: int, text: str, *, log: Path | None, received: Sequence[int]
) -> None:
    """Raise what :func:`run_program` promises; nothing after a success.

    Args:
        verb: of the program.
        code: that it ended with.
        text: of its error; may be empty.
        log: file with what it printed, if there is one.
        received: signals that were forwarded to it.
    """
    if received:  # a training that was stopped has saved, and ends with 0
        number = received[0]
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        raise ProgramFailedError(
            f"{name}: {verb} was ended; the same command goes on where it stopped", 128 + number
        )
    if not code:
        return

    if log:
        say(
            f"all that {verb} printed is in {log}; what is finished is kept, and the same command"
            " goes on",
            error=True,
        )
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if code == 2 and lines:
        raise ProgramRefusedError(verb, lines)
    reason = "; ".join(lines) or f"it ended with exit code {code}, without a reason"
    raise ProgramFailedError(f"{verb} failed: {reason}", code if code > 0 else 128 - code)
