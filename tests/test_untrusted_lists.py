"""Untrusted lists, label maps, motion files and the paths that they name."""

import json
import os
import time
from pathlib import Path

import pytest

from helpers.small_builds import ROOT, make_images, run_build, write
from omnidali.catalog.listing.class_files import read_label_map
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.probing.root_guard import LEAVES, LINK_LEAVES, OUTSIDE, escape_reason
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.errors import UserError
from omnidali.planning.camera_motion import load_motion
from omnidali.testing.numbered_media import write_image


def entries(path, **settings):
    return list(
        read_list(path, MediaConfig(**{"kind": "video", **settings}), Labels().number, "s")[1]
    )


@pytest.mark.parametrize(
    "text, settings, expected",
    [
        (
            "a.mp4 0\nb.mp4 " + "1" * 10_000_000,
            {},
            "line 2: expected a line of at most 65,536 characters",
        ),
        ("a.mp4 0\nb\udcff.mp4 1\n", {}, "line 2: expected a readable list file in UTF-8"),
        ("1 " * 3_000_000, {"kind": "untrimmed"}, "line 1: expected a line of at most"),
        (
            "a.mp4,1\n" + '"' + "x" * 60_000 + ",1\n" + "\0,\n",
            {"format": "slowfast_csv"},
            "line 2: expected",
        ),
        (
            "d 0 999999999999 0\n",
            {"kind": "untrimmed", "format": "parts"},
            "at most 200,000 pieces",
        ),
        (
            f"d 0 {'9' * 5000} 0\n",
            {"kind": "untrimmed", "format": "parts"},
            "line 1: expected `folder label num_clips",
        ),
        (
            "d \u00b2 0\n",
            {"kind": "frames", "format": "rawframes"},
            "line 1: expected `folder num_frames label`",
        ),
        (
            "label,youtube_id,time_start,time_end,split\nx,y,inf,nan,t\n",
            {},
            "line 2: expected `label,youtube_id",
        ),
        (
            "label,youtube_id,time_start,time_end,split\nx,y,0,1e300,t\n",
            {},
            "line 2: expected `label,youtube_id",
        ),
        ('[{"video_dir": ' + "[" * 100_000, {"kind": "untrimmed"}, "hundreds of levels"),
        ('[{"video_dir": "a", "label": NaN}]', {"kind": "untrimmed"}, "NaN, which is no number"),
        (
            '[{"video_dir": "a", "label": ' + "9" * 5000 + "}]",
            {"kind": "untrimmed"},
            "a number of 5,000 digits",
        ),
        (
            '[{"video_dir": "\\ud800", "label": 0, "num_clips": 1, "positive_clip_inds": []}]',
            {"kind": "untrimmed"},
            "line 1",
        ),
        (
            '[{"video_dir": "a", "label": 0, "num_clips": 1e999, "positive_clip_inds": []}]',
            {"kind": "untrimmed"},
            "no number",
        ),
    ],
)
def test_hostile_lists_are_reported_with_their_line(tmp_path, text, settings, expected):
    path, began = write(tmp_path / "l.txt", text), time.thread_time()
    with pytest.raises(UserError) as caught:
        entries(path, **settings)
    assert (
        "l.txt" in str(caught.value)
        and expected in str(caught.value)
        and len(str(caught.value)) < 1000
    )
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"a": 0, "b": NaN}', "NaN"),
        ("[" * 50_000, "hundreds of levels"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("a " + "9" * 5000 + "\n", "a class number from 0"),
        ("a" + " " * 60_000 + "b\n1,c\n", "1"),
        ('{"a": [[1]]}', "a class number"),
    ],
)
def test_hostile_label_maps_are_reported(tmp_path, text, expected):
    path, began = write(tmp_path / "m.json", text), time.thread_time()
    try:
        assert expected in str(read_label_map(path))
    except UserError as error:
        assert expected in str(error) and len(str(error)) < 1000
    assert time.thread_time() - began < 5


def test_hostile_motion_files_are_reported(tmp_path):
    good = json.loads((Path(ROOT) / "omnidali/planning/motion.json").read_text())
    bad = json.dumps({"all": {**good["all"], "mean": [float("nan")] * 8}})
    for text, expected in (
        (bad, "NaN, which is no number"),
        ("[" * 50_000, "hundreds of levels"),
        ("{}", "no entry"),
    ):
        with pytest.raises(UserError, match=expected):
            load_motion(write(tmp_path / "m.json", text), False)


def test_paths_of_lists_stay_below_the_root(tmp_path, capsys):
    make_images(tmp_path, 2)
    outside = tmp_path / "outside"
    write_image(outside / "x.jpg", 1, 40, 30)
    (tmp_path / "pics/link.jpg").symlink_to(outside / "x.jpg")
    (tmp_path / "pics/folder").symlink_to(outside)
    (tmp_path / "pics/circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pics/pipe.jpg")
    lines = [
        "0.jpg",
        "1.jpg",
        "../outside/x.jpg",
        str(outside / "x.jpg"),
        "link.jpg",
        "folder/x.jpg",
        "circle.jpg",
        "pipe.jpg",
        "http://127.0.0.1/x.jpg",
        "s3://bucket/x.jpg",
        f"file:{outside}/x.jpg",
        "concat:0.jpg|1.jpg",
        "pipe:0",
        "data:image/jpeg,x",
        "a\0b.jpg",
        "\x1b]0;hello\x07.jpg",
        "a/" * 3000 + "x.jpg",
        "0.jpg/x.jpg",
        "n" * 300 + ".jpg",
    ]
    write(tmp_path / "l.txt", "".join(f"{line} 0\n" for line in lines))
    summary = run_build(tmp_path)
    assert (
        summary.usable == 2
        and summary.refused
        == {
            LEAVES: 1,
            LINK_LEAVES: 2,
            OUTSIDE: 1,
            "path is a URL": 6,
            "not a regular file": 1,
            "path holds a NUL byte": 1,
            "path holds control characters": 1,
            "path is too long": 1,
            "unreadable: Too many levels of symbolic links": 1,
            "unreadable: File name too long": 1,
            "unreadable: Not a directory": 1,
        }
        and "\x1b" not in str(summary)
    )
    assert escape_reason(str(tmp_path), "a: story.mp4") is None  # a colon alone is no scheme


def test_frames_that_are_links_or_pipes_are_refused(tmp_path):
    for name in ("plain", "inside", "out", "pipe"):
        for number in range(1, 4):
            write_image(tmp_path / f"pics/{name}/img_{number:05}.jpg", number, 40, 30)
        (tmp_path / f"pics/{name}/img_00002.jpg").unlink()
    write_image(tmp_path / "secret.jpg", 1, 40, 30)
    write_image(tmp_path / "pics/plain/img_00002.jpg", 1, 40, 30)
    (tmp_path / "pics/inside/img_00002.jpg").symlink_to("../plain/img_00002.jpg")
    (tmp_path / "pics/out/img_00002.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(tmp_path / "pics/pipe/img_00002.jpg")
    write(tmp_path / "l.txt", "plain 3 0\ninside 3 0\nout 3 0\npipe 3 0\n")
    summary = run_build(tmp_path, {"s": SourceConfig(kind="frames", root="pics", list="l.txt")})
    assert summary.usable == 2 and summary.refused == {
        "a frame is a link that leaves the root": 1,
        "a frame is not a regular file": 1,
    }
