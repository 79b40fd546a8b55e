"""The training copy: the same plan, frame by frame the same pictures, made once, and never half."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from conftest import media_of
from helpers.exif import exif
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.probing.probe import open_video
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation.copies import advise as advice
from omnidali.curation.copies import copy_gain as copies
from omnidali.curation.copies import encode, transcode
from omnidali.curation.copies.copy_quality import ssim
from omnidali.curation.copies.encode import RECIPES, encode_video, scaled_size
from omnidali.errors import DecodeError
from omnidali.loading.data import make_plan, open_data
from omnidali.testing.numbered_media import picture, read_numbers, write_photo, write_video

SHORT = 64
PLAIN = {"options": {"preset": "ultrafast"}, "width": 144, "height": 96}
VFR = [500 + 40 * n + 7 * (n % 3) for n in range(30)]  # milliseconds; does not begin with 0
CONFIG = """
sources:
  clips: {kind: video, root: clips, list: lists/clips.txt}
  pieces: {kind: untrimmed, root: long, list: lists/pieces.txt, format: pieces, pieces: one_positive_rest_negative}
  windows: {kind: untrimmed, root: long, list: lists/windows.txt, window_seconds: 0.7}
  photos: {kind: image, root: photos}
  folders: {kind: frames, root: frames, list: lists/folders.txt}
  tars: {kind: video, tars: "shard-*.tar"}
classes: lists/names.txt
clip: {num_clips: 3, size: 48}
train: {batch: 24, steps: 5}
evaluation: {source: {kind: video, root: clips, list: lists/val.txt}}
"""


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(copies, "_SECONDS", 0.1)
    monkeypatch.setattr(advice, "_SECONDS", 0.1)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """File n shows n, in every frame its number."""
    root = tmp_path_factory.mktemp("world")
    write_video(
        root / "clips/0 b.mp4",
        0,
        frames=30,
        gop=250,
        b_frames=3,
        **{**PLAIN, "options": {"preset": "fast"}},
    )
    write_video(
        root / "clips/1.mp4",
        1,
        frames=30,
        times=VFR,
        b_frames=2,
        **{**PLAIN, "options": {"preset": "fast"}},
    )
    write_video(root / "clips/2.mp4", 2, frames=20, rotation=90, **PLAIN)
    write_video(
        root / "clips/sub/3.webm",
        3,
        frames=12,
        width=146,
        height=97,
        codec="libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    )
    write(root / "clips/4.mp4", "no video")
    for n in (10, 11):
        write_video(
            root / f"long/{n}.mp4",
            n,
            frames=60,
            gop=(250, 12)[n % 2],
            times=None if n % 2 else [33 * frame + frame % 4 for frame in range(60)],
            **PLAIN,
        )
    write_photo(root / "photos/a/20.png", 20, 150, 100)
    write_photo(root / "photos/b/21.jpg", 21, 150, 100)
    data = (root / "photos/b/21.jpg").read_bytes()
    (root / "photos/b/21.jpg").write_bytes(data[:2] + exif(6) + data[2:])
    write_photo(root / "photos/b/22.jpg", 22, 80, 60)
    for frame in range(9):
        write_photo(root / f"frames/30/img_{frame + 1:05}.jpg", 30, 144, 96, frame=frame)
    with tarfile.open(root / "shard-0.tar", "w") as tar:
        for n in (40, 41):
            write_video(root / f"tmp/{n}.mp4", n, frames=15, **PLAIN)
            tar.add(root / f"tmp/{n}.mp4", f"x/{n}.mp4")
            write(root / "tmp/cls", str(n % 2))
            tar.add(root / "tmp/cls", f"x/{n}.cls")
        tar.add(root / "tmp/cls", "x/broken.mp4")
        tar.add(root / "tmp/cls", "x/broken.cls")
    write(root / "lists/clips.txt", "0 b.mp4 0\n1.mp4 1\n2.mp4 1\nsub/3.webm 0\n4.mp4 0\n")
    write(root / "lists/val.txt", "2.mp4 1\n")
    write(root / "lists/pieces.txt", "10.mp4 0.2 0.9 0\n11.mp4 0 1.1 1\n10.mp4 1.0 1.5 0\n")
    write(root / "lists/windows.txt", "11.mp4 1\n10.mp4 0\n")
    write(root / "lists/folders.txt", "30 4 5 1\n30 0 9 0\n")
    write(root / "lists/names.txt", "a\nb\n")
    return root


@pytest.fixture(scope="module")
def both(world, tmp_path_factory):
    """Config of the world and of its copy."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_SECONDS", 0.1)
        assert run(world, folder) == 0
    return original(world, folder), load_config(folder / "copy/config.yaml")


