"""Colours follow the matrix and the range of the file, as FFmpeg converts them exactly."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

import omnidali
from conftest import needs_tool
from helpers.ffmpeg_rgb import ffmpeg_rgb

MATRICES = {"bt709": 1, "fcc": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "bt2020nc": 9}

_PATCH = 16  # pixels of a side


def patches(width, height):
    """Flat patches of all colours: uint8 (height, width, 3), RGB."""
    levels = itertools.product((20, 90, 160, 235), repeat=3)
    out = np.zeros((height, width, 3), np.uint8)
    corners = itertools.product(range(0, height, _PATCH), range(0, width, _PATCH))
    for colour, (y, x) in zip(levels, corners, strict=False):
        out[y : y + _PATCH, x : x + _PATCH] = colour
    return out


def middles(picture):
    """The middle pixel of every patch."""
    return picture[_PATCH // 2 :: _PATCH, _PATCH // 2 :: _PATCH].astype(int)


def write_patches(path, matrix, is_full, pixels, rotation):
    """A lossless video of two frames of patches, with the tags of its matrix and range."""
    width, height = 128, 128
    # swscale converts with the matrix and the range that it is asked for; the tags match them
    frame = av.VideoFrame.from_ndarray(patches(width, height), format="rgb24").reformat(
        format=pixels, dst_colorspace=matrix, src_color_range=2, dst_color_range=2 if is_full else 1
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = (
            matrix,
            2 if is_full else 1,
        )
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_equal_ffmpegs_exact_conversion(tmp_path, matrix, is_full, pixels, rotation):
    needs_tool("ffmpeg")
    write_patches(tmp_path / "a.mkv", MATRICES[matrix], is_full, pixels, rotation)
    shown = omnidali.read_frames(tmp_path / "a.mkv", [0])[0]
    wanted = ffmpeg_rgb(tmp_path / "a.mkv", 128, 128)
    assert np.abs(middles(shown) - middles(wanted)).max() <= 3


@pytest.mark.parametrize(
    "pixels", ["gray", "rgb24", "bgr0", "yuv411p", "yuv410p", "gray16le", "yuva420p"]
)
def test_rare_pixel_formats_equal_ffmpegs_conversion(tmp_path, pixels):
    needs_tool("ffmpeg")
    path = tmp_path / "a.mkv"
    frame = av.VideoFrame.from_ndarray(patches(128, 128), format="rgb24")
    with av.open(str(path), "w") as container:
        codec = ("libx264rgb", {"crf": "0"}) if pixels == "rgb24" else ("ffv1", {})
        stream = container.add_stream(codec[0], rate=25, options=codec[1])
        stream.width, stream.height, stream.pix_fmt = 128, 128, pixels
        for packet in (*stream.encode(frame.reformat(format=pixels)), *stream.encode(None)):
            container.mux(packet)
    shown, wanted = omnidali.read_frames(path, [0])[0], ffmpeg_rgb(path, 128, 128)
    assert np.abs(middles(shown) - middles(wanted)).max() <= 3
