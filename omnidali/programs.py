"""Running the project's programs as users start them, for commands that need several runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import omnidali
from omnidali.errors import UserError

PROJECT = Path(omnidali.__file__).resolve().parent.parent


def find_config(name: str) -> Path:
    """A config that the project ships.

    Raises:
        UserError: where the project was installed without its files.
    """
    path = PROJECT / "configs" / name
    if not path.exists():
        raise UserError(str(path), "the project's configs", "no such file",
                        "Run this from a checkout that is installed with pip install -e .")
    return path


def run_program(program: str, *arguments: str, ranks: int = 2) -> dict | None:
    """Run train.py, evaluate.py or a command of ``omnidali`` through torchrun and echo what it prints.

    Returns:
        The JSON object in the last line, if there is one.

    Raises:
        UserError: if it did not end with exit code 0.
    """
    what = [str(PROJECT / program)] if program.endswith(".py") else ["-m", "omnidali.cli", program]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
               *what, *arguments]
    shown = program if program.endswith(".py") else f"-m omnidali.cli {program}"
    print(f"\n$ torchrun --nproc-per-node {ranks} {shown} {' '.join(arguments)}", flush=True)
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode:
        raise UserError(program, "exit code 0", str(process.returncode), "See the messages above.")
    return json.loads(last) if last.startswith("{") else None
