"""Every command over a folder of slow, huge and hanging files.

It ends, the good files are done, and the bad ones are named.
"""

import json
import os
import shutil

import pytest
import torch

from conftest import hurry
from helpers.slow_media import (
    hurried_processes,
    in_time,
    inflating_png,
    progressive_jpeg,
    write_sliced,
)
from omnidali.catalog import build
from omnidali.catalog.probing.limits import MAX_SCANS, MAX_UNITS
from omnidali.cli import main as cli
from omnidali.curation.copies import advise as advice
from omnidali.curation.copies import copy_gain as copies
from omnidali.models.recognizers import TSN
from omnidali.testing.numbered_media import write_image, write_video

FAST = {"width": 160, "height": 120, "gop": 8, "options": {"preset": "ultrafast", "crf": "15"}}


CONFIG = """
device: cpu
classes: names.txt
sources:
  clips: {kind: video, root: clips, list: clips.txt}
  photos: {kind: image, root: photos, list: photos.txt}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 6, steps: 4}
evaluation:
  batch: 4
  test: {num_clips: 2, size: 32, short_side: 32}
  source: {kind: video, root: clips, list: clips.txt}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Good files have numbers for names; the names of the others say what is wrong with them."""
    root = tmp_path_factory.mktemp("files")
    for n in range(6):
        write_video(root / f"clips/{n}.mp4", n, frames=40, **FAST)
    for n in range(6):
        write_image(root / f"photos/{n}.jpg", n, 120, 90)
    write_video(root / "clips/limbo.mp4", 3, frames=30, **FAST)
    write_sliced(root / "clips/treacle.mp4", 1200)
    write_sliced(root / "clips/slices.mp4", 2 * MAX_UNITS)
    shutil.copy(root / "photos/5.jpg", root / "photos/limbo.jpg")
    (root / "photos/scans.jpg").write_bytes(progressive_jpeg(30_000))
    (root / "photos/claims.png").write_bytes(inflating_png(65535, 65535, 1 << 20))
    (root / "photos/bomb.png").write_bytes(inflating_png(3000, 3000, 26 << 20))
    # far more data than its picture has
    (root / "photos/tiny.png").write_bytes(inflating_png(40, 40, 200 << 20))
    for folder in ("clips", "photos"):
        names = sorted(path.name for path in (root / folder).iterdir())
        names.append("pipe.mp4" if folder == "clips" else "pipe.jpg")
        (root / f"{folder}.txt").write_text(
            "".join(f"{name} {n % 2}\n" for n, name in enumerate(names))
        )
    (root / "names.txt").write_text("run\nswim\n")
    torch.manual_seed(0)
    (root / "teacher/checkpoints").mkdir(parents=True)
    torch.save(
        {"state_dict": TSN(18, 2, 0.0).state_dict(), "classes": ["run", "swim"]},
        root / "teacher/checkpoints/best.pt",
    )
    return root


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    with hurried_processes(monkeypatch):
        yield


