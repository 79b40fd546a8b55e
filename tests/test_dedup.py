"""Duplicates: planted copies are found, others stay; on any number of ranks, in any chunks, and
after a kill.
"""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidali.catalog.database.listed_items import flatten
from omnidali.cli.main import main
from omnidali.config.load import load_config
from omnidali.curation.dedup.dedup import Settings, dedup
from omnidali.curation.dedup.dedup_report import Outcome
from omnidali.curation.dedup.exact_duplicates import digest_of
from omnidali.curation.dedup.features import FeatureLikeness, fit_whitening
from omnidali.curation.dedup.frame_cache import Items, _allocate
from omnidali.curation.dedup.nearest import PAIR, Pairs, best_matches, best_of_items
from omnidali.curation.dedup.perceptual_hash import (
    WIDTH,
    HashLikeness,
    pack_sketches,
    sketch_frames,
)
from omnidali.curation.list_writer import write_config, write_list
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.models.recognizers import TSN
from omnidali.testing.numbered_media import add_stream, picture, write_photo, write_video
from omnidali.utils.constants import MEAN, STD

CONFIG = """
classes: classes.txt
sources:
  target: {kind: video, root: target, list: target.txt}
  photos: {kind: image, root: photos, list: photos.txt}
  clips: {kind: video, root: clips, list: clips.txt}
  long: {kind: untrimmed, root: long, list: long.json}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 4, steps: 2}
evaluation:
  source: {kind: video, root: val, list: val.txt}
  batch: 2
  test: {num_clips: 1, size: 48, short_side: 48}
"""
QUICK = {"options": {"preset": "ultrafast"}, "gop": 8}


