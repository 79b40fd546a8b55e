"""Images and videos that prove which frame came back: each shows its file's and its own number.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> import omnidali
>>> with TemporaryDirectory() as folder:
...     write_video(Path(folder, "a.mp4"), file=7, frames=30, width=112, height=80)
...     frames = omnidali.read_frames(Path(folder, "a.mp4"), [0, 29])
>>> [read_numbers(frame[:, 16:96]) for frame in frames]  # the square in the middle
[(7, 0), (7, 29)]
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from omnidali.testing.usual_priority import keeping_priority
from omnidali.utils.x264 import repeatable

BITS = 12  # of each number
_CELL = 1 / 20  # side of a bit's cell, as a share of the image's short side


def numbered_image(file: int, frame: int, width: int, height: int) -> np.ndarray:
    """Noise over a moving texture, with both numbers painted in the middle.

    Plain test patterns decode three times as fast as real videos: no measurement could use them.

    Args:
        file: number of the file, below ``2 ** BITS``.
        frame: number of the frame, below ``2 ** BITS``.
        width: pixels.
        height: pixels.

    Returns:
        uint8 (height, width, 3), RGB.

    >>> image = numbered_image(file=7, frame=29, width=112, height=80)
    >>> image.shape, read_numbers(image[:, 16:96])
    ((80, 112, 3), (7, 29))
    """
    rng = np.random.default_rng([file, frame])
    texture = np.random.default_rng(file).integers(30, 225, (8, 12, 3), np.uint8)
    large = cv2.resize(texture, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    left, top = (int(32 + 31 * np.sin(frame / 20 + phase)) for phase in (0, file))
    image = large[top : top + height, left : left + width].astype(np.int16)
    image += rng.integers(-10, 11, (height, width, 1), np.int16)
    image = np.clip(image, 0, 255).astype(np.uint8)

    for row, number in enumerate((file, frame)):
        for bit in range(BITS):
            (y0, y1), (x0, x1) = _cell(row, bit, width, height)
            image[y0:y1, x0:x1] = 255 if number >> bit & 1 else 0
    return image


def read_numbers(crop: np.ndarray) -> tuple[int, int]:
    """The numbers of the file and the frame that an image shows.

    Args:
        crop: the square in the middle that has the whole short side, scaled to any size:
            (S, S, 3), 0 to 255.
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


def write_image(
    path: Path, file: int, width: int = 500, height: int = 375, quality: int = 90, frame: int = 0
) -> None:
    """Write a numbered image in the format that the name's ending says.

    Args:
        path: of the file; its folder is made.
        file: number of the file.
        width: pixels.
        height: pixels.
        quality: of a JPEG, up to 100.
        frame: number of the frame, for an image in a folder of frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.cvtColor(numbered_image(file, frame, width, height), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    path.write_bytes(data.tobytes())


def write_video(
    path: Path,
    file: int,
    frames: int = 300,
    width: int = 340,
    height: int = 256,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 30,
    gop: int = 16,
    b_frames: int = 0,
    options: Mapping[str, str] = {},
    rotation: int = 0,
    times: Sequence[int] | None = None,
    first: int = 0,
    pixel_aspect: Fraction | None = None,
) -> None:
    """Write a numbered video in the container that the name's ending says.

    Args:
        path: of the file; its folder is made.
        file: number of the file.
        frames: how many there are.
        width: pixels.
        height: pixels.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        rate: frames a second.
        gop: frames from one keyframe to the next.
        b_frames: most of them in a row.
        options: of the encoder.
        rotation: degrees counter-clockwise by which players turn it.
        times: of the frames in milliseconds, for a variable frame rate.
        first: number of the first frame; numbers wrap at ``2 ** BITS``.
        pixel_aspect: width of a pixel divided by its height, as the file says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with keeping_priority(), av.open(str(path), "w") as container:
        stream = add_stream(
            container,
            codec,
            (width, height),
            pixels=pixels,
            rate=rate,
            gop=gop,
            b_frames=b_frames,
            options=options,
            rotation=rotation,
            times=times,
        )
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect

        for number in range(frames):
            milliseconds = None if times is None else times[number]
            frame = video_frame(file, first + number, width, height, milliseconds)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def add_stream(
    container: av.container.OutputContainer,
    codec: str,
    size: tuple[int, int],
    *,
    pixels: str = "yuv420p",
    rate: int = 30,
    gop: int = 16,
    b_frames: int = 0,
    options: Mapping[str, str] = {},
    rotation: int = 0,
    times: Sequence[int] | None = None,
) -> av.VideoStream:
    """Add an encoder to a container.

    Args:
        container: open for writing.
        codec: as for :func:`write_video`, and so are the others.
        size: width and height, pixels.
        pixels: the pixel format.
        rate: frames a second.
        gop: frames from one keyframe to the next.
        b_frames: most of them in a row.
        options: of the encoder.
        rotation: degrees counter-clockwise.
        times: not None for frames with times of their own in milliseconds.
    """
    stream = container.add_stream(
        codec,
        rate=Fraction(rate),
        options=repeatable(options) if codec == "libx264" else dict(options),
    )
    assert isinstance(stream, av.VideoStream)

    stream.width, stream.height = size
    stream.pix_fmt = pixels
    stream.codec_context.gop_size = gop
    stream.codec_context.max_b_frames = b_frames
    stream.codec_context.thread_count = 1
    if times is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


def video_frame(
    file: int, number: int, width: int, height: int, milliseconds: int | None
) -> av.VideoFrame:
    """A numbered image for an encoder, with a time of its own unless that is None."""
    image = numbered_image(file, number, width, height)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    if milliseconds is not None:
        frame.pts = milliseconds
        frame.time_base = Fraction(1, 1000)
    return frame


def _cell(row: int, bit: int, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, bottom), (left, right) of a bit's cell; the cells lie around the image's centre."""
    short = min(width, height)
    y = height / 2 + (row - 1) * 1.5 * _CELL * short
    x = width / 2 + (bit - BITS / 2) * 1.3 * _CELL * short
    side = _CELL * short
    return (round(y), round(y + side)), (round(x), round(x + side))
