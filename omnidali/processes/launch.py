"""The project's programs, run as users start them, for commands that need several runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from omnidali.errors import UserError
from omnidali.processes.child_imports import import_variables
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


def run_program(verb: str, *arguments: str, ranks: int = 2) -> dict | None:
    """Run a command of ``omnidali`` with torchrun, and echo its output.

    Signals that end this process are forwarded to the program, and its end is waited for.

    Returns:
        The JSON object in the last line, if there is one.

    Raises:
        UserError: if the program reports a mistake of the user.
        ProgramFailedError: if it ended with another error, or by a signal.
        KeyboardInterrupt: after it has ended because of an interrupt from the keyboard.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            verb,
            "to be started once, as this command starts ranks itself",
            f"{os.environ['WORLD_SIZE']} ranks of torchrun or srun",
            "Start it without them; --ranks is the number of ranks.",
        )
    target = [*_PROGRAM, verb]
    say("", "$ " + for_shell("torchrun", "--nproc-per-node", ranks, *target, *arguments))

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
    with open(reader, encoding="utf-8") as error, handling_signals(FORWARDED, forward):
        try:
            process = _start(command, ranks, writer)
        finally:
            os.close(writer)
        with process:
            if received:  # while the program was being started
                process.send_signal(received[0])
            assert process.stdout is not None
            for line in process.stdout:
                say(line.removesuffix("\n"))
                last = line.strip() or last
        text = error.read()

    _raise_for(verb, process.returncode, json.loads(text) if text else "", received)
    return json.loads(last) if last.startswith("{") else None


def _start(command: Sequence[str], ranks: int, writer: int) -> subprocess.Popen[str]:
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
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


def _raise_for(verb: str, code: int, text: str, received: Sequence[int]) -> None:
    """Raise what :func:`run_program` promises; nothing after a success."""
    if received:  # a training that was stopped has saved, and ends with 0
        number = received[0]
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        raise ProgramFailedError(
            f"{name}: {verb} was ended; the same command goes on where it stopped", 128 + number
        )

    lines = [line.strip() for line in text.split("\n") if line.strip()]
    reason = "; ".join(lines) or "see the messages above"
    if code == 2:
        raise UserError(
            verb,
            "a good end",
            f"this error: {reason}".removesuffix("."),
            "Correct it and start again: what is finished is kept.",
        )
    if code:
        raise ProgramFailedError(
            f"{verb} failed with exit code {code}: {reason}", code if code > 0 else 128 - code
        )
