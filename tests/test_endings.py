"""Runs that keep their best checkpoints, and that end by patience or by their time."""

import json

import pytest

from helpers.running import assert_same, run, small_disk, step_of, weights
from omnidali.config.load import load_config
from omnidali.errors import UserError
from omnidali.experiments.training_runs import check_experiment
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.training import ending
from omnidali.training.best_files import BestFile, BestFiles
from omnidali.training.early_stop import EarlyStop
from omnidali.training.state import TrainingState
from omnidali.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_network")

EVERY = [
    "evaluation={source: {kind: video, root: shorts, list: shorts.txt}, every_steps: 2, batch: 5,"
    " validation: {num_clips: 1, size: 32, short_side: 32}}",
    "train.steps=12",
]
# of the evaluations after 2, 4, ... steps; percent
RESULTS = [50.0, 70.0, 60.0, 70.0, 69.999, 65.0]


@pytest.fixture
def results(monkeypatch):
    """Let evaluations have the results above, by their step."""
    record = Trainer.record
    monkeypatch.setattr(
        Trainer, "record", lambda self, step, _: record(self, step, RESULTS[step // 2 - 1])
    )


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("best-*"))


def test_best_checkpoints_are_kept(options, tmp_path, results):
    code, _, err = run(*options, *EVERY, "train.keep_best=3")
    assert code == 0, err
    names = ["best-10-69.999.pt", "best-4-70.000.pt", "best-8-70.000.pt"]
    assert kept(tmp_path / "run") == names
    for name in names:
        assert step_of(tmp_path / "run", name) == int(name.split("-")[1])
    # of equal ones, the earlier is the better
    assert step_of(tmp_path / "run", "best.pt") == 4


def test_best_checkpoints_are_the_same_after_kills_in_their_saves(
    options, tmp_path, results, monkeypatch
):
    """A kill before, between and after the files of an evaluation leaves nothing behind."""

    class Killed(BaseException):
        pass

    from omnidali.training import checkpointer

    assert run(*options, f"run_dir={tmp_path}/whole", *EVERY, "train.keep_best=2")[0] == 0
    save = checkpointer.save_checkpoint
    deaths = iter([("best-4-70.000.pt", False), ("best-8-70.000.pt", True), ("last.pt", False)])
    death = [next(deaths)]

    def save_and_die(path, state, previous=None):
        name, after = death[0] or (None, None)
        if path.name != name or (name == "last.pt" and state["loader"]["step"] < 10):
            return save(path, state, previous)
        if after:
            save(path, state, previous)
        death[0] = next(deaths, None)
        raise Killed

    monkeypatch.setattr(checkpointer, "save_checkpoint", save_and_die)
    lives = 0
    while True:
        lives += 1
        try:
            assert run(*options, *EVERY, "train.keep_best=2", "auto")[0] == 0
            break
        except Killed:
            assert lives < 9
    assert lives == 4
    for name in ("best.pt", *kept(tmp_path / "whole")):
        one, other = (
            load_checkpoint(tmp_path / run_dir / "checkpoints" / name)["state_dict"]
            for run_dir in ("whole", "run")
        )
        assert_same(one, other)
    assert (
        kept(tmp_path / "run")
        == kept(tmp_path / "whole")
        == [
            "best-4-70.000.pt",
            "best-8-70.000.pt",
        ]
    )


def test_worst_file_goes_only_after_the_new_one_is_safe(tmp_path):
    files = BestFiles(tmp_path, keep=2)
    for name in ("best-1-10.000.pt", "best-2-20.000.pt", "best-x-1.pt", "best.pt"):
        (tmp_path / name).touch()
    assert files.name_for(3, 9.0) is None
    assert files.name_for(3, 10.0) is None
    assert files.name_for(3, 15.0004) == "best-3-15.000.pt"
    assert (tmp_path / "best-1-10.000.pt").exists()
    (tmp_path / "best-3-15.000.pt").touch()
    files.prune(BestFile(3, 15.0))
    assert {path.name for path in tmp_path.glob("best*")} == {
        "best-2-20.000.pt",
        "best-3-15.000.pt",
        "best-x-1.pt",
        "best.pt",
    }
    # a run that is resumed with other ranks may get another result after the same step
    assert files.name_for(3, 14.0) == "best-3-14.000.pt"
    (tmp_path / "best-3-14.000.pt").touch()
    files.prune(BestFile(3, 14.0))
    assert [file.name for file in files.found()] == ["best-3-14.000.pt", "best-2-20.000.pt"]


def test_full_disk_costs_no_kept_checkpoint(options, tmp_path, results):
    """What does not fit is written once there is room, and the old ones stay until then."""
    disk = tmp_path / "disk"
    with small_disk(disk) as fill:

        def wrap(loader):
            for batch in loader:
                if batch.step == 3:
                    fill(True)
                if batch.step == 5:
                    assert kept(disk / "run") == ["best-2-50.000.pt"]
                    fill(False)
                yield batch

        words = [*options, f"run_dir={disk}/run", *EVERY, "train.keep_best=1"]
        code, _, err = run(*words, "train.steps=8", wrap_loader=wrap)
        assert code == 0, err
        assert "can be written again" in err
        assert kept(disk / "run") == ["best-4-70.000.pt"]
        assert step_of(disk / "run", "best-4-70.000.pt") == 4


def test_files_of_another_run_are_not_mixed_in(options, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best-7-99.000.pt").touch()
    code, _, err = run(*options, *EVERY, "train.keep_best=1", "auto")
    assert code == 2 and "best-7-99.000.pt alone" in err


def test_run_ends_after_evaluations_without_a_better_one(options, tmp_path, results):
    code, out, err = run(*options, *EVERY, "train.patience=2")
    assert code == 0, err
    line = "stopped after step 8 by train.patience: none of the last 2 evaluations is better than"
    assert f"{line} 70.00" in out
    assert step_of(tmp_path / "run") == 8
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["early_stop"] == {
        "best": 70.0,
        "stale": 2,
    }

    # a resume does not go on, unless the setting changes
    code, out, _ = run(*options, *EVERY, "train.patience=2", "auto")
    assert code == 0 and line in out and step_of(tmp_path / "run") == 8
    code, out, _ = run(*options, *EVERY, "train.patience=3", "auto")
    assert code == 0 and "train.patience: 2 became 3" in out
    assert step_of(tmp_path / "run") == 10 and "stopped after step 10" in out
    assert run(*options, *EVERY, "auto")[0] == 0
    assert step_of(tmp_path / "run") == 12


def test_patience_is_counted_over_resumes(options, tmp_path, results):
    assert run(*options, *EVERY, "train.patience=2", "train.steps=6")[0] == 0
    code, out, _ = run(*options, *EVERY, "train.patience=2", "auto")
    assert code == 0 and "stopped after step 8" in out


def test_small_gains_do_not_count():
    stop = EarlyStop(patience=2, min_delta=1.0)
    seen = []
    for result in (50.0, 50.9, 51.5, 52.0, 52.5):
        stop.record(result)
        seen.append((stop.best, stop.stale, stop.is_due))
    assert seen == [
        (50.0, 0, False),
        (50.0, 1, False),
        (51.5, 0, False),
        (51.5, 1, False),
        (51.5, 2, True),
    ]


def test_last_evaluation_ends_no_run_early(options, results):
    code, out, _ = run(*options, *EVERY, "train.steps=8", "train.patience=2")
    assert code == 0 and "stopped" not in out


@pytest.fixture
def clock(monkeypatch):
    """A clock of hours that a test moves, instead of the machine's."""
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic():
            return 3600 * now[0]

    monkeypatch.setattr(ending, "time", Clock)
    return now


def test_run_saves_and_ends_after_its_time(options, tmp_path, clock):
    """The evaluation that is due stays owed, and the weights are those of a whole run."""

    def wrap(loader):
        for batch in loader:
            clock[0] = 2 * (batch.step == 3)
            yield batch

    words = [*options, *EVERY, "train.max_hours=1"]
    code, out, err = run(*words, wrap_loader=wrap)
    assert code == 0, err
    assert "stopped by train.max_hours after step 4; go on with --resume auto" in out
    assert step_of(tmp_path / "run") == 4
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["owes_evaluation"]

    clock[0] = 0
    code, _, err = run(*words, "auto")
    assert code == 0 and step_of(tmp_path / "run") == 12
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "evaluation"]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert run(*options, *EVERY, f"run_dir={tmp_path}/whole")[0] == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_time_that_ends_within_an_evaluation_leaves_it_owed(options, tmp_path, clock, monkeypatch):
    owes = TrainingState.updating

    def updating(self, step, evaluates):
        clock[0] = 2 * (step == 12)  # the last step, after which nobody agrees on a stop
        return owes(self, step, evaluates)

    monkeypatch.setattr(TrainingState, "updating", updating)
    code, out, err = run(*options, *EVERY, "train.max_hours=1")
    assert code == 0, err
    assert "evaluation at step 12 abandoned" in out
    assert "stopped by train.max_hours after step 12" in out


def test_reading_the_data_counts(options, tmp_path, clock, monkeypatch):
    from omnidali.training import train

    open_data = train.open_data

    def slow(*arguments, **options):
        clock[0] = 2
        return open_data(*arguments, **options)

    monkeypatch.setattr(train, "open_data", slow)
    code, out, err = run(*options, *EVERY, "train.max_hours=1")
    assert code == 0, err
    assert "stopped by train.max_hours after step 2;" in out


def test_experiments_refuse_a_time_limit(options):
    """An experiment would take a training that was stopped for a finished one."""
    config = load_config(options[1], [*options[2:], *EVERY, "train.max_hours=1"])
    with pytest.raises(UserError, match="goes to its end"):
        check_experiment(config, ranks=1, seeds=[0])


def test_ranks_end_together(warm, media_root, tmp_path):
    """By the time of a moment, and then by patience; both after the same step on each rank."""
    from helpers.running import options_of

    lives = {
        "train.max_hours=0.0000001": "stopped by train.max_hours",
        "train.patience=1": "by train.patience",
    }
    for number, (word, line) in enumerate(lives.items()):
        ranks = warm.start_ranks(
            tmp_path / str(number),
            "train",
            *options_of(media_root, tmp_path),
            *EVERY,
            "train.steps=40",
            "optimizer.lr=0.0000001",
            "train.min_delta=90" if "patience" in word else "train.keep_best=1",
            word,
            *("--resume", "auto"),
            world=2,
        )
        for process in ranks:
            assert process.wait() == 0, process.output
        assert line in ranks[0].output
        assert step_of(tmp_path / "run") < 20
