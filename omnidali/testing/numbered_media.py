"""Media that prove which frame came back: every picture carries its file's and its own number.

Used by the benchmarks, whose figures count only behind that proof, and by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from omnidali.utils.x264 import repeatable

BITS = 12  # of each number
_CELL = 1 / 20  # side of a bit's cell, as a share of the picture's short side


def picture(file: int, frame: int, width: int, height: int) -> np.ndarray:
    """Noise over a moving texture with both numbers painted in the middle: uint8 (height, width,
    3), RGB.

    Plain test patterns decode three times too fast to measure anything by.
    """
    rng = np.random.default_rng([file, frame])
    texture = np.random.default_rng(file).integers(30, 225, (8, 12, 3), np.uint8)
    large = cv2.resize(texture, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    left, top = (int(32 + 31 * np.sin(frame / 20 + phase)) for phase in (0, file))
    out = large[top : top + height, left : left + width].astype(np.int16)
    out += rng.integers(-10, 11, (height, width, 1), np.int16)
    out = np.clip(out, 0, 255).astype(np.uint8)
    for row, number in enumerate((file, frame)):
        for bit in range(BITS):
            (y0, y1), (x0, x1) = _cell(row, bit, width, height)
            out[y0:y1, x0:x1] = 255 if number >> bit & 1 else 0
    return out


def read_numbers(crop: np.ndarray) -> tuple[int, int]:
    """(file, frame) from a square crop of the whole short side, scaled to any size: (S, S, 3),
    0..255.
    """
    side = crop.shape[0]
    numbers = [0, 0]
    for row in range(2):
        for bit in range(BITS):
            (y0, y1), (x0, x1) = _cell(row, bit, side, side)
            inner = crop[
                (3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4 + 1,
                (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4 + 1,
            ]
            numbers[row] |= int(inner.mean() > 127) << bit
    return numbers[0], numbers[1]


def write_photo(
    path: Path, file: int, width: int = 500, height: int = 375, quality: int = 90, frame: int = 0
) -> None:
    """A numbered photo in the format that the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.cvtColor(picture(file, frame, width, height), cv2.COLOR_RGB2BGR)
    path.write_bytes(
        cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    )


def write_video(
    path: Path,
    file: int,
    frames: int = 300,
    width: int = 340,
    height: int = 256,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 30,
    gop: int = 16,
    b_frames: int = 0,
    options: Mapping[str, str] = {},
    rotation: int = 0,
    times: list[int] | None = None,
    first: int = 0,
    pixel_aspect: Fraction | None = None,
) -> None:
    """A numbered video.

    Args:
        first: number of the first frame; numbers wrap at 2 ** BITS.
        rotation: degrees counter-clockwise that viewers turn it by.
        times: of the frames in milliseconds, for a variable frame rate.
        pixel_aspect: width of a pixel by its height, as the file shall say.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = add_stream(
            container, codec, (width, height), pixels, rate, gop, b_frames, options, rotation, times
        )
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for number in range(frames):
            stamp = None if times is None else times[number]
            container.mux(stream.encode(video_frame(file, first + number, width, height, stamp)))
        container.mux(stream.encode(None))


def add_stream(
    container: av.container.OutputContainer,
    codec: str,
    size: tuple[int, int],
    pixels: str,
    rate: int,
    gop: int,
    b_frames: int,
    options: Mapping[str, str],
    rotation: int,
    times: Sequence[int] | None,
) -> av.VideoStream:
    """An encoder in a container; arguments as those of :func:`write_video`."""
    options = repeatable(options) if codec == "libx264" else dict(options)
    stream = container.add_stream(codec, rate=Fraction(rate), options=options)
    (stream.width, stream.height), stream.pix_fmt = size, pixels
    stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
    stream.codec_context.thread_count = 1
    if times is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


def video_frame(
    file: int, number: int, width: int, height: int, milliseconds: int | None
) -> av.VideoFrame:
    """A numbered picture for an encoder, shown at a time of its own unless that is None."""
    frame = av.VideoFrame.from_ndarray(picture(file, number, width, height), format="rgb24")
    if milliseconds is not None:
        frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
    return frame


def _cell(row: int, bit: int, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, bottom), (left, right) of a bit's cell; cells sit around the picture's centre."""
    short = min(width, height)
    y = height / 2 + (row - 1) * 1.5 * _CELL * short
    x = width / 2 + (bit - BITS / 2) * 1.3 * _CELL * short
    side = _CELL * short
    return (round(y), round(y + side)), (round(x), round(x + side))
