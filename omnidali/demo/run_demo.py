"""The demo: make the world, train with two processes, evaluate, show where everything lies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from omnidali.config.load import load_config
from omnidali.demo.world import make_world
from omnidali.errors import UserError
from omnidali.loading.data import check_shares
from omnidali.processes.launch import find_config, run_program
from omnidali.utils.untrusted_text import for_shell, say

RANKS = 2  # of both programs
_OPTIONS = {"data_root": "Use --out.", "run_dir": "Use --out.", "seed": "Use --seed."}


def run_demo(folder: str | Path, seed: int = 0, overrides: list[str] | None = None) -> dict:
    """Make data, train, evaluate; everything lands in ``folder``.

    Args:
        seed: of the world and of the training.
        overrides: more ``key.path=value`` settings for both programs.

    Returns:
        The row of evaluate.py.

    Raises:
        UserError: if the project's files are not there, a setting is wrong, or a program failed.
    """
    started, folder = time.monotonic(), Path(folder)
    config = find_config("demo.yaml")
    world, run = folder / f"world-{seed}", folder / f"run-{seed}"
    settings = [f"data_root={world}", f"run_dir={run}", f"seed={seed}", *(overrides or ())]
    _check(config, settings, overrides or ())
    make_world(world, seed)
    run_program("train.py", "--config", str(config), "--resume", "auto", *settings, ranks=RANKS)
    row = run_program("evaluate.py", "--config", str(config), *settings, ranks=RANKS)
    pictures = sorted((run / "pictures").glob("*.png"))
    say("", f"what the model saw, and where it errs: {', '.join(str(path) for path in pictures)}")
    say("curves: " + for_shell("tensorboard", "--logdir", run / "tb"))
    say(
        f"top-1 {row['top1']:.1f} % on {row['items']} held-out videos of {_count_classes(run)} classes"
        f" (chance {100 / _count_classes(run):.1f} %), {time.monotonic() - started:.0f} s"
    )
    return row


def _check(config: Path, settings: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse settings that a program would refuse once the world is made, or the network trained.

    Raises:
        UserError: naming the setting.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key in _OPTIONS:
            raise UserError(key, "no setting, as the demo sets it itself", override, _OPTIONS[key])
    found = load_config(str(config), settings)
    check_shares(found, RANKS)
    if found.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to evaluate on", "nothing", "Leave it as it is."
        )


def _count_classes(run: Path) -> int:
    return len((run / "evaluation-test" / "per_class.csv").read_text().splitlines()) - 1
