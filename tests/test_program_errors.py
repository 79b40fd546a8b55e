"""Mistakes and failures as `train` and `evaluate` report them."""

import os
import shutil

import pytest
import torch

from helpers.program_runs import CONFIG, last_row, read_rows, run


@pytest.fixture
def options(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return [
        "--config",
        tmp_path / "c.yaml",
        f"data_root={media_root}",
        f"run_dir={tmp_path / 'run'}",
    ]


MISTAKES = {
    "unknown key": (["clip.sise=3"], "Did you mean 'size'?"),
    "missing list": (
        ["sources.clips.list=none.txt"],
        "sources.clips.list: expected a list file, got none.txt, which does not exist (relative to"
        " data_root /",
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
    "number as text": (["optimizer.lr=1e-3"], "YAML reads this as text; write numbers as 0.001"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_advice(options, tmp_path, name):
    arguments, message = MISTAKES[name]
    done = run("train", *options, *(text.format(tmp=tmp_path) for text in arguments), check=False)
    assert message in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_batch_that_ranks_cannot_share_is_refused(options):
    done = run(
        "train", *options, "train.batch=3", "sources.photos.weight=0.5", ranks=2, check=False
    )
    assert "train.batch: expected a multiple of 2 for 2 ranks, got 3. Use 2, or" in done.stderr
    assert done.returncode != 0


def test_diverging_run_stops(options):
    done = run(
        "train",
        *options,
        "optimizer.lr=1000000000000",
        "optimizer.clip_grad_norm=null",
        "optimizer.warmup_epochs=0",
        "optimizer.accumulate=1",
        check=False,
    )
    assert done.returncode == 2 and "expected a finite loss and finite weights" in done.stderr


def damage_unnoticed(path):
    """Damage a file but keep its size and time, which the next start compares."""
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
    run("train", *options, "--dry-run", 1)
    return root, options


@pytest.mark.parametrize("ranks", [1, 2])
def test_files_that_break_later_do_not_end_a_run(own_media, tmp_path, caplog, ranks):
    root, options = own_media
    bad = [root / "photos" / "3.jpg", root / "photos" / "8.jpg", root / "shorts" / "2.webm"]
    for path in bad:
        damage_unnoticed(path)
    done = run("train", *options, "train.steps=12", ranks=ranks)
    rows = read_rows(tmp_path / "run" / "quarantine.jsonl")
    assert sorted(row["path"] for row in rows) == sorted(map(str, bad))
    assert all(row["state"] == "quarantined" and row["reason"] for row in rows)
    assert {row["source"] for row in rows} == {"photos", "evaluation"}
    assert f"photos: quarantined: {bad[0]}: file: not a photo: text" in done.stderr + caplog.text
    assert "bad files: photos 2, " in done.stdout and "/4), mean class" in done.stdout
    assert ", 1 items unreadable" in done.stdout
    metrics = read_rows(tmp_path / "run" / "metrics.jsonl")
    last = [row for row in metrics if row["kind"] == "train"][-1]
    assert last["bad_files"]["photos"] == 2 and last["sources"]["photos"]["substituted"] > 0
    assert last["sources"]["all"]["clips"] % 6 == 0  # no slot is left empty
    assert [row["unreadable"] for row in metrics if row["kind"] == "evaluation"][-1] == 1
    done = run("evaluate", *options, ranks=ranks)
    row = last_row(done)
    assert row["unreadable"] == 1 and row["items"] == 4
    assert "1 items could not be decoded and are not counted" in done.stdout
    assert str(bad[2]) not in done.stderr  # it is named already


def test_source_that_breaks_ends_a_run(own_media, tmp_path):
    root, options = own_media
    for path in (root / "photos").iterdir():
        damage_unnoticed(path)
    done = run("train", *options, "loader.threads=1", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "sources.photos: expected at most 10 of 14 files to fail (loader.max_bad_ratio), got 11"
        in done.stderr
    )
    done = run("train", *options, "loader.max_bad_ratio=1", check=False)
    assert done.returncode == 2
    assert (
        "at most 64 clips to fail one after the other (loader.max_bad_in_a_row), got 6"
        in done.stderr
    )


def test_checkpoint_of_another_model_is_refused(options, tmp_path):
    run("train", *options)
    done = run("evaluate", *options, "model.depth=34", check=False)
    assert done.returncode == 2 and "expected the weights of this config's model" in done.stderr
    other = run("train", *options, "model.depth=34", "--resume", "auto", check=False)
    assert (
        other.returncode == 2 and "It was made for: name tsn, depth 18, classes 4." in other.stderr
    )
    changed = run("train", *options, "--resume", "auto", "seed=1", "clip.size=40", check=False)
    assert changed.returncode == 2
    assert "seed: 0 became 1" in changed.stderr
    assert "clip.size: 32 became 40" in changed.stderr


def test_checkpoint_with_other_classes_is_refused(options, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    run("train", *options, f"classes={tmp_path / 'names.txt'}", "train.steps=2")
    (tmp_path / "names.txt").write_text("b\na\nc\nd\n")
    for program, more in (("evaluate", []), ("train", ["--resume", "auto", "train.steps=4"])):
        done = run(program, *options, f"classes={tmp_path / 'names.txt'}", *more, check=False)
        assert done.returncode == 2 and "classes" in done.stderr


def test_weights_that_are_not_finite_have_no_accuracy(options, tmp_path):
    run("train", *options, "train.steps=2")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    state["ema"]["cls_head.fc_cls.bias"][:] = float("nan")
    del state["digest"]
    torch.save(state, path)
    done = run("evaluate", *options, check=False)
    assert (
        done.returncode == 2 and "expected finite scores, got 5 of 5 items without" in done.stderr
    )
