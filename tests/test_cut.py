"""Pieces as files: the same frames as in place, honest about where they begin, and no original ever
touched.
"""

import csv
import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from conftest import media_of
from helpers.batches import pictures
from omnidali.catalog.probing.probe import probe_video, unpack_numbers
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation import cut as cutting
from omnidali.curation import trim
from omnidali.curation.copies import encode
from omnidali.curation.trim import copy_piece, encode_piece
from omnidali.errors import DecodeError
from omnidali.loading.data import open_data, open_loader
from omnidali.testing.numbered_media import read_numbers, write_video

SMALL = {"width": 96, "height": 64}
FAST = {"options": {"preset": "ultrafast"}, **SMALL}
B_FRAMES = {"options": {"preset": "veryfast"}, "b_frames": 3, **SMALL}
VP9 = {
    "codec": "libvpx-vp9",
    "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    **SMALL,
}
VP8 = {
    "codec": "libvpx",
    "options": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "1M"},
    **SMALL,
}
VFR = [500 + 33 * n + n % 4 for n in range(60)]  # milliseconds; does not begin with 0
CONFIG = """
sources:
  windows: {kind: untrimmed, root: long, list: windows.txt, window_seconds: 0.5}
  listed: {kind: untrimmed, root: long, list: listed.json, window_seconds: 0.6, pieces: one_positive_rest_negative}
  seconds: {kind: untrimmed, root: long, list: seconds.txt, format: pieces, pieces: one_positive_rest_negative}
  shown: {kind: untrimmed, root: long, list: listed.json, window_seconds: 0.6}
  parts: {kind: untrimmed, root: parts, list: parts.json}
clip: {num_clips: 3, size: 56, crop: center, flip: 0}
train: {batch: 20, steps: 6}
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def row(video, label, count, *positive):
    return {
        "video_dir": video,
        "label": label,
        "num_clips": count,
        "positive_clip_inds": list(positive),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """File n shows n, in every frame its number."""
    root = tmp_path_factory.mktemp("world")
    write_video(root / "long/a/10.mp4", 10, frames=60, gop=12, **B_FRAMES)
    write_video(root / "long/11.mp4", 11, frames=60, gop=25, times=VFR, **FAST)
    write_video(root / "long/11.webm", 12, frames=60, gop=15, **VP9)
    write_video(root / "long/13.mkv", 13, frames=60, gop=250, **B_FRAMES)
    write_video(root / "parts/v/part_0.mp4", 20, frames=10, **FAST)
    write(root / "windows.txt", "a/10.mp4 0\n11.webm 1\n11.mp4 1\n")
    write(root / "listed.json", json.dumps([row("a/10.mp4", 0, 3, 1), row("13.mkv", 1, 4, 0, 2)]))
    write(
        root / "seconds.txt",
        "13.mkv 1.0 1.5 1\n13.mkv 0.2 0.7 1\n11.webm 0.5 1.3 0\n11.webm 0 0.5 1\n",
    )
    write(root / "parts.json", json.dumps([row("v", 0, 1, 0)]))
    return root


def command(world, folder, *more, sets=()):
    write(folder / "c.yaml", CONFIG)
    return [
        "cut",
        "--config",
        str(folder / "c.yaml"),
        "--out",
        str(folder / "out"),
        "--workers",
        "2",
        *more,
        "--set",
        f"data_root={world}",
        f"run_dir={folder}/run",
        *sets,
    ]


def digest(folder):
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def exact(world, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("exact"), digest(world)
    assert cli.main(command(world, folder, "--exact")) == 0
    assert digest(world) == before
    return folder


@pytest.fixture(scope="module")
def copied(world, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("copied"), digest(world)
    assert cli.main(command(world, folder)) == 0
    assert digest(world) == before
    return folder


def shown_by(config, steps=6):
    """Source, label and painted numbers of every planned clip, and how many frames each planned
    file has.
    """
    seen = []
    data = open_data(config)
    with open_loader(config, data) as loader:
        for _, batch in zip(range(steps), loader):
            for group in batch.groups:
                for place, clip in enumerate(pictures(group.clips)):
                    seen.append(
                        (
                            int(group.slot[place]),
                            int(group.source[place]),
                            int(group.labels[place]),
                            [read_numbers(frame) for frame in clip],
                        )
                    )
    return sorted(seen)


def test_the_plan_over_exact_files_shows_the_same_frames(world, exact):
    in_place = load_config(exact / "c.yaml", [f"data_root={world}", f"run_dir={exact}/run"])
    over_files = load_config(exact / "out/config.yaml")
    assert over_files.sources["windows"].root == str(exact / "out/windows")
    one, other = shown_by(in_place), shown_by(over_files)
    assert len(one) == 6 * 20 and one == other
    assert {file for *_, frames in one for file, _ in frames} == {10, 11, 12, 13, 20}
    mixed = [frames for _, source, _, frames in one if source in (1, 2)]
    # negative pieces are among them
    assert len({frame // 18 for frames in mixed for _, frame in frames}) > 3


def rows_of(folder):
    with open(folder / "out/cuts.csv", newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path):
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            left = (picture.shape[1] - picture.shape[0]) // 2
            yield read_numbers(picture[:, left : left + picture.shape[0]])


FILES = {"10.mp4": 10, "11.mp4": 11, "11.webm": 12, "13.mkv": 13}


def piece_of(made):
    """(file, its seconds, first frame, end) of a line of cuts.csv, from the list's numbers alone."""
    name = os.path.basename(made["video"])
    seconds = (np.array(VFR) - VFR[0]) / 1000 if name == "11.mp4" else np.arange(60) / 30
    start = float(made["start_seconds"])
    first, end = np.searchsorted(seconds, [start - 0.002, start + float(made["seconds"]) - 0.002])
    return FILES[name], seconds, int(first), int(end)