def settings(world, folder):
    write(folder / "c.yaml", CONFIG)
    return [f"data_root={world}", f"run_dir={folder}/run"]


def original(world, folder):
    return load_config(folder / "c.yaml", settings(world, folder))


def run(world, folder, *more, sets=()):
    return cli.main(
        [
            "transcode",
            "--config",
            str(folder / "c.yaml"),
            "--out",
            str(folder / "copy"),
            "--short-side",
            str(SHORT),
            "--workers",
            "2",
            *more,
            "--set",
            *settings(world, folder),
            *sets,
        ]
    )


@pytest.mark.parametrize(
    "crop, share", [("random_resized", 0.95), ("multi_scale", 1.0), ("center", 1.0)]
)
def test_the_plan_of_the_copy_is_the_plan(both, crop, share):
    """A try of random_resized that fits into one picture by a pixel may not fit into the other: it
    is rare.
    """
    plans, sizes, near = [], [], []
    for config in both:
        data = open_data(config)
        config = replace(config, clip=replace(config.clip, crop=crop))
        plans.append(make_plan(config, data))
        sizes.append(
            [np.stack([table.heights, table.widths], 1).astype(float) for table in data.tables]
        )
    for step in range(5):
        for one, other in zip(*(plan(step) for plan in plans)):
            for name in ("draws", "slots", "rows", "pieces", "frames", "flips"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), (
                    step,
                    one.source,
                    name,
                )
            shapes = [size[one.source][one.rows][:, None] for size in sizes]
            scaled = one.boxes / np.tile(shapes[0], 2) * np.tile(shapes[1], 2)
            # corners and sides are even
            near += (np.abs(scaled - other.boxes) <= 3).all(axis=2).ravel().tolist()
    assert len(near) == 5 * 24 and np.mean(near) >= share


def test_rows_and_labels_stay(both):
    for one, other in zip(open_data(both[0]).tables, open_data(both[1]).tables):
        assert (
            len(one)
            and np.array_equal(one.labels, other.labels)
            and np.array_equal(one.frames, other.frames)
        )
        assert (
            other.codec_names in (("h264",), ("jpeg",))
            and min(other.widths.min(), other.heights.min()) <= SHORT
        )


def frames_of(media):
    with open_video(media.span, media.container) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def numbers(shown, turns=0):
    shown = np.rot90(shown, -turns)
    height, width = shown.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return read_numbers(shown[top : top + short, left : left + short])


def test_every_frame_is_the_frame_of_that_number(both):
    reader, seen = CatalogReader(both[1].catalog_path), 0
    for name in ("clips", "windows", "tars"):
        table = reader.table(name)
        for record in np.unique(table.records):
            media = table.media(record)
            file = int(Path(media.path.rpartition(":")[2]).stem.split()[0])
            shown = [numbers(frame, turns=1 if file == 2 else 0) for frame in frames_of(media)]
            assert shown == [(file, number) for number in range(media.frames)], media.path
            seen += media.frames
    assert seen == 30 + 30 + 20 + 12 + 60 + 60 + 15 + 15


def test_photos_are_upright_and_their_metadata_gone(both, world):
    folder = Path(both[1].data_root, "photos")
    for name, size, turns in (("a/20.png", (96, 64), 0), ("b/21.jpg", (64, 96), -1)):
        data = (folder / name).read_bytes()
        assert data.startswith(b"\xff\xd8") and b"Exif" not in data
        shown = cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
        assert shown.shape[1::-1] == size and numbers(shown, turns)[0] == int(name[2:4])
    # was small enough
    assert (folder / "b/22.jpg").read_bytes() == (world / "photos/b/22.jpg").read_bytes()
    for frame in range(9):
        shown = cv2.imread(
            str(Path(both[1].data_root, f"frames/30/img_{frame + 1:05}.jpg")), cv2.IMREAD_COLOR_RGB
        )
        assert numbers(shown) == (30, frame) and shown.shape == (64, 96, 3)


