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


@pytest.mark.parametrize("codec", ["wmv1", "wmv2", "msmpeg4v2", "msmpeg4v3"])
def test_codecs_of_its_time_are_read(tmp_path, codec):
    path = tmp_path / "a.asf"
    make_file(path, "wmv", codec, "plain")
    assert problems(path, range(28), by_pyav=True) == []
    probe = probe_video(FileSpan(str(path)))
    assert (probe.container, probe.codec) == ("asf", f"{codec}:indirect")
    assert omnidali.count_frames(path) == 28