def frame_of(path: Path, number: int) -> np.ndarray:
    """A decoded frame, RGB."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))[number].to_ndarray(format="rgb24")


def write_scaled(source: Path, target: Path, width: int, height: int) -> None:
    """A video again, in another size."""
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        stream = add_stream(
            copy, "libx264", (width, height), "yuv420p", 12, 8, 0, QUICK["options"], 0, None
        )
        for frame in original.decode(video=0):
            larger = cv2.resize(frame.to_ndarray(format="rgb24"), (width, height))
            copy.mux(stream.encode(av.VideoFrame.from_ndarray(larger, format="rgb24")))
        copy.mux(stream.encode(None))


def write_jpeg(path: Path, rgb: np.ndarray, quality: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode(
            ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )[1].tobytes()
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three validation videos; photos, videos and parts of long videos, of which some show them."""
    root = tmp_path_factory.mktemp("dedup")
    for n in range(3):
        write_video(root / f"val/{n}.mp4", n, frames=24, width=160, height=120, rate=12, **QUICK)
        write_video(
            root / f"target/{n}.mp4", 40 + n, frames=12, width=120, height=96, rate=12, **QUICK
        )
    shown = frame_of(root / "val/0.mp4", 10)
    write_jpeg(
        root / "photos/larger.jpg",
        cv2.resize(shown, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
        70,
    )
    write_jpeg(
        root / "photos/smaller.jpg",
        cv2.resize(shown, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    )
    write_jpeg(root / "photos/pressed.jpg", frame_of(root / "val/1.mp4", 3), 25)
    write_jpeg(root / "photos/cut a little.jpg", shown[2:-2, 3:-3])
    write_jpeg(root / "photos/black.jpg", np.zeros((120, 160, 3), np.uint8))
    for n in range(6):
        write_photo(root / f"photos/other {n}.jpg", 100 + n, 160, 120)
    write_jpeg(root / "photos/twin small.jpg", cv2.resize(picture(103, 0, 160, 120), (120, 90)))
    shutil.copy(root / "photos/other 4.jpg", root / "photos/twin same.jpg")
    shutil.copy(root / "val/2.mp4", root / "val/../copy.mp4")
    (root / "clips").mkdir()
    shutil.move(root / "copy.mp4", root / "clips/copy.mp4")
    write_scaled(root / "val/1.mp4", root / "clips/scaled.mp4", 240, 180)
    write_video(root / "clips/other.mp4", 60, frames=24, width=160, height=120, rate=12, **QUICK)
    for video, files in (("a", (70, 0, 71)), ("b", (1, 72, 1)), ("c", (73, 74))):
        for part, file in enumerate(files):
            path = root / f"long/{video}/part_{part}.mp4"
            write_video(path, file, frames=24, width=160, height=120, rate=12, **QUICK)
            if file == 0:
                write_scaled(root / "val/0.mp4", path, 160, 120)
    (root / "long.json").write_text(
        json.dumps(
            [
                {"video_dir": "a", "label": 0, "num_clips": 3, "positive_clip_inds": [0, 1]},
                {"video_dir": "b", "label": 1, "num_clips": 3, "positive_clip_inds": [0, 2]},
                {"video_dir": "c", "label": 1, "num_clips": 2, "positive_clip_inds": [1]},
            ]
        )
    )
    for name in ("target", "photos", "clips", "val"):
        files = sorted(path.name for path in (root / name).iterdir())
        (root / f"{name}.txt").write_text(
            "".join(f"{file} {n % 2}\n" for n, file in enumerate(files))
        )
    (root / "classes.txt").write_text("first\nsecond\n")
    (root / "config.yaml").write_text(f"data_root: {root}\n{CONFIG}")
    return root


COPIES = {"larger.jpg", "smaller.jpg", "pressed.jpg", "cut a little.jpg"}


def config_of(world: Path, run: Path, *overrides: str):
    return load_config(world / "config.yaml", [f"run_dir={run}", *overrides])


def rows_of(out: Path, source: str) -> dict[str, dict]:
    with open(out / f"{source}_duplicates.csv", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def left_of(out: Path, source: str) -> set[str]:
    return {
        line.rpartition(" ")[0] for line in (out / f"lists/{source}.txt").read_text().splitlines()
    }


@pytest.fixture(scope="module")
def found(world, tmp_path_factory) -> Path:
    """The folder of a search over all sources but the target."""
    folder = tmp_path_factory.mktemp("found")
    dedup(config_of(world, folder / "run"), folder / "out", Ranks())
    return folder / "out"


def test_copies_are_found_and_others_stay(world, found):
    rows = rows_of(found, "photos")
    assert set(rows) == COPIES
    assert {rows[name]["of"] for name in COPIES - {"pressed.jpg"}} == {"0.mp4"} and rows[
        "pressed.jpg"
    ]["of"] == "1.mp4"
    assert (
        abs(int(rows["larger.jpg"]["of_frame"]) - 10) <= 2 and rows["larger.jpg"]["kind"] == "hash"
    )
    everything = {path.name for path in (world / "photos").iterdir()}
    assert left_of(found, "photos") == everything - COPIES
    clips = rows_of(found, "clips")
    assert set(clips) == {"copy.mp4", "scaled.mp4"}
    assert (clips["copy.mp4"]["kind"], clips["copy.mp4"]["of"]) == ("bytes", "2.mp4")
    assert left_of(found, "clips") == {"other.mp4"}


def test_pieces_of_long_videos_that_are_copies_are_no_positives(found):
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


def test_the_new_config_opens_and_holds_what_is_left(world, found):
    config = load_config(found / "config.yaml", [])
    tables = {table.name: table for table in open_data(config).tables}
    assert [len(tables[name]) for name in ("target", "photos", "clips", "long")] == [3, 9, 1, 2]
    labels = dict(line.rsplit(" ", 1) for line in (world / "photos.txt").read_text().splitlines())
    for row, record in enumerate(tables["photos"].records):
        assert tables["photos"].labels[row] == int(
            labels[Path(tables["photos"].media(record).path).name]
        )


def test_the_report_and_the_pictures_are_there(found):
    report = (found / "report.md").read_text()
    assert (
        "| photos | 13 | 0 | 9 | 0 | 4 | 0 |" in report
        and "| clips | 3 | 0 | 1 | 1 | 1 | 0 |" in report
    )
    shown = cv2.imread(str(found / "pictures/photos_hash_dropped.png"))
    assert shown.shape == (4 * (144 + 14), 2 * 144, 3)
    pair = shown[14:158].astype(int)
    # both show the same, and no grey stand-in
    assert np.abs(pair[:, :144] - pair[:, 144:]).mean() < 30
    assert pair.std() > 20


def test_within_a_source_one_of_those_alike_stays(world, tmp_path):
    config = config_of(
        world, tmp_path / "run", "evaluation.source=null", "catalog=" + str(tmp_path / "c.sqlite")
    )
    (outcome,) = dedup(
        config, tmp_path / "out", Ranks(), names=["photos"], settings=Settings(within=True)
    )
    rows = rows_of(tmp_path / "out", "photos")
    assert {path: row["of"] for path, row in rows.items()} == {
        "twin small.jpg": "other 3.jpg",
        "twin same.jpg": "other 4.jpg",
        "smaller.jpg": "larger.jpg",
        "cut a little.jpg": "larger.jpg",
    }  # most pixels, and then the first
    assert rows["twin same.jpg"]["kind"] == "bytes" and rows["twin small.jpg"]["kind"] == "hash"
    assert {row["against"] for row in rows.values()} == {"photos"}


def test_a_training_on_all_pieces_keeps_videos_that_never_show_their_class(world, tmp_path):
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
    # nobody named any: others may add to the numbers
    assert load_config(tmp_path / "out/config.yaml").classes is None


def test_every_file_is_read_once_for_its_bytes_and_again_after_a_failure(
    world, tmp_path, monkeypatch
):
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
            return None if broken else digest_of(media)

        monkeypatch.setattr("omnidali.curation.dedup.dedup.digest_of", digest)
        (outcome,) = dedup(config, tmp_path / "out", Ranks(), names=["long"])
        kinds.append({row["kind"] for row in rows_of(tmp_path / "out", "long").values()})
    assert sorted(read) == ["2.mp4", "2.mp4", "copy.mp4", "copy.mp4"] and kinds == [
        {"hash"},
        {"bytes"},
        {"bytes"},
    ]


def test_of_pieces_that_are_alike_one_with_its_class_stays():
    sides, zeros = np.array([60, 40, 50]), np.zeros(3, np.int64)
    items = Items(
        SimpleNamespace(widths=sides, heights=sides),
        zeros,
        zeros + 1,
        zeros,
        zeros,
        shown=np.array([False, True, True]),
    )
    outcome = Outcome("long", items, None)
    outcome.add_within([], {"hash": alike((0, 1, 0, 1, 1.0), (0, 2, 0, 2, 1.0), (1, 2, 1, 2, 1.0))})
    assert outcome.kept.tolist() == [2, 2, -1]


def alike(*pairs):
    found = Pairs()
    found.add(np.array(list(pairs), PAIR))
    return found


def test_nothing_goes_for_an_item_that_it_is_not_like():
    """Of a chain of items each like the next one every other one goes, with the pair of frames that
    was found.
    """
    sides, starts = np.full(5, 50), np.arange(5) * 2  # two frames each
    items = Items(
        SimpleNamespace(widths=sides, heights=sides),
        np.array([0, 1, 2, 3, 1]),
        starts * 0 + 2,
        starts,
        starts,
        shown=np.ones(5, bool),
    )
    outcome = Outcome("photos", items, None)
    # 1 and 4 are alike through 2 only
    outcome.add_within(
        [np.array([0, 3])],
        {"hash": alike((0, 1, 0, 3, 0.8), (0, 1, 1, 2, 0.9), (1, 2, 3, 4, 0.7), (2, 4, 5, 8, 0.6))},
    )
    assert outcome.kept.tolist() == [-1, 0, -1, 0, 2]
    assert outcome.kinds.tolist() == ["", "hash", "", "bytes", "hash"]
    assert outcome.mine[[1, 3, 4]].tolist() == [2, 6, 8] and outcome.of[[1, 3, 4]].tolist() == [
        1,
        0,
        5,
    ]
    assert outcome.alike[[1, 3, 4]].round(6).tolist() == pytest.approx([0.9, 1.0, 0.6])


def test_without_validation_items_and_with_nothing_left_the_user_is_told(world, tmp_path):
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
    assert len(rows_of(tmp_path / "out/refused", "clips")) == 2  # which ones is told all the same
    assert (tmp_path / "out/config.yaml").read_text() == "of an earlier start"
    assert (tmp_path / "out/report.md").read_text() == "of its lists"
    with pytest.raises(UserError, match="sources.long: .* 1 of which all are duplicates"):
        dedup(config, tmp_path / "out", Ranks(), names=["long"])  # what is left shows no class
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
def test_wrong_numbers_are_the_users_mistakes(world, tmp_path, capfd, option, value):
    assert (
        main(
            ["dedup", "--config", str(world / "config.yaml"), "--out", str(tmp_path), option, value]
        )
        == 2
    )
    assert option in capfd.readouterr().err


def test_a_full_disk_is_told_and_nothing_half_written_stays(world, tmp_path):
    config = config_of(world, tmp_path / "run", f"catalog={tmp_path / 'c.sqlite'}")
    open_data(config)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="room for"):
            dedup(config, tmp_path / "out", Ranks(), names=["photos"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [
        path
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.stat().st_size > 1000 or path.suffix == ".part"
    ]


def test_the_disk_gives_its_room_before_anything_is_written(tmp_path):
    array = _allocate(tmp_path / "values.npy", (1 << 20, 2), np.dtype(np.float16))
    assert array.shape == (1 << 20, 2) and not array.any()
    assert os.stat(tmp_path / "values.npy").st_blocks * 512 >= array.nbytes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A ResNet-18 with random weights under torchvision's names, as ImageNet weights come."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    state = TSN(18, 2, 0.0).state_dict()
    torch.save({"state_dict": state}, path)
    return path


def test_features_find_copies_and_are_computed_once(world, weights, tmp_path, monkeypatch):
    config = config_of(world, tmp_path / "run")

    def search(path=weights):
        dedup(
            config,
            tmp_path / "out",
            Ranks(),
            checkpoint=str(path),
            names=["photos"],
            settings=Settings(threshold=0.8, distance=0, rate=4.0),
        )
        return rows_of(tmp_path / "out", "photos")

    first = search()
    assert {"larger.jpg", "smaller.jpg", "pressed.jpg"} <= set(first)
    assert "features" in {row["kind"] for row in first.values()}
    assert not any(name.startswith(("other", "black")) for name in first)
    seen = []
    monkeypatch.setattr(
        "omnidali.curation.dedup.frame_cache.run_over",
        lambda *args: seen.append(len(args[2])) or iter(()),
    )
    assert search() == first and not seen  # nothing is computed again
    os.utime(world / "photos/black.jpg", ns=(0, 10**18 + time.time_ns()))
    search()
    assert seen == [1, 1]  # hash and features of the changed file alone
    monkeypatch.undo()
    torch.manual_seed(2)
    torch.save({"state_dict": TSN(18, 2, 0.0).state_dict()}, tmp_path / "others.pth")
    search(tmp_path / "others.pth")
    # another network's are others
    assert len(list((tmp_path / "out/kept/photos").glob("features-*"))) == 2


def test_the_threshold_is_the_mean_cosine_of_two_crops(world, weights, tmp_path):
    config = config_of(world, tmp_path / "run")
    dedup(config, tmp_path / "out", Ranks(), checkpoint=str(weights), names=["clips"])
    kept = tmp_path / "out/kept"
    read = {
        name: [np.load(path) for path in sorted(kept.glob(f"{name}/values.npy"))]
        for name in ("clips/features-*", "evaluation/features-*", "evaluation/crops-*")
    }
    frames = np.concatenate([*read["clips/features-*"], *read["evaluation/features-*"]]).astype(
        np.float64
    )
    whitening = fit_whitening(frames)
    crops = read["evaluation/crops-*"][0].astype(np.float64)
    one, other = ((part - whitening.mean) @ whitening.matrix for part in np.split(crops, 2, axis=1))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    told = re.search(r"is at least ([0-9.]+),", (tmp_path / "out/report.md").read_text())
    assert float(told[1]) == pytest.approx(cosines.mean(), abs=2e-4)
    assert not np.allclose(one, other) and cosines.mean() < 0.999


def test_whitening_against_plain_numpy():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 6)) + 3
    whitening = fit_whitening(features)
    white = (features - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(6), atol=0.05)  # hardly shrunk
    # the estimate of Ledoit and Wolf, one sample at a time
    few = features[:20] - features[:20].mean(axis=0)
    sample = few.T @ few / 20
    level = np.trace(sample) / 6
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in few) / 20**2
    shrinkage = min(noise / ((sample - level * np.eye(6)) ** 2).sum(), 1)
    whitening = fit_whitening(features[:20])
    assert whitening.matrix.shape == (6, 5)  # one direction for every four frames
    assert whitening.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    shrunk = (1 - shrinkage) * sample + shrinkage * level * np.eye(6)
    np.testing.assert_allclose(whitening.matrix.T @ shrunk @ whitening.matrix, np.eye(5), atol=1e-4)
    alike = FeatureLikeness(whitening)
    one, other = alike.prepare(features[:3]), alike.prepare(np.vstack([features[5:7], np.zeros(6)]))
    whitened = (features - whitening.mean) @ whitening.matrix
    expected = [
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in whitened[5:7]] + [0]
        for a in whitened[:3]
    ]
    np.testing.assert_allclose(alike(one, other), expected, atol=1e-5)


