"""Pictures of known colours, written as videos of every matrix and range."""

import itertools
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MATRICES = {"bt709": 1, "fcc": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "bt2020nc": 9}
SIDE = 128  # pixels of a picture

_PATCH = 16  # pixels of a side


def patches() -> np.ndarray:
    """Flat patches of all colours: uint8 (SIDE, SIDE, 3), RGB."""
    levels = itertools.product((20, 90, 160, 235), repeat=3)
    out = np.zeros((SIDE, SIDE, 3), np.uint8)
    corners = itertools.product(range(0, SIDE, _PATCH), repeat=2)
    for colour, (y, x) in zip(levels, corners, strict=False):
        out[y : y + _PATCH, x : x + _PATCH] = colour
    return out


def middles(picture: np.ndarray) -> np.ndarray:
    """The middle pixel of every patch."""
    return picture[_PATCH // 2 :: _PATCH, _PATCH // 2 :: _PATCH].astype(int)


def write_tagged(
    path: Path,
    picture: np.ndarray,
    *,
    matrix: int,
    is_full: bool,
    pixels: str = "yuv420p",
    codec: str = "ffv1",
    options: Mapping[str, str] | None = None,
    rotation: int = 0,
) -> None:
    """A video of two equal frames, with the tags of its matrix and range.

    Args:
        path: of the file.
        picture: uint8 (H, W, 3), RGB.
        matrix: FFmpeg's number.
        is_full: whether its range is the full one.
        pixels: FFmpeg's name of the pixel format.
        codec: lossless, unless the options say otherwise.
        options: of the codec.
        rotation: degrees.
    """
    color_range = 2 if is_full else 1
    height, width = picture.shape[:2]
    # swscale converts with the matrix and the range that it is asked for; the tags match them
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=pixels, dst_colorspace=matrix, src_color_range=2, dst_color_range=color_range
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = color_range
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
