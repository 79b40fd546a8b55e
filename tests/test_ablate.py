"""The comparison of sources: its variants, its table, and finished runs that are kept."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from conftest import SMALL
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.config.sources import SourceConfig
from omnidali.config.train_settings import OptimizerConfig, TrainConfig
from omnidali.errors import UserError
from omnidali.experiments import ablate, expected_time, results_table, training_runs
from omnidali.experiments.training_runs import TrainingRuns
from omnidali.experiments.variants import make_variant

SOURCES = {
    "k": SourceConfig(kind="video", weight=2),
    "google": SourceConfig(kind="image", weight=3, group="images"),
    "insta": SourceConfig(kind="image", weight=1, group="images"),
    "shorts": SourceConfig(kind="video", weight=2),
}
CONFIG = Config(
    sources=SOURCES, train=TrainConfig(batch=32, steps=100), optimizer=OptimizerConfig(lr=0.8)
)


def test_variants_are_the_target_each_group_and_all():
    assert ablate.variants_of(CONFIG) == {
        "baseline": ("k",),
        "+ images": ("k", "google", "insta"),
        "+ shorts": ("k", "shorts"),
        "all": ("k", "google", "insta", "shorts"),
    }
    assert list(
        ablate.variants_of(
            replace(CONFIG, sources={"k": SOURCES["k"], "shorts": SOURCES["shorts"]})
        )
    ) == ["baseline", "+ shorts"]
    with pytest.raises(UserError, match="the target and at least one other source, got k"):
        ablate.variants_of(replace(CONFIG, sources={"k": SOURCES["k"]}))


def test_every_variant_sees_the_target_equally_often():
    for names in ablate.variants_of(CONFIG).values():
        made = make_variant(CONFIG, names, 7.0, ranks=1, fraction=0.5)
        weights = [source.weight for source in made.sources.values()]
        assert made.batch * weights[0] / sum(weights) == pytest.approx(8)  # target slots of a step
        assert made.train.epochs == 14.0 and made.train.steps is None
        assert made.sources["k"].fraction == 0.5
        assert made.optimizer.milestones == (80.0, 160.0)  # at the same shares of the training
        assert made.optimizer.lr / made.batch == pytest.approx(0.8 / 32)


def test_alternating_variants_keep_their_ratio():
    sources = {name: replace(source, batch=8, weight=1.0) for name, source in SOURCES.items()}
    config = replace(
        CONFIG,
        sources=sources,
        train=TrainConfig(epochs=3, step_mode="alternating", ratio=(2, 1, 3, 1)),
    )
    made = make_variant(config, ("k", "google", "insta"), 3, ranks=1)
    assert made.train.ratio == (2, 1, 3) and made.optimizer.lr == 0.8
    assert make_variant(config, ("k",), 3, ranks=1).train.ratio == (1,)


@pytest.fixture
def faked(monkeypatch):
    """Programs that take no time: top-1 grows with the number of sources and shows the seed."""
    calls = []

    def run(program, *arguments, ranks, log):
        calls.append(program)
        config = load_config(arguments[1])
        if program == "train":
            (ablate.Path(config.run_dir) / "checkpoints").mkdir(parents=True, exist_ok=True)
            return None
        return {"top1": 10.0 * len(config.sources) + config.seed, "mean_class": 5.0}

    monkeypatch.setattr(training_runs, "run_program", run)
    return calls


COMPARED = (
    SMALL
    + """
train: {batch: 6, steps: 400}
evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}
"""
)


def test_trial_comes_first_and_trains_what_the_largest_variant_does(
    media_root, tmp_path, faked, capsys, monkeypatch
):
    trials = []

    def trial(program, *arguments, ranks, log):
        assert not faked
        trials.append((program, load_config(arguments[1]), arguments[2:], ranks))
        return {"seconds_per_step": 3.0}

    monkeypatch.setattr(expected_time, "run_program", trial)
    (tmp_path / "c.yaml").write_text(COMPARED)
    out = ["--out", str(tmp_path / "out"), "--seeds", "3", f"data_root={media_root}"]
    command = ["ablate", "--config", str(tmp_path / "c.yaml"), *out]
    assert cli.main(command) == 0
    ((program, config, options, ranks),) = trials
    assert (program, options, ranks) == ("train", ("--dry-run", "21"), 1)
    whole = load_config(next((tmp_path / "out/runs").glob("with-photos-1-seed3-*.yaml")))
    assert replace(config, run_dir="") == replace(whole, run_dir="")
    printed = capsys.readouterr().out
    assert "2 trainings (variants: 2, shares of the labels: 1, seeds: 1) of 400 steps" in printed
    assert re.search(r"^expected: \S+ with evaluations, by 3.00 s a step$", printed, re.M)

    # nothing is left to measure
    assert cli.main(command) == 0 and len(trials) == 1


@pytest.mark.parametrize("figure", [results_table.TOP1, results_table.MEAN_PRECISION])
def test_table_has_the_mean_over_classes_once(figure):
    by_class = () if figure == results_table.MEAN_PRECISION else (49.0, 50.0)
    row = ablate.AblationRow("baseline", 1.0, (50.0, 52.0), by_class, gain=0.0)
    head, _, cells, _ = ablate.ablation_table([row], figure).split("\n")
    assert head.count("|") == cells.count("|") and f"{figure}, mean" in head
    assert ("mean class" in head) == (figure == results_table.TOP1) == ("49.5" in cells)


def test_run_that_was_stopped_does_not_count_as_whole(media_root, tmp_path, faked, capsys):
    (tmp_path / "c.yaml").write_text(COMPARED)
    out = ["--out", str(tmp_path / "out"), f"data_root={media_root}", "train.steps=5"]
    command = ["ablate", "--config", str(tmp_path / "c.yaml"), *out]
    assert cli.main(command) == 0
    for result in (tmp_path / "out/runs").glob("*/result.json"):
        result.unlink()  # stopped before it was written
    capsys.readouterr()
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "run 1 of 6 finished in " in printed and " left" not in printed


def test_run_that_was_not_planned_keeps_its_result(media_root, tmp_path, faked, capsys):
    (tmp_path / "c.yaml").write_text(COMPARED)
    places = [f"data_root={media_root}", f"catalog={tmp_path / 'catalog.sqlite'}"]
    config = load_config(tmp_path / "c.yaml", places)
    runs = TrainingRuns(tmp_path / "out", 1, [])
    result, run = runs.train_and_score(config, "another", 3)
    assert result["top1"] == 23.0 and faked == ["train", "evaluate"]
    assert re.search(r"^run another-seed3 finished in 0m0\ds$", capsys.readouterr().out, re.M)
    assert runs.train_and_score(config, "another", 3) == (result, run) and len(faked) == 2


def test_table_is_written_and_finished_runs_are_kept(media_root, tmp_path, faked, capsys):
    (tmp_path / "c.yaml").write_text("""
