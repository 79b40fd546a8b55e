"""The demo: make the world, train with two processes, evaluate, show where everything lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import omnidali
from omnidali.demo.world import make_world
from omnidali.errors import UserError

PROJECT = Path(omnidali.__file__).resolve().parent.parent


def run_demo(folder: str | Path, seed: int = 0, overrides: list[str] | None = None) -> dict:
    """Make data, train, evaluate; everything lands in ``folder``.

    Args:
        seed: of the world and of the training.
        overrides: more ``key.path=value`` settings for both programs.

    Returns:
        The row of evaluate.py.

    Raises:
        UserError: if the project's files are not there, or a program failed.
    """
    started, folder = time.monotonic(), Path(folder)
    config = PROJECT / "configs" / "demo.yaml"
    if not config.exists():
        raise UserError(str(config), "the project's configs", "no such file",
                        "Run the demo from a checkout that is installed with pip install -e .")
    world, run = make_world(folder / f"world-{seed}", seed), folder / f"run-{seed}"
    settings = [f"data_root={world}", f"run_dir={run}", f"seed={seed}", *(overrides or ())]
    _torchrun("train.py", "--config", str(config), "--resume", "auto", *settings)
    output = _torchrun("evaluate.py", "--config", str(config), *settings)
    row = json.loads(output.splitlines()[-1])
    pictures = sorted((run / "pictures").glob("*.png"))
    print(f"\nwhat the model saw, and where it errs: {', '.join(str(path) for path in pictures)}")
    print(f"curves: tensorboard --logdir {run / 'tb'}")
    print(f"top-1 {row['top1']:.1f} % on {row['items']} held-out videos of {_count_classes(run)} classes"
          f" (chance {100 / _count_classes(run):.1f} %), {time.monotonic() - started:.0f} s")
    return row


def _count_classes(run: Path) -> int:
    return len((run / "evaluation-test" / "per_class.csv").read_text().splitlines()) - 1


def _torchrun(program: str, *arguments: str) -> str:
    """Run a program of the project on two processes, echo what it prints, and return it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(PROJECT / program), *arguments]
    print(f"\n$ torchrun --nproc-per-node 2 {program} {' '.join(arguments)}", flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise UserError(program, "exit code 0", str(process.returncode), "See the messages above.")
    return "".join(lines).strip()
