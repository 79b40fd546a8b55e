"""Commands in sequence: removed pieces stay removed, and long videos keep their pieces."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.left_out_table import left_out_path
from omnidali.cli.main import main
from omnidali.config.load import load_config
from omnidali.config.sources import SourceConfig
from omnidali.curation.dedup.frame_cache import UNREADABLE
from omnidali.curation.output_folder import OWNER, take_folder
from omnidali.errors import UserError
from omnidali.experiments.curate import in_windows
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import make_plan
from omnidali.models.recognizers import TSN
from omnidali.testing.numbered_media import write_image, write_video

CONFIG = """
device: cpu
classes: names.txt
sources:
  target: {kind: video, root: target, list: target.txt}
  parts: {kind: untrimmed, root: long, list: parts.json}
  whole: {kind: untrimmed, root: long, list: whole.txt, window_seconds: 5}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 12, steps: 4}
loader: {threads: 1}
evaluation:
  source: {kind: video, root: val, list: target.txt}
  batch: 2
  test: {num_clips: 1, size: 32, short_side: 32}
"""
QUICK = {"width": 64, "height": 48, "rate": 12, "gop": 8, "options": {"preset": "ultrafast"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A long video in parts, and a whole one.

    Two of the parts are copies of validation items; one of them is a positive piece.
    """
    root = tmp_path_factory.mktemp("chain")
    for n in range(2):
        write_video(root / f"val/{n}.mp4", n, frames=24, **QUICK)
        write_video(root / f"target/{n}.mp4", 40 + n, frames=24, **QUICK)
    for part, number in ((0, 70), (2, 71), (4, 72)):
        write_video(root / f"long/a/part_{part}.mp4", number, frames=24, **QUICK)
    shutil.copy(root / "val/1.mp4", root / "long/a/part_1.mp4")
    shutil.copy(root / "val/0.mp4", root / "long/a/part_3.mp4")
    write_video(root / "long/v.mp4", 80, frames=120, **QUICK)  # 10 s
    (root / "parts.json").write_text(
        json.dumps([{"video_dir": "a", "label": 1, "num_clips": 5, "positive_clip_inds": [0, 1]}])
    )
    (root / "whole.txt").write_text("v.mp4 1\n")
    (root / "target.txt").write_text("0.mp4 0\n1.mp4 1\n")
    (root / "names.txt").write_text("x\ny\n")
    (root / "config.yaml").write_text(f"data_root: {root}\nrun_dir: {root}/run\n{CONFIG}")
    torch.save(
        {"state_dict": TSN(18, 2, 0.0).state_dict(), "classes": ["x", "y"]}, root / "teacher.pt"
    )
    return root


def run(world: Path, command: str, config: Path, out: Path, *more: str) -> int:
    teacher = ["--checkpoint", str(world / "teacher.pt")] if command == "filter" else []
    return main([command, "--config", str(config), "--out", str(out), *teacher, *more])


@pytest.fixture(scope="module")
def unique(world, tmp_path_factory) -> Path:
    """The folder of a search for duplicates."""
    out = tmp_path_factory.mktemp("unique") / "out"
    assert run(world, "dedup", world / "config.yaml", out) == 0
    return out


def drawn(config) -> dict[str, set[str]]:
    """The files that a training plans, by the policy for pieces of long videos."""
    found = {}
    for policy in ("positive", "one_positive_rest_negative", "all"):
        made = load_config(
            config, [f"sources.parts.pieces={policy}", f"catalog={config.parent}/{policy}.sqlite"]
        )
        data = open_data(made)
        plan, table = make_plan(made, data), data.tables[1]
        pieces = np.concatenate([plan(step)[1].pieces.ravel() for step in range(60)])
        found[policy] = {
            Path(table.media(record).path).name for record in table.records[pieces].tolist()
        }
    return found


def test_pieces_that_dedup_removed_are_neither_filtered_nor_drawn(world, unique, tmp_path):
    assert json.loads((unique / "lists/parts.json").read_text()) == [
        {
            "video_dir": "a",
            "label": 1,
            "num_clips": 5,
            "positive_clip_inds": [0],
            "removed_clip_inds": [1, 3],
        }
    ]
    assert drawn(unique / "config.yaml") == {
        "positive": {"part_0.mp4"},
        "one_positive_rest_negative": {"part_0.mp4", "part_2.mp4", "part_4.mp4"},
        "all": {"part_0.mp4", "part_2.mp4", "part_4.mp4"},
    }
    assert (
        run(world, "filter", unique / "config.yaml", tmp_path / "clean", "--threshold", "0.0001")
        == 0
    )
    assert json.loads((tmp_path / "clean/parts.json").read_text()) == [
        {
            "video_dir": "a",
            "label": 1,
            "num_clips": 5,
            "positive_clip_inds": [0, 2, 4],
            "removed_clip_inds": [1, 3],
        }
    ]
    assert set.union(*drawn(tmp_path / "clean/config.yaml").values()) == {
        "part_0.mp4",
        "part_2.mp4",
        "part_4.mp4",
    }
    assert (
        run(
            world, "dedup", tmp_path / "clean/config.yaml", tmp_path / "again", "--sources", "parts"
        )
        == 0
    )
    assert (tmp_path / "again/lists/parts.json").read_text() == (
        tmp_path / "clean/parts.json"
    ).read_text()


