"""Media with painted numbers that the checks make for themselves, each once."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av

from omnidali.testing.numbered_media import add_stream, video_frame, write_image
from omnidali.testing.usual_priority import keeping_priority

BT601 = 6  # FFmpeg's numbers of the matrices
BT709 = 1
LIMITED = 1
FULL = 2
_RATE = 30  # frames a second


class _Encoder(NamedTuple):
    name: str
    ending: str
    options: dict[str, str]
    pixels: str = "yuv420p"


_VPX = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}
_ENCODERS = {
    "h264": _Encoder("libx264", "mp4", {"preset": "veryfast", "crf": "20"}),
    "hevc": _Encoder(
        "libx265", "mp4", {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none"}
    ),
    "av1": _Encoder(
        "libsvtav1", "mp4", {"preset": "10", "crf": "25", "svtav1-params": "lp=2:pred-struct=1"}
    ),
    "mpeg4": _Encoder("mpeg4", "mp4", {"b": "4000000"}),
    "vp9": _Encoder("libvpx-vp9", "webm", _VPX),
    "vp8": _Encoder("libvpx", "webm", _VPX),
    "mjpeg": _Encoder("mjpeg", "avi", {"q": "4"}, "yuvj420p"),
}


@dataclass(frozen=True)
class Video:
    """A numbered video to be made.

    Attributes:
        codec: FFmpeg's name of the codec.
        width: pixels.
        height: pixels.
        frames: how many.
        gop: frames from one keyframe to the next.
        b_frames: most of them in a row.
        file: the number that its frames show beside their own.
        matrix: FFmpeg's number of the colour matrix, which the file names; 0: it names none.
        colour_range: limited or full.
        begin: added to all timestamps, in frames; below 0 the container hides what lies before 0.
        ending: of the name, which chooses the container; "": the codec's usual one.
    """

    codec: str
    width: int
    height: int
    frames: int = 24
    gop: int = 8
    b_frames: int = 0
    file: int = 1
    matrix: int = 0
    colour_range: int = LIMITED
    begin: int = 0
    ending: str = ""

    @property
    def name(self) -> str:
        """Of the file."""
        parts = (self.codec, f"{self.width}x{self.height}", self.frames, self.gop, self.b_frames)
        colour = (self.file, self.matrix, self.colour_range, self.begin)
        ending = self.ending or _ENCODERS[self.codec].ending
        return "-".join(map(str, (*parts, *colour))) + f".{ending}"


class MediaFolder:
    """Files that are made when somebody needs them first.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def video(self, video: Video) -> Path:
        """The path of a video."""
        path = self.folder / video.name
        if not path.exists():
            aside = path.with_name(f"part-{os.getpid()}-{path.name}")
            _write(aside, video)
            os.replace(aside, path)  # a process that is ended leaves no half file
        return path

    def videos(self, wanted: Iterable[Video]) -> list[Path]:
        """The paths of several videos, made on all cores."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self.video, wanted))

    def image(self, file: int, width: int = 500, height: int = 375, ending: str = "jpg") -> Path:
        """The path of a numbered image."""
        path = self.folder / f"{file}-{width}x{height}.{ending}"
        if not path.exists():
            aside = path.with_name(f"part-{os.getpid()}-{path.name}")
            write_image(aside, file, width, height)
            os.replace(aside, path)
        return path


def _write(path: Path, video: Video) -> None:
    encoder = _ENCODERS[video.codec]
    with keeping_priority(), av.open(str(path), "w") as container:
        stream = add_stream(
            container,
            encoder.name,
            (video.width, video.height),
            pixels=encoder.pixels,
            rate=_RATE,
            gop=video.gop,
            b_frames=video.b_frames,
            options=encoder.options,
        )
        if video.matrix:
            stream.codec_context.colorspace = video.matrix
            stream.codec_context.color_range = video.colour_range

        packets = []
        for number in range(video.frames):
            frame = video_frame(video.file, number, video.width, video.height, None)
            if video.matrix:
                frame = frame.reformat(
                    format=encoder.pixels,
                    dst_colorspace=video.matrix,
                    src_color_range=FULL,
                    dst_color_range=video.colour_range,
                )
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            assert packet.pts is not None and packet.dts is not None  # encoders set both
            shift = round(video.begin / _RATE / packet.time_base)
            packet.pts += shift
            packet.dts += shift
            container.mux(packet)
