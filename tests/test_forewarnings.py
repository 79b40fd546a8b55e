"""What a start says of a training that runs, but hardly as its owner means it."""

import re
from dataclasses import replace

import pytest
import torch

from conftest import SMALL
from omnidali.config.files import shipped_names
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.config.sources import SourceConfig
from omnidali.config.train_settings import OptimizerConfig, TrainConfig
from omnidali.distributed.ranks import Ranks
from omnidali.loading.open_loader import check_shares
from omnidali.training import forewarnings
from omnidali.training.forewarnings import check_and_warn, warn_of_length
from omnidali.training.step_cost import operations_of_step

SPEED = 5e10  # operations a second of the machine that these tests speak of


@pytest.fixture
def measured(monkeypatch):
    """A machine of a known speed; returns the configs that were measured."""
    configs = []

    def measure(config, ranks, external):
        configs.append(config)
        return operations_of_step(config) / ranks.world / SPEED

    monkeypatch.setattr(forewarnings, "measure_step", measure)
    # the recipes name weights and networks that are not here
    monkeypatch.setattr(forewarnings, "check_pretrained", lambda config: None)
    monkeypatch.setattr(forewarnings, "check_network", lambda config: None)
    return configs


def small(optimizer=None, **train):
    return Config(
        sources={"clips": SourceConfig(kind="video")},
        optimizer=OptimizerConfig(**(optimizer or {})),
        train=TrainConfig(batch=1, **train),
    )


SCHEDULES = {
    "no milestone is reached": (
        small(epochs=10.0),
        "optimizer.milestones: the training ends after 10 epochs, before 40 and 80, so that its"
        " learning rate never falls.",
    ),
    "one milestone is reached": (
        small({"lr": 0.1}, epochs=80.0),
        "the training ends after 80 epochs, before 80, so that its learning rate falls no further"
        " than 0.01.",
    ),
    "all are reached": (small(epochs=80.5), None),
    "cosine has none": (small({"schedule": "cosine"}, epochs=10.0), None),
    "warm-up until the end": (
        small({"schedule": "cosine", "warmup_epochs": 3.0, "lr": 0.2}, epochs=3.0),
        "optimizer.warmup_epochs: the training ends after 3 epochs, within its warm-up of 3, so"
        " that its learning rate never gets to 0.2.",
    ),
    "warm-up ends before": (
        small({"schedule": "cosine", "warmup_epochs": 3.0}, epochs=3.1),
        None,
    ),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedule_that_does_not_fit_the_length_is_reported(case, measured):
    config, message = SCHEDULES[case]
    in_steps = replace(config, train=replace(config.train, epochs=None, steps=1000))
    epochs = config.train.epochs
    for lines, others in (
        # epochs are known without data, steps are not
        (check_and_warn(config, Ranks()), warn_of_length(config, steps=9, steps_per_epoch=1.0)),
        (
            warn_of_length(in_steps, steps=1000, steps_per_epoch=1000 / epochs),
            check_and_warn(in_steps, Ranks()),
        ),
    ):
        assert not others
        assert len(lines) == (message is not None), lines
        assert all(line.startswith("WARNING: ") and message in line for line in lines)


def test_average_that_keeps_the_first_weights_is_reported():
    config = small({"schedule": "cosine", "accumulate": 2}, steps=600, ema=0.999)
    (line,) = warn_of_length(config, steps=600, steps_per_epoch=10.0)
    assert "after all 300 updates, 74 % of the averaged weights" in line
    advised = float(re.search(r"such as ([\d.]+)\.", line)[1])
    better = replace(config, train=replace(config.train, ema=advised))
    assert not warn_of_length(better, steps=600, steps_per_epoch=10.0)
    assert not warn_of_length(config, steps=60_000, steps_per_epoch=10.0)


def test_default_network_on_a_cpu_is_reported_with_settings_that_work(measured, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "sources: {clips: {kind: video}, photos: {kind: image}}\n"
        "train: {steps: 1000}\nmodel: {pretrained: r50.pth}\noptimizer: {schedule: cosine}\n"
    )
    warning, advice = check_and_warn(load_config(path), Ranks())
    # 48 clips of 8 frames, 48 images
    assert "432 frames of 224 x 224 pixels are much for a tsn of depth 50." in warning
    assert re.match(r"WARNING: a step takes \d+m\d\ds or more on this CPU, and all 1,000 ", warning)
    takes, _, settings = advice.partition(": ")
    assert takes.startswith("With these settings a step takes about ")
    assert settings == (
        "clip.num_clips=3 clip.size=112 train.batch=8 optimizer.lr=0.00083 model.depth=18"
        " model.pretrained=null"
    )
    assert not check_and_warn(load_config(path, settings.split()), Ranks())


@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("name", shipped_names())
def test_advised_settings_fit_the_config_and_the_ranks(name, world, measured):
    ranks = Ranks(world=world, core_sharers=world)
    config = load_config(name)
    if config.model.external is not None:  # what it can do without is not known
        return
    lines = check_and_warn(config, ranks)
    assert not check_and_warn(config, replace(ranks, device=torch.device("cuda")))
    if not lines:  # they are for a CPU
        assert name.startswith(("demo", "small_set"))
        return
    _, advice = lines
    settings = advice.partition(": ")[2].split()
    smaller = load_config(name, settings)
    check_shares(smaller, world)
    assert 15 * operations_of_step(smaller) < operations_of_step(config)
    views = smaller.evaluation.validation
    assert (views.size, views.short_side) == (112, 128) and views.num_clips <= 3


def test_small_trainings_are_not_even_measured(measured, tmp_path):
    (tmp_path / "c.yaml").write_text(SMALL + "train: {batch: 6, epochs: 4}\n")
    for name in ("demo", "demo_omni", "demo_crawl", "small_set"):
        assert not check_and_warn(load_config(name), Ranks())
    (line,) = check_and_warn(load_config(tmp_path / "c.yaml"), Ranks())
    assert "optimizer.milestones" in line
    assert not measured


def test_only_the_main_rank_warns(measured):
    config = small(epochs=1.0)
    assert check_and_warn(config, Ranks(world=2))
    assert not check_and_warn(config, Ranks(rank=1, world=2))
    assert len(measured) == 0