def test_files_of_removed_pieces_may_be_gone(world, unique, tmp_path):
    shutil.copytree(world / "long", tmp_path / "long")
    (tmp_path / "long/a/part_1.mp4").unlink()
    config = load_config(
        unique / "config.yaml",
        [
            f"sources.parts.root={tmp_path}/long",
            "sources.parts.pieces=all",
            f"catalog={tmp_path}/c.sqlite",
        ],
    )
    data = open_data(config)
    assert data.summary[1] == "parts: 1 samples, read as parts_json (asked for), 3 files probed now"


def test_removed_windows_are_no_negatives_between_pieces(world, tmp_path):
    """Negatives lie where no list names a piece, if all remaining windows show the class."""
    (tmp_path / "whole.json").write_text(
        json.dumps(
            [
                {
                    "video_dir": "v.mp4",
                    "label": 1,
                    "num_clips": 4,
                    "positive_clip_inds": [0, 2],
                    "removed_clip_inds": [1],
                }
            ]
        )
    )
    sets = [
        f"sources.whole.list={tmp_path}/whole.json",
        "sources.whole.window_seconds=2",
        f"catalog={tmp_path}/c.sqlite",
    ]
    config = load_config(
        world / "config.yaml", [*sets, "sources.whole.pieces=one_positive_rest_negative"]
    )
    table = open_data(config).tables[2]
    assert list(zip(table.firsts.tolist(), table.frames.tolist(), strict=True)) == [
        (0, 24),
        (48, 24),
        (72, 36),
    ]
    (tmp_path / "whole.json").write_text(
        (tmp_path / "whole.json").read_text().replace(": 4,", ": 3,")
    )
    sets[-1] = f"catalog={tmp_path}/d.sqlite"
    table = open_data(
        load_config(world / "config.yaml", [*sets, "sources.whole.pieces=all"])
    ).tables[2]
    # the last: between
    assert list(zip(table.firsts.tolist(), table.frames.tolist(), strict=True)) == [
        (0, 24),
        (48, 36),
        (84, 36),
    ]


def test_damaged_long_video_counts_as_one_file_with_any_number_of_windows(world, tmp_path):
    """The file is damaged after the probe, without a change of its size or time.

    Its keyframes are far apart, so that no frame after the damage decodes.
    """
    for n in range(2):
        write_video(tmp_path / f"long/{n}.mp4", 80 + n, frames=12 * 60, **{**QUICK, "gop": 1000})
    (tmp_path / "whole.txt").write_text("0.mp4 0\n1.mp4 1\n")
    source = SourceConfig(
        kind="untrimmed", root=f"{tmp_path}/long", list=f"{tmp_path}/whole.txt", window_seconds=2
    )
    build_catalog(tmp_path / "c.sqlite", {"whole": source}, world, progress=False)
    path = tmp_path / "long/1.mp4"
    damaged, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    begin, end = damaged.find(b"mdat") + 4, damaged.find(b"moov")
    begin, end = begin + 1000, end if end > begin else len(damaged)
    damaged[begin:end] = bytes(end - begin)
    path.write_bytes(damaged)
    os.utime(path, ns=(time, time))
    sets = [
        "--sources",
        "whole",
        f"sources.whole.root={tmp_path}/long",
        f"sources.whole.list={tmp_path}/whole.txt",
        "sources.whole.window_seconds=2",
        f"catalog={tmp_path}/c.sqlite",
        "loader.max_bad_in_a_row=3",
    ]
    assert run(world, "dedup", world / "config.yaml", tmp_path / "unique", *sets) == 0
    assert (
        np.load(next((tmp_path / "unique/kept/whole").glob("hash*/done.npy"))) == UNREADABLE
    ).sum() > 20
    assert (
        run(
            world,
            "filter",
            world / "config.yaml",
            tmp_path / "clean",
            "--threshold",
            "0.0001",
            *sets,
        )
        == 0
    )
    with open(tmp_path / "clean/whole_dropped.csv", newline="") as file:
        unreadable = [row for row in csv.DictReader(file) if row["reason"] == "does not decode"]
    assert len(unreadable) > 40 and {row["path"] for row in unreadable} == {"1.mp4"}


