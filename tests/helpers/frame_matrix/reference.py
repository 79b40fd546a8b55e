"""What FFmpeg decodes: by its program and by PyAV."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.container.core import Flags
from av.stream import Disposition
from av.video.reformatter import Interpolation

from helpers.frame_matrix.case import FILE, FRAMES, PATIENCE_SECONDS
from omnidali.testing.numbered_media import numbered_image, read_numbers

# how both references scale the planes of colour up
_SCALING = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def has_program() -> bool:
    """Whether the ffmpeg program is there."""
    return shutil.which("ffmpeg") is not None


def decode_by_program(path: Path) -> list[np.ndarray]:
    """Every frame that the ffmpeg program puts out: uint8 (H, W, 3), RGB."""
    # one thread: what more of them make of damage changes from run to run
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path)]
    # numbered anew: the program leaves out frames whose times do not rise
    command += ["-vf", "setpts=N", "-fps_mode", "passthrough", "-f", "image2pipe"]
    command += ["-c:v", "ppm", "-pix_fmt", "rgb24"]
    command += ["-sws_flags", "accurate_rnd+full_chroma_int+full_chroma_inp+bilinear", "-"]
    data = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS).stdout

    frames, place = [], 0
    while place < len(data):
        head = re.compile(rb"P6\n(\d+) (\d+)\n255\n").match(data, place)
        width, height = int(head[1]), int(head[2])
        pixels = np.frombuffer(data, np.uint8, width * height * 3, offset=head.end())
        frames.append(pixels.reshape(height, width, 3))
        place = head.end() + len(pixels)
    return frames


def decode_by_pyav(path: Path) -> list[np.ndarray]:
    """As :func:`decode_by_program`, of the stream that the program would choose."""
    with av.open(str(path)) as container:
        container.flags &= ~Flags.gen_pts.value
        streams = [stream for stream in container.streams.video if stream.codec_context is not None]
        stream = max(streams, key=_preference)
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        # as the program does, also where references are lost
        if stream.codec_context.name == "hevc":
            stream.codec_context.options = {"flags": "+output_corrupt"}
        frames = []
        for packet in container.demux(stream):
            for frame in _decoded(packet):
                coded = frame.to_ndarray(format="rgb24", interpolation=_SCALING)
                frames.append(np.rot90(coded, frame.rotation // 90))
        return frames


def _decoded(packet: av.Packet) -> list[av.VideoFrame]:
    """What a packet gives; the program, too, goes on after one that gives only an error."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _preference(stream: av.VideoStream) -> int:
    if stream.disposition & Disposition.attached_pic:
        return 0
    default = bool(stream.disposition & Disposition.default)
    return 1 + stream.codec_context.width * stream.codec_context.height + 5_000_000 * default


def painted(frame: np.ndarray) -> int | None:
    """The number that a frame shows; None if it is no upright frame of the right video."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    file, number = read_numbers(frame[top : top + side, left : left + side])
    return number if file == FILE else None


def whole_frames(frames: Sequence[np.ndarray]) -> set[int]:
    """Which frames are encoded pictures, each once, but for what the codec loses."""
    shown = [painted(frame) for frame in frames]
    losses = {}
    for place, (number, frame) in enumerate(zip(shown, frames, strict=True)):
        if number is not None and number < FRAMES and shown.count(number) == 1:
            height, width = frame.shape[:2]
            losses[place] = _distance(numbered_image(FILE, number, width, height), frame)
    usual = float(np.median(list(losses.values())))
    return {place for place, loss in losses.items() if loss < 1.2 * usual}


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


class Reference:
    """The right frames, and those that were found to be like them."""

    def __init__(self, frames: Sequence[np.ndarray]):
        self._frames: Sequence[np.ndarray] = frames
        self._passed: dict[int, np.ndarray] = {}

    def difference(self, frame: np.ndarray, number: int) -> str:
        """How a frame differs from the one of that number; empty if it is the same."""
        if number in self._passed and np.array_equal(frame, self._passed[number]):
            return ""
        right = self._frames[number]
        if frame.shape != right.shape:
            return f"shape {frame.shape} instead of {right.shape}"
        if painted(frame) != painted(right):
            return f"shows {painted(frame)} instead of {painted(right)}"
        off = _distance(frame, right)
        if off > 4:
            return f"off by {off:.1f}"

        first = max(0, number - 6)
        for place, other in enumerate(self._frames[first : number + 7], start=first):
            # where neighbours are alike, either will do
            if _distance(other[::2, ::2], right[::2, ::2]) > 2 and _distance(other, frame) < off:
                return f"nearer to frame {place} than to its own, which it is off by {off:.1f}"
        self._passed[number] = frame.copy()
        return ""
