"""The frames of every kind of video file have the numbers that FFmpeg gives them.

A tenth of the matrix and one container of every extra kind are checked, and all of them where
OMNIDALI_MATRIX=whole.
"""

import itertools
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import omnidali
from conftest import needs_tool
from helpers.frame_matrix import check, encoding, excerpts, extras, matrix, reference
from helpers.frame_matrix.case import DECOY
from helpers.frame_matrix.containers import CONTAINERS
from helpers.frame_matrix.matrix import CODECS, STRUCTURES, TIMINGS
from omnidali.catalog.probing import video_probe
from omnidali.decoding.excerpt import make_excerpt
from omnidali.testing.numbered_media import numbered_image

MATRIX = matrix.matrix()
EXTRAS = extras.extras()
TENTH = matrix.representative(MATRIX)
CHOSEN = [*TENTH, *matrix.one_of_each(EXTRAS)]
if os.environ.get("OMNIDALI_MATRIX") == "whole":
    CHOSEN = [*MATRIX, *EXTRAS]
CHOSEN.sort(key=lambda case: case.name)  # neighbours share their encoded packets
INSTALL = Path(__file__).with_name("install_tools")


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_frames_have_ffmpegs_numbers(case, tmp_path):
    if case.program or os.environ.get("OMNIDALI_REQUIRE_TOOLS") == "1":
        needs_tool("ffmpeg")
    path = tmp_path / case.name
    try:
        assert check.check(case, path) == []
    finally:
        path.unlink(missing_ok=True)


def test_matrix_omits_nothing_without_a_reason():
    kinds = list(itertools.product(CONTAINERS, CODECS, STRUCTURES, TIMINGS))
    made = [case.kind for case in MATRIX]
    reasons = {kind: matrix.omission(*kind) for kind in kinds if kind not in set(made)}
    assert sorted([*made, *reasons]) == sorted(kinds)
    assert len(set(made)) == len(made) >= 300
    assert all(reasons.values())
    names = [case.name for case in MATRIX + EXTRAS]
    assert len(set(names)) == len(names)


def test_tenth_covers_every_container_codec_structure_and_timing():
    assert len(TENTH) == len(MATRIX) // 10
    for axis, values in enumerate((CONTAINERS, CODECS, STRUCTURES, TIMINGS)):
        assert {case.kind[axis] for case in TENTH} == set(values)


@pytest.mark.parametrize("name", ["h264-pyramid-constant.mp4", "mjpeg-plain-constant.avi"])
def test_wrong_excerpt_is_detected(name, tmp_path, monkeypatch):
    def shifted(media, frames):
        excerpt = make_excerpt(media, frames)
        return replace(excerpt, places=(excerpt.places - 1).clip(0))

    (case,) = [case for case in MATRIX if case.name == name]
    assert check.check(case, tmp_path / name) == []
    monkeypatch.setattr(excerpts, "make_excerpt", shifted)
    found = check.check(case, tmp_path / name)
    assert any(problem.endswith("frame 7 differs") for problem in found)
    assert any(problem.startswith("DALI shows ") for problem in found) == name.startswith("mjpeg")


# mistakes of a reader, and how the check describes them
ERRORS = {
    "the next frame": "frame 7: shows 8 instead of 7",
    "a doubled frame": "frame 13: shows 12 instead of 13",
    "a frame of another file": "shows None instead of",
    "a dark frame": "off by",
    "another count": "27 frames instead of 28",
    "a refusal": "refused: ",
}


@pytest.mark.parametrize("error", ERRORS)
def test_wrong_reader_is_detected(error, tmp_path, monkeypatch):
    case = next(case for case in MATRIX if case.name == "h264-pyramid-constant.mp4")
    read, count = omnidali.read_frames, omnidali.count_frames
    others = {"the next frame": {7: 8}, "a doubled frame": {13: 12}}.get(error, {})
    decoy = numbered_image(DECOY, 0, *encoding.size_of("h264"))

    def read_wrong(path, numbers):
        if error == "a refusal":
            raise omnidali.UserError(str(path), "a video", "none", "Find another one.")
        frames = read(path, [others.get(number, number) for number in numbers])
        if error == "a frame of another file":
            frames[-1] = decoy
        return frames - frames // 8 if error == "a dark frame" else frames

    def count_wrong(path):
        return count(path) - (error == "another count")

    monkeypatch.setattr(omnidali, "read_frames", read_wrong, raising=False)
    monkeypatch.setattr(omnidali, "count_frames", count_wrong, raising=False)
    found = check.check(case, tmp_path / case.name)
    assert any(ERRORS[error] in line for line in found)


def test_both_references_agree_with_the_painted_numbers(tmp_path):
    needs_tool("ffmpeg")
    case = next(case for case in MATRIX if case.name == "hevc-open-edit.mp4")
    case.make(tmp_path / case.name)
    for decode in (reference.decode_by_program, reference.decode_by_pyav):
        assert tuple(map(reference.painted, decode(tmp_path / case.name))) == case.expected


def run_install(folder):
    """tests/install_tools where a folder holds all the programs there are."""
    return subprocess.run(
        ["/bin/bash", INSTALL], env={"PATH": str(folder)}, capture_output=True, text=True
    )


def test_tools_are_not_installed_twice(tmp_path):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    done = run_install(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tools_need_apt(tmp_path):
    done = run_install(tmp_path)
    assert done.returncode == 1
    assert "apt-get" in done.stderr


def believe_timestamps(monkeypatch):
    """Number frames by timestamps, with those that FFmpeg invents where a file has none."""
    decoded = video_probe.frames_by_decoding

    def believed(walk, order_by_times):
        frames = decoded(walk, order_by_times)
        return frames and replace(frames, packets=order_by_times)

    monkeypatch.setattr(video_probe, "frames_by_decoding", believed)
    # not asked for here
    monkeypatch.setattr(video_probe, "frames_by_headers", lambda walk, shown: None)


def test_matrix_detects_trust_in_invented_timestamps(monkeypatch, tmp_path):
    needs_tool("ffmpeg")
    believe_timestamps(monkeypatch)
    cases = [case for case in MATRIX if case.name.endswith((".avi", "restart.ts"))]
    cases = [
        case for case in cases if re.match("(h264|hevc|mpeg4|xvid)-(b|pyramid|packed)-", case.name)
    ]
    wrong = {case.name for case in cases if check.check(case, tmp_path / case.name)}
    assert len(wrong) >= len(cases) // 2 >= 5, wrong
    assert {"h264-b-constant.avi", "xvid-packed-constant.avi"} <= wrong