def test_tars_keep_their_members_and_order(both, world):
    with (
        tarfile.open(world / "shard-0.tar") as one,
        tarfile.open(Path(both[1].data_root, "shard-0.tar")) as other,
    ):
        assert one.getnames() == other.getnames()
        assert (
            other.extractfile("x/41.cls").read() == b"1"
            and other.extractfile("x/broken.mp4").read() == b"1"
        )


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_promises(tmp_path, recipe):
    source, path = tmp_path / "a.mp4", tmp_path / "b"
    write_video(
        source, 1, frames=37, gop=250, b_frames=3, **{**PLAIN, "options": {"preset": "fast"}}
    )
    assert encode_video(media_of(source), path, RECIPES[recipe], SHORT) == 0
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path), format="mp4") as container:
        frames = list(container.decode(video=0))
    assert [PictureType(frame.pict_type).name for frame in frames] == [
        "P" if number % RECIPES[recipe].gop else "I" for number in range(37)
    ]
    with av.open(str(path), format="mp4") as container:  # every GOP decodes alone
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert all(packet.pts == packet.dts for packet in packets)
        start = len(packets) - 1 - (len(packets) - 1) % RECIPES[recipe].gop
        container.seek(packets[start].pts, stream=container.streams.video[0])
        assert numbers(next(container.decode(video=0)).to_ndarray(format="rgb24")) == (1, start)


def test_equal_timestamps_stay_as_good_as_equal(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=6, **PLAIN)
    media = media_of(tmp_path / "a.mp4")
    times = media.frame_times.copy()
    times[3:5] = times[2]
    monkeypatch.setattr(type(media), "frame_times", times)
    seconds, ticks, tick = encode._timing(media, 6)
    assert (np.diff(ticks) > 0).all() and np.abs(ticks * float(tick) - seconds).max() < 5e-6
    assert (
        seconds[2] == seconds[3] == seconds[4] and tick.numerator == 1 and tick.denominator < 2**31
    )


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p"])
def test_colours_stay(tmp_path, pixels):
    write_video(tmp_path / "a.mp4", 1, frames=2, pixels=pixels, **PLAIN)
    encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)
    shown = next(frames_of(media_of(tmp_path / "b")))
    wanted = cv2.resize(picture(1, 0, 144, 96), (96, 64), interpolation=cv2.INTER_AREA).astype(
        float
    )
    for channel in range(3):  # a wrong range would stretch the values by 1.16, or its inverse
        slope, offset = np.polyfit(wanted[..., channel].ravel(), shown[..., channel].ravel(), 1)
        assert abs(slope - 1) < 0.08 and abs(offset + (slope - 1) * 128) < 2.5


def test_holes_are_filled_and_counted(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=12, **PLAIN)
    frames_from = encode.frames_from

    def leaky(media, *_):
        yield from (item for item in frames_from(media) if item[0] not in (0, 5, 6, 11))

    monkeypatch.setattr(encode, "frames_from", leaky)
    assert encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT) == 4
    shown = [numbers(frame)[1] for frame in frames_of(media_of(tmp_path / "b"))]
    assert shown == [1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 10]
    monkeypatch.setattr(encode, "frames_from", lambda media, *_: list(frames_from(media))[:5])
    with pytest.raises(DecodeError, match="7 of 12 frames do not come out"):
        encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)


def test_a_copy_that_differs_is_no_copy(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=12, **PLAIN)
    media = media_of(tmp_path / "a.mp4")
    timing = encode._timing(media, 12)
    monkeypatch.setattr(encode, "_timing", lambda *_: (timing[0], timing[1] * 3, timing[2]))
    with pytest.raises(DecodeError, match="timestamps are not the original's"):
        encode_video(media, tmp_path / "b", RECIPES["fast"], SHORT)


def test_sizes():
    assert scaled_size(1920, 1080, 256, even=True) == (456, 256) and scaled_size(
        61, 41, 256, even=True
    ) == (60, 40)
    assert scaled_size(61, 41, 256) == (61, 41) and scaled_size(1, 5000, 256, even=True) == (
        2,
        5000,
    )


def small(root, count=4):
    """A world of a few videos, and its config."""
    for n in range(count):
        write_video(root / f"media/v/{n}.mp4", n, frames=10, **PLAIN)
    write(root / "media/list.txt", "".join(f"{n}.mp4 {n % 2}\n" for n in range(count)))
    write(
        root / "c.yaml",
        f"data_root: {root}/media\nrun_dir: {root}/run\nclip: {{num_clips: 2, size: 32}}\n"
        "sources: {v: {kind: video, root: v, list: list.txt}}\ntrain: {steps: 1, batch: 4}\n",
    )
    return [
        "transcode",
        "--config",
        str(root / "c.yaml"),
        "--out",
        str(root / "copy"),
        "--short-side",
        str(SHORT),
        "--workers",
        "1",
    ]


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "v").rglob("*"))
    }


