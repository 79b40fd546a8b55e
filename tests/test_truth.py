"""Precision and recall of curation, by the truth of the demo world."""

import json
import math

import pytest

from conftest import InProcess
from omnidali.catalog.build import build_catalog
from omnidali.config.load import load_config
from omnidali.config.sources import EVALUATION
from omnidali.demo import world as worlds
from omnidali.demo.truth import (
    duplicate_quality,
    judge_lists,
    label_quality,
    piece_quality,
    read_truth,
)
from omnidali.demo.world import make_world
from omnidali.demo.world_plan import plan_items
from omnidali.errors import UserError

TRUTH = {
    "noise": {"a/1": 4, "a/2": None, "a/3": 1},
    "duplicates": ["a/4", "a/5", "b/1"],
    "positive_parts": {"long/x": [0, 1], "long/y": [5]},
}
LISTED = [("a/0", 0), ("a/1", 0), ("a/2", 0), ("a/3", 0), ("a/4", 0), ("a/5", 2)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world's lists without its media, which are not needed to judge lists."""
    folder = tmp_path_factory.mktemp("world")
    worlds._write_lists(folder, plan_items(0))
    return folder


def plan(world, *more):
    return load_config("demo_crawl", [f"data_root={world}", *more])


def test_label_quality_counts_kept_items():
    quality = label_quality(
        [("a/0", 0), ("a/1", 4), ("a/2", 0), ("a/3", 0), ("a/5", 2)], TRUTH, LISTED
    )
    # a/1 shows its new label, a/2 and a/3 not their old one
    assert (quality.chosen, quality.right) == (5, 3)
    assert (quality.wanted, quality.found) == (3, 2)  # a/4 is clean and not kept
    assert quality.precision == 0.6 and quality.recall == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="expected items of the crawled list, got b/9"):
        label_quality([("b/9", 0)], TRUTH, LISTED)


def test_clean_item_with_a_new_label_is_neither_right_nor_found():
    quality = label_quality([("a/0", 3)], TRUTH, LISTED)
    assert (quality.right, quality.found) == (0, 0)


def test_duplicate_quality_counts_removed_items():
    removed = ["a/4", "a/0", "b/1"]
    assert (
        duplicate_quality(removed, TRUTH).precision
        == duplicate_quality(removed, TRUTH).recall
        == 2 / 3
    )
    quality = duplicate_quality(["a/4", "a/0"], TRUTH, [path for path, _ in LISTED])
    assert (quality.chosen, quality.right, quality.wanted, quality.found) == (2, 1, 2, 1)
    assert (
        math.isnan(duplicate_quality([], TRUTH).precision)
        and duplicate_quality([], TRUTH).recall == 0
    )


@pytest.mark.parametrize(
    "spans, chosen, right",
    [
        ([("x", 0, 1), ("x", 3, 4), ("y/whole.mp4", 5, 6)], 3, 2),
        # windows of a second
        ([("x", 0, 0.25), ("x", 1.75, 2), ("x", 2, 2.25)], 0.75, 0.5),
        ([("x", 1.5, 3)], 1.5, 0.5),  # half of part 1, and part 2
        ([("x", 0, 2.5), ("y", 5, 7.5)], 2.5 + 1, 2 + 1),  # 0 to 10 s, and 20 to 24 s
        ([("x", 0, 1)], 1, 1),
    ],
)
def test_pieces_count_by_the_parts_that_they_share(spans, chosen, right):
    quality = piece_quality([(f"long/{video}", *span) for video, *span in spans], TRUTH)
    assert (quality.chosen, quality.right, quality.wanted, quality.found) == pytest.approx(
        (chosen, right, 3, right)
    )


def test_foreign_videos_and_worlds_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected long videos of the demo world, got long/z"):
        piece_quality([("long/z", 1, 2)], TRUTH)
    with pytest.raises(UserError, match="expected a truth file, got no such file"):
        read_truth(tmp_path)
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(UserError, match="omnidali demo"):
        read_truth(tmp_path)


