"""The demo: make the world, train with two processes, evaluate, show where everything lies."""

from __future__ import annotations

import time
from pathlib import Path

from omnidali.demo.world import make_world
from omnidali.programs import find_config, run_program
from omnidali.untrusted_text import say


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
    config = find_config("demo.yaml")
    world, run = make_world(folder / f"world-{seed}", seed), folder / f"run-{seed}"
    settings = [f"data_root={world}", f"run_dir={run}", f"seed={seed}", *(overrides or ())]
    run_program("train.py", "--config", str(config), "--resume", "auto", *settings)
    row = run_program("evaluate.py", "--config", str(config), *settings)
    pictures = sorted((run / "pictures").glob("*.png"))
    say("", f"what the model saw, and where it errs: {', '.join(str(path) for path in pictures)}")
    say(f"curves: tensorboard --logdir {run / 'tb'}")
    say(f"top-1 {row['top1']:.1f} % on {row['items']} held-out videos of {_count_classes(run)} classes"
        f" (chance {100 / _count_classes(run):.1f} %), {time.monotonic() - started:.0f} s")
    return row


def _count_classes(run: Path) -> int:
    return len((run / "evaluation-test" / "per_class.csv").read_text().splitlines()) - 1
