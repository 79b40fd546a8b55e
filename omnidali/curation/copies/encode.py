"""One video or photo of a training copy: small, upright, and cheap to decode from any frame on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from omnidali.catalog.database.store import Media
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.frame_planes import is_full_range, show_upright
from omnidali.catalog.probing.probe import (
    Probe,
    open_video,
    probe_video,
    unpack_numbers,
    unpack_times,
    video_stream,
)
from omnidali.catalog.probing.sniff import UnsupportedMediaError, read_image_header
from omnidali.curation.copies.copy_check import check_frames, copied_matrix
from omnidali.decoding.demuxer import frames_from
from omnidali.decoding.failure_cause import cause_of
from omnidali.decoding.image import orientation_flag, upright
from omnidali.decoding.video import upright_size
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import moves_on
from omnidali.utils.x264 import repeatable

JPEG_QUALITY = 90
# frames a second that x264 is told: real timestamps are written by us and do not sway its choices
_RATE = 30
_RATE_IF_UNKNOWN = 25  # as where pieces are cut
_FINE = Fraction(1, 1_000_000)  # seconds between frames that had the same timestamp, about


@dataclass(frozen=True)
class Recipe:
    """How videos are encoded: H.264, 8-bit 4:2:0, closed GOPs of exactly ``gop`` frames, no
    B-frames.

    Attributes:
        crf: quality, smaller is better. preset: of x264, what encoding may cost.
        tune: of x264; ``fastdecode`` leaves out the loop filter, CABAC and weighted prediction.
    """

    gop: int
    crf: int
    preset: str
    tune: str

    @property
    def options(self) -> dict[str, str]:
        """For FFmpeg's libx264; a copy that is made again has the same bytes."""
        exact = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:bframes=0"
        return repeatable(
            {"preset": self.preset, "crf": str(self.crf), "tune": self.tune, "x264-params": exact}
        )

    def __str__(self) -> str:
        return f"h264 gop {self.gop}, crf {self.crf}, {self.preset}, tune {self.tune}"


# README says what each costs and brings. Slower presets save 3 % at the same PSNR for 2.5 times the
# encoding; CABAC saves 8 % for 1.8 times the decoding. Keyframes alone need a lower crf for the
# PSNR of `small`.
RECIPES = {
    "fast": Recipe(8, 23, "veryfast", "fastdecode"),
    "small": Recipe(16, 26, "veryfast", "fastdecode"),
    "intra": Recipe(1, 21, "veryfast", "fastdecode"),
}


class Picture(NamedTuple):
    """A frame of a copy.

    Attributes:
        planes: uint8 (3 H / 2, W), Y, U and V after each other.
        matrix: FFmpeg's number of the matrix that made them of RGB.
        came: False where it stands for another one that did not.
    """

    planes: np.ndarray
    matrix: int
    came: bool


def scaled_size(width: int, height: int, short_side: int, even: bool = False) -> tuple[int, int]:
    """(width, height) with the short side scaled down to ``short_side``, never up.

    >>> scaled_size(852, 480, 256, even=True), scaled_size(97, 64, 256, even=True)
    ((454, 256), (96, 64))
    """
    scale, unit = min(1.0, short_side / min(width, height)), 2 if even else 1
    # a whole pixel is cut off rather than made up where an odd side must become even
    return tuple(
        max(unit, int(side * scale / unit + (0.5 if scale < 1 else 0)) * unit)
        for side in (width, height)
    )


