"""The trainer as a library: its hooks, its state, and what it logs."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from helpers.running import HELD_OUT, assert_same, run, step_of, weights
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import open_loader
from omnidali.training.run_folder import RunFolder
from omnidali.training.train import train
from omnidali.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_network")
SHORT = ["train.steps=6"]


class ListLogger:
    """A logger that keeps what it gets."""

    name = "a list"
    place = Path("memory")

    def __init__(self):
        self.rows = []
        self.images = []
        self.is_closed = False

    def log_values(self, kind, step, values):
        self.rows.append({"kind": kind, "step": step, **values})

    def log_image(self, tag, step, image):
        assert image.dtype == np.uint8 and image.shape[2] == 3
        self.images.append((tag, step))

    def close(self):
        self.is_closed = True


def test_logger_gets_every_figure_and_picture(options, tmp_path):
    logger = ListLogger()
    assert run(*options, *SHORT, HELD_OUT, loggers=[logger])[0] == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        del row["time"]
    assert rows == logger.rows
    pictures = {path.stem for path in (tmp_path / "run/pictures").glob("*.png")}
    assert {f"step{step}-{tag.partition('/')[2]}" for tag, step in logger.images} == pictures
    assert ("evaluation/confusion", 4) in logger.images and logger.is_closed


def test_logger_that_cannot_write_is_a_warning(options, tmp_path):
    class FullLogger(ListLogger):
        def log_values(self, kind, step, values):
            raise OSError(28, "No space left on device")

    code, _, err = run(*options, *SHORT, loggers=[FullLogger()])
    assert code == 0 and err.count("No space left on device") == 1
    assert "memory: expected a file that can be written" in err
    assert (tmp_path / "run/checkpoints/last.pt").exists()


def test_batch_hook_decides_what_is_trained_on(options, tmp_path):
    seen = []

    def blacken(batch):
        seen.append(batch.step)
        groups = [replace(group, clips=torch.zeros_like(group.clips)) for group in batch.groups]
        return replace(batch, groups=tuple(groups))

    def keep(batch):
        return batch

    found = []
    for number, hooks in enumerate(({}, {"on_batch": keep}, {"on_batch": blacken})):
        code, _, err = run(*options, f"run_dir={tmp_path}/{number}", *SHORT, **hooks)
        assert code == 0, err
        found.append(weights(tmp_path / str(number)))
    assert_same(found[0], found[1])
    assert not torch.equal(found[0]["cls_head.fc_cls.bias"], found[2]["cls_head.fc_cls.bias"])
    assert seen == list(range(6))
    # the pictures show what the network got
    grey = [
        (cv2.imread(f"{tmp_path}/{number}/pictures/step0-clips.png") == (104, 116, 124)).mean()
        for number in range(3)
    ]
    assert grey[0] == grey[1] < 0.1 and grey[2] > 0.5


def ending_early(loader):
    yield from itertools.islice(loader, 5)


def leaving_one_out(loader):
    return (batch for batch in loader if batch.step != 3)


WRONG_HOOKS = {
    "ends early": ({"wrap_loader": ending_early}, "wrap_loader ended after step 5, not after 6", 4),
    "leaves a step out": ({"wrap_loader": leaving_one_out}, "no batch of step 3", 2),
    "no batch": ({"on_batch": lambda batch: None}, "no batch of step 0, but None", None),
    "another step": (
        {"on_batch": lambda batch: replace(batch, step=min(batch.step, 4))},
        "no batch of step 5",
        4,
    ),
}


@pytest.mark.parametrize("name", WRONG_HOOKS)
def test_hooks_that_lose_a_step_end_the_run(options, tmp_path, name):
    """What was trained before is saved; nothing looks finished."""
    hooks, message, step = WRONG_HOOKS[name]
    with pytest.raises(RuntimeError, match=message):
        run(*options, *SHORT, **hooks)
    last = tmp_path / "run/checkpoints/last.pt"
    assert step_of(tmp_path / "run") == step if step else not last.exists()


def test_resume_beyond_the_end_has_nothing_to_do(options, tmp_path):
    assert run(*options, *SHORT)[0] == 0
    assert run(*options, "train.steps=4", "auto")[0] == 0
    assert step_of(tmp_path / "run") == 6


def test_random_numbers_of_a_hook_are_the_same_after_a_resume(options, tmp_path):
    def jitter(batch):
        groups = [
            replace(group, clips=group.clips + 0.1 * torch.randn(1)) for group in batch.groups
        ]
        return replace(batch, groups=tuple(groups))

    assert run(*options, f"run_dir={tmp_path}/whole", *SHORT, on_batch=jitter)[0] == 0
    for steps in ("train.steps=4", "train.steps=6"):
        assert run(*options, steps, "auto", on_batch=jitter)[0] == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_logger_that_cannot_close_is_a_warning_and_the_folder_is_free(options):
    class StuckLogger(ListLogger):
        def close(self):
            raise OSError(28, "No space left on device")

    code, _, err = run(*options, *SHORT, loggers=[StuckLogger()])
    assert code == 0 and "No space left on device" in err
    assert run(*options, "train.steps=8", "auto")[0] == 0


def test_dry_run_has_a_step(options):
    with pytest.raises(UserError, match="dry_run: expected 1 step or more, got 0"):
        train(load_config(options[1], options[2:]), dry_run=0)


def test_subclass_replaces_a_verb(options):
    steps = []

    class Recording(Trainer):
        def forward(self, batch):
            steps.append(batch.step)
            return super().forward(batch)

    train(load_config(options[1], [*options[2:], *SHORT]), trainer_class=Recording)
    assert steps == list(range(6))


def test_loader_may_be_wrapped_in_a_generator(options):
    steps = []

    def counting(loader):
        for batch in loader:
            steps.append((batch.step, loader.next_step))
            yield batch

    assert run(*options, *SHORT, wrap_loader=counting)[0] == 0
    assert steps == [(step, step + 1) for step in range(6)]


def test_state_dict_continues_in_another_trainer(options, tmp_path):
    """Without a checkpoint file: the state alone holds everything that a resume needs."""
    config = load_config(options[1], [*options[2:], "train.steps=6", "train.ema=0.9"])
    assert run(*options, "train.steps=6", "train.ema=0.9", f"run_dir={tmp_path}/whole")[0] == 0

    def trainer(config):
        data = open_data(config)
        folder = RunFolder(config, Ranks(), writes=False)
        torch.manual_seed(config.seed)
        return Trainer(config, Ranks(), data, open_loader(config, data), folder)

    half = trainer(replace(config, train=replace(config.train, steps=4)))
    half.run()
    rest = trainer(config)
    rest.load_state_dict(half.state_dict())
    assert rest.schedule.first == rest.state.step == 4
    rest.run()
    assert_same(weights(tmp_path / "whole"), rest.state_dict()["state_dict"])


def test_first_step_says_how_fast_it_was(options):
    code, out, _ = run(*options, *SHORT, "train.log_every=100")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/6", "6/6"]
    assert "clips/s" in lines[0] and "eta" in lines[0]


def test_dry_run_returns_its_speed_and_writes_only_the_catalog(options, tmp_path):
    figures = train(load_config(options[1], options[2:]), dry_run=3)
    assert figures["steps"] == 3 and figures["seconds_per_step"] > 0
    assert figures["eta_seconds"] == pytest.approx(21 * figures["seconds_per_step"])
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"catalog.sqlite"} <= written <= {"catalog.sqlite", "catalog.sqlite.lock"}
