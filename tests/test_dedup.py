"""omnidali dedup: planted copies are found, other items stay, and mistakes are reported."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.dedup_world import config_of, left_of, make_dedup_world, rows_of
from omnidali.cli.main import main
from omnidali.config.load import load_config
from omnidali.curation.dedup.dedup import dedup
from omnidali.curation.dedup.duplicates import DedupSettings
from omnidali.curation.exact_duplicates import file_digest
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_dedup_world(tmp_path_factory.mktemp("dedup"))


COPIES = {"larger.jpg", "smaller.jpg", "pressed.jpg", "cut a little.jpg"}


@pytest.fixture(scope="module")
def found(world, tmp_path_factory) -> Path:
    """The folder of a search over all sources but the target."""
    folder = tmp_path_factory.mktemp("found")
    dedup(config_of(world, folder / "run"), folder / "out", Ranks())
    return folder / "out"


def test_copies_are_dropped_and_other_items_stay(world, found):
    rows = rows_of(found, "images")
    assert set(rows) == COPIES
    assert {rows[name]["of"] for name in COPIES - {"pressed.jpg"}} == {"0.mp4"} and rows[
        "pressed.jpg"
    ]["of"] == "1.mp4"
    assert (
        abs(int(rows["larger.jpg"]["of_frame"]) - 10) <= 2 and rows["larger.jpg"]["kind"] == "hash"
    )
    everything = {path.name for path in (world / "images").iterdir()}
    assert left_of(found, "images") == everything - COPIES
    clips = rows_of(found, "clips")
    assert set(clips) == {"copy.mp4", "scaled.mp4"}
    assert (clips["copy.mp4"]["kind"], clips["copy.mp4"]["of"]) == ("bytes", "2.mp4")
    assert left_of(found, "clips") == {"other.mp4"}


def test_copied_pieces_of_long_videos_are_no_positives(found):
    kept = json.loads((found / "lists/long.json").read_text())
    assert kept == [
        {
            "video_dir": "a",
            "label": 0,
            "num_clips": 3,
            "positive_clip_inds": [0],
            "removed_clip_inds": [1],
        },
        {"video_dir": "c", "label": 1, "num_clips": 2, "positive_clip_inds": [1]},
    ]
    assert set(rows_of(found, "long")) == {"a/part_1.mp4", "b/part_0.mp4", "b/part_2.mp4"}


def test_new_config_opens_and_holds_what_is_left(world, found):
    config = load_config(found / "config.yaml", [])
    tables = {table.name: table for table in open_data(config).tables}
    assert [len(tables[name]) for name in ("target", "images", "clips", "long")] == [3, 9, 1, 2]
    labels = dict(line.rsplit(" ", 1) for line in (world / "images.txt").read_text().splitlines())
    for row, record in enumerate(tables["images"].records):
        assert tables["images"].labels[row] == int(
            labels[Path(tables["images"].media(record).path).name]
        )


def test_report_and_images_of_pairs_are_written(found):
    report = (found / "report.md").read_text()
    assert (
        "| images | 13 | 0 | 9 | 0 | 4 | 0 |" in report
        and "| clips | 3 | 0 | 1 | 1 | 1 | 0 |" in report
    )
    shown = cv2.imread(str(found / "pictures/images_hash_dropped.png"))
    assert shown.shape == (4 * (144 + 14), 2 * 144, 3)
    pair = shown[14:158].astype(int)
    # both show the same frame, and not the grey one of a file that does not decode
    assert np.abs(pair[:, :144] - pair[:, 144:]).mean() < 30
    assert pair.std() > 20


def test_within_keeps_one_of_several_similar_items(world, tmp_path):
    config = config_of(
        world, tmp_path / "run", "evaluation.source=null", "catalog=" + str(tmp_path / "c.sqlite")
    )
    (outcome,) = dedup(
        config, tmp_path / "out", Ranks(), names=["images"], settings=DedupSettings(within=True)
    )
    rows = rows_of(tmp_path / "out", "images")
    assert {path: row["of"] for path, row in rows.items()} == {
        "twin small.jpg": "other 3.jpg",
        "twin same.jpg": "other 4.jpg",
        "smaller.jpg": "larger.jpg",
        "cut a little.jpg": "larger.jpg",
    }  # the one with most pixels, or else the first
    assert rows["twin same.jpg"]["kind"] == "bytes" and rows["twin small.jpg"]["kind"] == "hash"
    assert {row["against"] for row in rows.values()} == {"images"}


def test_training_on_all_pieces_keeps_videos_that_never_show_their_class(world, tmp_path):
    (tmp_path / "long.json").write_text(
        json.dumps(
            [
                {"video_dir": "b", "label": 1, "num_clips": 3, "positive_clip_inds": [1]},
                {"video_dir": "c", "label": 0, "num_clips": 2, "positive_clip_inds": []},
            ]
        )
    )
    config = config_of(
        world,
        tmp_path / "run",
        "sources.long.pieces=all",
        "classes=null",
        f"sources.long.list={tmp_path / 'long.json'}",
    )
    dedup(config, tmp_path / "out", Ranks(), names=["long"])
    assert json.loads((tmp_path / "out/lists/long.json").read_text()) == [
        {
            "video_dir": "b",
            "label": 1,
            "num_clips": 3,
            "positive_clip_inds": [1],
            "removed_clip_inds": [0, 2],
        },
        {"video_dir": "c", "label": 0, "num_clips": 2, "positive_clip_inds": []},
    ]
    # the config names no classes: more numbers may follow
    assert load_config(tmp_path / "out/config.yaml").classes is None


def test_bytes_of_a_file_are_read_once_and_again_after_a_failure(world, tmp_path, monkeypatch):
    (tmp_path / "long.txt").write_text("other.mp4 0\ncopy.mp4 1\n")
    config = config_of(
        world,
        tmp_path / "run",
        "sources.long.root=clips",
        "sources.long.window_seconds=0.5",
        f"sources.long.list={tmp_path / 'long.txt'}",
    )
    read, kinds = [], []
    for broken in (True, False, False):

        def digest(media, broken=broken):
            read.append(Path(media.path).name)
            return None if broken else file_digest(media)

        monkeypatch.setattr("omnidali.curation.dedup.search.file_digest", digest)
        (outcome,) = dedup(config, tmp_path / "out", Ranks(), names=["long"])
        kinds.append({row["kind"] for row in rows_of(tmp_path / "out", "long").values()})
    assert sorted(read) == ["2.mp4", "2.mp4", "copy.mp4", "copy.mp4"] and kinds == [
        {"hash"},
        {"bytes"},
        {"bytes"},
    ]


def test_search_without_validation_items_or_results_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="--within"):
        dedup(
            config_of(world, tmp_path / "run", "evaluation.source=null"), tmp_path / "out", Ranks()
        )
    (tmp_path / "all.txt").write_text("copy.mp4 0\nscaled.mp4 1\n")
    (tmp_path / "long.json").write_text(
        json.dumps([{"video_dir": "a", "label": 0, "num_clips": 3, "positive_clip_inds": [1]}])
    )
    config = config_of(
        world,
        tmp_path / "run",
        f"sources.clips.list={tmp_path / 'all.txt'}",
        f"sources.long.list={tmp_path / 'long.json'}",
        "sources.long.pieces=all",
    )
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/config.yaml").write_text("of an earlier start")
    (tmp_path / "out/report.md").write_text("of its lists")
    with pytest.raises(
        UserError, match="sources.clips: .* 2 of which all are duplicates.* a higher --threshold"
    ):
        dedup(config, tmp_path / "out", Ranks(), names=["clips"])
    assert (
        len(rows_of(tmp_path / "out/refused", "clips")) == 2
    )  # the report names them nevertheless
    assert (tmp_path / "out/config.yaml").read_text() == "of an earlier start"
    assert (tmp_path / "out/report.md").read_text() == "of its lists"
    with pytest.raises(UserError, match="sources.long: .* 1 of which all are duplicates"):
        dedup(
            config, tmp_path / "out", Ranks(), names=["long"]
        )  # no remaining piece shows its class
    (tmp_path / "long.json").write_text((tmp_path / "long.json").read_text().replace("[1]", "[]"))
    with pytest.raises(UserError, match="sources.long: expected pieces that show their class"):
        dedup(
            config_of(world, tmp_path / "run", f"sources.long.list={tmp_path / 'long.json'}"),
            tmp_path / "out",
            Ranks(),
            names=["long"],
        )
    with pytest.raises(UserError, match="some of the training sources"):
        dedup(config, tmp_path / "out", Ranks(), names=["evaluation"])


@pytest.mark.parametrize(
    "option, value",
    [
        ("--threshold", "high"),
        ("--threshold", "1.5"),
        ("--hash-distance", "65"),
        ("--threshold", "0.5"),  # without a network
        ("--fps", "0"),
    ],
)
def test_option_out_of_range_is_refused(world, tmp_path, capfd, option, value):
    assert (
        main(
            ["dedup", "--config", str(world / "config.yaml"), "--out", str(tmp_path), option, value]
        )
        == 2
    )
    assert option in capfd.readouterr().err


def test_full_disk_is_reported_and_leaves_nothing_half_written(world, tmp_path):
    config = config_of(world, tmp_path / "run", f"catalog={tmp_path / 'c.sqlite'}")
    open_data(config)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="room for"):
            dedup(config, tmp_path / "out", Ranks(), names=["images"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [
        path
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.stat().st_size > 1000 or path.suffix == ".part"
    ]
