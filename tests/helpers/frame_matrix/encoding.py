"""Encodes the numbered frames of the frame matrix."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from helpers.frame_matrix.case import FILE, FRAMES, GOP, PATIENCE_SECONDS, RATE
from omnidali.testing.numbered_media import add_stream, numbered_image, video_frame
from omnidali.testing.usual_priority import keeping_priority

os.environ.setdefault("SVT_LOG", "1")  # or its encoder prints its settings

HEADER_APART = ("mp4", "mov", "mkv", "webm", "flv", "3gp")  # they hold the codec's header
BY_PROGRAM = ("xvid", "theora")  # PyAV brings no encoder
_X264 = {"preset": "ultrafast", "crf": "16"}
_X265 = "log-level=none:pools=none:frame-threads=1:scenecut=0:keyint=9:min-keyint=9:b-adapt=0"
_LOW_LOSS = {"qmin": "2", "qmax": "3"}
_CLOSED = {"flags": "+cgop", "sc_threshold": "1000000000"}
_REALTIME = {"deadline": "realtime", "cpu-used": "8", "b": "4M"}

# codec: encoder, pixel format, options
_ENCODERS = {
    "h264": ("libx264", "yuv420p", _X264),
    "hevc": ("libx265", "yuv420p", _X264),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12", "crf": "20"}),
    "vp8": ("libvpx", "yuv420p", _REALTIME),
    "vp9": ("libvpx-vp9", "yuv420p", _REALTIME),
    "mpeg4": ("mpeg4", "yuv420p", _LOW_LOSS),
    "mpeg2": ("mpeg2video", "yuv420p", _LOW_LOSS),
    "mpeg1": ("mpeg1video", "yuv420p", _LOW_LOSS),
    "mjpeg": ("mjpeg", "yuvj420p", _LOW_LOSS),
    "h263": ("h263", "yuv420p", _LOW_LOSS),
    "flv1": ("flv", "yuv420p", _LOW_LOSS),
    "msmpeg4v3": ("msmpeg4", "yuv420p", _LOW_LOSS),
    "msmpeg4v2": ("msmpeg4v2", "yuv420p", _LOW_LOSS),
    "wmv1": ("wmv1", "yuv420p", _LOW_LOSS),
    "wmv2": ("wmv2", "yuv420p", _LOW_LOSS),
    "prores": ("prores_ks", "yuv422p10le", {}),
    "ffv1": ("ffv1", "yuv420p", {}),
    "gif": ("gif", "rgb8", {}),
}

_X264_STRUCTURES = {
    "plain": "bframes=0",
    "b": "bframes=2:b-pyramid=none",
    "pyramid": "bframes=3:b-pyramid=normal:ref=4",
    "open": "bframes=2:open-gop=1",
    "refresh": "bframes=0:intra-refresh=1",
    "interlaced": "bframes=2:b-pyramid=none:interlaced=1",
    "slices": "bframes=2:slices=4",
}

_X265_STRUCTURES = {
    "plain": "bframes=0:open-gop=0",
    "b": "bframes=2:b-pyramid=0:open-gop=0",
    "pyramid": "bframes=4:b-pyramid=1:open-gop=0",
    "open": "bframes=2:open-gop=1",
    "refresh": "bframes=0:intra-refresh=1",
}

_SVT_STRUCTURES = {
    "plain": "pred-struct=1",
    "pyramid": "pred-struct=2",
    "open": "pred-struct=2:irefresh-type=1",  # forward keyframes
}


@dataclass(frozen=True)
class Encoded:
    """Packets of one video, P of them in decoding order, before they go into a container.

    Attributes:
        packets: the bytes of each.
        keys: whether decoding may begin there.
        pts: place of the frame in presentation order.
        dts: place whose time is that of decoding; from below 0 on.
        template: a file that holds the codec's parameters.
    """

    packets: tuple[bytes, ...]
    keys: tuple[bool, ...]
    pts: tuple[int, ...]
    dts: tuple[int, ...]
    template: bytes

    def part(self, places: Iterable[int]) -> Encoded:
        """The packets at these places alone."""
        rows = list(zip(self.packets, self.keys, self.pts, self.dts, strict=True))
        return Encoded(*zip(*(rows[place] for place in places), strict=True), self.template)


def size_of(codec: str) -> tuple[int, int]:
    """Width and height of the pictures; H.263 knows five sizes."""
    return (176, 144) if codec == "h263" else (160, 128)


def encode_for(container: str, codec: str, structure: str, **more) -> Encoded:
    """As :func:`encode`, the codec's header being where the container has it."""
    return encode(codec, structure, container in HEADER_APART, **more)


