"""Writes that fail on a full disk are tried again while the run goes on."""

import json

import pytest
import torch

from helpers.crashing import calling
from helpers.running import (
    HELD_OUT,
    assert_same,
    no_file_may_grow,
    run,
    small_disk,
    weights,
)
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import (
    load_checkpoint,
)
from omnidali.training import checkpointer
from omnidali.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_network")


def test_full_disk_does_not_end_a_run(options, tmp_path):
    with small_disk(tmp_path / "run") as fill:

        def before(step):
            if step in (5, 11):  # the checkpoint of step 8 fails, and its retry at step 10
                fill(step == 5)

        code, out, err = run(*options, "train.steps=14", wrap_loader=calling(before))
        assert code == 0, err
        assert err.count("last.pt: expected a place to write a checkpoint, got") == 1
        assert err.count("checkpoints can be written again") == 1
        assert "Free space" in err and "Traceback" not in err
        rows = [
            json.loads(line)["step"]
            for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        ]
        assert rows == [1, 2, 4, 6, 8, 10, 12, 14]  # what could not be written came later
        checkpoints = tmp_path / "run" / "checkpoints"
        # the retry that worked
        assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 12
        assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 14


def test_only_failed_last_save_ends_the_run_and_old_file_stays(options, tmp_path):
    run(*options, "train.steps=2")
    with no_file_may_grow() as fill:
        code, _, err = run(
            *options,
            "train.steps=6",
            "train.final_save_minutes=0",
            "auto",
            wrap_loader=calling(lambda step: fill(True)),
        )
    assert (
        code == 2 and "error:\n" in err and "last.pt: expected a place to write a checkpoint" in err
    )
    for name in ("metrics.jsonl", "tb"):
        assert (
            err.count(
                f"run/{name}: expected a file that can be written, got File too large. Free space"
            )
            == 1
        )
    assert "Traceback" not in err
    checkpoints = tmp_path / "run" / "checkpoints"
    assert load_checkpoint(checkpoints / "last.pt")["loader"]["step"] == 2 and not list(
        checkpoints.glob("*.part")
    )


def test_failed_checkpoints_are_retried_with_their_content(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint
    full = {"best.pt", "step-2.pt", "step-4.pt"}  # files that do not fit

    def save(path, state, previous=None):
        if path.name in full:
            raise UserError(str(path), "space", "none", "Free some.")
        real(path, state, previous)

    def held(name):
        state = load_checkpoint(tmp_path / "run" / "checkpoints" / name)
        return state["state_dict"]["w"].item(), state["best"], state["owes_evaluation"]

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    weights = torch.zeros(1)
    with RunFolder(load_config(options[1], options[2:]), Ranks()) as folder:

        def keep(step, best, *names):
            weights.fill_(step)  # in place, as an optimizer does
            folder.checkpoints.save(
                {
                    "state_dict": {"w": weights},
                    "best": best,
                    "owes_evaluation": False,
                    "loader": {"step": step},
                },
                *names,
            )

        keep(2, 0.5, "best.pt", "step-2.pt", "last.pt")
        assert held("last.pt") == (2.0, -1.0, True) and not folder.checkpoints.owes_save
        keep(4, 0.5, "step-4.pt", "last.pt")
        assert held("last.pt") == (4.0, -1.0, True)
        full.clear()
        keep(6, 0.5, "last.pt")
        assert held("best.pt") == (2.0, 0.5, False) and held("step-4.pt") == (4.0, 0.5, False)
        assert held("last.pt") == (6.0, 0.5, False)
        full.update(["best.pt", "last.pt"])
        keep(8, 0.6, "best.pt", "last.pt")
        assert folder.checkpoints.owes_save
        full.clear()
        # another best one takes the place of the one that waits
        keep(10, 0.7, "best.pt", "last.pt")
        assert held("best.pt") == (10.0, 0.7, False) and held("last.pt") == (10.0, 0.7, False)
        assert not folder.checkpoints.owes_save
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
        "step-4.pt",
    }


def test_resume_evaluates_again_if_best_was_not_written(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint

    def save(path, state, previous=None):
        if path.name == "best.pt":
            raise UserError(str(path), "space", "none", "Free some.")
        real(path, state, previous)

    with monkeypatch.context() as full:
        full.setattr(checkpointer, "save_checkpoint", save)
        code, _, err = run(*options, HELD_OUT, "train.steps=4")
        assert code == 2 and "best.pt: expected space, got none" in err
    checkpoints = tmp_path / "run" / "checkpoints"
    assert load_checkpoint(checkpoints / "last.pt")["best"] == -1.0
    assert not (checkpoints / "best.pt").exists()
    code, out, err = run(*options, HELD_OUT, "train.steps=4", "auto")
    assert code == 0 and "evaluation at step 4: top1" in out, err
    assert_same(load_checkpoint(checkpoints / "best.pt")["state_dict"], weights(tmp_path / "run"))
    assert (
        load_checkpoint(checkpoints / "last.pt")["best"]
        == load_checkpoint(checkpoints / "best.pt")["best"]
        >= 0
    )