def encode_video(
    media: Media,
    path: Path,
    recipe: Recipe,
    short_side: int,
    limit: int | None = None,
    first: int = 0,
) -> int:
    """Write every frame of a video, in presentation order and with its distance from the first, as
    MP4.

    A frame that the source does not give is replaced by the next one that it gives.

    Args:
        limit: how many frames at most. first: the frame to begin with, which counts as the first.

    Returns:
        How many frames were replaced.

    Raises:
        DecodeError: if less than half of the frames come out, or the copy is not as it must be.
        OSError, av.FFmpegError: if the copy cannot be written.
    """
    count = min(media.frames - first, limit or media.frames)
    width, height = scaled_size(media.width, media.height, short_side, even=True)
    seconds, ticks, tick = _timing(media, count, first)
    replaced: list[int] = []
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as copy:
        stream = copy.add_stream("libx264", rate=_RATE, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = (
            width,
            height,
            "yuv420p",
            tick,
        )
        encoder = stream.codec_context
        encoder.thread_count, encoder.color_range = 1, int(ColorRange.MPEG)

        def write(packets) -> None:
            for packet in packets:  # without B-frames they come in presentation order
                packet.pts = packet.dts = int(ticks[packet.pts])
                packet.time_base = tick
                copy.mux(packet)

        for number, picture in enumerate(pictures(media, width, height, count, first)):
            moves_on()  # also where one frame stands for many
            if number == 0:
                encoder.colorspace = picture.matrix
            if not picture.came:
                replaced.append(number)
            frame = av.VideoFrame.from_ndarray(picture.planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            write(stream.encode(frame))
        write(stream.encode(None))
    if 2 * len(replaced) > count:
        raise DecodeError(f"{len(replaced)} of {count} frames do not come out")
    _check(path, seconds, (width, height), recipe)
    check_frames(media, path, first, replaced)
    return len(replaced)


def pictures(
    media: Media, width: int, height: int, count: int, first: int = 0
) -> Iterator[Picture]:
    """``count`` frames from ``first`` on in presentation order, upright and scaled to (width,
    height), limited range.

    Raises:
        DecodeError: if the file cannot be read, or gives no frame.
    """
    number, last, end = first, None, first + count
    coded = (height, width) if media.rotation % 180 else (width, height)
    for index, frame in frames_from(media, first):
        if index < number or upright_size(frame, media) != media.stored:
            continue
        last = Picture(_scaled(frame, media, *coded), copied_matrix(frame), came=True)
        for _ in range(number, min(index, end)):
            yield last._replace(came=False)
        if index < end:
            yield last
        number = index + 1
        if number >= end:
            return
    if last is None:
        raise DecodeError("no frame comes out")
    for _ in range(number, end):
        yield last._replace(came=False)


def _scaled(frame: av.VideoFrame, media: Media, width: int, height: int) -> np.ndarray:
    """The planes of :class:`Picture` of a coded frame, upright; the matrix of its colours stays."""
    is_full = is_full_range(frame)
    small = frame.reformat(
        width,
        height,
        "yuv420p",
        interpolation=Interpolation.BICUBIC,
        threads=1,
        src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
    )
    return _upright(small.to_ndarray(), media.rotation, media.mirrored)


def encode_photo(media: Media, path: Path, short_side: int) -> None:
    """Write a photo as JPEG, upright and without metadata; a JPEG that is small enough is copied as
    it is.

    Raises:
        DecodeError: if it cannot be read, or is not of the size that its header says.
        OSError: if the copy cannot be written.
    """
    try:
        data = media.span.read_bytes()
        header = read_image_header(data)
        picture = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | orientation_flag(header)
        )
    except UnsupportedMediaError as refusal:
        raise DecodeError(str(refusal)) from None
    except (OSError, cv2.error) as error:
        raise cause_of(error).error() from None

    picture = None if picture is None else upright(picture, header.orientation)
    if picture is None or picture.shape[:2] != (media.height, media.width):
        found = "no picture" if picture is None else f"{picture.shape[1]}x{picture.shape[0]} pixels"
        raise DecodeError(f"{found} where the header said {media.width}x{media.height}")

    size = scaled_size(media.width, media.height, short_side)
    if size != (media.width, media.height):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    elif header.codec == "jpeg":
        path.write_bytes(data)
        return
    path.write_bytes(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    )


def _upright(planes: np.ndarray, rotation: int, mirrored: bool) -> np.ndarray:
    """Turn a picture of :class:`Picture` as
    :func:`~omnidali.catalog.probing.frame_planes.frame_orientation` says.
    """
    if not rotation and not mirrored:
        return planes
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    y, u, v = np.split(planes.reshape(-1), [height * width, height * width * 5 // 4])
    turned = [show_upright(y.reshape(height, width), rotation, mirrored)]
    turned += [
        show_upright(colour.reshape(height // 2, width // 2), rotation, mirrored)
        for colour in (u, v)
    ]
    return np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, turned[0].shape[1])


def _timing(media: Media, count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """Seconds of ``count`` frames from ``first`` on, which is at 0, and the same in rising ticks of
    the last value.

    MP4 needs every timestamp above the one before: equal ones are put about a microsecond apart.
    """
    try:
        with open_video(media.span, media.container) as container:
            stream = video_stream(container)
            tick, rate = (
                stream.time_base,
                stream.average_rate or stream.base_rate or _RATE_IF_UNKNOWN,
            )
    except (UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise cause_of(error).error() from None
    times = media.frame_times
    if times is None:
        times, tick = np.arange(first + count), 1 / Fraction(rate)
    times = times[first : first + count] - times[first]
    repeats = np.arange(count) - np.searchsorted(times, times)
    factor = max(int(repeats.max()) + 1, round(tick / _FINE)) if repeats.any() else 1
    return times * float(tick), times * factor + repeats, tick / factor


def probe_written(path: Path, seconds: np.ndarray) -> Probe:
    """Probe a file as the catalog will.

    Raises:
        DecodeError: if it does not have exactly one frame at each of these seconds after its first
            one.
    """
    try:
        written = probe_video(FileSpan(str(path)))
    except UnsupportedMediaError as refusal:
        raise DecodeError(f"the file is refused: {refusal}") from None
    if written.frames != len(seconds):
        raise DecodeError(f"the file has {written.frames} frames, not {len(seconds)}")
    times = unpack_times(written.timing, written.frames)
    if times is None or np.abs((times - times[0]) * written.tick - seconds).max() > 1e-5:
        raise DecodeError("the file's timestamps are not the original's")
    return written


def _check(path: Path, seconds: np.ndarray, size: tuple[int, int], recipe: Recipe) -> None:
    copy = probe_written(path, seconds)
    if (
        (copy.width, copy.height) != size
        or copy.codec != "h264"
        or not np.array_equal(unpack_numbers(copy.keyframes), np.arange(0, copy.frames, recipe.gop))
    ):
        raise DecodeError(
            f"the copy is {copy.codec} of {copy.width}x{copy.height}, or has other keyframes"
        )
