"""Excerpts decode to the wanted frames, hold no packet more than they need, and notice changes.

A tenth of the frame matrix and one container of every extra kind are checked, and all of them where
OMNIDALI_MATRIX=whole.
"""

import os

import numpy as np
import pytest

from conftest import media_of, needs_tool
from helpers.frame_matrix import extras, matrix
from helpers.frame_matrix.excerpts import excerpt_problems, has_excerpts
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.excerpt import make_excerpt
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video

MATRIX = matrix.matrix()
CASES = [*matrix.representative(MATRIX), *matrix.one_of_each(extras.extras())]
if os.environ.get("OMNIDALI_MATRIX") == "whole":
    CASES = [*MATRIX, *extras.extras()]
CODECS = ("av1", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9")
CASES = sorted(
    (
        case
        for case in CASES
        if case.name.startswith(CODECS) and not case.damaged and case.used is None
    ),
    key=lambda case: case.name,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_excerpts_decode_to_the_wanted_frames(case, tmp_path):
    if case.program or os.environ.get("OMNIDALI_REQUIRE_TOOLS") == "1":
        needs_tool("ffmpeg")
    path = tmp_path / case.name
    case.make(path)
    media = media_of(path)
    if has_excerpts(media):
        assert excerpt_problems(path) == []
    elif media.codec.partition(":")[2].startswith(("indirect", "uncounted")):
        with pytest.raises(DecodeError, match="no excerpt"):
            make_excerpt(media, np.array([0]))
    else:
        assert media.codec.partition(":")[2], "the reason why it is the CPU's"
