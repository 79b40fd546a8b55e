"""The teacher's filter: its lists equal those of a plain implementation."""

import json
import os

import pytest
import torch

from helpers.filtering import (
    CONFIG,
    FAST,
    NAMES,
    command,
    plain_scores,
    rows_of,
    settings,
)
from omnidali.catalog.database.listed_items import flatten
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import make_plan
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.testing.numbered_media import write_image, write_video

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "out, says",
    [
        (".", "does not hold --config"),
        ("run", "does not hold the catalog"),
        ("lists", "sources.photos.list"),
        ("crawl/photos/out", "outside of sources.photos, "),
        ("crawl", "the originals of sources.photos"),
    ],
)
def test_results_among_originals_or_lists_are_refused(world, teacher, tmp_path, capsys, out, says):
    for name in NAMES:
        (tmp_path / "crawl/photos" / name).mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    listed = out == "lists"
    sets = [
        f"sources.photos.root={tmp_path}/crawl/photos",
        f"sources.photos.list={tmp_path / 'lists/photos.txt' if listed else ''}",
    ]
    arguments = command(world, tmp_path, teacher, "--sources", "photos", out=out, sets=sets)
    others = [*arguments[1:3], *arguments[5:]]
    for command_line in (
        arguments,
        ["dedup", *others],
        ["lint", *others],
        ["preview", *others],
        ["curate", *others[:4], *others[6:]],
    ):
        assert cli.main(command_line) == 2
        error = capsys.readouterr().err
        assert "--out: expected a folder" in error and says in error


def test_results_among_checkpoints_or_base_configs_are_refused(world, teacher, tmp_path, capsys):
    arguments = command(
        world, tmp_path, tmp_path / "taught", "--sources", "photos", out="taught/checkpoints"
    )
    assert (
        cli.main([*arguments[:4], str(tmp_path / "taught/checkpoints/best.pt"), *arguments[5:]])
        == 2
    )
    assert "does not hold --checkpoint" in capsys.readouterr().err
    (tmp_path / "lib").mkdir()
    (tmp_path / "c.yaml").rename(tmp_path / "lib/base.yaml")
    (tmp_path / "c.yaml").write_text("base: lib/base.yaml\n")
    arguments[6] = str(tmp_path / "lib")
    assert cli.main(arguments) == 2
    assert "does not hold --config, base 1, " in capsys.readouterr().err


def test_2d_teacher_scores_the_middle_frame_of_each_window(world, flat, teacher, tmp_path):
    """A 2D teacher looks at the middle frame of every second."""
    assert (
        cli.main(
            command(world, tmp_path, teacher, "--sources", "whole", "--rule", "topk", "--top", "2")
        )
        == 0
    )
    config = settings(
        world,
        tmp_path,
        "sources.whole.window_seconds=1",
        "sources.whole.pieces=all",
        "evaluation.test.num_clips=1",
    )
    data = open_data(config)
    table = flatten(config.catalog_path, data.tables[2])
    planned = EvaluationPlan(table, config.clip, config.evaluation.test, 6)(0)[0]
    assert planned.frames.ravel().tolist() == [15, 45, 82] * 2  # of windows of 30, 30 and 44 frames
    probabilities = plain_scores(flat, table, config.sources["whole"], config)
    expected = []
    for row, (video, label) in enumerate(((50, 1), (51, 2))):
        ranks = [
            sorted(values, reverse=True).index(values[label])
            for values in probabilities[3 * row : 3 * row + 3].tolist()
        ]
        shown = [piece for piece, rank in enumerate(ranks) if rank < 2]
        if shown:
            expected.append(
                {
                    "video_dir": f"{video}.mp4",
                    "label": label,
                    "num_clips": 3,
                    "positive_clip_inds": shown,
                }
            )
    assert json.loads((tmp_path / "out/whole.json").read_text()) == expected and expected
    made = load_config(tmp_path / "out/config.yaml")
    source = made.sources["whole"]
    assert (source.window_seconds, source.format, source.pieces) == (
        1.0,
        "parts_json",
        "one_positive_rest_negative",
    )
    data = open_data(made)
    make_plan(made, data)(0)
    assert data.tables[2].positives.tolist() == [len(row["positive_clip_inds"]) for row in expected]


def test_parts_keep_their_numbers_and_pieces_their_seconds(world, teacher, tmp_path):
    arguments = [
        "--sources",
        "parts",
        "pieces",
        "--rule",
        "topk",
        "--top",
        "2",
        "--keep-negatives",
        "--relabel",
    ]
    assert cli.main(command(world, tmp_path, teacher, *arguments)) == 0
    out = tmp_path / "out"
    made = {row["video_dir"]: row for row in json.loads((out / "parts.json").read_text())}
    assert {name: row["num_clips"] for name, row in made.items()} == {"a": 5, "b": 2}
    told = rows_of(out / "parts_kept.csv") + rows_of(out / "parts_dropped.csv")
    assert sorted((row["path"], row["piece"]) for row in told) == [
        (f"{video}/part_{part}.mp4", str(part))
        for video, part in (("a", 0), ("a", 1), ("a", 3), ("b", 0), ("b", 1))
    ]
    assert all(
        int(row["rank"]) <= 2
        for row in rows_of(out / "parts_kept.csv") + rows_of(out / "pieces_kept.csv")
    )
    for name in "ab":
        kept = [
            int(row["piece"]) for row in rows_of(out / "parts_kept.csv") if row["path"][0] == name
        ]
        assert made[name]["positive_clip_inds"] == sorted(kept)
    lines = (out / "pieces.txt").read_text().splitlines()
    known = (world / "pieces.txt").read_text().splitlines()
    assert lines == [line for line in known if line in lines] and 0 < len(lines) == len(
        rows_of(out / "pieces_kept.csv")
    )
    made = load_config(out / "config.yaml")
    assert made.sources["pieces"].format == "pieces" and made.sources["parts"].window_seconds == 10
    open_data(made)