def test_exact_files_hold_the_frames_of_their_piece(exact):
    made = rows_of(exact)
    assert {line["how"] for line in made} == {"encoded"}
    for line in made:
        file, _, first, end = piece_of(line)
        assert list(frames_of(exact / "out" / line["file"])) == [
            (file, frame) for frame in range(first, end)
        ], line
    windows = [
        line for line in made if line["video"].endswith("a/10.mp4") and line["source"] == "windows"
    ]
    assert [(line["start_seconds"], line["frames"]) for line in windows] == [
        (f"{0.5 * n:.3f}", "15") for n in range(4)
    ]


def test_copied_files_say_where_they_begin_and_end(copied):
    made, earlier, later = rows_of(copied), 0, 0
    for line in made:
        file, seconds, first, end = piece_of(line)
        shown = list(frames_of(copied / "out" / line["file"]))
        begin = shown[0][1]
        # no hole, nothing twice
        assert shown == [(file, begin + n) for n in range(len(shown))], line
        assert len(shown) == int(line["frames"]) and begin <= first and begin + len(shown) >= end
        assert float(line["begins_early_seconds"]) == pytest.approx(
            seconds[first] - seconds[begin], abs=0.002
        )
        assert float(line["ends_late_seconds"]) == pytest.approx(
            seconds[begin + len(shown) - 1] - seconds[end - 1], abs=0.002
        )
        earlier, later = earlier + (begin < first), later + (begin + len(shown) > end)
        gop = {10: 12, 11: 25, 12: 15, 13: 60}[file]
        assert first - begin < gop and begin % gop == 0, line
    assert earlier > 5 and later > 2


def test_packets_are_those_of_the_original(copied, world):
    for name, original in (
        ("windows/11/part_1.mp4", "11.webm"),
        ("windows/a/10/part_1.mp4", "a/10.mp4"),
    ):
        with av.open(str(copied / "out" / name)) as container:
            codec = container.streams.video[0].codec_context.name
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        with av.open(str(world / "long" / original)) as container:
            assert container.streams.video[0].codec_context.name == codec
            originals = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        assert len(packets) < 40 and any(
            originals[at : at + len(packets)] == packets for at in range(len(originals))
        )


def test_names_numbers_and_lists(exact, copied):
    """Two videos may differ by their ending alone; pieces keep their numbers; the lists are the
    release's.
    """
    for folder in (exact, copied):
        lists = {
            name: json.loads((folder / f"out/{name}.json").read_text())
            for name in ("windows", "listed", "seconds", "shown")
        }
        assert lists["windows"] == [
            row(video, label, 4, 0, 1, 2, 3)
            for video, label in (("a/10", 0), ("11", 1), ("11_mp4", 1))
        ]
        assert lists["listed"] == [row("a/10", 0, 3, 1), row("13", 1, 4, 0, 2)]
        assert lists["shown"] == lists["listed"]
        files = {
            name: sorted(
                str(path.relative_to(folder / "out" / name))
                for path in (folder / "out" / name).rglob("*.mp4")
            )
            for name in lists
        }
        assert files["shown"] == ["13/part_0.mp4", "13/part_2.mp4", "a/10/part_1.mp4"]
        assert files["listed"] == [f"13/part_{n}.mp4" for n in range(4)] + [
            f"a/10/part_{n}.mp4" for n in range(3)
        ]
        # in the list's order, and what lies between them behind
        assert (
            lists["seconds"][0]["positive_clip_inds"] == [0, 1]
            and lists["seconds"][0]["num_clips"] == 4
        )
        assert not (folder / "out/parts").exists()  # its pieces are files already
        config = load_config(folder / "out/config.yaml")
        assert os.path.isdir(config.data_root) and config.sources["parts"].root == "parts"
        assert not list((folder / "out").rglob("*.part")) and not (folder / "out/.cut").exists()


