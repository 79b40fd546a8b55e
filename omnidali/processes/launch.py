"""Running the project's programs as users start them, for commands that need several runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import omnidali
from omnidali.errors import UserError
from omnidali.processes.torchrun import SIGNALS
from omnidali.utils.untrusted_text import for_shell, say

PROJECT = Path(omnidali.__file__).resolve().parent.parent
# after a signal, before torchrun kills a rank that has not ended: 30 are short for a save
_SAVING_SECONDS = "120"


def find_config(name: str) -> Path:
    """A config that the project ships.

    Raises:
        UserError: where the project was installed without its files.
    """
    path = Path(omnidali.__file__).parent / "configs" / name
    if not path.exists():
        raise UserError(
            str(path),
            "the project's configs",
            "no such file",
            "Run this from a checkout that is installed with pip install -e .",
        )
    return path


class ProgramFailedError(Exception):
    """A program ended badly, and not for a mistake of the user's.

    Args:
        message: one line. code: what a command that needed the program ends with.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def run_program(program: str, *arguments: str, ranks: int = 2) -> dict | None:
    """Run train.py, evaluate.py or a command of ``omnidali`` through torchrun and echo what it
    prints.

    Signals that end this process are handed on to the program, and its end is waited for.

    Returns:
        The JSON object in the last line, if there is one.

    Raises:
        UserError: for what the program says is a mistake of the user's.
        ProgramFailedError: if it ended with another error, or by a signal.
        KeyboardInterrupt: once it has ended after an interrupt from the keyboard.
    """
    what = [str(PROJECT / program)] if program.endswith(".py") else ["-m", "omnidali", program]
    shown = [program] if program.endswith(".py") else what
    say("", "$ " + for_shell("torchrun", "--nproc-per-node", ranks, *shown, *arguments))

    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _SAVING_SECONDS,
        **os.environ,
    }
    reader, writer = os.pipe()
    command = [
        sys.executable,
        "-m",
        "omnidali.processes.torchrun",
        str(writer),
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        *what,
        *arguments,
    ]
    last = ""
    with open(reader, encoding="utf-8") as error, _HandedOn() as signals:
        try:
            # in a session of its own: it gets every signal once, from here
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environment,
                encoding="utf-8",
                errors="backslashreplace",
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        with process:
            signals.to(process)
            for line in process.stdout:
                say(line.removesuffix("\n"))
                last = line.strip() or last
        text = error.read()

    _raise_for(program, process.returncode, json.loads(text) if text else "", signals.heard)
    return json.loads(last) if last.startswith("{") else None


def _raise_for(program: str, code: int, text: str, heard: int | None) -> None:
    """Nothing for a good end; else what :func:`run_program` raises."""
    if heard == signal.SIGINT:
        raise KeyboardInterrupt
    if heard is not None:  # a training that was stopped has saved, and ends with 0
        name = signal.Signals(heard).name
        raise ProgramFailedError(
            f"{name}: {program} was ended; the same command goes on where it stopped", 128 + heard
        )

    told = (
        "; ".join(line.strip() for line in text.split("\n") if line.strip())
        or "see the messages above"
    )
    if code == 2:
        raise UserError(
            program,
            "a good end",
            f"this error: {told}".removesuffix("."),
            "Correct it and start again: what is finished is kept.",
        )
    if code:
        raise ProgramFailedError(
            f"{program} failed with exit code {code}: {told}", code if code > 0 else 128 - code
        )


class _HandedOn:
    """While it is entered, signals that end this process are handed on to a program instead.

    What is ignored stays ignored, as SIGHUP under `nohup`.

    Attributes:
        heard: the first of them, or None.
    """

    def __init__(self) -> None:
        self.heard: int | None = None
        self._process: subprocess.Popen | None = None
        self._old: dict[int, object] = {}

    def to(self, process: subprocess.Popen) -> None:
        """Name the program; what was heard while it was being started is handed on now."""
        self._process = process
        if self.heard is not None:
            process.send_signal(self.heard)

    def _hear(self, number: int, _: object) -> None:
        self.heard = self.heard or number
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> _HandedOn:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
