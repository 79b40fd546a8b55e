"""One contract over every kind of source: the planned frames come out, by their painted numbers."""

import json
import tarfile

import numpy as np
import pytest

from helpers.batches import assert_restores_at_every_step, content, pictures
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.columns import ANOTHER_SIZE, NO_POSITIVE
from omnidali.catalog.database.listed_items import FEWER_FRAMES, OUTSIDE
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.config.sources import SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import read_numbers, write_image, write_video

CLIP = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
RATE = 10  # frames a second


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every form of the same media: file n shows n."""
    root = tmp_path_factory.mktemp("forms")
    fast = {"options": {"preset": "ultrafast"}, "rate": RATE}
    vp9 = {
        "codec": "libvpx-vp9",
        "rate": RATE,
        "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    }
    with (
        tarfile.open(root / "clips.tar", "w") as clips,
        tarfile.open(root / "photos.tar", "w") as photos,
    ):
        for n in range(5):
            write_video(
                root / f"long/{n}.mp4",
                n,
                frames=65,
                width=96,
                height=64,
                gop=(8, 30)[n % 2],
                **fast,
            )
            write_image(root / f"photo/{n}.jpg", n, 110, 90)
            clips.add(root / f"long/{n}.mp4", f"{n}.mp4")
            photos.add(root / f"photo/{n}.jpg", f"{n % 2}/{n}.jpg")
            write(root / f"{n}.cls", str(n % 2))
            clips.add(root / f"{n}.cls", f"{n}.cls")
            for frame in range(20):
                write_image(root / f"frames/{n}/img_{frame + 1:05}.jpg", n, 96, 64, frame=frame)
    for n in range(2):
        write_video(root / f"vp9/{n}.webm", n, frames=40, width=144, height=128, **vp9)
        for part in range(3):
            write_video(
                root / f"parts/{n}/part_{part}.mp4",
                10 * n + part,
                frames=20,
                width=96,
                height=64,
                **fast,
            )
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


JSON = json.dumps(
    [
        {"video_dir": str(n), "label": n, "num_clips": 3, "positive_clip_inds": [1, 2 * n]}
        for n in range(2)
    ]
)
WHOLE = json.dumps(
    [
        {"video_dir": f"{n}.mp4", "label": n % 2, "num_clips": 3, "positive_clip_inds": [1]}
        for n in range(5)
    ]
)
# name: settings, list, samples, and the frames that may be drawn from each file
FORMS = {
    "video in a tar": (
        {"kind": "video", "tars": "clips.tar"},
        None,
        5,
        {n: range(65) for n in range(5)},
    ),
    "image in a tar": (
        {"kind": "image", "tars": "photos.tar"},
        None,
        5,
        {n: range(1) for n in range(5)},
    ),
    "frames": (
        {"kind": "frames", "root": "frames"},
        "0 20 0\n1 9 1\n2 20 1\n",
        3,
        {0: range(20), 1: range(9), 2: range(20)},
    ),
    "frames with offset": (
        {"kind": "frames", "root": "frames"},
        "0 5 12 0\n1 0 9 1\n",
        2,
        {0: range(5, 17), 1: range(9)},
    ),
    "frames by DALI": (
        {"kind": "frames", "root": "frames", "decode": "dali"},
        "0 5 12 0\n1 0 9 1\n",
        2,
        {0: range(5, 17), 1: range(9)},
    ),
    "parts": (
        {"kind": "untrimmed", "root": "parts"},
        JSON,
        2,
        {1: range(20), 0: range(20), 11: range(20), 12: range(20)},
    ),
    "one positive": (
        {"kind": "untrimmed", "root": "parts", "pieces": "one_positive_rest_negative"},
        JSON,
        2,
        {n: range(20) for n in (0, 1, 2, 10, 11, 12)},
    ),
    "all parts": (
        {"kind": "untrimmed", "root": "parts", "pieces": "all"},
        JSON,
        2,
        {n: range(20) for n in (0, 1, 2, 10, 11, 12)},
    ),
    "all of videos without a positive": (
        {"kind": "untrimmed", "root": "parts", "pieces": "all"},
        JSON.replace("[1, 0]", "[]"),
        2,
        {n: range(20) for n in (0, 1, 2, 10, 11, 12)},
    ),
    "pieces in place": (
        {"kind": "untrimmed", "root": "long"},
        "0.mp4 1.0 2.0 0\n0.mp4 4 5.5 0\n3.mp4 0 3 1\n",
        2,
        {0: [*range(10, 20), *range(40, 55)], 3: range(30)},
    ),
    "one positive in place": (
        {"kind": "untrimmed", "root": "long", "pieces": "one_positive_rest_negative"},
        "0.mp4 1.0 2.0 0\n",
        1,
        {0: range(65)},
    ),
    "windows of the release": (
        {"kind": "untrimmed", "root": "long", "window_seconds": 2.0},
        WHOLE,
        5,
        {n: range(20, 40) for n in range(5)},
    ),
    "windows": (
        {"kind": "untrimmed", "root": "long", "window_seconds": 2.0},
        "1.mp4 0\n",
        1,
        {1: range(65)},
    ),
    "pieces by DALI": (
        {"kind": "untrimmed", "root": "vp9", "decode": "dali"},
        "0.webm 1 2 0\n1.webm 2 3.5 1\n",
        2,
        {0: range(10, 20), 1: range(20, 35)},
    ),
}


def open_form(root, tmp_path, name):
    settings, listing, *_ = FORMS[name]
    if listing is not None:
        write(tmp_path / "list.txt", listing)
        settings = {**settings, "list": str(tmp_path / "list.txt")}
    source = SourceConfig(**settings)
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
    return summary, CatalogReader(tmp_path / "c.sqlite").table("s"), source


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_gpu)])
@pytest.mark.parametrize("name", FORMS)
def test_planned_frames_come_out(root, tmp_path, name, device):
    *_, samples, allowed = FORMS[name]
    summary, table, source = open_form(root, tmp_path, name)
    assert len(table) == summary.usable == samples, summary
    plan, seen = TrainPlan([table], [source], CLIP, 6, 1), {}
    with FusionIterator(plan, [source], threads=2, end=12, device=device) as batches:
        for batch in batches:
            (planned,) = plan(batch.step)
            (group,) = batch.groups
            assert group.record.tolist() == table.records[planned.pieces[:, 0]].tolist()
            assert group.labels.tolist() == table.labels[planned.rows].tolist()
            each = planned.frames.shape[1] // planned.pieces.shape[1]
            for clip, pieces, frames in zip(
                pictures(group.clips.cpu()), planned.pieces, planned.frames.tolist(), strict=True
            ):
                for place, (shown, frame) in enumerate(zip(clip, frames, strict=True)):
                    file, number = read_numbers(shown)
                    assert number == frame
                    path = table.media(table.records[pieces[place // each]]).path
                    assert str(file) == file_number(path)
                    seen.setdefault(file, set()).add(number)
        asks = source.decode == "dali" or device == "cuda"
        assert (batches.stats()["s"].by_dali > 0) == ("DALI on" in batches.routes[0]) == asks
    assert seen.keys() == allowed.keys()
    for file, frames in seen.items():
        assert frames <= set(allowed[file])
        # and they are spread over what is allowed
        assert len(frames) >= min(len(allowed[file]), 5) // 2


def file_number(path):
    """The number that a file of the fixture shows, from its path."""
    parts = path.rsplit("/", 2)
    if "part_" in parts[-1]:
        return str(10 * int(parts[-2]) + int(parts[-1].split("_")[1][0]))
    return parts[-1].rsplit(":")[-1].partition(".")[0]


@pytest.mark.parametrize("name", ["one positive", "windows", "frames", "video in a tar"])
def test_any_kind_restores_at_every_step(root, tmp_path, name):
    _, table, source = open_form(root, tmp_path, name)
    assert_restores_at_every_step(
        lambda: FusionIterator(
            TrainPlan([table], [source], CLIP, 5, 3), [source], threads=2, end=4
        ),
        4,
    )


def test_one_positive_and_the_rest_negative(root, tmp_path):
    _, table, source = open_form(root, tmp_path, "one positive")
    plan = TrainPlan([table], [source], CLIP, 8, 0)
    for step in range(20):
        (samples,) = plan(step)
        for row, pieces in zip(samples.rows, samples.pieces, strict=True):
            inside = pieces - table.starts[row]
            assert inside[0] < table.positives[row] and (inside[1:] >= table.positives[row]).all()
            assert (inside < table.starts[row + 1] - table.starts[row]).all()


def test_an_epoch_of_long_videos_sees_each_video_once(root, tmp_path):
    _, table, source = open_form(root, tmp_path, "windows of the release")
    plan = TrainPlan([table], [source], CLIP, 5, 0)
    assert plan.steps_per_epoch == 1 and sorted(plan(7)[0].rows) == list(range(5))


def test_tar_members_equal_their_files(root, tmp_path):
    """Reading inside of a tar changes nothing: the same pixels as from files of their own."""
    write(tmp_path / "l.txt", "".join(f"{n}.mp4 {n % 2}\n" for n in range(5)))
    sources = {
        "tar": SourceConfig(kind="video", tars="clips.tar"),
        "file": SourceConfig(kind="video", root="long", list=str(tmp_path / "l.txt")),
    }
    build_catalog(tmp_path / "c.sqlite", sources, root, progress=False)
    found = []
    for name, source in sources.items():
        table = CatalogReader(tmp_path / "c.sqlite").table(name)
        with FusionIterator(TrainPlan([table], [source], CLIP, 5, 3), [source], end=3) as batches:
            found.append(
                [
                    [part for number, part in enumerate(content(batch)[0]) if number != 1]
                    for batch in batches
                ]
            )
    assert found[0] == found[1]
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [
        "frames",
        "long",
        "parts",
        "photo",
        "vp9",
    ]


def test_bad_pieces_are_left_out_with_a_reason(root, tmp_path):
    write_video(tmp_path / "odd/part_0.mp4", 1, frames=10, width=96, height=64)
    write_video(tmp_path / "odd/part_1.mp4", 1, frames=10, width=64, height=96)
    write(
        tmp_path / "l.json",
        json.dumps(
            [
                {"video_dir": "odd", "label": 0, "num_clips": 3, "positive_clip_inds": [0, 1, 2]},
                {"video_dir": "none", "label": 0, "num_clips": 1, "positive_clip_inds": []},
            ]
        ),
    )
    source = SourceConfig(
        kind="untrimmed", root=str(tmp_path), list=str(tmp_path / "l.json"), pieces="all"
    )
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
    assert summary.usable == 1 and summary.refused == {"missing file": 2, ANOTHER_SIZE: 1}
    assert len(CatalogReader(tmp_path / "c.sqlite").table("s").records) == 1
    write(tmp_path / "l.txt", "0.mp4 0 2 0\n0.mp4 60 70 0\n1.mp4 90 95 1\n")
    source = SourceConfig(
        kind="untrimmed", root="long", list=str(tmp_path / "l.txt"), format="pieces"
    )
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
    assert summary.usable == 1 and summary.refused == {OUTSIDE: 2, NO_POSITIVE: 1}


def test_frame_folders_with_too_few_frames_are_left_out(root, tmp_path):
    write(tmp_path / "l.txt", "0 21 0\n1 20 1\nphantom 3 0\n")
    source = SourceConfig(kind="frames", root="frames", list=str(tmp_path / "l.txt"))
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
    assert summary.usable == 1 and summary.refused == {FEWER_FRAMES: 1, "missing file": 1}
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
    assert summary.probed == 0


def test_lost_frame_is_replaced_by_its_neighbour(tmp_path):
    for frame in range(6):
        write_image(tmp_path / f"v/img_{frame + 1:05}.jpg", 1, 96, 64, frame=frame)
    write(tmp_path / "l.txt", "v 6 0\n")
    source = SourceConfig(kind="frames", root=".", list="l.txt")
    build_catalog(tmp_path / "c.sqlite", {"s": source}, tmp_path, progress=False)
    (tmp_path / "v/img_00004.jpg").unlink()
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    clip = ClipConfig(num_clips=6, size=56, crop="center", flip=0.0)
    with FusionIterator(TrainPlan([table], [source], clip, 1, 0), [source], end=1) as batches:
        shown = [read_numbers(frame)[1] for frame in pictures(next(batches).groups[0].clips)[0]]
        assert shown == [0, 1, 2, 2, 4, 5] and batches.stats()["s"].replaced_frames == 1


def test_variable_frame_rates_are_cut_by_time(tmp_path):
    times = np.cumsum([0] + [40, 160] * 30)[:60].tolist()  # milliseconds
    write_video(tmp_path / "v.mkv", 1, frames=60, width=96, height=64, times=times)
    write(tmp_path / "l.txt", "v.mkv 1.0 2.0 0\n")
    source = SourceConfig(kind="untrimmed", root=".", list="l.txt")
    build_catalog(tmp_path / "c.sqlite", {"s": source}, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    inside = [number for number, time in enumerate(times) if 1000 <= time < 2000]
    assert (table.firsts[0], table.frames[0]) == (inside[0], len(inside))


def test_evaluation_of_frames(root, tmp_path):
    _, table, source = open_form(root, tmp_path, "frames with offset")
    plan = EvaluationPlan(table, CLIP, ViewsConfig(num_clips=3, size=56, short_side=56), batch=2)
    with FusionIterator(plan, [source]) as batches:
        (group,) = next(batches).groups
    assert [[read_numbers(frame)[1] for frame in clip] for clip in pictures(group.clips)] == plan(
        0
    )[0].frames.tolist()
    assert plan(0)[0].frames[0].tolist() == [7, 11, 15]