@pytest.mark.parametrize(
    "name, settings",
    [
        ("v.ts", B_FRAMES),
        ("v.avi", FAST),
        ("v.mp4", {**FAST, "rotation": 90}),
        ("v.mkv", {**B_FRAMES, "options": {"x264-params": "open-gop=1"}}),
    ],
)
def test_other_containers_and_turned_videos(tmp_path, name, settings):
    write_video(tmp_path / name, 5, frames=50, gop=20, **settings)
    media = media_of(tmp_path / name)
    for make, least in ((copy_piece, 24), (encode_piece, 24)):
        made = make(media, tmp_path / "out", 24, 9)
        probe = probe_video(media_of(tmp_path / "out").span)
        assert probe.frames == made.frames and (probe.width, probe.height) == (
            media.width,
            media.height,
        )
        assert probe.rotation == (media.rotation if make is copy_piece else 0)
        if "rotation" not in settings:
            shown = [frame for _, frame in frames_of(tmp_path / "out")]
            assert shown == list(range(made.first, made.first + made.frames)) and set(
                range(24, 33)
            ) <= set(shown)
            assert make is copy_piece or shown == list(range(24, 33))
        assert unpack_numbers(probe.keyframes)[0] == 0


def test_holes_are_filled_and_told(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", 5, frames=40, gop=10, **FAST)
    frames_from = encode.frames_from
    monkeypatch.setattr(
        encode,
        "frames_from",
        lambda media, first: (item for item in frames_from(media, first) if item[0] != 25),
    )
    made = encode_piece(media_of(tmp_path / "v.mp4"), tmp_path / "out", 22, 6)
    assert made.replaced == 1 and [frame for _, frame in frames_of(tmp_path / "out")] == [
        22,
        23,
        24,
        26,
        26,
        27,
    ]


def test_a_file_that_differs_is_none(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", 5, frames=40, gop=10, **FAST)
    media, packets = media_of(tmp_path / "v.mp4"), trim._packets
    monkeypatch.setattr(trim, "_order", lambda *_: np.arange(20, 35))
    monkeypatch.setattr(trim, "_packets", lambda *args: itertools.islice(packets(*args), 7))
    with pytest.raises(DecodeError, match="the file has 7 frames, not 15"):
        copy_piece(media, tmp_path / "out", 22, 10)


def simple(root, count=4, **settings):
    """A world of a few long videos of three windows each, and the command for it."""
    for n in range(count):
        write_video(root / f"media/v/{n}.mp4", n, frames=30, gop=10, **(settings or FAST))
    write(root / "media/list.txt", "".join(f"{n}.mp4 {'ab'[n % 2]}\n" for n in range(count)))
    write(
        root / "c.yaml",
        f"data_root: {root}/media\nrun_dir: {root}/run\nclip: {{num_clips: 2, size: 32}}\n"
        "sources: {v: {kind: untrimmed, root: v, list: list.txt, window_seconds: 0.33333}}\n"
        "train: {steps: 1, batch: 4}\n",
    )
    return ["cut", "--config", str(root / "c.yaml"), "--out", str(root / "out"), "--workers", "1"]


def files_of(root):
    return sorted(
        str(path.relative_to(root / "out/v"))
        for path in (root / "out/v").rglob("*")
        if path.is_file()
    )


def count_cuts(monkeypatch, fail_at=None):
    done, copy = [], cutting.copy_piece

    def counted(media, path, first, frames):
        if len(done) == fail_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        done.append(f"{os.path.basename(media.path)} {first}")
        return copy(media, path, first, frames)

    monkeypatch.setattr(cutting, "copy_piece", counted)
    return done


def test_a_video_that_cannot_be_cut_is_named_and_the_others_go_on(tmp_path, capsys):
    """The reference's trimmer deletes such an original."""
    run = simple(tmp_path, 3)
    write_video(tmp_path / "media/v/1.webm", 9, frames=30, gop=10, **VP8)
    write(tmp_path / "media/list.txt", "0.mp4 a\n1.webm b\n2.mp4 b\n")
    before = digest(tmp_path / "media")
    assert cli.main(run) == 1
    told = capsys.readouterr()
    assert (
        told.err.count("1.webm, piece ") == 3
        and "MP4 does not hold vp8: cut it with --exact" in told.err
    )
    assert "6 pieces cut, 3 failed" in told.out and "Traceback" not in told.err
    assert digest(tmp_path / "media") == before
    assert files_of(tmp_path) == [f"{n}/part_{part}.mp4" for n in (0, 2) for part in range(3)]
    assert [item["video_dir"] for item in json.loads((tmp_path / "out/v.json").read_text())] == [
        "0",
        "2",
    ]
    assert "MP4 does not hold vp8" in (tmp_path / "out/report.md").read_text()
    assert [line["problem"] != "" for line in rows_of(tmp_path)] == 3 * [False] + 3 * [True] + 3 * [
        False
    ]
    config = load_config(tmp_path / "out/config.yaml")
    assert open_data(config).class_names == ("a", "b")  # as the original's list said
    assert cli.main([*run, "--set", "loader.max_bad_ratio=0.5"]) == 0
    assert cli.main([*run, "--exact"]) == 0 and len(files_of(tmp_path)) == 9


def test_nothing_that_can_be_cut(tmp_path, capsys):
    run = simple(tmp_path, 1)
    write_video(tmp_path / "media/v/1.webm", 9, frames=30, gop=10, **VP8)
    write(tmp_path / "media/list.txt", "1.webm b\n")
    assert cli.main(run) == 2
    assert "expected pieces that can be cut, got 3 that cannot" in capsys.readouterr().err
    assert not (tmp_path / "out/config.yaml").exists()


def test_a_full_disk_leaves_nothing_half_and_the_second_start_goes_on(
    tmp_path, monkeypatch, capsys
):
    run = simple(tmp_path)
    with monkeypatch.context() as patch:
        done = count_cuts(patch, fail_at=5)
        assert cli.main(run) == 2
    error = capsys.readouterr().err
    assert (
        "No space left on device" in error
        and "Traceback" not in error
        and "second start goes on" in error
    )
    assert len(done) == 5 == len(files_of(tmp_path))
    assert (
        not any((tmp_path / "out/.cut").iterdir()) and not (tmp_path / "out/config.yaml").exists()
    )
    again = count_cuts(monkeypatch)
    assert cli.main(run) == 0 and len(again) == 7 and not set(done) & set(again)


HOLDS = """
import sys, time
from omnidali.cli import main as cli
from omnidali.curation import cut as cutting
done, copy = [], cutting.copy_piece
def held(*given):
    if len(done) == 8:
        time.sleep(1000)
    done.append(1)
    return copy(*given)
cutting.copy_piece = held
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    run = simple(tmp_path, 12)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, *run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "out/cut.jsonl"
    while process.poll() is None and not (
        journal.exists() and journal.read_text().count("\n") >= 3
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(journal, "a") as file:
        file.write('{"path": "v/5/part_0.mp4", "orig')  # a line that the kill cut off
    written = journal.read_text().count("\n")
    assert 3 <= written < 36
    done = count_cuts(monkeypatch)
    assert cli.main(run) == 0 and len(done) == 36 - written
    resumed = {name: (tmp_path / "out/v" / name).read_bytes() for name in files_of(tmp_path)}
    assert cli.main([*run[:4], str(tmp_path / "other"), *run[5:]]) == 0 and len(resumed) == 36
    assert resumed == {name: (tmp_path / "other/v" / name).read_bytes() for name in resumed}


@pytest.mark.parametrize("pieces", ["positive", "all"])
def test_pieces_of_the_same_frames_are_one(tmp_path, monkeypatch, pieces):
    run = simple(tmp_path, 2)
    write(
        tmp_path / "media/list.txt",
        "0.mp4 0 0.33333 a\n0.mp4 0.0001 0.33334 a\n0.mp4 0.66667 1 a\n1.mp4 0 0.5 b\n",
    )
    run += ["--set", "sources.v.format=pieces"]
    done, extra = count_cuts(monkeypatch), pieces == "all"
    for _ in range(2):  # the second start has nothing to do
        assert cli.main([*run, "--pieces", pieces]) == 0
        assert sorted(done) == [
            "0.mp4 0",
            *["0.mp4 10"] * extra,
            "0.mp4 20",
            "1.mp4 0",
            *["1.mp4 15"] * extra,
        ]
        assert json.loads((tmp_path / "out/v.json").read_text()) == [
            row("0", 0, 3 + extra, 0, 2),
            row("1", 1, 1 + extra, 0),
        ]
        assert [line["index"] for line in rows_of(tmp_path)] == [
            "0",
            "2",
            *["3"] * extra,
            "0",
            *["1"] * extra,
        ]
        assert len(files_of(tmp_path)) == len(done)


def test_only_what_changed_is_cut_again(tmp_path, monkeypatch):
    run = simple(tmp_path)
    assert cli.main(run) == 0
    done = count_cuts(monkeypatch)
    assert cli.main(run) == 0 and not done
    write_video(tmp_path / "media/v/2.mp4", 9, frames=30, gop=10, **FAST)
    (tmp_path / "out/v/3/part_1.mp4").unlink()
    assert cli.main(run) == 0
    assert sorted(done) == ["2.mp4 0", "2.mp4 10", "2.mp4 20", "3.mp4 10"]
    assert next(frames_of(tmp_path / "out/v/2/part_0.mp4")) == (9, 0)
    assert cli.main([*run, "--set", "sources.v.window_seconds=0.5"]) == 0
    assert len(done) == 4 + 8  # two pieces of each, other frames under the same names
    assert [item["num_clips"] for item in json.loads((tmp_path / "out/v.json").read_text())] == [
        2
    ] * 4


def test_pieces_that_are_wanted(world, tmp_path, capsys):
    run = command(world, tmp_path, "--sources", "listed", "--pieces", "positive")
    assert cli.main(run) == 0
    files = sorted(path.name for path in (tmp_path / "out/listed/13").iterdir())
    assert files == ["part_0.mp4", "part_2.mp4"] and not (tmp_path / "out/shown").exists()
    # there are no others
    assert load_config(tmp_path / "out/config.yaml").sources["listed"].pieces == "positive"
    assert "files begin" in capsys.readouterr().out
    assert cli.main([*command(world, tmp_path, "--sources", "shown", "--pieces", "all")]) == 0
    assert len(list((tmp_path / "out/shown/13").iterdir())) == 4
    config = load_config(tmp_path / "out/config.yaml")
    assert config.sources["shown"].pieces == "positive" and config.sources["listed"].root == "long"
    assert open_data(config).tables[3].positives.tolist() == [1, 2]


@pytest.mark.parametrize(
    "more, told",
    [
        (["--sources", "nobody"], "--sources: expected some of"),
        (
            ["--sources", "parts"],
            "sources.parts: expected videos that are cut in time, got pieces that are files already",
        ),
        (["--workers", "-1"], "--workers: expected 0 or more"),
    ],
)
def test_mistakes(world, tmp_path, capsys, more, told):
    assert cli.main(command(world, tmp_path, *more)) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_sources_without_pieces(tmp_path, capsys):
    run = simple(tmp_path, 1)
    assert cli.main([*run, "--set", "sources.v.kind=video"]) == 2
    assert "expected a source of kind untrimmed, got v" in capsys.readouterr().err
    assert (
        cli.main(
            [*run, "--sources", "w", "--set", "sources.w={kind: video, root: v, list: list.txt}"]
        )
        == 2
    )
    assert "--sources: expected sources of kind untrimmed, got w" in capsys.readouterr().err


@pytest.mark.parametrize(
    "out, told",
    [
        ("media/v/out", "outside of sources.v"),
        ("media/v", "does not hold the originals of"),
        ("media", "does not hold sources.v.list"),
    ],
)
def test_files_and_originals_stay_apart(tmp_path, capsys, out, told):
    run = simple(tmp_path, 1)
    before = digest(tmp_path / "media")
    assert cli.main([*run[:4], str(tmp_path / out), *run[5:]]) == 2
    assert told in capsys.readouterr().err and digest(tmp_path / "media") == before


def test_foreign_folders_are_refused(tmp_path, capsys):
    run = simple(tmp_path, 1)
    write(tmp_path / "out/v/0/part_0.mp4", "mine")
    assert cli.main(run) == 2 and (tmp_path / "out/v/0/part_0.mp4").read_text() == "mine"
    assert "expected an empty folder or an earlier copy" in capsys.readouterr().err