def test_all_pieces_of_a_long_video_belong_to_one_held_out_part(world, tmp_path):
    """A network must not score pieces of videos that it was trained on."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    config = settings(world, tmp_path, "sources.whole.window_seconds=1", "sources.parts.pieces=all")
    tables = {table.name: table for table in open_data(config).tables}
    for name, expected in {
        "whole": 3 * ["50.mp4"] + 3 * ["51.mp4"],
        "parts": 3 * ["a"] + 2 * ["b"],
        "pieces": 2 * ["50.mp4"] + 2 * ["51.mp4"],
    }.items():
        rows, pieces = (
            list(table.owners())
            for table in (tables[name], flatten(config.catalog_path, tables[name]))
        )
        assert pieces == expected and set(rows) == set(expected) and len(rows) == len(tables[name])


FOLDERS = """
device: cpu
sources:
  clips: {kind: video, root: classes}
  photos: {kind: image, root: crawled}
  frames: {kind: frames, root: frames, list: frames.txt, format: rawframes_offset}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 10, steps: 2}
evaluation:
  batch: 4
  test: {num_clips: 2, size: 32, short_side: 32}
  source: {kind: image, root: crawled}
"""


def test_class_folders_and_folders_of_frames_become_lists(flat, tmp_path):
    """A file of class names is written, as the new list holds numbers."""
    names = sorted(["#" + NAMES[0], *NAMES[1:]])  # a line that begins with # is a comment
    for n, name in enumerate(names):
        write_video(tmp_path / f"classes/{name}/{n}.mp4", n, frames=12, **FAST)
        for photo in range(2):
            write_image(tmp_path / f"crawled/{name}/{photo},.jpg", 10 * n + photo, 64, 48)
    for frame in range(12):
        write_image(tmp_path / f"frames/a b/img_{frame + 1:05}.jpg", 70, 64, 48, frame=frame)
    (tmp_path / "frames.txt").write_text(f"a b 0 6 {names[0]}\na b 6 6 {names[3]}\n")
    (tmp_path / "c.yaml").write_text(FOLDERS)
    torch.save({"state_dict": flat.state_dict(), "classes": names}, tmp_path / "x.pt")
    assert (
        cli.main(
            [
                "filter",
                "--config",
                str(tmp_path / "c.yaml"),
                "--checkpoint",
                str(tmp_path / "x.pt"),
                "--out",
                str(tmp_path / "out"),
                "--sources",
                "photos",
                "frames",
                "evaluation",
                "--rule",
                "topk",
                "--top",
                "4",
                f"data_root={tmp_path}",
                f"run_dir={tmp_path}/run",
            ]
        )
        == 0
    )
    assert (tmp_path / "out/frames.txt").read_text() == "a b 0 6 0\na b 6 6 3\n"
    assert (tmp_path / "out/classes.txt").read_text().splitlines() == names
    before = open_data(
        load_config(tmp_path / "c.yaml", [f"data_root={tmp_path}", f"run_dir={tmp_path}/run"])
    )
    after = open_data(load_config(tmp_path / "out/config.yaml"))
    assert before.class_names == after.class_names
    for one, other in zip(
        (*before.tables, before.evaluation), (*after.tables, after.evaluation), strict=True
    ):
        assert [one.media(record).path for record in one.records] == [
            os.path.normpath(other.media(record).path) for record in other.records
        ]
        assert one.labels.tolist() == other.labels.tolist()


def test_rule_that_keeps_nothing_is_refused(world, filtered, teacher, capsys):
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--threshold", "1", out="none")
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "sources.photos: expected items that pass the rule (probability of at least 1), got"
        " none of 40; the best probabilities are 0." in error
    )
    assert (
        not (filtered / "none/photos.txt").exists() and not (filtered / "none/config.yaml").exists()
    )


@pytest.mark.parametrize(
    "more, says",
    [
        (
            ["--sources", "web"],
            "--sources: expected some of clips, photos, whole, parts, pieces, got web",
        ),
        (["--threshold", "0"], "--threshold: expected a number above 0 and at most 1"),
        (
            ["--keep", "0.3"],
            "--keep: expected --rule quantile with it, got --rule threshold."
            " Add quantile to --rule",
        ),
        (
            ["--rule", "quantile", "--threshold", "0.3"],
            "--threshold: expected --rule threshold with it, got --rule quantile",
        ),
        (["--top", "0"], "--top: expected 1 or more"),
        (["--window", "-1"], "--window: expected seconds above 0"),
    ],
)
def test_option_out_of_range_or_without_its_rule_is_refused(
    world, teacher, tmp_path, capsys, more, says
):
    assert cli.main(command(world, tmp_path, teacher, *more)) == 2
    assert says in capsys.readouterr().err