device: cpu
sources:
  clips: {kind: video, root: clips, list: clips.txt, weight: 2}
  photos: {kind: image, root: photos, list: photos.txt}
  shorts: {kind: video, root: shorts, list: shorts.txt}
clip: {size: 32}
train: {batch: 8, steps: 5}
evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}
""")
    command = [
        "ablate",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "0",
        "4",
        "--fractions",
        "0.5",
        "1",
        f"data_root={media_root}",
    ]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "16 trainings (variants: 4, shares of the labels: 2, seeds: 2) of 5 to 6 steps, " in printed
    )
    assert re.search(r"^run 1 of 16 finished in 0m0\ds; about 0m", printed, re.MULTILINE)
    assert re.search(r"^run 16 of 16 finished in 0m0\ds$", printed, re.MULTILINE)
    assert len(faked) == 2 * 4 * 2 * 2  # two programs, four variants, two seeds, two fractions
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert [(row["variant"], row["fraction"]) for row in rows[:5]] == [
        ("baseline", 0.5),
        ("+ photos", 0.5),
        ("+ shorts", 0.5),
        ("all", 0.5),
        ("baseline", 1.0),
    ]
    assert rows[3]["top1"] == [30.0, 34.0] and rows[3]["mean"] == 32 and rows[3]["gain"] == 20
    assert rows[3]["spread"] == pytest.approx(np.std([30, 34], ddof=1))
    assert (
        "| all | 50 % | 32.0 | 2.8 | +20.0 | 30.0, 34.0 | 5.0 |"
        in (tmp_path / "out/table.md").read_text()
    )
    assert "| all | 100 % |" in printed
    chart = cv2.imread(str(tmp_path / "out/table.png"))
    assert chart.shape[0] > 8 * 30 and len(np.unique(chart.reshape(-1, 3), axis=0)) > 3
    half, whole = (
        load_config(next((tmp_path / "out/runs").glob(f"all-{share}-seed4-*.yaml")))
        for share in ("0.5", "1")
    )
    rates = (half.optimizer.milestones, whole.optimizer.milestones)
    assert rates == ((80.0, 160.0), (40.0, 80.0))
    # as many steps
    assert half.train.epochs == pytest.approx(2 * whole.train.epochs) and half.seed == 4
    done = len(faked)
    assert cli.main(command) == 0 and len(faked) == done
    printed = capsys.readouterr().out
    assert f"each evaluated; 16 finished in {tmp_path / 'out'}" in printed and "left" not in printed
    # other settings, other runs
    assert cli.main([*command, "optimizer.lr=0.5"]) == 0 and len(faked) == 2 * done
    assert "of 5 to 6 steps, each evaluated\n" in capsys.readouterr().out
    folders = [load_config(path).run_dir for path in (tmp_path / "out/runs").glob("*.yaml")]
    assert len(set(folders)) == len(folders) == 32


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--fractions", "0"],
            "--fractions: expected shares above 0 and at most 1, each once, got [0.0].",
        ),
        (["--ranks", "0"], "--ranks: expected 1 or more, got 0."),
        ([], "evaluation.source: expected labelled data to compare on, got nothing."),
    ],
)
def test_mistakes_are_reported_before_anything_runs(tmp_path, faked, capsys, options, message):
    (tmp_path / "c.yaml").write_text(
        "sources: {a: {kind: video}, b: {kind: image}}\ntrain: {steps: 2}\n"
    )
    assert (
        cli.main(
            [
                "ablate",
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
