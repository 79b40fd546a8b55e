"""`train` and `evaluate` as users run them: on one rank, on two, and resumed."""

import json
import shutil

import pytest
import torch

from helpers.program_runs import CONFIG, JOINT, STEPS, last_row, read_rows, run
from omnidali.cli import main as cli


@pytest.fixture
def options(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return [
        "--config",
        tmp_path / "c.yaml",
        f"data_root={media_root}",
        f"run_dir={tmp_path / 'run'}",
    ]


def weights(folder, name="last.pt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_run_writes_what_the_readme_promises(options, tmp_path):
    output = run("train", *options).stdout
    folder = tmp_path / "run"
    assert "clips: 9 samples, read as path_label (recognised), 9 files probed now" in output
    assert "clips: 9 files (h264): PyAV on the CPU" in output
    assert "step 8/8 100.0% | loss " in output
    assert "(clips " in output and "| mix 66.7/33.3 |" in output

    rows = read_rows(folder / "metrics.jsonl")
    # the first, every second, and before every checkpoint and evaluation (two epochs: six steps)
    assert [row["step"] for row in rows if row["kind"] == "train"] == STEPS
    train_row = [row for row in rows if row["kind"] == "train"][-1]
    assert set(train_row["sources"]) == {"all", "clips", "photos"}
    assert train_row["clips_per_second"] > 0
    evaluation = [row for row in rows if row["kind"] == "evaluation"][-1]
    assert evaluation["items"] == 5 and evaluation["correct"] == round(evaluation["top1"] * 5 / 100)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
        "step-4.pt",
        "step-6.pt",
    }
    assert (folder / "pictures" / "step0-photos.png").stat().st_size > 500
    assert json.loads((folder / "environment.json").read_text())["versions"]["torch"]
    assert list((folder / "tb").iterdir())

    # the saved config is a config: it goes on with the run
    again = run(
        "train", "--config", folder / "config.yaml", "--resume", "auto", "train.steps=9"
    ).stdout
    assert "saved after step 8" in again and "step 9/9" in again
    # and a run is not overwritten
    refused = run("train", *options, check=False)
    assert refused.returncode == 2 and "Go on with --resume auto" in refused.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_resumed_run_ends_with_same_weights(options, tmp_path, ranks):
    run("train", *options, "evaluation.every_epochs=100", "--resume", "auto", ranks=ranks)
    whole = weights(tmp_path / "run")
    other = [*options[:3], f"run_dir={tmp_path / 'parts'}", "evaluation.every_epochs=100"]
    # go back to a kept checkpoint in the middle and run the rest again
    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "last.pt").unlink()
    output = run(
        "train",
        *other,
        "--resume",
        tmp_path / "parts" / "checkpoints" / "step-6.pt",
        ranks=ranks,
    ).stdout
    assert "saved after step 6" in output
    again = weights(tmp_path / "parts")
    for part in ("state_dict", "ema"):
        assert_same_weights(whole[part], again[part])
    assert whole["loader"] == again["loader"]


@pytest.mark.parametrize("name", JOINT)
def test_joint_practices_resume_with_same_weights(options, tmp_path, name):
    """On one rank, with a whole ResNet; test_exactness.py has more ranks, and kills."""
    short = [*JOINT[name], "evaluation.every_epochs=100", "train.keep_every=4"]
    run("train", *options, *short)
    whole = weights(tmp_path / "run")
    parts = [*options[:3], f"run_dir={tmp_path / 'parts'}", *short]
    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "last.pt").unlink()
    output = run(
        "train", *parts, "--resume", tmp_path / "parts" / "checkpoints" / "step-4.pt"
    ).stdout
    assert "saved after step 4" in output and "loss nan" not in output
    again = weights(tmp_path / "parts")
    for part in ("state_dict", "ema"):
        assert_same_weights(whole[part], again[part])
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(0 <= row["sources"]["all"]["top1"] <= 100 for row in rows if row["kind"] == "train")


def test_alternating_learning_rate_follows_target_batches(options, tmp_path):
    run(
        "train",
        *options,
        *JOINT["alternating"],
        "train.log_every=1",
        "optimizer.schedule=cosine",
    )
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert len(rates) == 8 and rates[0] == rates[1] != rates[2] and rates[3] == rates[4] != rates[5]
    names = [set(row["sources"]) - {"all"} for row in rows if row["kind"] == "train"]
    assert names[:3] == [{"clips"}, {"photos"}, {"clips"}]


def test_pretrained_weights_are_reported(options, tmp_path):
    run("train", *options, "train.steps=2")
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert (
        cli.main(
            [
                "export",
                "--checkpoint",
                str(tmp_path / "run"),
                "--out",
                str(tmp_path / "w.safetensors"),
            ]
        )
        == 0
    )
    for path in (best, tmp_path / "w.safetensors"):
        output = run("train", *options, f"model.pretrained={path}", "--dry-run", 1).stdout
        assert "weights with mmaction2's names: 122 tensors as they are, 0 inflated to 3D" in output
    output = run(
        "train",
        *options,
        f"model.pretrained={best}",
        "model={name: slowonly, depth: 18}",
        "clip.clip_len=2",
        f"model.pretrained={best}",
        "--dry-run",
        1,
    ).stdout
    assert "20 inflated to 3D" in output
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    more = [*options, f"classes={tmp_path / 'names.txt'}", f"model.pretrained={best}"]
    refused = run("train", *more, "--dry-run", 1, check=False)
    assert refused.returncode == 2 and "Set model.pretrained_head: fresh" in refused.stderr
    output = run("train", *more, "model.pretrained_head=fresh", "--dry-run", 1).stdout
    assert "asked for with pretrained_head: fresh" in output
    # mmaction2's file, as evaluate.py takes it
    assert cli.main(["export", "--checkpoint", str(best), "--out", str(tmp_path / "w.pth")]) == 0
    rows = [
        last_row(run("evaluate", *options, "--checkpoint", path))
        for path in (best, tmp_path / "w.pth")
    ]
    assert rows[0]["top1"] == rows[1]["top1"]


def test_two_ranks_evaluate_like_one(options, tmp_path):
    run("train", *options)
    rows = [last_row(run("evaluate", *options, ranks=ranks)) for ranks in (1, 2)]
    assert rows[0] == rows[1] and rows[0]["items"] == 5 and rows[0]["num_clips"] == 3
    folder = tmp_path / "run" / "evaluation-test"
    per_class = (folder / "per_class.csv").read_text().splitlines()
    assert per_class[0] == "class,items,correct,top1" and len(per_class) == 5
    predictions = read_rows(folder / "predictions.jsonl")
    correct = [row["label"] == row["predicted"][0] for row in predictions]
    assert len(correct) == 5 and sum(correct) == rows[0]["correct"]
    validation = last_row(run("evaluate", *options, "--protocol", "validation"))
    assert validation["crops"] == "center"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_slowonly_trains_in_mixed_precision(options, precision):
    output = run(
        "train",
        *options,
        f"train.precision={precision}",
        "model.name=slowonly",
        "clip.clip_len=2",
        "clip.num_clips=1",
        "sources.photos.inflate=still",
        "--dry-run",
        2,
    ).stdout
    assert "step 2/8" in output


def test_dry_run_writes_only_the_catalog(options, tmp_path):
    run("train", *options, "--dry-run", 2, f"seed={2**40}")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "catalog.sqlite",
        "catalog.sqlite.lock",
    }


def test_print_config_prints_resolved_config(options):
    output = run("train", *options, "--print-config", "clip.size=40").stdout
    assert "size: 40" in output and "weight: 2.0" in output
