"""What is due after which step, and the learning rate, against tables."""

import math

import pytest

from omnidali.config.train_settings import OptimizerConfig
from omnidali.training.schedule import Due, Schedule, learning_rate


def schedule(accumulate=1, **settings):
    known = {
        "steps": 23,
        "steps_per_epoch": 5.0,
        "log_every": 4,
        "checkpoint_every": 6,
        "keep_every": 9,
        "evaluate_every": 10,
    }
    return Schedule(optimizer=OptimizerConfig(accumulate=accumulate), **{**known, **settings})


def steps_with(made, name):
    """The steps after which something is due."""
    return [step for step in range(made.first + 1, made.last + 1) if getattr(made.due(step), name)]


def test_everything_comes_at_multiples_of_its_distance_and_at_the_end():
    made = schedule()
    assert steps_with(made, "evaluates") == [10, 20, 23]
    assert steps_with(made, "logs") == [1, 4, 6, 8, 9, 10, 12, 16, 18, 20, 23]
    assert steps_with(made, "is_end") == [23]
    files = {step: made.due(step).files for step in steps_with(made, "files")}
    assert files == {
        6: ("last.pt",),
        9: ("step-9.pt",),
        10: ("last.pt",),
        12: ("last.pt",),
        18: ("step-18.pt", "last.pt"),
        20: ("last.pt",),
        23: ("last.pt",),
    }


def test_first_step_of_every_process_is_logged():
    assert steps_with(schedule(first=13), "logs")[0] == 14


@pytest.mark.parametrize("accumulate", [2, 3, 4, 7])
def test_saves_and_evaluations_wait_for_the_optimizer_step(accumulate):
    """One for each multiple of the distance, at the first optimizer step from there on."""
    made = schedule(accumulate)
    ends = [step for step in range(1, 24) if step % accumulate == 0 or step == 23]
    assert [step for step in range(1, 24) if made.updates(step)] == ends
    for name, every in (("evaluates", 10), ("files", 6)):
        multiples = range(every, 24, every)
        expected = {min(end for end in ends if end >= multiple) for multiple in multiples}
        assert expected <= set(steps_with(made, name)) <= set(ends)
    assert steps_with(made, "evaluates")[-1] == 23


@pytest.mark.parametrize("first, accumulate", [(0, 1), (0, 2), (10, 1), (10, 2)])
def test_dry_run_ends_early_and_neither_saves_nor_evaluates(first, accumulate):
    made = schedule(accumulate, first=first, dry_run=3)
    assert made.last == first + 3
    assert steps_with(made, "is_end") == [first + 3]
    assert not steps_with(made, "files") and not steps_with(made, "evaluates")
    logs = steps_with(made, "logs")
    assert (logs[0], logs[-1]) == (first + 1, first + 3)


def test_dry_run_is_no_longer_than_the_run():
    assert schedule(first=20, dry_run=10).last == 23


def test_stop_saves_and_leaves_the_evaluation_to_the_resume():
    made = schedule()
    assert made.due(10, stops=True) == Due(10, logs=True, files=("last.pt",))
    assert made.due(7, stops=True).files == made.due(7, saves=True).files == ("last.pt",)
    assert made.due(7, saves=True) == Due(7, logs=True, files=("last.pt",))
    assert made.due(7) == Due(7)


def test_nothing_is_evaluated_without_data_to_evaluate_on():
    assert steps_with(schedule(evaluate_every=None), "evaluates") == []


def test_step_schedule_by_hand():
    config = OptimizerConfig(lr=0.01, milestones=(40.0, 80.0))
    rates = {0: 0.01, 39.9: 0.01, 40: 0.001, 79.9: 0.001, 80: 0.0001, 99: 0.0001}
    for epoch, rate in rates.items():
        assert learning_rate(round(epoch * 10), 1000, 10.0, config) == pytest.approx(rate)


def test_cosine_and_warmup_by_hand():
    config = OptimizerConfig(lr=2.0, schedule="cosine", warmup_epochs=2.0)
    rates = {
        0: 0.2,
        10: 2 * 0.55 * 0.5 * (1 + math.cos(math.pi * 0.1)),
        20: 1 + math.cos(math.pi * 0.2),
        50: 1.0,
        99: 1 + math.cos(math.pi * 0.99),
    }
    for step, rate in rates.items():
        assert learning_rate(step, 100, 10.0, config) == pytest.approx(rate)
