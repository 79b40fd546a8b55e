"""train.py and evaluate.py as users run them: one process, two processes, resumed, and with
mistakes.
"""

import json
import os
import shutil

import pytest
import torch

from helpers.program_runs import CONFIG, JOINT, STEPS, run
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


def test_a_run_leaves_what_it_promises(options, tmp_path):
    output = run("train.py", *options).stdout
    folder = tmp_path / "run"
    assert (
        "clips: 9 samples, read as path_label (recognised), 9 files probed now" in output
        and "clips: h264 by PyAV on the CPU" in output
    )
    assert (
        "step 8/8 100.0% | loss " in output
        and "(clips " in output
        and "| mix 66.7/33.3 |" in output
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # every second step, and before every checkpoint and evaluation (two epochs are six steps)
    assert [row["step"] for row in rows if row["kind"] == "train"] == STEPS
    train_row = [row for row in rows if row["kind"] == "train"][-1]
    assert (
        set(train_row["sources"]) == {"all", "clips", "photos"}
        and train_row["clips_per_second"] > 0
    )
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
        "train.py", "--config", folder / "config.yaml", "--resume", "auto", "train.steps=9"
    ).stdout
    assert "saved after step 8" in again and "step 9/9" in again
    # and a run is not overwritten
    refused = run("train.py", *options, check=False)
    assert refused.returncode == 2 and "Go on with --resume auto" in refused.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_resumed_runs_end_with_the_same_weights(options, tmp_path, ranks):
    run("train.py", *options, "evaluation.every_epochs=100", "--resume", "auto", ranks=ranks)
    whole = weights(tmp_path / "run")
    other = [*options[:3], f"run_dir={tmp_path / 'parts'}", "evaluation.every_epochs=100"]
    # go back to a kept checkpoint in the middle and run the rest again
    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "last.pt").unlink()
    output = run(
        "train.py",
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
def test_joint_practices_resume_with_the_same_weights(options, tmp_path, name):
    """On one rank, with a whole ResNet; test_exactness.py has more ranks, and kills."""
    short = [*JOINT[name], "evaluation.every_epochs=100", "train.keep_every=4"]
    run("train.py", *options, *short)
    whole = weights(tmp_path / "run")
    parts = [*options[:3], f"run_dir={tmp_path / 'parts'}", *short]
    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "last.pt").unlink()
    output = run(
        "train.py", *parts, "--resume", tmp_path / "parts" / "checkpoints" / "step-4.pt"
    ).stdout
    assert "saved after step 4" in output and "loss nan" not in output
    again = weights(tmp_path / "parts")
    for part in ("state_dict", "ema"):
        assert_same_weights(whole[part], again[part])
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(0 <= row["sources"]["all"]["top1"] <= 100 for row in rows if row["kind"] == "train")


def test_alternating_rates_follow_the_target(options, tmp_path):
    run(
        "train.py",
        *options,
        *JOINT["alternating"],
        "train.log_every=1",
        "optimizer.schedule=cosine",
    )
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert len(rates) == 8 and rates[0] == rates[1] != rates[2] and rates[3] == rates[4] != rates[5]
    names = [set(row["sources"]) - {"all"} for row in rows if row["kind"] == "train"]
    assert names[:3] == [{"clips"}, {"photos"}, {"clips"}]


