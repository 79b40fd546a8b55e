"""The last checkpoint of a run is saved whatever the disk does."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.crashing import calling
from helpers.recorder import small_model
from helpers.running import (
    HELD_OUT,
    no_file_may_grow,
    run,
    small_disk,
    step_of,
)
from omnidali.errors import UserError
from omnidali.evaluation.accuracy import Accuracy
from omnidali.training import checkpointer, model_setup, spare_checkpoint
from omnidali.training.trainer import Trainer
from omnidali.utils import backoff

pytestmark = pytest.mark.usefixtures("small_network")


def test_checkpoints_are_saved_by_time(options, tmp_path, monkeypatch):
    saved = []
    real = checkpointer.save_checkpoint
    clock = [0.0]

    def save(path, state, previous=None):
        saved.append(state["loader"]["step"])
        real(path, state, previous)

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    monkeypatch.setattr("omnidali.training.save_clock.time.monotonic", lambda: clock[0])

    def before(step):
        clock[0] = 100.0 * step  # seconds

    code, _, err = run(
        *options,
        "train.checkpoint_every=1000",
        "train.checkpoint_minutes=10",
        wrap_loader=calling(before),
    )
    assert code == 0, err
    assert saved == [8, 14, 20, 24]  # 600 s after the one before: at the end of a group of two
    saved.clear()
    run(
        *options,
        "train.checkpoint_every=1000",
        "train.checkpoint_minutes=0",
        f"run_dir={tmp_path / 'other'}",
        wrap_loader=calling(before),
    )
    assert saved == [24]


def test_last_save_waits_for_room(options, tmp_path, monkeypatch):
    naps = []

    with small_disk(tmp_path / "run") as fill:

        def nap(seconds):
            naps.append(seconds)
            if len(naps) == 3:
                # it is safe meanwhile
                assert list((tmp_path / "temporary").glob("omnidali-*/step-4.pt"))
                fill(False)

        monkeypatch.setattr(backoff, "time", SimpleNamespace(sleep=nap))
        code, _, err = run(
            *options, "train.steps=4", wrap_loader=calling(lambda step: step == 3 and fill(True))
        )
        assert code == 0, err
        assert naps == [1.0, 2.0, 4.0] and "checkpoints can be written again" in err
        assert step_of(tmp_path / "run") == 4
    assert not list((tmp_path / "temporary").iterdir())


def test_last_save_goes_elsewhere(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint

    def save(path, state, previous=None):
        if tmp_path / "run" in path.parents and state["loader"]["step"] == 6:
            raise UserError(
                str(path), "a place to write a checkpoint", "No space left on device", "Free some."
            )
        real(path, state, previous)

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    run(*options, "train.steps=4")
    code, _, err = run(*options, "train.steps=6", "train.final_save_minutes=0", "auto")
    (path,) = (tmp_path / "temporary").glob("omnidali-*/step-6.pt")
    assert code == 2 and f"What was trained is in {path}." in err
    assert path.parent.stat().st_mode & 0o077 == 0  # nobody else's

    command = err.partition("Once there is room: ")[2].partition(", then")[0]
    word, source, target = command.split()
    assert word == "mv"
    Path(source).rename(target)
    monkeypatch.undo()
    monkeypatch.setattr(model_setup, "build_model", small_model)
    code, out, _ = run(*options, "train.steps=8", "auto")
    assert code == 0 and f"resumed from {target}, saved after step 6" in out
    assert step_of(tmp_path / "run") == 8


def test_last_save_removes_older_files_for_room(options, tmp_path, monkeypatch):
    """First previous.pt, as last.pt becomes that; step-N only where nothing else helps."""
    folder = tmp_path / "run/checkpoints"
    real = checkpointer.save_checkpoint
    room = None  # number of files
    run(*options, "train.steps=8", "train.keep_every=2", "train.checkpoint_every=4")
    assert {path.name for path in folder.iterdir()} == {
        "last.pt",
        "previous.pt",
        "step-2.pt",
        "step-4.pt",
        "step-6.pt",
        "step-8.pt",
    }

    def save(path, state, previous=None):
        if len(list(folder.iterdir())) > room or "temporary" in str(path):
            raise checkpointer.NoSpaceError(
                str(path), "room", "No space left on device", "Free some."
            )
        real(path, state, previous)

    for module in (checkpointer, spare_checkpoint):
        monkeypatch.setattr(module, "save_checkpoint", save)
    for files, left in (
        (5, {"last.pt", "previous.pt", "step-2.pt", "step-4.pt", "step-6.pt", "step-8.pt"}),
        (3, {"last.pt", "previous.pt", "step-6.pt", "step-8.pt"}),
    ):
        room = files
        steps = step_of(tmp_path / "run") + 2
        code, _, err = run(*options, f"train.steps={steps}", "train.final_save_minutes=0", "auto")
        assert code == 0 and "previous.pt is given up to make room" in err
        assert {path.name for path in folder.iterdir()} == left
        assert step_of(tmp_path / "run") == steps
        assert step_of(tmp_path / "run", "previous.pt") == steps - 2


def test_failed_save_elsewhere_names_no_place(options, tmp_path):
    run(*options, "train.steps=2")
    with no_file_may_grow() as fill:
        code, _, err = run(
            *options,
            "train.steps=4",
            "train.final_save_minutes=0",
            "auto",
            wrap_loader=calling(lambda step: fill(True)),
        )
    assert code == 2 and "a place to write a checkpoint, got File too large" in err
    assert "What was trained is in" not in err
    assert "--resume auto goes on after step 2\n" in err and step_of(tmp_path / "run") == 2


def test_deleted_checkpoints_are_saved_again(options, tmp_path):
    def before(step):
        if step == 9:
            shutil.rmtree(tmp_path / "run/checkpoints")
            raise UserError("sources.clips", "files", "none", "Check them.")

    code, _, err = run(*options, wrap_loader=calling(before))  # behind the save after step 8
    assert code == 2 and step_of(tmp_path / "run") == 8


def test_previous_checkpoint_is_kept_if_it_is_the_only_one(options, tmp_path, monkeypatch):
    folder = tmp_path / "run/checkpoints"
    run(*options, "train.steps=8", "train.checkpoint_every=4")

    def save(path, *_):
        raise checkpointer.NoSpaceError(str(path), "room", "No space left on device", "Free some.")

    def before(step):
        if step == 9:
            (folder / "last.pt").unlink()
            monkeypatch.setattr(checkpointer, "save_checkpoint", save)

    code, _, err = run(
        *options,
        "train.steps=10",
        "train.final_save_minutes=0",
        "auto",
        wrap_loader=calling(before),
    )
    assert code == 2 and (folder / "previous.pt").exists() and "given up" not in err


def test_best_counts_unreadable_items_as_wrong(options, tmp_path, monkeypatch):
    rows = iter(
        [
            Accuracy(1, 1, 1, *np.zeros((2, 4), int), np.zeros((4, 4), int), unreadable=4),
            Accuracy(5, 2, 2, *np.zeros((2, 4), int), np.zeros((4, 4), int)),
        ]
    )
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: next(rows))
    monkeypatch.setattr(Accuracy, "mean_class", 0.0)
    assert run(*options, HELD_OUT, "train.steps=8")[0] == 0
    assert step_of(tmp_path / "run", "best.pt") == 8
