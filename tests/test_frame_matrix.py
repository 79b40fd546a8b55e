"""The frames of every kind of video file are the ones that FFmpeg numbers so; tests/frame_matrix.py makes the files."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import frame_matrix
import pytest
from frame_matrix import CODECS, CONTAINERS, STRUCTURES, TIMINGS, Case, extras, matrix, omission, representative

MATRIX = matrix()
EXTRAS = extras()
WHOLE = os.environ.get("OMNIDALI_MATRIX") == "whole"
CHOSEN = (MATRIX if WHOLE else representative(MATRIX)) + EXTRAS
# neighbours share their encoded packets
CHOSEN = sorted(CHOSEN, key=lambda case: case.name)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_frames_are_those_that_ffmpeg_numbers_so(case, tmp_path):
    if case.program and not frame_matrix.has_program():
        if os.environ.get("OMNIDALI_REQUIRE_TOOLS") == "1":
            pytest.fail("the ffmpeg program is missing, and OMNIDALI_REQUIRE_TOOLS=1; tests/install_tools installs it")
        pytest.skip("the ffmpeg program is missing; tests/install_tools installs it")
    path = tmp_path / case.name
    try:
        assert frame_matrix.check(case, path) == []
    finally:
        path.unlink(missing_ok=True)