def test_window_length_is_an_option_of_the_first_command_alone(world, tmp_path, capsys):
    config, out = world / "config.yaml", tmp_path / "unique"
    sets = [f"catalog={tmp_path}/c.sqlite"]
    assert run(world, "dedup", config, out, "--window", "1", *sets) == 0
    assert json.loads((out / "lists/whole.json").read_text()) == [
        {"video_dir": "v.mp4", "label": 1, "num_clips": 10, "positive_clip_inds": list(range(10))}
    ]
    sources = load_config(out / "config.yaml").sources
    assert (sources["whole"].window_seconds, sources["parts"].window_seconds) == (1, 10)
    capsys.readouterr()
    filtering = ["--threshold", "0.0001", "evaluation.test.num_clips=3"]
    assert run(world, "filter", out / "config.yaml", tmp_path / "clean", *filtering) == 0
    told = capsys.readouterr().out
    assert "whole: a 2D teacher looks at 1 frame of every piece; " in told
    assert "parts: a 2D teacher looks at 3 frames of every piece; " in told
    assert (
        run(world, "filter", out / "config.yaml", tmp_path / "other", "--window", "2", *filtering)
        == 2
    )
    assert (
        "--window: expected a source of long videos whose list names them whole,"
        " got none in parts, whole. Leave" in capsys.readouterr().err
    )
    assert run(world, "dedup", config, out, "--sources", "parts", "--window", "2", *sets) == 2
    assert "--window: expected" in capsys.readouterr().err


@pytest.mark.parametrize("sets, seconds", [((), (10, 1)), (("model.name=slowonly",), (10, 5))])
def test_curate_shows_a_2d_teacher_a_frame_a_second(world, sets, seconds):
    made = in_windows(
        load_config(world / "config.yaml", ["sources.whole.window_seconds=5", *sets])
    ).sources
    assert (made["parts"].window_seconds, made["whole"].window_seconds) == seconds


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_output_folder_with_other_files_is_refused_and_unchanged(world, unique, tmp_path, capsys):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/report.md").write_text("of a year's work")
    command = ["--config", str(world / "config.yaml"), "--out", str(tmp_path / "foreign")]
    for name in (
        ["filter", "--checkpoint", str(world / "teacher.pt")],
        ["dedup"],
        ["lint"],
        ["preview"],
        ["curate"],
    ):
        assert main([*name, *command]) == 2
        assert (
            f"an empty folder, or one of an earlier `omnidali {name[0]}` of"
            f" {world}/config.yaml, got other files in" in capsys.readouterr().err
        )
    assert contents(tmp_path / "foreign") == {"report.md": b"of a year's work"}
    before = contents(unique)
    assert run(world, "filter", world / "config.yaml", unique) == 2
    assert (
        f"got what `omnidali dedup` made of {world}/config.yaml in {unique}"
        in capsys.readouterr().err
    )
    assert contents(unique) == before
    assert (
        run(world, "filter", world / "config.yaml", world / "long/results", "--sources", "whole")
        == 2
    )
    assert "--out: expected a folder outside of sources.parts, " in capsys.readouterr().err


def test_command_takes_a_folder_in_which_a_refused_start_left_a_catalog(tmp_path):
    """And the catalog's table of what it leaves out."""
    write_image(tmp_path / "pics/cat/1.jpg", 0, 40, 30)
    (tmp_path / "pics/cat/notes.txt").write_text("x")
    out = tmp_path / "out"
    sources = {"s": SourceConfig(kind="image", root="pics")}
    build_catalog(out / "catalog.sqlite", sources, tmp_path, progress=False)
    assert left_out_path(out / "catalog.sqlite").exists()
    take_folder(out, "curate", tmp_path / "c.yaml")


def test_command_takes_its_folder_again_after_a_kill(tmp_path):
    out, config = tmp_path / "out", tmp_path / "c.yaml"
    out.mkdir()
    (out / f"{OWNER}.part").write_text('{"comm')  # killed at the first byte
    take_folder(out, "filter", config)
    (out / "scores.part").write_text("killed in the middle")
    take_folder(out, "filter", config)
    for command, path in (("dedup", config), ("filter", tmp_path / "d.yaml")):
        with pytest.raises(UserError, match="--out: expected an empty folder"):
            take_folder(out, command, path)
    (out / "scores.part").unlink()
    take_folder(out, "dedup", config)  # the folder holds no results of another command
