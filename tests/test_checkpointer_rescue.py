"""Errors that end a run lose no optimizer step."""

from pathlib import Path

import pytest
import torch

from helpers.crashing import calling
from helpers.recorder import small_model
from helpers.running import (
    HELD_OUT,
    assert_same,
    failing,
    options_of,
    run,
    step_of,
    weights,
)
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.training import checkpointer, model_setup
from omnidali.training.trainer import Trainer
from omnidali.utils.untrusted_text import say

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture(scope="module")
def whole(media_root, tmp_path_factory):
    """Weights after 24 steps of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_setup, "build_model", small_model)
        assert run(*options_of(media_root, folder))[0] == 0
    return weights(folder / "run")


def test_failed_evaluation_loses_no_step(options, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(
            Trainer,
            "evaluate",
            failing(UserError("evaluation.source", "items", "none", "Restore them.")),
        )
        code, _, err = run(*options, HELD_OUT, "train.steps=6")
    assert code == 2 and "evaluation.source: expected items" in err
    assert "the run ends at an error; --resume auto goes on after step 4" in err
    assert step_of(tmp_path / "run") == 4
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["owes_evaluation"]

    code, out, _ = run(*options, HELD_OUT, "train.steps=6", "auto")
    assert code == 0 and "evaluation at step 4: top1" in out and "evaluation at step 6: top1" in out


def test_checkpoint_is_saved_before_and_after_evaluation(options, tmp_path, monkeypatch):
    real = Trainer.evaluate
    seen = []

    def evaluate(*given):
        state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
        seen.append((state["loader"]["step"], state["owes_evaluation"]))
        return real(*given)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    assert run(*options, HELD_OUT, "train.steps=8", "train.checkpoint_every=6")[0] == 0
    assert seen == [(4, True), (8, True)]
    last, best = (
        load_checkpoint(tmp_path / f"run/checkpoints/{name}.pt") for name in ("last", "best")
    )
    assert not last["owes_evaluation"] and last["best"] == best["best"] >= 0
    # not that of the same step before its evaluation
    assert step_of(tmp_path / "run", "previous.pt") == 6


class FailingLogger:
    """A logger that raises at a step's line, once."""

    name = "a test"
    place = Path("nowhere")

    def __init__(self, step, error):
        self.step = step
        self.error = error

    def log_values(self, kind, step, values):
        if kind == "train" and step == self.step:
            self.step = None
            raise self.error

    def log_image(self, tag, step, image):
        pass

    def close(self):
        pass


def failing_at_line(error):
    return {"loggers": [FailingLogger(6, error)]}


def failing_at_batch(error):
    def on_batch(batch):
        if batch.step == 5:
            raise error
        return batch

    return {"on_batch": on_batch}


# hooks that fail, their error, and the steps that are done before
FAILURES = {
    "log": (failing_at_line, ValueError("closed file"), 6),
    "memory": (failing_at_line, MemoryError(), 6),
    "interrupt": (failing_at_line, KeyboardInterrupt(), 6),
    "batch": (failing_at_batch, RuntimeError("no picture"), 5),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", FAILURES)
def test_error_between_steps_saves_last_step(options, tmp_path, whole, name, accumulate):
    """The batches of an accumulated group that is cut off are trained again."""
    fail, error, step = FAILURES[name]
    settings = [f"optimizer.accumulate={accumulate}", "train.log_every=1"]

    def exit_process(code, *lines):
        say(*lines, error=True)
        return code

    with pytest.MonkeyPatch.context() as patch:
        # the error is printed, and not raised, as on one of several ranks
        patch.setattr("omnidali.cli.error_report.failure_monitor.is_running", lambda: True)
        patch.setattr("omnidali.cli.error_report.exit_process", exit_process)
        code, _, err = run(*options, *settings, **fail(error))
    step -= step % accumulate
    assert code in (1, 130) and f"--resume auto goes on after step {step}\n" in err
    assert step_of(tmp_path / "run") == step

    assert run(*options, *settings, "auto")[0] == 0
    if accumulate == 2:
        assert_same(whole, weights(tmp_path / "run"))


def test_error_before_due_evaluation_leaves_it_owed(options, tmp_path):
    """Also at the last step, after which a resume has nothing else to do."""
    with pytest.raises(RuntimeError, match="no line"):
        run(*options, HELD_OUT, "train.steps=6", **failing_at_line(RuntimeError("no line")))
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["loader"]["step"] == 6 and state["owes_evaluation"]
    code, out, _ = run(*options, HELD_OUT, "train.steps=6", "auto")
    assert code == 0 and "evaluation at step 6: top1" in out


def test_abandoned_evaluation_on_full_disk_saves_elsewhere(options, tmp_path, monkeypatch):
    real = checkpointer.save_checkpoint

    def save(path, state, previous=None):
        if tmp_path / "run" in path.parents:
            raise UserError(
                str(path), "a place to write a checkpoint", "No space left on device", "Free some."
            )
        real(path, state, previous)

    monkeypatch.setattr(checkpointer, "save_checkpoint", save)
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: None)  # as a signal ends it
    code, _, err = run(*options, HELD_OUT, "train.steps=8", "train.final_save_minutes=0")
    (path,) = (tmp_path / "temporary").glob("omnidali-*/step-4.pt")
    assert code == 2 and f"What was trained is in {path}." in err


def test_error_in_forward_pass_saves_previous_step(options, tmp_path, whole, monkeypatch):
    """Its batch norms have moved by then; the statistics of the last optimizer step are saved."""

    class FailingModel(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.calls = 0
            self.clip_len = model.clip_len

        def forward(self, *given):
            self.calls += 1
            found = self.model(*given)
            if self.calls == 8:
                raise torch.cuda.OutOfMemoryError("no memory")
            return found

    monkeypatch.setattr(Ranks, "wrap", lambda _, model, **more: FailingModel(model))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(*options)
    assert step_of(tmp_path / "run") == 6
    monkeypatch.undo()
    monkeypatch.setattr(model_setup, "build_model", small_model)
    assert run(*options, "auto")[0] == 0
    assert_same(whole, weights(tmp_path / "run"))


def test_error_within_optimizer_step_saves_nothing(options, tmp_path, monkeypatch):
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


def test_failed_loader_loses_no_step(options, tmp_path, whole, monkeypatch):
    def before(step):
        if step == 11:
            raise UserError("sources.clips", "at most 10 files to fail", "11", "Check the disk.")

    code, _, err = run(*options, wrap_loader=calling(before))
    assert (
        code == 2
        and "--resume auto goes on after step 10\n" in err
        and step_of(tmp_path / "run") == 10
    )
    assert run(*options, "auto")[0] == 0
    assert_same(whole, weights(tmp_path / "run"))


def test_error_before_first_step_writes_no_checkpoint(options, tmp_path, monkeypatch):
    monkeypatch.setattr(
        FusionIterator,
        "__next__",
        failing(UserError("sources.clips", "files", "none", "Check them.")),
    )
    code, _, err = run(*options)
    assert code == 2 and "before anything was saved; --resume auto begins at step 0" in err
    assert not (tmp_path / "run/checkpoints").exists()


def test_weights_that_are_not_finite_are_not_saved(options, tmp_path):
    code, _, err = run(*options, "optimizer.lr=1.0e+30", "optimizer.clip_grad_norm=null")
    assert code == 2 and "a finite loss and finite weights" in err
    assert not (tmp_path / "run/checkpoints").exists() and "goes on after" not in err