@lru_cache(maxsize=16)
def encode(
    codec: str,
    structure: str,
    header_apart: bool,
    *,
    first: int = 0,
    count: int = FRAMES,
    file: int = FILE,
    size: tuple[int, int] | None = None,
    pixels: str | None = None,
) -> Encoded:
    """A numbered video.

    Args:
        codec: of :data:`_ENCODERS`.
        structure: of its references.
        header_apart: whether the packets are without the codec's header.
        first: number of the first frame.
        count: of frames.
        file: number that is painted beside it.
        size: width and height; None: the codec's usual ones.
        pixels: their format; None: the codec's usual one.
    """
    if codec in BY_PROGRAM:
        return _encode_by_program(codec, structure, header_apart, first=first, count=count)
    if structure == "packed":
        return _pack(encode(codec, "b", False, first=first, count=count))
    encoder, usual, options = _ENCODERS[codec]
    size = size or size_of(codec)
    options = {**options, **_structure_options(codec, structure)}
    b_frames = 2 if structure in ("b", "open", "interlaced") else 0
    form = "matroska" if codec == "prores" else "nut"  # NUT takes them all but ProRes

    file_like = io.BytesIO()
    with keeping_priority(), av.open(file_like, "w", format=form) as container:
        stream = add_stream(
            container,
            encoder,
            size=size,
            pixels=pixels or usual,
            rate=RATE,
            gop=GOP,
            b_frames=b_frames,
            options=options,
            rotation=0,
            times=None,
        )
        if not header_apart:
            stream.codec_context.flags &= ~av.codec.context.Flags.global_header
        packets = []
        for number in range(first, first + count):
            packets += stream.encode(video_frame(file, number, *size, milliseconds=None))
        packets += stream.encode(None)
        times = [(packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        container.mux(packets)

    pts, dts, keys = zip(*times, strict=True)
    template = file_like.getvalue()
    return Encoded(_packets(template), keys, pts=pts, dts=dts, template=template)


def _structure_options(codec: str, structure: str) -> dict[str, str]:
    if codec == "h264":
        return {"x264-params": f"scenecut=0:min-keyint={GOP}:{_X264_STRUCTURES[structure]}"}
    if codec == "hevc":
        return {"x265-params": f"{_X265}:{_X265_STRUCTURES[structure]}"}
    if codec == "av1":
        return {"svtav1-params": f"lp=1:{_SVT_STRUCTURES[structure]}"}
    if structure == "interlaced":
        return {"flags": "+ilme+ildct"}
    return _CLOSED if structure == "b" else {}


def _packets(data: bytes) -> tuple[bytes, ...]:
    """The bytes of a file's video packets."""
    with av.open(io.BytesIO(data)) as container:
        return tuple(bytes(packet) for packet in container.demux(video=0) if packet.size)


def _encode_by_program(
    codec: str, structure: str, header_apart: bool, *, first: int, count: int
) -> Encoded:
    """As :func:`encode`, by the ffmpeg program, whose libxvid packs B-frames for AVI."""
    form, lost = "matroska", 0
    arguments = ["-c:v", "libtheora", "-q:v", "9", "-g", str(GOP)]
    if codec == "xvid":
        form = "avi" if structure == "packed" else "mp4"
        lost = 0 if structure == "plain" else 2  # it never puts out its last B-frames
        arguments = ["-c:v", "libxvid", "-q:v", "1", "-g", str(GOP), "-bf", str(lost)]
        arguments += ["-flags", "+cgop"] if structure == "b" else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        arguments += ["-pix_fmt", "yuv420p", "-f", form]
        run_encoder(arguments, path, codec=codec, first=first, count=count + lost)
        template = path.read_bytes()

    packets = _packets(template)[:count]
    places = tuple(range(count))
    if codec == "theora" or structure == "packed":
        keys = tuple(place % GOP == 0 for place in places)
        return Encoded(packets, keys, pts=places, dts=places, template=template)
    keys = tuple(_vop_type(packet) == "I" for packet in packets)
    pts = _shown([_vop_type(packet) for packet in packets])
    delay = int(pts != places)
    if not header_apart:
        with av.open(io.BytesIO(template)) as container:
            header = container.streams.video[0].codec_context.extradata
        packets = tuple(
            header + packet if key else packet for packet, key in zip(packets, keys, strict=True)
        )
    return Encoded(
        packets, keys, pts=pts, dts=tuple(range(-delay, count - delay)), template=template
    )


def run_encoder(
    arguments: list[str], path: Path, *, codec: str, first: int = 0, count: int = FRAMES
) -> None:
    """Run ffmpeg over numbered pictures."""
    width, height = size_of(codec)
    pictures = [
        numbered_image(FILE, number, width, height) for number in range(first, first + count)
    ]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(RATE), "-i", "-", *arguments]
    command += ["-threads", "1", str(path)]  # libvpx with more hangs now and then
    subprocess.run(
        command,
        input=np.stack(pictures).tobytes(),
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )


def _vop_type(packet: bytes) -> str:
    """I, P, B or S: the type of an MPEG-4 part 2 packet's first picture."""
    return "IPBS"[packet[packet.index(b"\0\0\1\xb6") + 4] >> 6]


def _shown(types: Sequence[str]) -> tuple[int, ...]:
    """The place in presentation order of pictures in decoding order; others wait for B-frames."""
    order, waiting = [], []
    for place, kind in enumerate(types):
        if kind == "B":
            order.append(place)
        else:
            order += waiting
            waiting = [place]
    return tuple(np.argsort(order + waiting).tolist())


def _pack(video: Encoded) -> Encoded:
    """MPEG-4 as DivX put it into AVI: the first B-frame in the packet of the frame it waits for."""
    left_out = b"\0\0\1\xb6\x50\x4f"  # takes the place of the packet that was moved
    packets: list[bytes] = []
    types = [_vop_type(packet) for packet in video.packets]
    waits = False
    for place, (packet, kind) in enumerate(zip(video.packets, types, strict=True)):
        if kind == "B" and types[place - 1] != "B":
            packets[-1] += packet
            waits = True
            continue
        if kind != "B" and waits:
            packets.append(left_out)
            waits = False
        packets.append(packet)
    packets += [left_out] * (len(types) - len(packets))

    # the encoder's name, by which decoders know that frames are packed
    begin = packets[0].index(b"\0\0\1\xb2") + 4
    end = packets[0].index(b"\0\0\1", begin)
    packets[0] = packets[0][:begin] + b"DivX503b1393p" + packets[0][end:]
    places = tuple(range(len(packets)))
    keys = tuple(_vop_type(packet) == "I" for packet in packets)
    return Encoded(tuple(packets), keys, pts=places, dts=places, template=video.template)