class Dot:
    """Products of whole numbers, which are exact in any order."""

    def prepare(self, kept):
        return torch.from_numpy(np.asarray(kept, np.float32))

    def size(self, prepared):
        return prepared.numel() * 4

    def __call__(self, one, other):
        return one @ other.T


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 2000),
    st.integers(0, 1 << 30),
)
def test_chunks_of_any_size_give_the_plain_result(queries, keys, rows, held, seed):
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(-3, 4, (count, 5)).astype(np.float32) for count in (queries, keys))
    best, places = best_matches(one, other, Dot(), rows, held)
    plain = one @ other.T
    # the first of equals
    assert (best == plain.max(axis=1)).all() and (places == plain.argmax(axis=1)).all()
    best, places = best_matches(one, other, Dot(), rows, held, least=8)
    assert (best == plain.max(axis=1)).all() and (places == plain.argmax(axis=1))[best >= 8].all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 500),
    st.integers(1, 3),
    st.integers(0, 1 << 30),
)
def test_pairs_of_any_chunks_and_ranks_are_the_plain_ones(items, frames, rows, held, world, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (items * frames, 4)).astype(np.float32)
    of, groups, dropped = (
        np.repeat(np.arange(items), frames),
        rng.integers(0, items, items),
        rng.random(items) < 0.1,
    )
    whole, plain, likeness = Pairs(), {}, values @ values.T
    for rank in range(world):
        mine = Pairs()
        mine.add_above(values, of, groups, Dot(), 9, dropped, rank, world, rows, held)
        whole.add(mine.found)
    for i, j in zip(*np.nonzero(likeness >= 9)):
        pair = of[i], of[j]
        if (
            pair[0] < pair[1]
            and groups[pair[0]] != groups[pair[1]]
            and not dropped[list(pair)].any()
        ):
            # the first of equals
            plain[pair] = min(plain.get(pair, (0, 0, 0)), (-likeness[i, j], i, j))
    assert [tuple(pair) for pair in whole.found.tolist()] == [
        (*pair, i, j, -least) for pair, (least, i, j) in sorted(plain.items())
    ]
    both, starts = whole.around(items)
    for item in range(items):
        assert both["other"][starts[item] : starts[item + 1]].tolist() == sorted(
            {
                *(one for one, other in plain if other == item),
                *(other for one, other in plain if one == item),
            }
        )


