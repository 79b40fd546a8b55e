"""One video or image of a training copy: small, upright, and cheap to decode at any frame."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.frame_planes import is_full_range, show_upright
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.video_container import open_video, video_stream
from omnidali.curation.copies.copy_check import check_headers, compare_with_original, copied_matrix
from omnidali.curation.copies.copy_size import image_size, video_size
from omnidali.decoding.demuxer import frames_from
from omnidali.decoding.failure_cause import cause_of
from omnidali.decoding.image import as_shown, orientation_flag
from omnidali.decoding.video import upright_size
from omnidali.errors import DecodeError
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.heartbeat import report_progress
from omnidali.utils.x264 import repeatable

JPEG_QUALITY = 90
# frames a second that x264 gets: we write real timestamps, which do not sway its choices
_RATE = 30
_UNKNOWN_RATE = 25  # frames a second of videos without timestamps, as where pieces are cut
_FINE = Fraction(1, 1_000_000)  # seconds between frames that had the same timestamp, about


@dataclass(frozen=True)
class Recipe:
    """How videos are encoded: H.264, 8-bit 4:2:0, closed GOPs.

    Attributes:
        gop: frames of each GOP.
        crf: quality, smaller is better.
        preset: of x264, what encoding may cost.
        tune: of x264; ``fastdecode`` leaves out the loop filter, CABAC and weighted prediction.
        b_frames: between two other frames; no frame refers to them.
    """

    gop: int
    crf: int
    preset: str
    tune: str
    b_frames: int = 0

    @property
    def options(self) -> dict[str, str]:
        """For FFmpeg's libx264; a copy that is made again has the same bytes."""
        exact = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:bframes={self.b_frames}"
        if self.b_frames:  # as many as there may be: x264 would choose fewer, of which some refer
            exact += ":b-adapt=0:b-pyramid=none"
        return repeatable(
            {"preset": self.preset, "crf": str(self.crf), "tune": self.tune, "x264-params": exact}
        )

    def __str__(self) -> str:
        text = f"h264 gop {self.gop}, crf {self.crf}, {self.preset}, tune {self.tune}"
        # the texts of copies that have none are older than B-frames
        return f"{text}, {self.b_frames} B-frames" if self.b_frames else text


# README says what each costs and brings. Slower presets save 3 % at the same PSNR for 2.5 times the
# encoding; CABAC saves 8 % for 1.8 times the decoding. Keyframes alone need a lower crf for the
# PSNR of `small`, and B-frames for that of `fast`: RESULTS.md compares GOPs with them.
RECIPES = {
    "fast": Recipe(8, 23, "veryfast", "fastdecode"),
    "access": Recipe(16, 21, "veryfast", "fastdecode", b_frames=7),
    "small": Recipe(16, 26, "veryfast", "fastdecode"),
    "intra": Recipe(1, 21, "veryfast", "fastdecode"),
}


class ScaledFrame(NamedTuple):
    """A frame of a copy.

    Attributes:
        planes: uint8 (3 H / 2, W), Y, U and V after each other.
        matrix: FFmpeg's number of the matrix that made them of RGB.
        decoded: False if it fills the place of a frame that did not decode.
    """

    planes: np.ndarray
    matrix: int
    decoded: bool


def encode_image(media: Media, path: Path, short_side: int) -> None:
    """Write an image as JPEG, upright and without metadata.

    A JPEG that is small enough is copied as it is.

    Raises:
        DecodeError: if it cannot be read, or is not of the size that its header says.
        OSError: if the copy cannot be written.
    """
    try:
        data = media.span.read_bytes()
        header = read_image_header(data)
        image = cv2.imdecode(
            np.frombuffer(header.without_metadata(data), np.uint8),
            cv2.IMREAD_COLOR | orientation_flag(header),
        )
    except UnsupportedMediaError as refusal:
        raise DecodeError(str(refusal)) from None
    except (OSError, cv2.error) as error:
        raise cause_of(error).error() from None

    stored = (media.width, media.height)
    image = None if image is None else as_shown(image, header)
    if image is None or image.shape[1::-1] != stored:
        found = "no picture" if image is None else f"{image.shape[1]}x{image.shape[0]} pixels"
        raise DecodeError(f"{found} where the header said {media.width}x{media.height}")

    size = image_size(*stored, short_side)
    if size != stored:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if size != stored or header.codec != "jpeg":
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    path.write_bytes(data)


