"""What an experiment says of its time: before the first training, and after each."""

from dataclasses import replace

import pytest

from omnidali.config.load import load_config
from omnidali.config.schema import ClipConfig, Config, EvaluationConfig, ViewsConfig
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.config.train_settings import TrainConfig
from omnidali.errors import UserError
from omnidali.experiments import expected_time
from omnidali.experiments.expected_time import ExpectedTime, PlannedRun, trial_steps

CONFIG = Config(
    sources={"clips": SourceConfig(kind="video")}, train=TrainConfig(batch=8, epochs=1.0)
)
RUN = PlannedRun(
    name="whole", config=CONFIG, steps=1800, steps_per_epoch=1800.0, items=0, is_finished=False
)
HALF = replace(RUN, name="half", config=replace(CONFIG, train=TrainConfig(batch=4, epochs=1.0)))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands unless it is moved."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(expected_time, "time", clock)
    return clock


@pytest.fixture
def trials(monkeypatch):
    """A trial with 2 seconds a step; returns the calls."""
    calls = []

    def run(*words, ranks, log):
        calls.append(words)
        return {"seconds_per_step": 2.0}

    monkeypatch.setattr(expected_time, "run_program", run)
    return calls


def test_trial_of_the_largest_run_gives_the_time(tmp_path, trials, capsys):
    done = replace(RUN, name="done", is_finished=True)
    ExpectedTime([HALF, RUN, done]).announce(tmp_path, 2, "seeds: 3", "; dedup comes on top")
    ((_, _, config_file, *options),) = trials
    assert options == ["--dry-run", "21"]
    config = load_config(config_file)
    assert config.batch == 8 and config.run_dir == str(tmp_path / "trial")
    printed = capsys.readouterr().out
    first, *_, last = printed.strip().split("\n")
    assert first == (
        f"3 trainings (seeds: 3) of 1,800 steps, each evaluated; 1 finished in {tmp_path};"
        " dedup comes on top"
    )
    # 1800 steps of 2 s and of 1 s
    assert last == "expected: 1h30m with evaluations, by 2.00 s a step; dedup comes on top"


def test_evaluations_are_a_part_of_the_time(tmp_path, trials, capsys):
    evaluation = EvaluationConfig(
        source=MediaConfig(kind="video"),
        every_epochs=0.5,
        validation=ViewsConfig(num_clips=8, size=224, short_side=224),
        test=ViewsConfig(num_clips=16, crops="three", size=224, short_side=224),
    )
    # two validations of 8 frames and a test of 48, a third of a training step's cost for each frame
    items = 1800 * 8 * 8 * 3 // 64
    run = replace(RUN, config=replace(CONFIG, evaluation=evaluation), items=items)
    ExpectedTime([run]).announce(tmp_path, 1, "seeds: 1")
    assert "expected: 2h00m with evaluations" in capsys.readouterr().out


def test_few_steps_have_no_trial(tmp_path, trials, clock, capsys):
    times = ExpectedTime([replace(RUN, steps=250), replace(HALF, steps=240)])
    times.announce(tmp_path, 1, "seeds: 2")
    assert not trials
    assert capsys.readouterr().out == "2 trainings (seeds: 2) of 240 to 250 steps, each evaluated\n"
    with times.timing("whole", is_whole=True):
        clock.now += 75
    assert capsys.readouterr().out == "run 1 of 2 finished in 1m15s; about 0m36s left\n"
    with times.timing("half", is_whole=True):
        clock.now += 30
    assert capsys.readouterr().out == "run 2 of 2 finished in 0m30s\n"


def test_finished_runs_correct_the_time(tmp_path, trials, clock, capsys):
    runs = [RUN, *(replace(RUN, name=f"{number}") for number in range(3)), HALF]
    times = ExpectedTime(runs)
    times.announce(tmp_path, 1, "seeds: 5")
    assert "expected: 4h30m with" in capsys.readouterr().out
    with times.timing("whole", is_whole=True):
        clock.now += 3600 + 600
    # 2.33 s a step, with the trial's; three as long, and one with half the work
    assert "finished in 1h10m; about 4h04m left" in capsys.readouterr().out
    with times.timing("0", is_whole=False):  # the rest of one that was stopped
        clock.now += 60
    assert "run 2 of 5 finished in 1m00s; about 2h54m left" in capsys.readouterr().out
    times.skip("1")
    with pytest.raises(UserError), times.timing("2", is_whole=True):
        raise UserError("a", "b", "c", "d")
    assert "finished" not in capsys.readouterr().out


@pytest.mark.parametrize("ratio, steps", [((1, 1, 1), 22), ((2, 1, 4), 22), ((20, 20, 20), 61)])
def test_trial_sees_each_source_in_its_share(ratio, steps):
    sources = {name: SourceConfig(kind="video", batch=4) for name in "abc"}
    train = TrainConfig(epochs=1.0, step_mode="alternating", ratio=ratio)
    assert trial_steps(Config(sources=sources, train=train, clip=ClipConfig())) == steps