def test_the_best_frame_of_every_item():
    starts = np.array([0, 2, 3, 6])
    assert best_of_items(np.array([1.0, 3, -np.inf, 2, 5, 5]), starts).tolist() == [1, 2, 4]


def test_hashes_against_a_cosine_transform_of_opencv():
    pixels = cv2.resize(picture(7, 0, 160, 160), (64, 64), interpolation=cv2.INTER_AREA)
    clip = torch.from_numpy((pixels - np.array(MEAN)) / np.array(STD)).permute(2, 0, 1)[
        None, :, None
    ]
    kept = pack_sketches(sketch_frames(clip).double().numpy())
    assert kept.shape == (1, WIDTH)
    grey = (pixels @ np.array([0.299, 0.587, 0.114])).reshape(32, 2, 32, 2).mean(axis=(1, 3))
    waves = cv2.dct(grey)
    order = sorted((i + j, i, j) for i in range(32) for j in range(32))[1:65]
    expected = np.array([waves[i, j] > 0 for _, i, j in order])
    assert (np.unpackbits(kept[0, :8]) == expected).mean() > 0.98  # one bit may lie at zero
    thumbs = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(kept[0, 8:], thumbs, atol=1)


def test_frames_without_contrast_and_far_hashes_are_like_nothing():
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (70, WIDTH), np.uint8)
    frames[0, 8:] = 5  # plain
    frames[1] = frames[2]
    frames[3, :8] = frames[2, :8] ^ 255
    frames[3, 8:] = frames[2, 8:]
    measure = HashLikeness(18)
    alike = measure(measure.prepare(frames), measure.prepare(frames)).numpy()
    one, other = (
        measure.prepare(
            np.concatenate([frames[:1, :8], np.tile(np.uint8([5, 5 + step]), (1, 96))], axis=1)
        )
        for step in (6, 3)
    )
    assert one.contrast[0] == 3 and other.contrast[0] == 1.5
    assert (
        measure(one, one) == 1
        and measure(one, other) == measure(other, one) == measure(other, other) == -1
    )
    assert (alike[0] == -1).all() and alike[1, 2] == 1 and alike[2, 3] == -1 and alike[69, 69] == 1


