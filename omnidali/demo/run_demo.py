"""The demo: make the world, train, evaluate, and say where everything is."""

import time
from collections.abc import Sequence
from pathlib import Path

from omnidali.config.files import shipped_path
from omnidali.config.load import load_config
from omnidali.demo.world import make_world
from omnidali.distributed.devices import count_gpus
from omnidali.errors import UserError
from omnidali.loading.open_loader import check_shares
from omnidali.models.pretrained import check_pretrained
from omnidali.processes.launch import run_program
from omnidali.utils.untrusted_text import for_shell, say

DEMO_VIDEOS = "kinetics_8_val"  # of the world, which the training does not see
RANKS = 2  # of both programs; fewer where there are fewer GPUs
_OPTIONS = {"data_root": "Use --out.", "run_dir": "Use --out.", "seed": "Use --seed."}


def run_demo(folder: str | Path, seed: int = 0, overrides: Sequence[str] = ()) -> dict:
    """Make data, train, evaluate; everything lands in ``folder``.

    Args:
        folder: for the world and the run; a second start continues.
        seed: of the world and of the training.
        overrides: more ``key.path=value`` settings for both programs.

    Returns:
        The row of `evaluate`.

    Raises:
        UserError: if a setting is wrong.
        ProgramFailedError: if a program failed.
    """
    started = time.monotonic()
    world = Path(folder, f"world-{seed}")
    run = Path(folder, f"run-{seed}")
    config = str(shipped_path("demo"))
    settings = [f"data_root={world}", f"run_dir={run}", f"seed={seed}", *overrides]
    ranks = _check(config, settings, overrides)

    make_world(world, seed)
    run_program("train", "--config", config, "--resume", "auto", *settings, ranks=ranks)
    row = run_program("evaluate", "--config", config, *settings, ranks=ranks)
    assert row is not None, "evaluate prints its row"

    plots = sorted((run / "pictures").glob("*.png"))
    classes = len((run / "evaluation-test" / "per_class.csv").read_text().splitlines()) - 1
    say("", f"what the model saw, and where it errs: {', '.join(str(path) for path in plots)}")
    say("curves: " + for_shell("tensorboard", "--logdir", run / "tb"))
    videos = world / DEMO_VIDEOS
    say("its predictions: " + for_shell("omnidali", "predict", "--checkpoint", run, videos))
    say(
        f"top-1 {row['top1']:.1f} % on {row['items']} held-out videos of {classes} classes"
        f" (chance {100 / classes:.1f} %), {time.monotonic() - started:.0f} s"
    )
    return row


def _check(config: str, settings: Sequence[str], overrides: Sequence[str]) -> int:
    """Refuse settings that a program would refuse once the world is made, or the network trained.

    Returns:
        The number of ranks.

    Raises:
        UserError: naming the setting.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key in _OPTIONS:
            raise UserError(key, "no setting, as the demo sets it itself", override, _OPTIONS[key])
    found = load_config(config, settings)
    # two show that ranks work together, also without a GPU
    ranks = min(RANKS, count_gpus(found.device) or RANKS)
    check_shares(found, ranks)
    check_pretrained(found.model)
    if found.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to evaluate on", "nothing", "Leave it as it is."
        )
    return ranks
