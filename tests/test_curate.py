"""Curation from a crawl to a student: teachers, lists, and the table."""

import errno
import json
import os
from pathlib import Path

import pytest

from conftest import SMALL
from helpers import curation
from helpers.curation import curate_command, fake_programs, names_of
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.experiments import training_runs, variants
from omnidali.utils.atomic_write import write_whole


@pytest.fixture
def faked(monkeypatch):
    return fake_programs(monkeypatch)


def teachers_of(calls):
    """The names of the runs that each filter has as its teachers."""
    return [names_of(given["--checkpoint"]) for name, given, _ in calls if name == "filter"]


def test_together_filters_with_all_networks_so_far(media_root, tmp_path, faked):
    assert cli.main(curate_command(media_root, tmp_path, "--rounds", "2", "--together")) == 0
    first, second = teachers_of(faked)
    assert first == ["target-seed0", "everything-seed0"] and second == [*first, "filtered-1-seed0"]


def test_folds_score_the_parts_that_they_held_out(media_root, tmp_path, faked, capsys):
    options = ["--rounds", "2", "--folds", "3"]
    assert cli.main(curate_command(media_root, tmp_path, *options)) == 0
    assert "7 trainings (seeds: 1, rounds: 2, folds: 3)" in (printed := capsys.readouterr().out)
    assert "run 7 of 7 finished in " in printed
    without = [f"filtered-1-without-{part}-seed0" for part in (1, 2, 3)]
    first, second = teachers_of(faked)
    assert first == ["target-seed0"] and second == without
    trained = [load_config(given["--config"]) for name, given, _ in faked if name == "train"]
    held = {
        Path(config.run_dir).name.rpartition("-")[0]: {
            name: source.hold_out for name, source in config.sources.items()
        }
        for config in trained
    }
    assert held == {
        **{name: {"clips": None, "photos": (part, 3)} for part, name in enumerate(without, 1)},
        "target-seed0": {"clips": None},
        **{
            name: {"clips": None, "photos": None}
            for name in ("everything-seed0", "filtered-1-seed0", "filtered-2-seed0")
        },
    }
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["name"] for row in rows] == [
        "target alone",
        "everything that was crawled",
        "filtered, round 1",
        "filtered, round 2",
    ]
    faked.clear()
    assert cli.main(curate_command(media_root, tmp_path, *options, "--together")) == 0
    second = teachers_of(faked)[-1]
    assert second == ["target-seed0", "everything-seed0", *without]


def test_hold_out_part_removes_a_source_of_which_nothing_is_left(media_root, tmp_path):
    (tmp_path / "one.txt").write_text("0.jpg 0\n")
    (tmp_path / "c.yaml").write_text(SMALL + "train: {batch: 6, steps: 4}\n")
    config = load_config(
        str(tmp_path / "c.yaml"), [f"data_root={media_root}", f"run_dir={tmp_path / 'run'}"]
    )
    assert [list(variants.hold_out_part(config, part, 3).sources) for part in (1, 2, 3)] == 3 * [
        ["clips", "photos"]
    ]
    config = load_config(
        str(tmp_path / "c.yaml"),
        [
            f"data_root={media_root}",
            f"run_dir={tmp_path / 'run'}",
            f"sources.photos.list={tmp_path / 'one.txt'}",
        ],
    )
    assert sorted(len(variants.hold_out_part(config, part, 3).sources) for part in (1, 2, 3)) == [
        1,
        2,
        2,
    ]


def test_hold_out_in_the_config_is_refused(media_root, tmp_path, faked, capsys):
    command = [*curate_command(media_root, tmp_path), "sources.photos.hold_out=[1,2]"]
    assert cli.main(command) == 2
    message = "sources.photos.hold_out: expected none, as the networks of a curation"
    assert message in capsys.readouterr().err
    assert not faked


def test_student_is_the_teacher_of_the_next_round(media_root, tmp_path, faked, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    command = [
        *("curate", "--config", str(tmp_path / "c.yaml"), "--out", "out"),
        *("--seeds", "0", "4", "--rounds", "2"),
        *("--filter", "--rule quantile", "--dedup", "--fps 2"),
        f"data_root={media_root}",
    ]
    curate_command(media_root, tmp_path)  # writes the config
    assert cli.main(command) == 0
    programs = [name for name, _, _ in faked if name != "evaluate"]
    assert programs == ["dedup"] + 2 * [
        "train",
        "train",
        "filter",
        "train",
        "filter",
        "train",
    ]
    dedup, *filters = [given for name, given, _ in faked if name in ("dedup", "filter")]
    assert dedup["--fps"] == "2" and load_config(dedup["--config"]).run_dir == str(out / "crawl")
    assert all(
        given["--rule"] == "quantile" and given["--config"] == str(out / "dedup/config.yaml")
        for given in filters
    )
    teachers = [names_of(given["--checkpoint"]) for given in filters]
    assert teachers == [
        ["target-seed0"],
        ["filtered-1-seed0"],
        ["target-seed4"],
        ["filtered-1-seed4"],
    ]

    rows = {row["name"]: row for row in json.loads((out / "results.json").read_text())}
    assert {name: row["samples"] for name, row in rows.items()} == {
        "target alone": [0, 0],
        "everything that was crawled": [14, 14],
        "filtered, round 1": [12, 12],
        "filtered, round 2": [12, 12],
    }
    assert rows["target alone"]["top1"] == [10.0, 14.0] and rows["filtered, round 2"]["top1"] == [
        20.0,
        24.0,
    ]
    printed = capsys.readouterr().out
    plan = "8 trainings (seeds: 2, rounds: 2, folds: 1) of 4 steps, each evaluated; dedup (1 x) and"
    assert f"{plan} filter (4 x) come on top\n" in printed
    assert "run 8 of 8 finished in " in printed
    assert "| filtered, round 2 | 12 | 22.0 | 2.8 | +10.0 | 20.0, 24.0 | 5.0 |" in printed
    # the media are no demo world
    assert " right, " not in printed and "| training set |  |" not in printed
    (trained,) = map(load_config, (out / "runs").glob("target-seed0*.yaml"))
    (student,) = map(load_config, (out / "runs").glob("everything-seed0*.yaml"))
    assert set(trained.sources) == {"clips"} and trained.batch == student.batch == 6
    # as many steps, of 6 slots of the target instead of 4
    assert trained.train.epochs / 6 == pytest.approx(student.train.epochs / 4)
    assert trained.optimizer.milestones == pytest.approx((60.0, 120.0))

    done = len(faked)
    assert cli.main(command) == 0
    # dedup and filter go on by themselves
    assert [name for name, _, _ in faked[done:]] == ["dedup"] + 4 * ["filter"]
    assert f"each evaluated; 8 finished in {out}; dedup (1 x) and" in capsys.readouterr().out
    faked.clear()
    # other options: other lists at the same place
    monkeypatch.setattr(curation, "DROPPED", 2)
    assert cli.main(command) == 0
    assert [name for name, _, _ in faked].count("train") == 4


def test_full_disk_leaves_no_half_result(media_root, tmp_path, faked, capsys, monkeypatch):
    command = curate_command(media_root, tmp_path)

    def full(path, data):
        if path.name == "result.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(training_runs, "write_whole", full)
        assert cli.main(command) == 2
    assert "expected a folder that can be written, got No space left" in capsys.readouterr().err
    assert cli.main(command) == 0