def count_encodes(monkeypatch, fail_at=None):
    done, encode_one = [], transcode.encode_video

    def counted(media, path, *rest, **options):
        if len(done) == fail_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        done.append(os.path.basename(media.path))
        return encode_one(media, path, *rest, **options)

    monkeypatch.setattr(transcode, "encode_video", counted)
    return done


def test_a_full_disk_leaves_nothing_half_and_the_second_start_goes_on(
    tmp_path, monkeypatch, capsys
):
    command = small(tmp_path)
    with monkeypatch.context() as patch:
        done = count_encodes(patch, fail_at=2)
        assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert (
        "No space left on device" in error
        and "Traceback" not in error
        and "second start goes on" in error
    )
    assert len(done) == 2 and sorted(f"v/{name}" for name in done) == sorted(
        content(tmp_path / "copy")
    )
    assert (
        not any((tmp_path / "copy/.transcode").iterdir())
        and not (tmp_path / "copy/config.yaml").exists()
    )
    again = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and len(again) == 2 and not set(done) & set(again)
    assert not (tmp_path / "copy/.transcode").exists()


def test_disk_that_takes_no_more_bytes(tmp_path):
    """A real limit of the system, below FFmpeg's own writing."""
    command = small(tmp_path, 1)
    write_video(tmp_path / "media/v/0.mp4", 0, frames=200, **PLAIN)
    assert cli.main([*command, "--recipe", "intra"]) == 0
    size = (tmp_path / "copy/v/0.mp4").stat().st_size
    (tmp_path / "copy/v/0.mp4").unlink()
    script = (
        "import resource, sys; from omnidali import cli; resource.setrlimit(resource.RLIMIT_FSIZE,"
        f" ({size // 2}, {size // 2})); sys.exit(cli.main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *command, "--recipe", "intra"],
        capture_output=True,
        text=True,
    )
    assert (
        result.returncode == 2
        and "File too large" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert content(tmp_path / "copy") == {} and not any((tmp_path / "copy/.transcode").iterdir())


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    command = small(tmp_path, 6)
    for n in range(6):
        write_video(tmp_path / f"media/v/{n}.mp4", n, frames=40, **PLAIN)
    process = subprocess.Popen(
        [sys.executable, "-m", "omnidali", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = tmp_path / "copy/transcode.jsonl"
    while process.poll() is None and not (
        journal.exists() and journal.read_text().count("\n") >= 2
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(journal, "a") as file:
        file.write('{"path": "v/5.mp4", "orig')  # a line that the kill cut off
    written = journal.read_text().count("\n")
    done = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and len(done) == 6 - written
    resumed = content(tmp_path / "copy")
    assert cli.main([*command[:4], str(tmp_path / "other"), *command[5:]]) == 0
    assert resumed == content(tmp_path / "other") and len(resumed) == 6


def test_only_what_changed_is_made_again(tmp_path, monkeypatch):
    command = small(tmp_path)
    assert cli.main(command) == 0
    before = content(tmp_path / "copy")
    done = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and not done
    write_video(tmp_path / "media/v/2.mp4", 9, frames=10, **PLAIN)
    (tmp_path / "copy/v/3.mp4").unlink()
    assert cli.main(command) == 0 and sorted(done) == ["2.mp4", "3.mp4"]
    after = content(tmp_path / "copy")
    assert after["v/2.mp4"] != before["v/2.mp4"] and after["v/3.mp4"] == before["v/3.mp4"]
    # all four of another recipe
    assert cli.main([*command, "--recipe", "small"]) == 0 and len(done) == 6


def test_broken_files_are_named_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    command = small(tmp_path)
    encode_one = transcode.encode_video
    write(tmp_path / "media/v/3.mp4", "no video")

    def picky(media, *rest):
        if media.path.endswith("1.mp4"):
            raise DecodeError("bad luck")
        return encode_one(media, *rest)

    monkeypatch.setattr(transcode, "encode_video", picky)
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "1 left out (1 not a video: text" in told and "1 failed (1 bad luck, such as" in told
    assert sorted(content(tmp_path / "copy")) == ["v/0.mp4", "v/2.mp4"]
    row = json.loads((tmp_path / "copy/transcode.json").read_text())["v"]
    assert (
        row["failed"] == [[str(tmp_path / "media/v/1.mp4"), "bad luck"]]
        and row["clips_per_second_after"] > 0
    )
    assert 30 < row["psnr"] < 45 and 0.8 < row["ssim"] < 1

    def never(media, *rest):
        raise DecodeError("bad luck")

    monkeypatch.setattr(transcode, "encode_video", never)
    assert cli.main([*command, "--recipe", "small"]) == 2
    assert "expected at least half of the files copied, got 3 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "out, told",
    [
        ("media", "outside of data_root"),
        ("media/v/copy", "outside of data_root"),
        ("", "does not hold the originals of sources.v"),
    ],
)
def test_copy_and_originals_stay_apart(tmp_path, capsys, out, told):
    command = small(tmp_path, 1)
    assert cli.main([*command[:4], str(tmp_path / out), *command[5:]]) == 2
    assert told in capsys.readouterr().err


def test_foreign_folders_are_refused(tmp_path, capsys):
    command = small(tmp_path, 1)
    write(tmp_path / "copy/v/0.mp4", "mine")
    assert cli.main(command) == 2 and (tmp_path / "copy/v/0.mp4").read_text() == "mine"
    assert "expected an empty folder or an earlier copy" in capsys.readouterr().err


def test_a_tar_with_a_member_that_fails_is_made_once(tmp_path, monkeypatch):
    for n in range(3):
        write_video(tmp_path / f"{n}.mp4", n, frames=10, **PLAIN)
    (tmp_path / "media").mkdir()
    with tarfile.open(tmp_path / "media/a.tar", "w") as tar:
        for n in range(3):
            tar.add(tmp_path / f"{n}.mp4", f"{n % 2}/{n}.mp4")
    write(
        tmp_path / "c.yaml",
        f"data_root: {tmp_path}/media\nrun_dir: {tmp_path}/run\n"
        "clip: {num_clips: 2, size: 32}\nsources: {v: {kind: video, tars: a.tar}}\ntrain: {steps: 1, batch: 4}\n",
    )
    command = ["transcode", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "copy")]
    encode_one, done = transcode.encode_video, []

    def picky(media, *rest):
        done.append(media.path)
        if media.path.endswith("1.mp4"):
            raise DecodeError("bad luck")
        return encode_one(media, *rest)

    monkeypatch.setattr(transcode, "encode_video", picky)
    assert cli.main(command) == 0 and cli.main(command) == 0 and len(done) == 3
    with tarfile.open(tmp_path / "copy/a.tar") as tar:
        assert tar.getnames() == ["0/0.mp4", "0/2.mp4"]
    row = json.loads((tmp_path / "copy/transcode.json").read_text())["v"]
    assert len(row["failed"]) == 1 and row["same_rows"] and row["clips_per_second_after"] > 0


def test_files_from_elsewhere(tmp_path, capsys):
    """Absolute roots and lists, a list that begins with the root's name, a source that stays where
    it is.
    """
    command = small(tmp_path, 2)
    write_photo(tmp_path / "photos/p.jpg", 5, 150, 100)
    write_video(tmp_path / "elsewhere/v/7.mp4", 7, frames=10, **PLAIN)
    write(tmp_path / "lists/list.txt", "v/7.mp4 1\n")
    write(tmp_path / "lists/p.txt", "p.jpg 1\n")
    extra = [
        f"sources.w={{kind: video, root: {tmp_path}/elsewhere/v, list: {tmp_path}/lists/list.txt}}",
        f"sources.p={{kind: image, root: ../photos, list: {tmp_path}/lists/p.txt}}",
    ]
    assert cli.main([*command, "--sources", "v", "w", "--set", *extra]) == 0
    config = load_config(tmp_path / "copy/config.yaml")
    assert config.data_root == str(tmp_path / "copy") and config.catalog_path == str(
        tmp_path / "copy/catalog.sqlite"
    )
    assert config.sources["v"].list == "list.txt" and config.sources["w"].list == "w-list.txt"
    assert [len(table) for table in open_data(config).tables] == [2, 1, 1]
    assert (tmp_path / "copy/w/v/7.mp4").exists() and (tmp_path / "copy/v/1.mp4").exists()
    assert os.path.samefile(config.sources["p"].root, tmp_path / "photos")
    assert cli.main([*command, "--sources", "nobody"]) == 2
    assert "--sources: expected some of v, got nobody" in capsys.readouterr().err


def test_recipes_of_the_command_line():
    with pytest.raises(SystemExit):
        cli.main(["transcode", "--config", "x", "--out", "y", "--recipe", "none"])
    assert list(RECIPES) == ["fast", "small", "intra"]


def test_advise(tmp_path, capsys, world):
    sets = settings(world, tmp_path)
    lines = CONFIG.splitlines(keepends=True)
    write(
        tmp_path / "c.yaml",
        "".join(line for line in lines if not line.startswith(("  windows", "  tars"))),
    )
    assert (
        cli.main(
            [
                "advise",
                "--config",
                str(tmp_path / "c.yaml"),
                "--sample",
                "2",
                "--set",
                *sets,
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    assert {len(row) for row in rows} == {len(advice._HEAD)}
    assert [row[1] for row in rows if row[0] == "clips"] == ["original", "fast", "small", "intra"]
    assert [row[1] for row in rows if row[0] == "photos"] == ["original", "copy"]
    assert [row[4] for row in rows if row[0] == "clips"][1:] == ["8", "14", "1"]
    sentences = [line for line in lines if line.startswith("`")]
    assert [line.split("`")[1] for line in sentences] == ["clips", "pieces", "photos", "folders"]


def test_advice_is_honest():
    rows = [
        {"as": name, "rate": rate, "bytes": size}
        for name, rate, size in (
            ("original", 10, 100),
            ("fast", 30, 50),
            ("small", 28, 30),
            ("intra", 31, 90),
        )
    ]
    assert (
        advice.advise_on("x", rows)
        == "`x`: `omnidali transcode --recipe small` would make it 2.8 times as fast for 0.30 times the bytes."
    )
    assert (
        advice.advise_on("x", [*rows[:3], {**rows[3], "rate": 40}])
        == "`x`: `omnidali transcode --recipe intra` would make it 4.0 times as fast for 0.90 times the bytes,"
        " `--recipe small` 2.8 times as fast for 0.30 times the bytes."
    )
    assert (
        advice.advise_on("x", [rows[0], {**rows[1], "rate": 11}])
        == "`x`: no copy would help; the best is 1.10 times as fast."
    )


def test_ssim():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    assert ssim(noise, noise) == pytest.approx(1) and ssim(noise, 255 - noise) < 0
    assert Fraction(1, 2) < ssim(noise, cv2.GaussianBlur(noise, (3, 3), 0.5)) < 1


def swapped(frames):
    """Frames of which each pair has changed places."""
    frames = list(frames)
    for place in range(0, len(frames) - 1, 2):
        frames[place], frames[place + 1] = frames[place + 1], frames[place]
    return frames


@pytest.mark.parametrize(
    "mistake",
    [
        swapped,
        lambda frames: [frames[0], *frames[:-1]],
        lambda frames: [*frames[1:], frames[-1]],
        lambda frames: [*frames[:6], frames[7], *frames[7:]],
    ],
    ids=["swapped", "late", "early", "one frame"],
)
def test_a_copy_whose_frames_are_others_is_not_kept(tmp_path, monkeypatch, mistake):
    write_video(tmp_path / "a.mp4", 1, frames=16, **PLAIN)
    made = encode.pictures
    monkeypatch.setattr(encode, "pictures", lambda *arguments: mistake(list(made(*arguments))))
    with pytest.raises(
        DecodeError, match="of the copy is nearer to another frame of the original than to its own"
    ):
        encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_copies_of_still_and_fading_videos_are_kept(tmp_path, step):
    """Frames that differ by less than what encoding loses."""
    grey = np.tile(np.linspace(40, 200, 144), (96, 1))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 144, 96, "yuv420p"
        for number in range(14):
            shown = (
                np.repeat((grey + step * number)[:, :, None], 3, axis=2)
                .clip(0, 255)
                .astype(np.uint8)
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    for recipe in RECIPES.values():
        assert encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", recipe, SHORT) == 0


@pytest.mark.parametrize("matrix", [1, 5, 7, 9])
def test_a_copy_keeps_the_colour_matrix(tmp_path, matrix):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 144, 96, "yuv420p"
        stream.codec_context.colorspace = matrix
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture(1, number, 144, 96), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode(None))
    original = media_of(tmp_path / "a.mp4")
    encode_video(original, tmp_path / "b", RECIPES["intra"], 96)
    shown, wanted = (
        next(frames_of(media)).astype(int) for media in (media_of(tmp_path / "b"), original)
    )
    assert np.abs(shown - wanted).mean() < 4
