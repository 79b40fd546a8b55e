"""Nothing that was trained is lost: errors between steps, last saves that fail, and what a resume
says.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from helpers.crashing import calling
from helpers.recorder import small_model
from helpers.running import (
    HELD_OUT,
    assert_same,
    no_file_may_grow,
    options_of,
    run,
    small_disk,
    step_of,
    weights,
)
from omnidali.catalog import build
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.training import checkpointer, run_folder

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture(scope="module")
def whole(media_root, tmp_path_factory):
    """Weights after 24 steps of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", small_model)
        assert run(*options_of(media_root, folder))[0] == 0
    return weights(folder / "run")


def raises(error):
    def fail(*_, **__):
        raise error

    return fail


# --- errors outside a step


def test_evaluation_that_fails_loses_no_step(options, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(
            train,
            "score_items",
            raises(UserError("evaluation.source", "items", "none", "Restore them.")),
        )
        code, _, err = run(*options, HELD_OUT, "train.steps=6")
    assert code == 2 and "evaluation.source: expected items" in err
    assert "the run ends at an error; --resume auto goes on after step 4" in err
    assert (
        step_of(tmp_path / "run") == 4
        and load_checkpoint(tmp_path / "run/checkpoints/last.pt")["owes_evaluation"]
    )

    code, out, _ = run(*options, HELD_OUT, "train.steps=6", "auto")
    assert code == 0 and "evaluation at step 4: top1" in out and "evaluation at step 6: top1" in out


def test_evaluation_is_saved_before_and_recorded_after(options, tmp_path, monkeypatch):
    real, seen = train.score_items, []

    def score(*given):
        state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
        seen.append((state["loader"]["step"], state["owes_evaluation"]))
        return real(*given)

    monkeypatch.setattr(train, "score_items", score)
    assert run(*options, HELD_OUT, "train.steps=8", "train.checkpoint_every=6")[0] == 0
    assert seen == [(4, True), (8, True)]
    last, best = (
        load_checkpoint(tmp_path / f"run/checkpoints/{name}.pt") for name in ("last", "best")
    )
    assert not last["owes_evaluation"] and last["best"] == best["best"] >= 0
    # not that of the same step before its evaluation
    assert step_of(tmp_path / "run", "previous.pt") == 6


FAILURES = {
    "log": ("step_line", ValueError("closed file")),
    "memory": ("step_line", MemoryError()),
    "interrupt": ("step_line", KeyboardInterrupt()),
    "pictures": ("learning_rate", RuntimeError("no picture")),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", FAILURES)
def test_an_error_between_steps_saves_the_last_one(
    options, tmp_path, whole, monkeypatch, name, accumulate
):
    """Of a group of accumulated batches that is cut off, the batches are trained again."""
    function, error = FAILURES[name]
    real, calls = getattr(train, function), []

    def fails_later(*given):
        calls.append(1)
        if len(calls) == 6:
            raise error
        return real(*given)

    monkeypatch.setattr(train, function, fails_later)
    settings = [f"optimizer.accumulate={accumulate}", "train.log_every=1"]
    with pytest.MonkeyPatch.context() as patch:
        # an error of ours is no traceback of pytest's
        patch.setattr("omnidali.errors.watch.is_on", lambda: True)
        patch.setattr("omnidali.errors.watch.leave", lambda code, tell: (tell(), code)[1])
        code, _, err = run(*options, *settings)
    step = 6 if function == "step_line" else 5
    step -= step % accumulate
    assert code in (1, 130) and f"--resume auto goes on after step {step}\n" in err
    assert step_of(tmp_path / "run") == step

    monkeypatch.setattr(train, function, real)
    assert run(*options, *settings, "auto")[0] == 0
    if accumulate == 2:
        assert_same(whole, weights(tmp_path / "run"))


def test_an_error_before_a_due_evaluation_leaves_it_owed(options, tmp_path, monkeypatch):
    """Also at the last step, behind which a resume has nothing else to do."""
    real, calls = train.step_line, []

    def fails_at_the_end(step, *given):
        if step == 6 and not calls.append(1) and len(calls) == 1:
            raise UserError("log", "a disk", "none", "Mend it.")
        return real(step, *given)

    monkeypatch.setattr(train, "step_line", fails_at_the_end)
    assert run(*options, HELD_OUT, "train.steps=6")[0] == 2
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["loader"]["step"] == 6 and state["owes_evaluation"]
    code, out, _ = run(*options, HELD_OUT, "train.steps=6", "auto")
    assert code == 0 and "evaluation at step 6: top1" in out


def test_an_abandoned_evaluation_on_a_full_disk_is_saved_elsewhere(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint

    def save(path, state, previous=None):
        if tmp_path / "run" in path.parents:
            raise UserError(
                str(path), "a place to write a checkpoint", "No space left on device", "Free some."
            )
        real(path, state, previous)

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    monkeypatch.setattr(train, "score_items", lambda *_: None)  # as a signal ends it
    code, _, err = run(*options, HELD_OUT, "train.steps=8", "train.final_save_minutes=0")
    (path,) = (tmp_path / "temporary").glob("omnidali-*/step-4.pt")
    assert code == 2 and f"What was trained is in {path}." in err


def test_an_error_in_the_forward_pass_saves_the_step_before_it(
    options, tmp_path, whole, monkeypatch
):
    """Its batch norms have moved by then; what is saved are those of the last optimizer step."""

    class Fails(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.calls = model, 0
            self.clip_len = model.clip_len

        def forward(self, *given):
            self.calls += 1
            found = self.model(*given)
            if self.calls == 8:
                raise torch.cuda.OutOfMemoryError("no memory")
            return found

    from omnidali.distributed.ranks import Ranks

    monkeypatch.setattr(Ranks, "wrap", lambda _, model: Fails(model))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(*options)
    assert step_of(tmp_path / "run") == 6
    monkeypatch.undo()
    monkeypatch.setattr(train, "build_model", small_model)
    assert run(*options, "auto")[0] == 0
    assert_same(whole, weights(tmp_path / "run"))


def test_an_error_within_the_optimizer_step_saves_nothing(options, tmp_path, monkeypatch):
    real, calls = torch.optim.SGD.step, []

    def step(*given):
        calls.append(1)
        if len(calls) == 6:
            raise OSError(5, "Input/output error")
        return real(*given)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(OSError, match="Input/output"):
        run(*options)
    assert step_of(tmp_path / "run") == 8  # of checkpoint_every


def test_a_loader_that_fails_loses_no_step(options, tmp_path, whole, monkeypatch):
    def before(step):
        if step == 11:
            raise UserError("sources.clips", "at most 10 files to fail", "11", "Check the disk.")

    code, _, err = run(*options, wrap=calling(before))
    assert (
        code == 2
        and "--resume auto goes on after step 10\n" in err
        and step_of(tmp_path / "run") == 10
    )
    assert run(*options, "auto")[0] == 0
    assert_same(whole, weights(tmp_path / "run"))


def test_an_error_before_the_first_step_writes_no_checkpoint(options, tmp_path, monkeypatch):
    monkeypatch.setattr(
        FusionIterator,
        "__next__",
        raises(UserError("sources.clips", "files", "none", "Check them.")),
    )
    code, _, err = run(*options)
    assert code == 2 and "before anything was saved; --resume auto begins at step 0" in err
    assert not (tmp_path / "run/checkpoints").exists()


def test_weights_that_are_not_finite_are_not_saved(options, tmp_path):
    code, _, err = run(*options, "optimizer.lr=1.0e+30", "optimizer.clip_grad_norm=null")
    assert code == 2 and "a finite loss and finite weights" in err
    assert not (tmp_path / "run/checkpoints").exists() and "goes on after" not in err


def test_checkpoints_by_time(options, tmp_path, monkeypatch):
    saved = []
    real = checkpointer.save_checkpoint
    monkeypatch.setattr(
        checkpointer,
        "save_checkpoint",
        lambda path, state, previous=None: (
            saved.append(state["loader"]["step"]),
            real(path, state, previous),
        ),
    )
    clock = [0.0]
    monkeypatch.setattr("omnidali.training.schedule.time.monotonic", lambda: clock[0])

    def before(step):
        clock[0] = 100.0 * step  # seconds

    assert (
        run(
            *options,
            "train.checkpoint_every=1000",
            "train.checkpoint_minutes=10",
            wrap=calling(before),
        )[0]
        == 0
    )
    assert saved == [8, 14, 20, 24]  # 600 s after the one before: at the end of a group of two
    saved.clear()
    run(
        *options,
        "train.checkpoint_every=1000",
        "train.checkpoint_minutes=0",
        f"run_dir={tmp_path / 'other'}",
        wrap=calling(before),
    )
    assert saved == [24]


# --- the last save


def test_last_save_waits_for_room(options, tmp_path, monkeypatch):
    naps = []

    with small_disk(tmp_path / "run") as fill:

        def nap(seconds):
            naps.append(seconds)
            if len(naps) == 3:
                # it is safe meanwhile
                assert list((tmp_path / "temporary").glob("omnidali-*/step-4.pt"))
                fill(False)

        monkeypatch.setattr(checkpointer, "time", SimpleNamespace(**{**vars(time), "sleep": nap}))
        code, _, err = run(
            *options, "train.steps=4", wrap=calling(lambda step: step == 3 and fill(True))
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
    monkeypatch.setattr(train, "build_model", small_model)
    code, out, _ = run(*options, "train.steps=8", "auto")
    assert (
        code == 0
        and f"resumed from {target}, saved after step 6" in out
        and step_of(tmp_path / "run") == 8
    )


def test_last_save_takes_the_room_of_what_is_convenience(options, tmp_path, monkeypatch):
    """First of the one before the last, as the last takes its place; of step-N only where nothing
    else helps.
    """
    folder, real = tmp_path / "run/checkpoints", checkpointer.save_checkpoint
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

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    for room, left in (
        (5, {"last.pt", "previous.pt", "step-2.pt", "step-4.pt", "step-6.pt", "step-8.pt"}),
        (3, {"last.pt", "previous.pt", "step-6.pt", "step-8.pt"}),
    ):
        steps = step_of(tmp_path / "run") + 2
        code, _, err = run(*options, f"train.steps={steps}", "train.final_save_minutes=0", "auto")
        assert code == 0 and "previous.pt is given up to make room" in err
        assert {path.name for path in folder.iterdir()} == left
        assert (step_of(tmp_path / "run"), step_of(tmp_path / "run", "previous.pt")) == (
            steps,
            steps - 2,
        )


def test_no_place_is_named_where_there_is_none(options, tmp_path):
    run(*options, "train.steps=2")
    with no_file_may_grow() as fill:
        code, _, err = run(
            *options,
            "train.steps=4",
            "train.final_save_minutes=0",
            "auto",
            wrap=calling(lambda step: fill(True)),
        )
    assert code == 2 and "a place to write a checkpoint, got File too large" in err
    assert "What was trained is in" not in err
    assert "--resume auto goes on after step 2\n" in err and step_of(tmp_path / "run") == 2


# --- what a resume says and writes


def test_resume_says_what_it_found(options, tmp_path):
    code, out, _ = run(*options, "train.steps=4", "auto")
    assert code == 0 and f"no checkpoint in {tmp_path / 'run'}: training begins at step 0\n" in out
    code, out, _ = run(*options, "train.steps=6", "auto")
    last = tmp_path / "run/checkpoints/last.pt"
    assert (
        f"resumed from {last}, saved after step 4 ({time.strftime('%Y-')}" in out
        and "s ago)\n" in out
    )
    code, out, _ = run(*options, "train.steps=6", "auto")
    assert code == 0 and f"resumed from {last}, saved after step 6 (" in out


def files_of(folder):
    """Contents by path."""
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def rewritten(media_root, folder):
    """A list with other contents, beside the media."""
    (folder / "clips.txt").write_text(
        "".join((media_root / "clips.txt").read_text().splitlines(True)[:-2])
    )
    return [f"sources.clips.list={folder / 'clips.txt'}"]


REFUSED = {
    "batch": lambda *_: ["train.batch=7"],
    "seed": lambda *_: ["seed=5"],
    "model": lambda *_: ["model.depth=34"],
    "clip": lambda *_: ["clip.size=48"],
    "sources": lambda *_: ["sources.photos.weight=3"],
    "list": rewritten,
    "root": lambda root, folder: [f"data_root={folder}"],
    "evaluation": lambda *_: ["evaluation={source: {kind: video, root: shorts, list: gone.txt}}"],
    "pretrained": lambda *_: ["model.pretrained=gone.pth"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_resume_changes_nothing(options, tmp_path, media_root, name, monkeypatch):
    if name == "model":
        monkeypatch.setattr(
            train,
            "build_model",
            lambda config, *given: (
                small_model(config, *given)
                if config.depth == 18
                else torch.nn.Sequential(torch.nn.Linear(2, 2))
            ),
        )
    assert run(*options, "train.steps=4")[0] == 0
    before = files_of(tmp_path / "run")
    code, _, err = run(*options, "train.steps=6", *REFUSED[name](media_root, tmp_path), "auto")
    assert code == 2, err
    assert files_of(tmp_path / "run").keys() == before.keys()
    changed = [
        str(path) for path, data in files_of(tmp_path / "run").items() if data != before[path]
    ]
    assert not changed, err
    assert run(*options, "train.steps=6", "auto")[0] == 0 and step_of(tmp_path / "run") == 6


REFUSED_AT_ONCE = {
    "sync_norm": ["model.sync_norm=true"],
    "precision": ["train.precision=fp8"],
    "batch": ["train.batch=7", "train.mixup=intra"],
    "pretrained": ["model.pretrained=gone.pth"],
}


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_a_refused_first_start_leaves_no_folder(options, tmp_path, name):
    code, _, err = run(*options, *REFUSED_AT_ONCE[name])
    assert code == 2, err
    assert not (tmp_path / "run").exists()


def test_a_first_start_that_the_data_refuse_leaves_the_catalog_alone(options, tmp_path, media_root):
    """What was probed is worth keeping."""
    (tmp_path / "shorts.txt").write_text(
        (media_root / "shorts.txt").read_text().replace(" 3", " 9")
    )
    held_out = (
        f"evaluation={{source: {{kind: video, root: shorts, list: {tmp_path / 'shorts.txt'}}}}}"
    )
    code, _, err = run(*options, held_out)
    assert code == 2 and "evaluation.source: expected labels below 4" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "catalog.sqlite",
        "catalog.sqlite.lock",
    }


@pytest.mark.parametrize("how", ["gone", "touched"])
def test_a_refused_resume_over_changed_media_changes_nothing(options, tmp_path, media_root, how):
    """Nor does it lose what the catalog knows of a file that is gone."""
    shutil.copytree(media_root, tmp_path / "media")
    options = [*options, f"data_root={tmp_path / 'media'}"]
    assert run(*options, "train.steps=4")[0] == 0
    before = files_of(tmp_path / "run")
    clip = tmp_path / "media/clips/class 1/video 1.mp4"
    clip.unlink() if how == "gone" else os.utime(clip)
    code, _, err = run(*options, "train.steps=6", "seed=5", "auto")
    assert code == 2 and "resume: expected the plan" in err
    assert files_of(tmp_path / "run") == before
    code, out, err = run(*options, "train.steps=6", "auto")
    assert code == 0 and ("1 gone, changed or broken since the run began" in out) == (
        how == "gone"
    ), err


def test_a_resume_asks_each_file_for_its_time_once(options, monkeypatch):
    """A network disk takes a millisecond for each."""
    assert run(*options, "train.steps=4")[0] == 0
    asked, real = [], build.stamp_of
    monkeypatch.setattr(build, "stamp_of", lambda path: asked.append(path) or real(path))
    assert run(*options, "train.steps=6", "auto")[0] == 0
    media = [path for path in asked if not path.endswith(".txt")]
    assert len(media) == 23 and len(set(media)) == 23  # 9 clips and 14 photos


def test_a_start_that_cannot_write_all_writes_nothing(options, tmp_path, monkeypatch):
    assert run(*options, "train.steps=4")[0] == 0
    before, real = files_of(tmp_path / "run"), run_folder.write_whole

    def write(path, text):
        if path.name.startswith("environment"):
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(run_folder, "write_whole", write)
    code, _, err = run(*options, "train.steps=6", "auto")
    assert code == 2 and "a folder that can be written, got No space left on device" in err
    assert files_of(tmp_path / "run") == before


def test_a_run_that_ended_between_a_look_and_the_lock_is_not_overwritten(
    options, tmp_path, monkeypatch
):
    real = run_folder.RunLock

    def late(folder):
        monkeypatch.setattr(run_folder, "RunLock", real)
        assert run(*options, "train.steps=4")[0] == 0
        return real(folder)

    monkeypatch.setattr(run_folder, "RunLock", late)
    code, _, err = run(*options, "train.steps=8", "seed=3")
    assert code == 2 and "a folder without checkpoints, got a run with last.pt" in err
    assert step_of(tmp_path / "run") == 4


def test_what_was_saved_and_deleted_is_saved_again(options, tmp_path):
    def before(step):
        if step == 9:
            shutil.rmtree(tmp_path / "run/checkpoints")
            raise UserError("sources.clips", "files", "none", "Check them.")

    code, _, err = run(*options, wrap=calling(before))  # behind the save after step 8
    assert code == 2 and step_of(tmp_path / "run") == 8


def test_previous_is_kept_where_it_is_all_there_is(options, tmp_path, monkeypatch):
    folder = tmp_path / "run/checkpoints"
    run(*options, "train.steps=8", "train.checkpoint_every=4")

    def save(path, *_):
        raise checkpointer.NoSpaceError(str(path), "room", "No space left on device", "Free some.")

    def before(step):
        if step == 9:
            (folder / "last.pt").unlink()
            monkeypatch.setattr(checkpointer, "save_checkpoint", save)

    code, _, err = run(
        *options, "train.steps=10", "train.final_save_minutes=0", "auto", wrap=calling(before)
    )
    assert code == 2 and (folder / "previous.pt").exists() and "given up" not in err


def test_a_list_that_is_read_again_and_fits_takes_the_old_ones_place(options, tmp_path, media_root):
    """The same list, under another name: no reason to refuse."""
    assert run(*options, "train.steps=4")[0] == 0
    (tmp_path / "same.txt").write_text((media_root / "clips.txt").read_text())
    before = (tmp_path / "run/catalog.sqlite").read_bytes()
    code, _, err = run(
        *options, "train.steps=6", f"sources.clips.list={tmp_path / 'same.txt'}", "auto"
    )
    assert code == 0, err
    assert (
        not list((tmp_path / "run").glob("*trial*"))
        and (tmp_path / "run/catalog.sqlite").read_bytes() != before
    )


def test_each_resume_keeps_its_config_and_says_what_changed(options, tmp_path):
    run(*options, "train.steps=4")
    first = (tmp_path / "run/config.yaml").read_text()
    code, out, _ = run(
        *options,
        "train.steps=6",
        "model.dropout=0.1",
        "train.ema=0.9",
        "sources.photos.loss_weight=0.5",
        "auto",
    )
    assert code == 0
    for line in (
        "model.dropout: 0.4 became 0.1",
        "train.ema: none became 0.9",
        "train.steps: 4 became 6",
        "sources.photos.loss_weight: 1.0 became 0.5",
    ):
        assert f"{line}\n" in out
    assert "optimizer" not in out
    assert (tmp_path / "run/config.yaml").read_text() == first
    assert "dropout: 0.1" in (tmp_path / "run/config-4.yaml").read_text()
    assert json.loads((tmp_path / "run/environment-4.json").read_text())["versions"]["torch"]

    code, out, _ = run(
        *options,
        "train.steps=6",
        "model.dropout=0.1",
        "train.ema=0.9",
        "sources.photos.loss_weight=0.5",
        "auto",
    )
    assert "became" not in out


def test_a_checkpoint_without_its_config_is_compared_with_the_files(options, tmp_path):
    """As those of version 0.1 are."""
    run(*options, "train.steps=4")
    path = tmp_path / "run/checkpoints/last.pt"
    state = load_checkpoint(path)
    checkpointer.save_checkpoint(
        path, {name: value for name, value in state.items() if name not in ("config", "digest")}
    )
    _, out, _ = run(*options, "train.steps=6", "model.dropout=0.1", "auto")
    assert "model.dropout: 0.4 became 0.1\n" in out


def test_signals_are_restored(options):
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run(*options, "train.steps=2")[0] == 0
    assert [signal.getsignal(number) for number in numbers] == before
