"""ASF: seeks fail near the end of a file that begins late, and frames come all the same."""

import pytest

import omnidali
from helpers.frame_matrix.check import problems
from helpers.frame_matrix.containers import make_file
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.video_probe import probe_video


def test_frame_whose_time_no_seek_finds_is_read(tmp_path):
    path = tmp_path / "a.wmv"
    make_file(path, "wmv", "h264", "b", timing="late")
    assert problems(path, range(28), by_pyav=True) == []


def test_file_that_is_joined_to_another_is_named(tmp_path):
    """FFmpeg's demuxer ends before it."""
    path = tmp_path / "a.wmv"
    make_file(path, "wmv", "wmv2", "plain")
    data = path.read_bytes()
    assert probe_video(FileSpan(str(path))).note == ""
    for others in (data, data[:1000], data + data):
        path.write_bytes(data + others)
        probe = probe_video(FileSpan(str(path)))
        assert probe.frames == 28
        assert probe.note == f"another file is joined to it at byte {len(data)}: it is not used"
    for rest in (bytes(5000), b"x" * 5000, data[:20]):
        path.write_bytes(data + rest)
        assert probe_video(FileSpan(str(path))).note == ""


@pytest.mark.parametrize("codec", ["wmv1", "wmv2", "msmpeg4v2", "msmpeg4v3"])
def test_codecs_of_its_time_are_read(tmp_path, codec):
    path = tmp_path / "a.asf"
    make_file(path, "wmv", codec, "plain")
    assert problems(path, range(28), by_pyav=True) == []
    probe = probe_video(FileSpan(str(path)))
    assert (probe.container, probe.codec) == ("asf", f"{codec}:indirect")
    assert omnidali.count_frames(path) == 28