def test_pretrained_weights_are_reported(options, tmp_path):
    run("train.py", *options, "train.steps=2")
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
        output = run("train.py", *options, f"model.pretrained={path}", "--dry-run", 1).stdout
        assert "weights with mmaction2's names: 122 tensors as they are, 0 inflated to 3D" in output
    output = run(
        "train.py",
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
    refused = run("train.py", *more, "--dry-run", 1, check=False)
    assert refused.returncode == 2 and "Set model.pretrained_head: fresh" in refused.stderr
    assert (
        "asked for with pretrained_head: fresh"
        in run("train.py", *more, "model.pretrained_head=fresh", "--dry-run", 1).stdout
    )
    # mmaction2's file, as evaluate.py takes it
    assert cli.main(["export", "--checkpoint", str(best), "--out", str(tmp_path / "w.pth")]) == 0
    rows = [
        json.loads(run("evaluate.py", *options, "--checkpoint", path).stdout.splitlines()[-1])
        for path in (best, tmp_path / "w.pth")
    ]
    assert rows[0]["top1"] == rows[1]["top1"]


def test_two_ranks_evaluate_like_one(options, tmp_path):
    run("train.py", *options)
    rows = [
        json.loads(run("evaluate.py", *options, ranks=ranks).stdout.strip().splitlines()[-1])
        for ranks in (1, 2)
    ]
    assert rows[0] == rows[1] and rows[0]["items"] == 5 and rows[0]["num_clips"] == 3
    folder = tmp_path / "run" / "evaluation-test"
    per_class = (folder / "per_class.csv").read_text().splitlines()
    assert per_class[0] == "class,items,correct,top1" and len(per_class) == 5
    predictions = [
        json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()
    ]
    assert (
        len(predictions) == 5
        and sum(row["label"] == row["predicted"][0] for row in predictions) == rows[0]["correct"]
    )
    assert (
        json.loads(
            run("evaluate.py", *options, "--protocol", "validation").stdout.splitlines()[-1]
        )["crops"]
        == "center"
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_slowonly(options, precision):
    output = run(
        "train.py",
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
    run("train.py", *options, "--dry-run", 2, f"seed={2**40}")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "catalog.sqlite",
        "catalog.sqlite.lock",
    }


def test_print_config(options):
    output = run("train.py", *options, "--print-config", "clip.size=40").stdout
    assert "size: 40" in output and "weight: 2.0" in output


MISTAKES = {
    "unknown key": (["clip.sise=3"], "Did you mean 'size'?"),
    "missing list": (
        ["sources.clips.list=none.txt"],
        "none.txt: expected a list file, got no such file",
    ),
    "missing root": (["sources.clips.root=none"], "sources.clips.root: expected a folder"),
    "empty run": (
        ["--resume", "{tmp}"],
        "expected a run folder with checkpoints/last.pt, got none in it",
    ),
    "corrupt checkpoint": (
        ["--resume", "{tmp}/c.yaml"],
        "expected a checkpoint that can be read safely",
    ),
    "no such pretrained": (
        ["model.pretrained=no.pt"],
        "no.pt: expected a checkpoint, got no such file",
    ),
    "unwritable": (
        ["run_dir={tmp}/c.yaml/run"],
        "c.yaml/run: expected a folder that can be written",
    ),
    "no steps": (["--dry-run", "0"], "--dry-run: expected 1 step or more, got 0."),
    "motion file": (
        ["sources.photos.inflate=warp", "sources.photos.motion=no.json"],
        "a file of `omnidali motion estimate`",
    ),
    "label map": (
        ["sources.clips.labels=clips.txt"],
        "line 1: expected a class that the label map",
    ),
    "norms on the CPU": (["model.sync_norm=true"], "model.sync_norm: expected GPUs, got the CPU."),
    "number as text": (["optimizer.lr=1e-3"], "YAML reads this as text; write 0.001."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_advice(options, tmp_path, name):
    arguments, told = MISTAKES[name]
    done = run(
        "train.py", *options, *(text.format(tmp=tmp_path) for text in arguments), check=False
    )
    assert told in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_more_ranks_than_clips(options):
    done = run(
        "train.py", *options, "train.batch=3", "sources.photos.weight=0.5", ranks=2, check=False
    )
    assert "train.batch: expected a multiple of 2 for 2 ranks, got 3. Use 2, or" in done.stderr
    assert done.returncode != 0


def test_diverging_runs_stop(options):
    done = run(
        "train.py",
        *options,
        "optimizer.lr=1000000000000",
        "optimizer.clip_grad_norm=null",
        "optimizer.warmup_epochs=0",
        "optimizer.accumulate=1",
        check=False,
    )
    assert done.returncode == 2 and "expected a finite loss and finite weights" in done.stderr


def damage(path):
    """Damage a file in a way that the check of size and time at the next start does not see."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def own_media(media_root, tmp_path):
    """A copy of the media that may be damaged, and the options of a run that has probed it."""
    root = tmp_path / "media"
    shutil.copytree(media_root, root)
    (tmp_path / "c.yaml").write_text(CONFIG)
    options = ["--config", tmp_path / "c.yaml", f"data_root={root}", f"run_dir={tmp_path / 'run'}"]
    run("train.py", *options, "--dry-run", 1)
    return root, options


@pytest.mark.parametrize("ranks", [1, 2])
def test_files_that_break_later_do_not_end_a_run(own_media, tmp_path, caplog, ranks):
    root, options = own_media
    bad = [root / "photos" / "3.jpg", root / "photos" / "8.jpg", root / "shorts" / "2.webm"]
    for path in bad:
        damage(path)
    done = run("train.py", *options, "train.steps=12", ranks=ranks)
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert sorted(row["path"] for row in rows) == sorted(map(str, bad))
    assert all(row["state"] == "quarantined" and row["reason"] for row in rows)
    assert {row["source"] for row in rows} == {"photos", "evaluation"}
    assert (
        f"photos: quarantined: {bad[0]}: file: not a JPEG, PNG or WebP image: text"
        in done.stderr + caplog.text
    )
    assert "bad files: photos 2, " in done.stdout and "/4), mean class" in done.stdout
    assert ", 1 items unreadable" in done.stdout
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    last = [row for row in metrics if row["kind"] == "train"][-1]
    assert last["bad_files"]["photos"] == 2 and last["sources"]["photos"]["substituted"] > 0
    assert last["sources"]["all"]["clips"] % 6 == 0  # no slot is left empty
    assert [row["unreadable"] for row in metrics if row["kind"] == "evaluation"][-1] == 1
    done = run("evaluate.py", *options, ranks=ranks)
    row = json.loads(done.stdout.splitlines()[-1])
    assert (
        row["unreadable"] == 1
        and row["items"] == 4
        and "1 items could not be decoded and are not counted" in done.stdout
    )
    assert str(bad[2]) not in done.stderr  # it is named already


def test_a_source_that_breaks_ends_a_run(own_media, tmp_path):
    root, options = own_media
    for path in (root / "photos").iterdir():
        damage(path)
    done = run("train.py", *options, "loader.threads=1", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "sources.photos: expected at most 10 of 14 files to fail (loader.max_bad_ratio), got 11"
        in done.stderr
    )
    done = run("train.py", *options, "loader.max_bad_ratio=1", check=False)
    assert done.returncode == 2
    assert (
        "at most 64 clips to fail one after the other (loader.max_bad_in_a_row), got 6"
        in done.stderr
    )


def test_checkpoint_of_another_model(options, tmp_path):
    run("train.py", *options)
    done = run("evaluate.py", *options, "model.depth=34", check=False)
    assert done.returncode == 2 and "expected the weights of this config's model" in done.stderr
    other = run("train.py", *options, "model.depth=34", "--resume", "auto", check=False)
    assert (
        other.returncode == 2 and "It was made for: name tsn, depth 18, classes 4." in other.stderr
    )
    changed = run("train.py", *options, "--resume", "auto", "seed=1", "clip.size=40", check=False)
    assert (
        changed.returncode == 2
        and "seed: 0 became 1" in changed.stderr
        and "clip.size: 32 became 40" in changed.stderr
    )


def test_classes_of_a_checkpoint_are_its_own(options, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    run("train.py", *options, f"classes={tmp_path / 'names.txt'}", "train.steps=2")
    (tmp_path / "names.txt").write_text("b\na\nc\nd\n")
    for program, more in (("evaluate.py", []), ("train.py", ["--resume", "auto", "train.steps=4"])):
        done = run(program, *options, f"classes={tmp_path / 'names.txt'}", *more, check=False)
        assert done.returncode == 2 and "classes" in done.stderr


def test_damaged_weights_have_no_accuracy(options, tmp_path):
    run("train.py", *options, "train.steps=2")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    state["ema"]["cls_head.fc_cls.bias"][:] = float("nan")
    del state["digest"]
    torch.save(state, path)
    done = run("evaluate.py", *options, check=False)
    assert (
        done.returncode == 2 and "expected finite scores, got 5 of 5 items without" in done.stderr
    )
