"""Curation from a crawl to a student: teachers, lists, and the table."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from conftest import SMALL
from omnidali.cli import main as cli
from omnidali.config.load import dump_config, load_config
from omnidali.experiments import curate, training_runs
from omnidali.utils.atomic_write import write_whole

DROPPED = 1  # lines of a list, by a filter
EVALUATION = "evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}\n"


@pytest.fixture
def faked(monkeypatch):
    """Programs that take no time: dedup drops the last photo, a filter the first; top-1 is made of
    seed and photos.
    """
    calls = []

    def run(program, *arguments, ranks):
        given, key = {}, None
        for text in arguments:
            if text.startswith("--"):
                key, given[text] = text, []
            else:
                given[key].append(text)
        given = {
            key: values if key == "--checkpoint" else values[0] for key, values in given.items()
        }
        config = load_config(given["--config"])
        calls.append((program, given, ranks))
        if program in ("dedup", "filter"):
            out = Path(given["--out"])
            out.mkdir(parents=True, exist_ok=True)
            lines = (
                Path(config.data_root, config.sources["photos"].list)
                .read_text()
                .splitlines(keepends=True)
            )
            (out / "photos.txt").write_text(
                "".join(lines[:-1] if program == "dedup" else lines[DROPPED:])
            )
            photos = replace(config.sources["photos"], list=str(out / "photos.txt"))
            sources = MappingProxyType({**config.sources, "photos": photos})
            made = replace(config, sources=sources, catalog=str(out / "catalog.sqlite"))
            (out / "config.yaml").write_text(dump_config(made))
        elif program == "train.py":
            Path(config.run_dir, "checkpoints").mkdir(parents=True, exist_ok=True)
        else:
            return {"top1": 10.0 * len(config.sources) + config.seed, "mean_class": 5.0}

    for module in (curate, training_runs):
        monkeypatch.setattr(module, "run_program", run)
    return calls


def curate_command(media_root, tmp_path, *options):
    """A curation of the small media, with further options."""
    config = tmp_path / "c.yaml"
    config.write_text(SMALL + EVALUATION + "train: {batch: 6, steps: 4}\n")
    out = ["--out", str(tmp_path / "out"), "--set", f"data_root={media_root}"]
    return ["curate", "--config", str(config), *options, *out]


def names_of(checkpoints):
    """Of the runs, by file name: target-seed0-..., filtered-1-seed0-..."""
    assert all(path.endswith("/checkpoints/last.pt") for path in checkpoints)
    return [Path(path).parent.parent.name.rpartition("-")[0] for path in checkpoints]


def test_together_filters_with_all_networks_so_far(media_root, tmp_path, faked):
    assert cli.main(curate_command(media_root, tmp_path, "--rounds", "2", "--together")) == 0
    first, second = (
        names_of(given["--checkpoint"]) for name, given, _ in faked if name == "filter"
    )
    assert first == ["target-seed0", "everything-seed0"] and second == [*first, "filtered-1-seed0"]


def test_folds_score_the_parts_that_they_held_out(media_root, tmp_path, faked):
    options = ["--rounds", "2", "--folds", "3"]
    assert cli.main(curate_command(media_root, tmp_path, *options)) == 0
    without = [f"filtered-1-without-{part}-seed0" for part in (1, 2, 3)]
    first, second = (
        names_of(given["--checkpoint"]) for name, given, _ in faked if name == "filter"
    )
    assert first == ["target-seed0"] and second == without
    trained = [load_config(given["--config"]) for name, given, _ in faked if name == "train.py"]
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
    second = [names_of(given["--checkpoint"]) for name, given, _ in faked if name == "filter"][-1]
    assert second == ["target-seed0", "everything-seed0", *without]


def test_hold_out_part_removes_a_source_of_which_nothing_is_left(media_root, tmp_path):
    (tmp_path / "one.txt").write_text("0.jpg 0\n")
    (tmp_path / "c.yaml").write_text(SMALL + "train: {batch: 6, steps: 4}\n")
    config = load_config(
        str(tmp_path / "c.yaml"), [f"data_root={media_root}", f"run_dir={tmp_path / 'run'}"]
    )
    assert [list(curate.hold_out_part(config, part, 3).sources) for part in (1, 2, 3)] == 3 * [
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
    assert sorted(len(curate.hold_out_part(config, part, 3).sources) for part in (1, 2, 3)) == [
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
        *("--set", f"data_root={media_root}"),
    ]
    curate_command(media_root, tmp_path)  # writes the config
    assert cli.main(command) == 0
    programs = [name for name, _, _ in faked if name != "evaluate.py"]
    assert programs == ["dedup"] + 2 * [
        "train.py",
        "train.py",
        "filter",
        "train.py",
        "filter",
        "train.py",
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
    assert "| filtered, round 2 | 12 | 22.0 | 2.8 | +10.0 | 20.0, 24.0 | 5.0 |" in printed
    # the media are no demo world
    assert " right, " not in printed and "| training set |  |" not in printed
    (trained,) = map(load_config, (out / "runs").glob("target-seed0*.yaml"))
    (student,) = map(load_config, (out / "runs").glob("everything-seed0*.yaml"))
    assert set(trained.sources) == {"clips"} and trained.batch == student.batch == 6
    # as many steps, of 6 slots of the target instead of 4
    assert trained.train.epochs / 6 == pytest.approx(student.train.epochs / 4)

    done = len(faked)
    assert cli.main(command) == 0
    # which go on by themselves
    assert [name for name, _, _ in faked[done:]] == ["dedup"] + 4 * ["filter"]
    faked.clear()
    # other options: other lists at the same place
    monkeypatch.setattr(sys.modules[__name__], "DROPPED", 2)
    assert cli.main(command) == 0
    assert [name for name, _, _ in faked].count("train.py") == 4


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


@pytest.mark.parametrize(
    "config, options, message",
    [
        (SMALL + EVALUATION, ["--rounds", "0"], "--rounds: expected 1 or more, got 0."),
        (
            SMALL + EVALUATION,
            ["--rounds", "2", "--folds", "0"],
            "--folds: expected 1 or more, and --rounds of 2 or more",
        ),
        (SMALL + EVALUATION, ["--folds", "3"], "got --folds 3 --rounds 1."),
        (SMALL + EVALUATION, ["--ranks", "0"], "--ranks: expected 1 or more, got 0."),
        (
            SMALL + EVALUATION,
            ["--filter", "--window 2"],
            "--filter: expected no --window, as dedup cuts the long videos",
        ),
        (SMALL, [], "evaluation.source: expected labelled data to compare on, got nothing."),
        (
            "sources: {a: {kind: video}}\n" + EVALUATION,
            [],
            "sources: expected the target and at least one crawled source",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    tmp_path, faked, capsys, config, options, message
):
    (tmp_path / "c.yaml").write_text(config + "train: {steps: 2}\n")
    assert (
        cli.main(
            [
                "curate",
                "--config",
                str(tmp_path / "c.yaml"),
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err and not faked


@pytest.mark.parametrize(
    "option, words, message",
    [
        (
            "--filter",
            "--rule 'quantile",
            "--filter: expected options of `omnidali filter`, quoted as for a shell, got --rule"
            " 'quantile (No closing quotation). Correct them; `omnidali filter --help`",
        ),
        (
            "--dedup",
            '"',
            "--dedup: expected options of `omnidali dedup`, quoted as for a shell,"
            ' got " (No closing quotation)',
        ),
        ("--filter", "\\", "got \\ (No escaped character)"),
        ("--filter", "--nonsense 3", "got --nonsense 3 (unrecognized arguments: --nonsense 3)"),
        ("--filter", "stray", "got stray (unrecognized arguments: stray)"),
        ("--filter", "--help", "got --help (unrecognized arguments: --help)"),
        ("--filter", "--rule best", "got --rule best (argument --rule: invalid choice: 'best'"),
        (
            "--filter",
            "--out else",
            "--filter: expected no --out, which curate sets itself, got --out else. Leave it out.",
        ),
        ("--filter", "--ou=else", "--filter: expected no --out, which curate sets itself"),
        ("--filter", "--config c.yaml", "--filter: expected no --config, which curate sets itself"),
        (
            "--filter",
            "--checkpoint a b",
            "--filter: expected no --checkpoint, which curate sets itself",
        ),
        (
            "--filter",
            "--score-only",
            "--filter: expected no --score-only, as the students need the lists",
        ),
        (
            "--filter",
            "--wi 2",
            "--filter: expected no --window, as dedup cuts the long videos before",
        ),
        ("--filter", "--set loader.threads=1 seed=3", "--filter: expected --set of loader.* alone"),
        (
            "--filter",
            "--keep 0.5",
            "--filter, --keep: expected --rule quantile with it, got --rule threshold.",
        ),
        ("--filter", "--rule topk --top 0", "--filter, --top: expected 1 or more, got 0."),
        (
            "--filter",
            "--threshold nan",
            "--filter, --threshold: expected a number above 0 and at most 1, got nan.",
        ),
        (
            "--filter",
            "--sources nobody",
            "--filter, --sources: expected some of the training sources",
        ),
        (
            "--filter",
            "--sources evaluation",
            "--filter, --sources: expected some of the training sources",
        ),
        ("--dedup", "--out else", "--dedup: expected no --out, which curate sets itself"),
        ("--dedup", "--threshold 0.9", "--dedup, --threshold: expected --checkpoint with it"),
        ("--dedup", "--fps 0", "--dedup, --fps: expected more than 0, and up to 1000, got 0.0."),
        ("--dedup", "--window 2", "--dedup, --window: expected a source of long videos"),
        ("--dedup", "--checkpoint no.pt", "--dedup, no.pt: expected"),
        (
            "--dedup",
            "--sources nobody",
            "--dedup, --sources: expected some of the training sources",
        ),
        ("--set", "model.pretrained=no.pt", "no.pt: expected"),
        ("--set", "sources.photos.list=no.txt", "no.txt: expected a list file"),
        ("--seeds", "-1", "--seeds: expected numbers of 0 or more, each once, got [-1]."),
    ],
)
def test_passed_options_are_checked_before_anything_is_written(
    media_root, tmp_path, faked, capsys, option, words, message
):
    command = curate_command(media_root, tmp_path)
    if option == "--set":
        passed = [*command, words]
    else:
        passed = [command[0], f"{option}={words}", *command[1:]]
    assert cli.main(passed) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1], error
    assert not faked
    assert all(path.name.startswith("catalog.sqlite") for path in (tmp_path / "out").glob("*"))
    assert cli.main(command) == 0  # the folder is free


def test_batch_that_ranks_cannot_share_is_refused_at_the_start(media_root, tmp_path, faked, capsys):
    (tmp_path / "c.yaml").write_text(SMALL + EVALUATION + "train: {steps: 4}\n")
    each = [
        f"sources.{name}={{kind: {kind}, root: {name}, list: {name}.txt, batch: {size}}}"
        for name, kind, size in (("clips", "video", 4), ("photos", "image", 3))
    ]
    for command in ("curate", "ablate"):
        assert (
            cli.main(
                [
                    command,
                    "--config",
                    str(tmp_path / "c.yaml"),
                    "--out",
                    str(tmp_path / command),
                    "--ranks",
                    "2",
                    "--set",
                    f"data_root={media_root}",
                    *each,
                ]
            )
            == 2
        )
        assert "expected a multiple of 2 for 2 ranks, got 7." in capsys.readouterr().err
        assert not (tmp_path / command / ".omnidali.json").exists() and not faked