HANGS = ("clips/limbo.mp4", "photos/limbo.jpg")


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """The folder, in which two files hang once their headers have been read."""
    root = tmp_path / "world"
    shutil.copytree(template, root)
    os.mkfifo(root / "clips/pipe.mp4")
    os.mkfifo(root / "photos/pipe.jpg")
    look = build.build_catalog

    def look_and_hang(path, sources, data_root, *rest, **options):
        found = look(path, sources, data_root, *rest, **options)
        for name in HANGS:
            file = root / name
            if (
                any(source.root == name.partition("/")[0] for source in sources.values())
                and not file.is_fifo()
            ):
                file.unlink()
                os.mkfifo(file)
        return found

    for module in ("loading.data", "curation.lint.lint"):
        monkeypatch.setattr(f"omnidali.{module}.build_catalog", look_and_hang)
    hurry(monkeypatch, [str(root / name) for name in HANGS], 60)
    monkeypatch.setattr(copies, "_SECONDS", 0.1)
    monkeypatch.setattr(advice, "_SECONDS", 0.1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return root


def read(path):
    return path.read_text(encoding="utf-8")


def lines_of(path):
    return [json.loads(line) for line in read(path).splitlines()]


def of_lint(out, printed):
    """issues.csv names the bad files."""
    names = ["scans.jpg", "claims.png", "pipe.jpg", "pipe.mp4"]
    names += ["slices.mp4", "limbo.jpg", "limbo.mp4"]
    reasons = ("refused", "not compared", "not decoded")
    lines = [
        line
        for line in read(out / "issues.csv").splitlines()
        if any(reason in line for reason in reasons)
    ]
    return {name for name in names if any(name in line for line in lines)}


def of_transcode(out, printed):
    done = {path.name for path in (out / "clips").iterdir()} | {
        path.name for path in (out / "photos").iterdir()
    }
    assert {"0.mp4", "3.mp4", "0.jpg", "bomb.png", "tiny.png"} <= done and not any(
        out.glob(".transcode/*")
    )
    failed = {
        os.path.basename(path): reason
        for row in lines_of(out / "transcode.jsonl")
        for path, reason in row["failed"]
    }
    assert not done & set(failed) and all(
        "nothing came of it for" in reason for reason in failed.values()
    )
    return set(failed)


def of_motion(out, printed):
    values = json.loads(read(out))
    assert values["all"]["pairs"] > 8
    return {os.path.basename(path) for path, _ in values["failed"]}


def of_pictures(out, printed):
    assert all(
        (out / f"{name}{ending}.png").stat().st_size > 1000
        for name in ("clips", "photos")
        for ending in ("", "-frames")
    )
    return {
        name
        for name in ("limbo.mp4", "limbo.jpg")
        if f"{name}: disk: not read and decoded within" in printed.err
    }


def of_lists(out, printed):
    assert "0.jpg" in read(
        out / "lists/photos.txt" if (out / "lists").exists() else out / "photos.txt"
    )
    return {os.path.basename(fault["path"]) for fault in lines_of(out / "quarantine.jsonl")}


def of_evaluation(out, printed):
    rows = lines_of(out.parent / "run/evaluation-test/predictions.jsonl")
    assert sum(bool(row["predicted"]) for row in rows) >= 4
    return {os.path.basename(row["path"]) for row in rows if not row["predicted"]}


def of_advice(out, printed):
    assert "| clips | original |" in printed.out
    return {
        name
        for name in ("limbo.mp4", "treacle.mp4", "limbo.jpg")
        if f"{name} is left out" in printed.err
    }


# arguments, a function that finds the bad files, and the files that it finds besides those that the
# catalog left out
COMMANDS = {
    "lint": (
        ["lint", "--out"],
        of_lint,
        {"scans.jpg", "claims.png", "pipe.jpg", "pipe.mp4", "slices.mp4", "limbo.jpg"},
    ),
    "transcode": (
        ["transcode", "--workers", "2", "--sources", "clips", "photos", "--out"],
        of_transcode,
        {"limbo.mp4", "limbo.jpg", "treacle.mp4"},
    ),
    "motion": (
        ["motion", "estimate", "--source", "clips", "--videos", "50", "--out"],
        of_motion,
        {"limbo.mp4", "treacle.mp4"},
    ),
    "preview": (
        ["preview", "--samples", "12", "--sources", "clips", "photos", "--out"],
        of_pictures,
        {"limbo.mp4", "limbo.jpg"},
    ),
    "dedup": (
        ["dedup", "--within", "--sources", "photos", "--fps", "2", "--out"],
        of_lists,
        {"limbo.jpg"},
    ),
    "filter": (
        [
            "filter",
            "--checkpoint",
            "{world}/teacher",
            "--sources",
            "photos",
            "--rule",
            "topk",
            "--top",
            "2",
            "--out",
        ],
        of_lists,
        {"limbo.jpg"},
    ),
    "evaluate": (None, of_evaluation, {"limbo.mp4"}),
    "advise": (["advise", "--sample", "20"], of_advice, {"limbo.mp4", "limbo.jpg"}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_and_names_what_it_leaves_out(world, tmp_path, capfd, caplog, name):
    words, find, bad = COMMANDS[name]
    (tmp_path / "c.yaml").write_text(CONFIG)
    sets = [
        f"data_root={world}",
        f"run_dir={tmp_path}/run",
        "loader.threads=2",
        "loader.max_bad_ratio=1",
    ]
    out = tmp_path / ("out.json" if name == "motion" else "out")
    if words is None:
        code = in_time(
            lambda: cli.main(
                [
                    "evaluate",
                    "--config",
                    str(tmp_path / "c.yaml"),
                    "--checkpoint",
                    str(world / "teacher"),
                    *sets,
                ]
            )
        )
    else:
        words = [word.format(world=world) for word in words] + (
            [str(out)] if words[-1] == "--out" else []
        )
        code = in_time(lambda: cli.main([*words, "--config", str(tmp_path / "c.yaml"), *sets]))
    printed = capfd.readouterr()
    assert code in ((0, 1) if name in ("lint",) else (0,)), printed.err
    assert bad <= find(out, printed._replace(err=printed.err + caplog.text)), printed.err
    assert "Traceback" not in printed.err


def test_lint_decodes_everything_in_time(template, tmp_path):
    """Its processes decode each file within a limit; the folder stays as it was, as lint would
    probe changed files again.
    """
    shutil.copytree(template, tmp_path / "world")
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [
        "lint",
        "--decode",
        "--sources",
        "photos",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "out"),
        f"data_root={tmp_path}/world",
        f"run_dir={tmp_path}/run",
    ]
    assert in_time(lambda: cli.main(command)) in (0, 1)
    assert {"scans.jpg", "claims.png"} <= of_lint(tmp_path / "out", None)


def test_info_opens_no_media(world, tmp_path, capsys):
    """It reads only the catalog, which counts the refused files."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    sets = [f"data_root={world}", f"run_dir={tmp_path}/run"]
    assert in_time(lambda: cli.main(["lint", "--config", str(tmp_path / "c.yaml"), *sets])) in (
        0,
        1,
    )
    shutil.rmtree(world / "photos")
    assert in_time(lambda: cli.main(["info", "--config", str(tmp_path / "c.yaml"), *sets])) == 0
    assert f"1 JPEG with more than {MAX_SCANS} scans" in capsys.readouterr().out