PROGRAM = """
import sys, time
import omnidali.curation.dedup.frame_cache as kept
from omnidali.cli.main import main
kept._FLUSH_SECONDS = 0.0
put, told = kept.Kept.put, []
def telling(self, places, decoded, values):
    put(self, places, decoded, values)
    if self.values.shape[1] == 200:
        print("hashed", len(places), flush=True)
        told.append(1)
        if len(told) == int(sys.argv[1]):
            time.sleep(1000)
kept.Kept.put = telling
sys.exit(main(sys.argv[2:]))
"""


def command(world: Path, folder: Path, *more: str) -> list[str]:
    return [
        "dedup",
        "--config",
        str(world / "config.yaml"),
        "--out",
        str(folder / "out"),
        *more,
        "--set",
        f"run_dir={folder / 'run'}",
        "evaluation.batch=1",
    ]


def hashed(lines) -> int:
    return sum(int(line.split()[1]) for line in lines if line.startswith("hashed"))


def test_a_killed_run_goes_on_where_it_was(world, found, tmp_path):
    arguments = command(world, tmp_path, "--sources", "photos", "clips")
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "3", *arguments], stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in killed.stdout:
        lines.append(line)
        if len([line for line in lines if line.startswith("hashed")]) == 3:
            break
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # nothing twice
    assert hashed(lines) > 0 and hashed(lines) + hashed(again.stdout.splitlines()) == 13 + 3 + 3
    for source in ("photos", "clips"):
        assert rows_of(tmp_path / "out", source) == rows_of(found, source)