def encode_video(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None = None
) -> int:
    """Write the frames of a video as MP4, in presentation order and at their times.

    A frame that does not decode is replaced by the next one that does.

    Args:
        media: the original.
        path: of the copy.
        recipe: how it is encoded.
        short_side: pixels, as :func:`~omnidali.curation.copies.copy_size.video_size` means it.
        limit: how many frames are written at most.

    Returns:
        How many frames were replaced.

    Raises:
        DecodeError: if less than half of the frames decode, or the copy is not as it must be.
        OSError, av.FFmpegError: if the copy cannot be written.
    """
    count = min(media.frames, limit or media.frames)
    size = video_size(media.width, media.height, short_side)
    seconds, ticks, tick = _timing(media, count)
    replaced: list[int] = []

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as copy:
        stream = copy.add_stream("libx264", rate=_RATE, options=recipe.options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = tick
        encoder = stream.codec_context
        encoder.thread_count = 1
        encoder.color_range = int(ColorRange.MPEG)

        def write(frame: av.VideoFrame | None) -> None:
            for packet in stream.encode(frame):
                assert packet.pts is not None and packet.dts is not None
                packet.pts, packet.dts = _ticks_of(packet.pts, ticks), _ticks_of(packet.dts, ticks)
                packet.time_base = tick
                copy.mux(packet)

        for number, scaled in enumerate(scaled_frames(media, *size, count)):
            report_progress()  # also if one frame is repeated many times
            if number == 0:
                encoder.colorspace = scaled.matrix
            if not scaled.decoded:
                replaced.append(number)
            frame = av.VideoFrame.from_ndarray(scaled.planes, format="yuv420p")
            frame.pts = number
            frame.time_base = Fraction(1, _RATE)
            write(frame)
        write(None)

    if 2 * len(replaced) > count:
        raise DecodeError(f"{len(replaced)} of {count} frames do not come out")
    check_headers(path, seconds, size, recipe.gop)
    compare_with_original(media, path, replaced)
    return len(replaced)


def _ticks_of(number: int, ticks: np.ndarray) -> int:
    """The time of a frame; with B-frames a decoder begins before the first one is shown."""
    if number >= 0:
        return int(ticks[number])
    distance = int(ticks[1] - ticks[0]) if len(ticks) > 1 else 1
    return int(ticks[0]) + number * distance


def scaled_frames(media: Media, width: int, height: int, count: int) -> Iterator[ScaledFrame]:
    """Yield the first ``count`` frames, upright and scaled to (width, height), limited range.

    Raises:
        DecodeError: if the file cannot be read, or gives no frame.
    """
    number = 0
    last = None
    coded = (height, width) if media.rotation % 180 else (width, height)
    for index, frame in frames_from(media):
        if index < number or upright_size(frame, media) != media.stored:
            continue
        last = ScaledFrame(_upright_planes(frame, media, *coded), copied_matrix(frame), True)
        for _ in range(number, min(index, count)):
            yield last._replace(decoded=False)
        if index < count:
            yield last
        number = index + 1
        if number >= count:
            return

    if last is None:
        raise DecodeError("no frame comes out")
    for _ in range(number, count):
        yield last._replace(decoded=False)


def _upright_planes(frame: av.VideoFrame, media: Media, width: int, height: int) -> np.ndarray:
    """Scale a coded frame, and turn it as its video says: the planes of :class:`ScaledFrame`.

    The matrix of its colours stays.
    """
    planes = frame.reformat(
        width,
        height,
        "yuv420p",
        interpolation=Interpolation.BICUBIC,
        threads=1,
        src_color_range=ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
    ).to_ndarray()
    if not media.rotation and not media.mirrored:
        return planes

    luma, *chroma = np.split(planes.reshape(-1), [height * width, height * width * 5 // 4])
    halves = [plane.reshape(height // 2, width // 2) for plane in chroma]
    turned = [
        show_upright(plane, media.rotation, media.mirrored)
        for plane in (luma.reshape(height, width), *halves)
    ]
    return np.concatenate([plane.reshape(-1) for plane in turned]).reshape(-1, turned[0].shape[1])


def _timing(media: Media, count: int) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """Times of ``count`` frames from the first one's: in seconds, in ticks, and seconds of a tick.

    MP4 needs every timestamp above the one before: equal ones are put about a microsecond apart.
    """
    try:
        with open_video(media.span, media.container) as container:
            stream = video_stream(container)
            assert stream is not None and stream.time_base is not None
            tick = stream.time_base
            rate = stream.average_rate or stream.base_rate or _UNKNOWN_RATE
    except (UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise cause_of(error).error() from None

    times = media.frame_times
    if times is None:
        times = np.arange(count)
        tick = 1 / Fraction(rate)
    times = times[:count] - times[0]
    repeats = np.arange(count) - np.searchsorted(times, times)
    factor = max(int(repeats.max()) + 1, round(tick / _FINE)) if repeats.any() else 1
    return times * float(tick), times * factor + repeats, tick / factor


# Takes the original, the copy's path, a recipe, the short side and the most frames that are copied.
# Returns how many frames did not decode and were replaced.
#
# Raises DecodeError if the original cannot be copied; OSError or av.FFmpegError if the copy cannot
# be written.
Encoder = Callable[[Media, Path, Recipe, int, int | None], int]


def _encode_image(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    call_isolated(encode_image, media, path, short_side)
    return 0


def _encode_video(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    replaced = call_isolated(encode_video, media, path, recipe, short_side, limit)
    assert isinstance(replaced, int)
    return replaced


def _encode_folder(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    """Copy the images of a folder of frames; none is left if one fails."""
    path.mkdir(exist_ok=True)
    images = [media.frame(number) for number in range(min(media.frames, limit or media.frames))]
    copies = [path / os.path.basename(image.path) for image in images]
    with contextlib.ExitStack() as undo:
        for image, copy in zip(images, copies, strict=True):
            undo.callback(copy.unlink, missing_ok=True)
            ENCODERS[MediaKind.IMAGE](image, copy, recipe, short_side, None)
        undo.pop_all()
    return 0


ENCODERS: dict[MediaKind, Encoder] = {
    MediaKind.IMAGE: _encode_image,
    MediaKind.VIDEO: _encode_video,
    MediaKind.UNTRIMMED: _encode_video,
    MediaKind.FRAMES: _encode_folder,
}