def test_released_lists_are_nearly_right(world):
    """The lists that the world ships as a teacher's are nearly right, those of the crawl are as
    dirty as planned.
    """
    notes, crawled = "annotations", plan(world)
    before = judge_lists(world, crawled, crawled)
    assert list(before) == ["kinetics", "googleimage", "insimage", "insvideo", "kineticsraw"]
    assert before["kinetics"]["labels"].precision == 1
    for name, noise in (("googleimage", 0.3), ("insimage", 0.4), ("insvideo", 0.25)):
        labels = before[name]["labels"]
        assert labels.recall == 1 and abs(1 - labels.precision - noise) < 0.1
        assert before[name]["removed copies"].found == 0
    assert before["googleimage"]["removed copies"].wanted == 23
    assert (
        before["kineticsraw"]["pieces"].chosen == 16 * 6
        and before["kineticsraw"]["pieces"].recall == 1
    )
    assert 0.3 < before["kineticsraw"]["pieces"].precision < 0.5

    released = plan(
        world,
        f"sources.googleimage.list={notes}/googleimage_8/tsn_8seg_googleimage_8_wodup.txt",
        "sources.insimage={kind: image, root: .,"
        f" list: {notes}/webimage_8/tsn_8seg_webimage_8_wodup.txt}}",
        f"sources.kineticsraw.list={notes}/kinetics_raw_8/slowonly_8x8_kinetics_raw_8.json",
    )
    # the union holds other photos, too
    with pytest.raises(UserError, match="items of the crawled list"):
        judge_lists(world, crawled, released)
    after = judge_lists(
        world,
        crawled,
        plan(
            world,
            f"sources.googleimage.list={notes}/googleimage_8/tsn_8seg_googleimage_8_wodup.txt",
            f"sources.kineticsraw.list={notes}/kinetics_raw_8/slowonly_8x8_kinetics_raw_8.json",
        ),
    )
    assert 0.93 < after["googleimage"]["labels"].precision < 1
    assert after["googleimage"]["removed copies"].recall == 1
    pieces = after["kineticsraw"]["pieces"]
    assert pieces.precision == pieces.recall == 1


def test_judge_lists_counts_windows_of_whole_videos(world):
    """The rows of a filter that looked at the whole files in windows of two seconds."""
    rows = json.loads(
        (world / "annotations/kinetics_raw_8/slowonly_8x8_kinetics_raw_8.json").read_text()
    )
    found = [
        {
            "video_dir": f"{item['video_dir']}/whole.mp4",
            "label": 0,
            "num_clips": 12,
            "positive_clip_inds": [2 * index for index in item["positive_clip_inds"]],
        }
        for item in rows
    ]
    (world / "annotations/found.json").write_text(json.dumps(found))
    config = plan(
        world,
        "sources.kineticsraw.list=annotations/found.json",
        "sources.kineticsraw.window_seconds=2",
    )
    pieces = judge_lists(world, plan(world), config)["kineticsraw"]["pieces"]
    assert pieces.precision == 1 and pieces.recall == 0.5


def test_lists_of_the_crawl_name_files_of_the_world(tmp_path, monkeypatch):
    """A few items, made for good: the config of the crawl can be trained on, and what a world lacks
    comes to it.
    """
    monkeypatch.setattr(worlds, "PART_SECONDS", 1)
    items = {
        name: group[::40] if "raw" not in name else group[:2]
        for name, group in plan_items(0).items()
    }
    monkeypatch.setattr(worlds, "plan_items", lambda seed: items)
    monkeypatch.setattr(worlds, "ProcessPoolExecutor", InProcess)
    make_world(tmp_path, progress=False)
    listing = tmp_path / "annotations/kinetics_raw_8/kinetics_raw_8.txt"
    lines, before = (
        listing.read_text(),
        {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")},
    )
    config = plan(tmp_path, "sources.kineticsraw.window_seconds=1")
    summaries = build_catalog(
        tmp_path.parent / "catalog.sqlite",
        {**config.sources, EVALUATION: config.evaluation.source},
        tmp_path,
        progress=False,
    )
    assert all(not summary.refused and not summary.repeated for summary in summaries)
    assert [summary.usable for summary in summaries if summary.name == "kineticsraw"] == [2]
    listing.unlink()
    make_world(tmp_path, progress=False)  # as a world that was made before there was this list
    assert listing.read_text() == lines
    assert {
        path: path.stat().st_mtime_ns for path in before if path.is_file() and path != listing
    } == {path: time for path, time in before.items() if path.is_file() and path != listing}