def test_two_ranks_find_what_one_finds(world, tmp_path):
    dedup(
        config_of(world, tmp_path / "run"),
        tmp_path / "alone",
        Ranks(),
        settings=Settings(within=True),
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "omnidali",
            *command(world, tmp_path, "--within"),
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for source in ("photos", "clips", "long"):
        assert rows_of(tmp_path / "out", source) == rows_of(tmp_path / "alone", source)
    assert "photos" in {row["against"] for row in rows_of(tmp_path / "out", "photos").values()}
    assert (tmp_path / "out/report.md").read_text() == (tmp_path / "alone/report.md").read_text()


def test_what_is_left_of_every_kind_of_list_reads_back(tmp_path):
    write_video(tmp_path / "root/long.mp4", 1, frames=65, width=96, height=64, rate=10, **QUICK)
    shutil.copy(tmp_path / "root/long.mp4", tmp_path / "root/odd")
    for number in range(8):
        write_photo(tmp_path / f"root/frames, of it/img_{number:05}.jpg", 2, 64, 48, frame=number)
    for name in ("#first.jpg", "with\ttab.jpg", "a b.jpg", "gone.jpg"):
        write_photo(tmp_path / f"root/{name}", 3, 64, 48)
    (tmp_path / "photos.txt").write_text(
        "./#first.jpg\tfirst\nwith\ttab.jpg\tsecond\na b.jpg\tsecond\ngone.jpg\tfirst\n"
    )
    (tmp_path / "windows.txt").write_text("long.mp4 second\n")
    (tmp_path / "odd.txt").write_text("odd 1\n")
    (tmp_path / "pieces.txt").write_text("long.mp4 0 1.5 0\nlong.mp4 2 3.25 0\nlong.mp4 3.5 5 1\n")
    (tmp_path / "whole.json").write_text(
        json.dumps(
            [
                {
                    "video_dir": "root/long.mp4",
                    "label": 1,
                    "num_clips": 3,
                    "positive_clip_inds": [0, 2],
                }
            ]
        )
    )
    (tmp_path / "frames.txt").write_text('"frames, of it",2,4,1\n"frames, of it",0,8,0\n')
    (tmp_path / "config.yaml").write_text(f"""
data_root: {tmp_path}
run_dir: {tmp_path / "run"}
sources:
  photos: {{kind: image, root: root, list: photos.txt}}
  windows: {{kind: untrimmed, root: root, list: windows.txt, window_seconds: 2}}
  odd: {{kind: untrimmed, root: root, list: odd.txt, window_seconds: 2}}
  pieces: {{kind: untrimmed, root: root, list: pieces.txt}}
  whole: {{kind: untrimmed, root: root, list: whole.json, window_seconds: 2}}
  frames: {{kind: frames, root: root, list: frames.txt, pattern: "img_{{:05}}.jpg"}}
train: {{batch: 6, steps: 1}}
""")
    config = load_config(tmp_path / "config.yaml", [])
    everything = [f"sources.{name}.pieces=all" for name in ("windows", "odd", "pieces", "whole")]
    data = open_data(load_config(tmp_path / "config.yaml", everything))
    tables = {
        table.name: table if table.kind != "untrimmed" else flatten(config.catalog_path, table)
        for table in data.tables
    }

    def pieces(name, tables):
        table = tables[name]
        rows = np.arange(len(table))
        rows = rows if table.starts is None else np.repeat(rows, np.diff(table.starts))
        firsts = np.zeros(len(rows)) if table.firsts is None else table.firsts
        return [
            (Path(table.media(record).path).name, int(table.labels[row]), int(first), int(frames))
            for record, row, first, frames in zip(table.records, rows, firsts, table.frames)
        ]

    assert pieces("windows", tables) == [
        ("long.mp4", 1, *piece) for piece in ((0, 20), (20, 20), (40, 25))
    ]
    assert pieces("odd", tables) == [("odd", 1, *piece) for piece in ((0, 20), (20, 20), (40, 25))]
    kept = {
        "photos": [0, 1, 2],
        "windows": [0, 2],
        "odd": [1, 2],
        "pieces": [0, 2],
        "whole": [2],
        "frames": [0],
    }
    out, new = tmp_path / "out", {}
    for name, places in kept.items():
        marks = np.isin(np.arange(len(tables[name])), places)
        new[name], _ = write_list(
            out, config.catalog_path, name, config.sources[name], marks, tables[name].labels
        )
    write_config(out, config, new, data.class_names)
    assert new["odd"].format == "pieces" and new["windows"].format == "parts_json"
    made = open_data(load_config(out / "config.yaml", []))
    assert made.class_names == data.class_names == ("first", "second")
    assert not any("probed" in line for line in made.summary)
    left = {table.name: table for table in made.tables}
    for name, places in kept.items():
        # what lies between the kept pieces comes behind them
        starts, counts = left[name].starts, left[name].positives
        shown = (
            pieces(name, left)
            if starts is None
            else [
                piece
                for first, count in zip(starts, counts)
                for piece in pieces(name, left)[first : first + count]
            ]
        )
        assert shown == [pieces(name, tables)[place] for place in places]
