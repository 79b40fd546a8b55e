#!/usr/bin/env python3
"""Video files of every kind, made small, and the check that FFmpeg numbers their frames alike.

A kind is a container, a codec, the structure of its references and the timing of its frames.
Copies, cuts and oddities that fit into no such table are extra cases. Every frame shows its own
number. The tests take a part of the cases; all of them, or those whose names hold one of the
arguments, are checked by

    python tests/helpers/frame_matrix.py [NAME ...] [--folder DIR]
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import av
import cv2
import numpy as np
from av.container.core import Flags
from av.stream import Disposition
from av.video.reformatter import Interpolation

import omnidali
from omnidali.testing.numbered_media import add_stream, picture, read_numbers, video_frame

os.environ.setdefault("SVT_LOG", "1")  # or its encoder prints its settings

FILE, DECOY = 5, 9  # painted into the video that is to be read, and into others in the same file
FRAMES, GOP, RATE = 28, 9, 30
HIDDEN = 11  # frames before an edit list's beginning, which lies inside the second GOP
SPLIT = 14  # frames before the clock restarts
TICK = Fraction(1, 4 * RATE)  # of all clocks below: four a frame
LATE_SECONDS = 100
LARGER = (192, 160)  # of a video beside one of the usual size
_PATIENCE_SECONDS = 120  # with one run of the ffmpeg program
# how both references scale the planes of colour up
_SCALING = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)

# FFmpeg's names of the containers
CONTAINERS = {
    "mp4": "mp4",
    "mov": "mov",
    "mkv": "matroska",
    "webm": "webm",
    "avi": "avi",
    "flv": "flv",
    "ts": "mpegts",
    "mpg": "mpeg",
    "3gp": "3gp",
}
CODECS = (
    "h264",
    "hevc",
    "av1",
    "vp8",
    "vp9",
    "mpeg4",
    "xvid",
    "mpeg2",
    "mpeg1",
    "mjpeg",
    "h263",
    "flv1",
    "msmpeg4v3",
    "msmpeg4v2",
    "theora",
    "prores",
    "ffv1",
)
STRUCTURES = ("plain", "b", "pyramid", "packed", "open", "refresh")
TIMINGS = ("constant", "variable", "edit", "late", "restart")

_HOLDS = {
    "mp4": "h264 hevc av1 vp9 mpeg4 xvid mpeg2 mpeg1 mjpeg ffv1",
    "mov": "h264 hevc mpeg4 xvid mpeg2 mpeg1 mjpeg h263 flv1 msmpeg4v3 msmpeg4v2 theora prores"
    " ffv1",
    "mkv": " ".join(CODECS),
    "webm": "av1 vp8 vp9",
    "avi": " ".join(CODECS),
    "flv": "h264 hevc av1 vp9 flv1",
    "ts": "h264 hevc mpeg4 xvid mpeg2 mpeg1",
    "mpg": "h264 hevc mpeg4 xvid mpeg2 mpeg1",
    "3gp": "h264 mpeg4 xvid h263",
}
# of the others: plain
_STRUCTURES_OF = {
    "h264": "plain b pyramid open refresh",
    "hevc": "plain b pyramid open refresh",
    "av1": "plain pyramid open",
    "mpeg4": "plain b packed open",
    "xvid": "plain b packed open",
    "mpeg2": "plain b open",
    "mpeg1": "plain b open",
}
_BOXES = ("mp4", "mov", "3gp")
_HEADER_APART = ("mp4", "mov", "mkv", "webm", "flv", "3gp")  # they hold the codec's header
_BY_PROGRAM = ("xvid", "theora")  # PyAV brings no encoder
# what PyAV does not let into a container though FFmpeg does, and where FFmpeg copies it from
_COPIED_FROM = {
    ("mkv", "h263"): "nut",
    ("mkv", "flv1"): "nut",
    ("mkv", "msmpeg4v2"): "nut",
    ("mov", "flv1"): "nut",
    ("mov", "msmpeg4v2"): "nut",
    ("mov", "ffv1"): "nut",
    ("mov", "theora"): "mkv",
    ("avi", "hevc"): "mp4",
    ("avi", "prores"): "mkv",
}
# FFmpeg reads them from FLV since 6.1, and since 6.0 it hides AV1's frames before an edit list's
# beginning; the program may be older than PyAV's library
_ENHANCED_FLV = ("hevc", "av1", "vp9")

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
    "prores": ("prores_ks", "yuv422p10le", {}),
    "ffv1": ("ffv1", "yuv420p", {}),
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

# What FFmpeg shows after an edit list's beginning where that is not just the frames from there on:
# it begins with the keyframe before, waits until a refresh is through, and takes the marks of
# hidden frames for others' where a decoder holds frames back that the container does not know of.
_SHOWN_AFTER_EDIT = {
    ("h264", "refresh"): range(17, FRAMES),
    ("mpeg1", "plain"): range(10, FRAMES),
    ("mpeg1", "b"): (9, *range(11, FRAMES)),
    ("mpeg1", "open"): (10, 11, *range(13, FRAMES)),
}

# a cluster of Matroska up to its timestamp, and how many bytes that has
_CLUSTER = re.compile(b"\x1f\x43\xb6\x75.{1,8}?(?:\xbf\x84.{4})?\xe7([\x81-\x84])", re.DOTALL)

# ticks of a frame's time by its place; places below 0 are for the decoding times of others
Clock = Callable[[int], int]


@dataclass(frozen=True)
class Case:
    """One file that is made and checked.

    Attributes:
        name: unique; its last part is the file's ending behind a dot.
        make: writes the file.
        expected: the numbers that its frames show, in order; None where FFmpeg alone decides.
        program: whether making it takes the ffmpeg program.
        by_pyav: whether the reference is PyAV's, because the program may be too old for the kind.
        used: how many frames from the first on are promised; None: all.
        damaged: whether only those frames are compared that came out of FFmpeg whole.
        permitted: pattern of the reasons for which the file may be refused; empty: it must be read.
        kind: container, codec, structure and timing; None of an extra case.
    """

    name: str
    make: Callable[[Path], None]
    expected: tuple[int, ...] | None = tuple(range(FRAMES))
    program: bool = False
    by_pyav: bool = False
    used: int | None = None
    damaged: bool = False
    permitted: str = ""
    kind: tuple[str, str, str, str] | None = None


# ---- The matrix


def omission(container: str, codec: str, structure: str, timing: str) -> str | None:
    """The reason for which no case is made of this kind, or None if there is one."""
    if codec not in _HOLDS[container].split():
        return f"FFmpeg writes no {codec} into {container} that it reads again"
    if structure not in _STRUCTURES_OF.get(codec, "plain").split():
        return _structure_omission(codec, structure)
    if structure == "packed" and container != "avi":
        return "packed B-frames belong to AVI; copies into other containers are extra cases"
    if timing == "edit" and container not in _BOXES:
        return f"{container} has no edit lists"
    if timing == "restart" and container in _BOXES:
        return f"{container} holds durations, which never run backwards"
    if timing == "restart" and container == "avi":
        return "avi holds no timestamps"
    return None


def _structure_omission(codec: str, structure: str) -> str:
    if structure == "packed":
        return "only MPEG-4 part 2 packs B-frames"
    if codec in ("mjpeg", "prores", "ffv1"):
        return f"{codec} has only intra frames"
    if structure == "refresh":
        return f"the encoders here refresh no {codec} without keyframes"
    if codec in ("mpeg4", "xvid", "mpeg2", "mpeg1"):
        return f"no frame refers to a B-frame of {codec}"
    if codec == "av1":
        return "AV1 has no B-frames; its hidden frames are the pyramid's"
    if codec in ("vp8", "vp9"):
        return f"{codec} has no B-frames; its hidden reference frames are extra cases"
    return f"{codec} has no B-frames"


def matrix() -> list[Case]:
    """The cases of the full product that are made."""
    return [
        _case(*kind)
        for kind in itertools.product(CONTAINERS, CODECS, STRUCTURES, TIMINGS)
        if omission(*kind) is None
    ]


def _case(container: str, codec: str, structure: str, timing: str) -> Case:
    expected = range(FRAMES)
    if timing == "edit":
        expected = _SHOWN_AFTER_EDIT.get((codec, structure), range(HIDDEN, FRAMES))
    is_enhanced = container == "flv" and codec in _ENHANCED_FLV
    return Case(
        f"{codec}-{structure}-{timing}.{container}",
        partial(_make, container=container, codec=codec, structure=structure, timing=timing),
        expected=tuple(expected),
        program=codec in _BY_PROGRAM or (container, codec) in _COPIED_FROM,
        by_pyav=is_enhanced or (codec, timing) == ("av1", "edit"),
        kind=(container, codec, structure, timing),
    )


def representative(cases: Sequence[Case]) -> list[Case]:
    """A tenth of the matrix in which values of each two axes meet as often as so many cases allow.

    The order is by a hash of the names, so that most of the choice stays when cases are added.
    """
    left = sorted(cases, key=lambda case: zlib.crc32(case.name.encode()))
    chosen, met = [], set()
    while len(chosen) < len(cases) // 10:
        best = max(left, key=lambda case: len(_pairs(case) - met))
        left.remove(best)
        chosen.append(best)
        met |= _pairs(best)
    return chosen


def _pairs(case: Case) -> set[tuple[str, ...]]:
    values = [f"{axis} {value}" for axis, value in enumerate(case.kind)]
    return {*itertools.combinations(values, 2), *((value,) for value in values)}


def one_of_each(cases: Sequence[Case]) -> list[Case]:
    """One container of each kind of extra case, another one from kind to kind."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.name.rpartition(".")[0], []).append(case)
    return [group[number % len(group)] for number, group in enumerate(kinds.values())]


# ---- Clocks


def _constant(place: int) -> int:
    return 4 * place


def _late(place: int) -> int:
    return 4 * (place + LATE_SECONDS * RATE)


def _hiding(place: int) -> int:
    return 4 * (place - HIDDEN)


def _moved(clock: Clock, ticks: int, place: int) -> int:
    return clock(place) + ticks


def _uneven(place: int) -> int:
    return place // 5 * 25 + (0, 3, 8, 12, 21)[place % 5]


def _uneven_whole(place: int) -> int:
    """Gaps of whole frames: AVI shows them as packets without bytes."""
    return place // 5 * 32 + (0, 4, 8, 16, 28)[place % 5]


def _wrapping(place: int) -> int:
    """A clock of 33 bits at 90 kHz that starts again in the middle."""
    return 4 * (place - SPLIT) + (1 << 33) * 4 * RATE // 90_000


def _jumping(place: int) -> int:
    """An hour is left out in the middle."""
    return _constant(place) + (3600 * 4 * RATE if place >= SPLIT else 0)


def _standing(place: int) -> int:
    return 0


def _halting(place: int) -> int:
    return place // 2 * 8


def _falling(place: int) -> int:
    return 4 * (100 - place)


def _clock(container: str, timing: str) -> Clock:
    if timing == "variable":
        return _uneven_whole if container == "avi" else _uneven
    if timing == "late" and container != "avi":
        return _late
    return _hiding if timing == "edit" else _constant


# ---- Encoding


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
        rows = list(zip(self.packets, self.keys, self.pts, self.dts))
        return Encoded(*zip(*(rows[place] for place in places)), self.template)


def size_of(codec: str) -> tuple[int, int]:
    """Width and height of the pictures; H.263 knows five sizes."""
    return (176, 144) if codec == "h263" else (160, 128)


def encode_for(container: str, codec: str, structure: str, **more) -> Encoded:
    """As :func:`encode`, the codec's header being where the container has it."""
    return encode(codec, structure, container in _HEADER_APART, **more)


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
        header_apart: whether the packets are without the codec's header.
        first: number of the first frame.
        file: number that is painted beside it.
        size: width and height; None: the codec's usual ones.
        pixels: their format; None: the codec's usual one.
    """
    if codec in _BY_PROGRAM:
        return _encode_by_program(codec, structure, header_apart, first=first, count=count)
    if structure == "packed":
        return _pack(encode(codec, "b", False, first=first, count=count))
    encoder, usual, options = _ENCODERS[codec]
    size = size or size_of(codec)
    options = {**options, **_structure_options(codec, structure)}
    b_frames = 2 if structure in ("b", "open", "interlaced") else 0
    form = "matroska" if codec == "prores" else "nut"  # NUT takes them all but ProRes

    file_like = io.BytesIO()
    with av.open(file_like, "w", format=form) as container:
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

    pts, dts, keys = zip(*times)
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
        _program(arguments, path, codec=codec, first=first, count=count + lost)
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
        packets = tuple(header + packet if key else packet for packet, key in zip(packets, keys))
    return Encoded(
        packets, keys, pts=pts, dts=tuple(range(-delay, count - delay)), template=template
    )


def _program(
    arguments: list[str], path: Path, *, codec: str, first: int = 0, count: int = FRAMES
) -> None:
    """Run ffmpeg over numbered pictures."""
    width, height = size_of(codec)
    pictures = [picture(FILE, number, width, height) for number in range(first, first + count)]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(RATE), "-i", "-", *arguments]
    command += ["-threads", "1", str(path)]  # libvpx with more hangs now and then
    subprocess.run(
        command,
        input=np.stack(pictures).tobytes(),
        check=True,
        capture_output=True,
        timeout=_PATIENCE_SECONDS,
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
    for place, (packet, kind) in enumerate(zip(video.packets, types)):
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


# ---- Containers


def mux(
    path: Path,
    form: str,
    parts: Sequence[tuple[Encoded, Clock]],
    *,
    options: dict[str, str] = {},
    rotation: int = 0,
    sound: bool = False,
) -> None:
    """Write one stream of the parts' packets, one part after another.

    Args:
        form: FFmpeg's name of the container.
        parts: packets with the clock of each part; the codec's parameters are the first part's.
        options: the muxer's.
        rotation: degrees counter-clockwise that viewers turn the pictures by.
        sound: whether silence lies beside the pictures.
    """
    template = io.BytesIO(parts[0][0].template)
    with (
        av.open(template) as source,
        av.open(str(path), "w", format=form, options=options) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0], opaque=True)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("mp2", rate=44100) if sound else None
        for video, clock in parts:
            container.mux(list(_timed(video, clock, stream)))
        if audio is not None:
            for frame in [*_silence(), None]:
                container.mux(audio.encode(frame))


def _timed(video: Encoded, clock: Clock, stream) -> Iterator[av.Packet]:
    for data, key, pts, dts in zip(video.packets, video.keys, video.pts, video.dts):
        packet = av.Packet(data)
        packet.stream = stream
        packet.time_base = TICK
        packet.is_keyframe = key
        packet.pts = clock(pts)
        packet.dts = clock(dts)
        packet.duration = clock(pts + 1) - clock(pts)
        yield packet


def _silence() -> Iterator[av.AudioFrame]:
    for number in range(FRAMES * 44100 // RATE // 1152):
        samples = np.zeros((1, 1152 * 2), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.rate = 44100
        frame.pts = 1152 * number
        yield frame


def _make(path: Path, container: str, codec: str, structure: str, timing: str = "constant") -> None:
    """Write one kind of file."""
    if timing != "restart":
        parts = [(encode_for(container, codec, structure), _clock(container, timing))]
        _write(path, container, codec=codec, parts=parts)
        if container == "avi":
            start = LATE_SECONDS * RATE if timing == "late" else 0
            _patch_avi(path, codec, structure=structure, start=start)
        return
    one = encode_for(container, codec, structure, count=SPLIT)
    two = encode_for(container, codec, structure, first=SPLIT, count=FRAMES - SPLIT)
    if container in ("ts", "mpg"):
        pieces = []
        for part in (one, two):
            _write(path, container, codec=codec, parts=[(part, _constant)])
            pieces.append(path.read_bytes())
        path.write_bytes(b"".join(pieces))
        return
    later = partial(_moved, _constant, 4 * SPLIT)
    _write(path, container, codec=codec, parts=[(one, _constant), (two, later)])
    restart = _restart_flv if container == "flv" else _restart_matroska
    path.write_bytes(restart(path.read_bytes()))


def _write(
    path: Path, container: str, *, codec: str, parts: Sequence[tuple[Encoded, Clock]]
) -> None:
    """Mux by PyAV, or by the program what PyAV does not mux."""
    between = _COPIED_FROM.get((container, codec))
    if between is None:
        mux(path, CONTAINERS[container], parts)
        return
    offset = min(0, parts[0][1](0))  # the container between may hold no time below 0
    moved = [(video, partial(_moved, clock, -offset)) for video, clock in parts]
    base = path.with_name(f"{path.name}.{between}")
    mux(base, CONTAINERS.get(between, between), moved)
    copy(base, path, arguments=["-copyts", "-output_ts_offset", str(float(offset * TICK))])


def copy(
    base: Path, path: Path, *, before: Sequence[str] = (), arguments: Sequence[str] = ()
) -> None:
    """Copy the packets of a file into another container by the program, and remove the file."""
    command = ["ffmpeg", "-v", "error", "-y", *before, "-i", str(base), "-c", "copy", *arguments]
    command += ["-f", CONTAINERS[path.suffix[1:]], str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_SECONDS)
    base.unlink()


def _patch_avi(path: Path, codec: str, *, structure: str, start: int = 0) -> None:
    """Set the header's first frame, and the codec's name to what tells of packed frames."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 36, start)
    name = {"xvid": b"XVID", "mpeg4": b"DX50" if structure == "packed" else b"FMP4"}.get(codec)
    if name is not None:
        data[:4096] = data[:4096].replace(b"FMP4", name)
    path.write_bytes(data)


def _restart_matroska(data: bytes) -> bytes:
    """The clusters from frame SPLIT on moved back to time 0, each with its own timestamp."""
    out, begin = bytearray(data), SPLIT * 1000 // RATE
    for found in _CLUSTER.finditer(data):
        place, size = found.end(), found[1][0] & 0x7F
        milliseconds = int.from_bytes(data[place : place + size], "big")
        if milliseconds >= begin:
            out[place : place + size] = (milliseconds - begin).to_bytes(size, "big")
    assert out != data
    return bytes(out)


def _restart_flv(data: bytes) -> bytes:
    """The tags from the packet of place SPLIT on moved back to time 0."""
    out, place, tags = bytearray(data), 13, []
    while place < len(data):
        if data[place] == 9:
            tags.append((place, int.from_bytes(data[place + 4 : place + 7], "big")))
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    begin = sorted({milliseconds for _, milliseconds in tags})[SPLIT]
    for place, milliseconds in tags:
        if milliseconds >= begin:
            out[place + 4 : place + 7] = (milliseconds - begin).to_bytes(3, "big")
    return bytes(out)


# ---- Extra cases


def extras() -> list[Case]:
    """What has no place in the matrix."""
    return [
        *_copies(),
        *_hidden_references(),
        *_cuts(),
        *_several_streams(),
        *_pictures(),
        *_forms(),
        *_edits(),
        *_clocks(),
        *_joined(),
        *_keyframe_marks(),
        *_without_pictures(),
        *_damage(),
    ]


def _cases(
    name: str,
    make: Callable,
    kinds: str,
    *,
    expected: Iterable[int] | None = range(FRAMES),
    program: bool = False,
    by_pyav: bool = False,
    damaged: bool = False,
    **arguments,
) -> Iterator[Case]:
    """Cases of one make.

    Args:
        make: called with a path, container, codec, structure, and ``arguments``.
        kinds: words such as ``h264-open.mp4,ts``: codec, structure and containers.
    """
    for word in kinds.split():
        video, _, containers = word.partition(".")
        codec, _, structure = video.partition("-")
        for container in containers.split(","):
            yield Case(
                f"{video}-{name}.{container}",
                partial(make, container=container, codec=codec, structure=structure, **arguments),
                expected=None if expected is None else tuple(expected),
                program=program,
                by_pyav=by_pyav,
                damaged=damaged,
            )


def _muxed(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    clock: Clock = _constant,
    change: Callable[[Encoded], Encoded] | None = None,
    count: int = FRAMES,
    size: tuple[int, int] | None = None,
    pixels: str | None = None,
    **more,
) -> None:
    """Write a file; ``change``: what is done to the packets. ``more`` as of :func:`mux`."""
    video = encode_for(container, codec, structure, count=count, size=size, pixels=pixels)
    if change is not None:
        video = change(video)
    mux(path, CONTAINERS.get(container, container), [(video, clock)], **more)
    if container == "avi":
        _patch_avi(path, codec, structure=structure)


def _copies() -> Iterator[Case]:
    """B-frames out of AVI, which has no timestamps, into containers that need some; and back."""
    origin = partial(_cases, make=_copied, program=True)
    videos = (
        "h264-pyramid",
        "hevc-pyramid",
        "mpeg4-b",
        "mpeg4-packed",
        "xvid-b",
        "xvid-packed",
        "mpeg2-b",
        "mpeg1-b",
    )
    for video in videos:
        # into others FFmpeg refuses to write packets without a time
        yield from origin("from-avi", kinds=f"{video}.mp4,mov", origin="avi")
        yield from origin(
            "from-avi-genpts",
            kinds=f"{video}.mp4,mov,mkv,ts",
            origin="avi",
            before=("-fflags", "+genpts"),
        )
    yield from origin("from-avi", kinds="mpeg1-b.ts", origin="avi")
    yield from origin(
        "from-mp4",
        origin="mp4",
        kinds="h264-pyramid.avi hevc-open.avi mpeg4-b.avi xvid-b.avi mpeg2-b.avi"
        " mpeg1-b.avi av1-pyramid.avi vp9-plain.avi",
    )


def _copied(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    origin: str,
    before: Sequence[str] = (),
) -> None:
    base = path.with_name(f"{path.name}.{origin}")
    _make(base, origin, codec, structure)
    copy(base, path, before=before)


def _hidden_references() -> Iterator[Case]:
    """Frames that are decoded and never shown."""
    yield from _cases(
        "references",
        _hiding_references,
        program=True,
        expected=range(40),
        kinds="vp8-hidden.webm,mkv,avi,ivf vp9-hidden.webm,mkv,avi,ivf,mp4"
        " av1-hidden.webm,mkv,ivf,mp4",
    )


def _hiding_references(path: Path, container: str, codec: str, structure: str) -> None:
    arguments = ["-pix_fmt", "yuv420p", "-g", "20", "-auto-alt-ref", "1", "-lag-in-frames", "16"]
    if codec == "av1":
        arguments += ["-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20"]
        _program(arguments, path, codec=codec, count=40)
        return
    # VP8's encoder hides frames in the second of two passes alone
    arguments += ["-c:v", {"vp8": "libvpx", "vp9": "libvpx-vp9"}[codec], "-b:v", "1500k"]
    arguments += ["-deadline", "good", "-cpu-used", "4", "-passlogfile", str(path)]
    _program([*arguments, "-pass", "1", "-f", "null"], path, codec=codec, count=40)
    _program([*arguments, "-pass", "2"], path, codec=codec, count=40)
    Path(f"{path}-0.log").unlink()


def _cuts() -> Iterator[Case]:
    """Files that begin or end elsewhere than an encoder's, and short ones.

    Frames without what they refer to are left out by all decoders but MPEG-4's and HEVC's.
    """
    within = partial(_cases, "from-within-a-gop", _muxed, change=_without_the_first)
    yield from within(
        "h264-plain.ts,mkv,avi,mp4 h264-b.ts,mkv,avi,mp4 mpeg2-plain.ts,mkv,avi,mp4",
        expected=_from(9),
    )
    yield from within("hevc-plain.ts,mkv,mp4 hevc-b.ts,mkv,mp4", expected=None, by_pyav=True)
    yield from within("mpeg2-b.ts,mkv,avi,mp4", expected=_from(7))
    yield from within("mpeg4-plain.ts,mkv,avi,mp4 mpeg4-b.ts,mkv,avi,mp4", expected=None)
    for video, expected in (("h264-b", _from(9)), ("hevc-b", None), ("mpeg2-b", _from(7))):
        yield from _cases(
            "from-within-a-packet",
            _cut_bytes,
            f"{video}.ts",
            expected=expected,
            by_pyav=video == "hevc-b",
        )

    kinds = "h264-open.mp4,mkv,ts hevc-open.mp4,mkv,ts mpeg2-open.mp4,mkv,ts"
    yield from _cases(
        "from-its-second-keyframe", _muxed, kinds, change=_without_the_first_gop, expected=_from(9)
    )
    yield from _cases(
        "without-its-last-packets",
        _muxed,
        kinds,
        change=_without_the_last,
        expected=range(FRAMES - 3),
    )

    seeks = partial(
        _cases,
        "copied-from-the-middle",
        _copied,
        program=True,
        origin="mp4",
        before=("-ss", "0.42"),
    )
    yield from seeks(
        "h264-plain.mp4,mov h264-b.mp4,mov h264-open.mp4,mov hevc-open.mp4,mov mpeg4-b.mp4,mov",
        expected=_from(13),
    )
    yield from seeks(
        "h264-plain.mkv,ts h264-b.mkv,ts h264-open.mkv hevc-open.mkv,ts av1-plain.mkv",
        expected=_from(9),
    )
    yield from seeks("mpeg4-b.mkv", expected=_from(7))
    yield from seeks("av1-pyramid.mp4", expected=_from(13), by_pyav=True)

    for count in (1, 2, 3):
        yield from _cases(
            f"of-{count}",
            _muxed,
            expected=range(count),
            count=count,
            kinds="h264-pyramid.mp4 h264-b.ts mpeg4-b.avi mpeg4-packed.avi"
            " mpeg2-b.mpg mpeg1-b.mp4 vp9-plain.webm av1-pyramid.mp4",
        )


def _from(first: int) -> range:
    return range(first, FRAMES)


def _without_the_first(video: Encoded) -> Encoded:
    return video.part(range(4, FRAMES))


def _without_the_first_gop(video: Encoded) -> Encoded:
    return video.part(range(video.keys.index(True, 1), FRAMES))


def _without_the_last(video: Encoded) -> Encoded:
    return video.part(range(FRAMES - 3))


def _cut_bytes(path: Path, container: str, codec: str, structure: str) -> None:
    _make(path, container, codec, structure)
    path.write_bytes(path.read_bytes()[188 * 60 :])


def _several_streams() -> Iterator[Case]:
    """Other streams beside the video, most of them before it."""
    yield from _cases("after-a-decoy", _beside, "h264-b.mp4,mkv", is_default=True)
    # MP4 always has a default
    yield from _cases("after-a-smaller-one", _beside, "h264-b.mkv,ts,avi", is_default=False)
    yield from _cases("after-a-cover", _cover, "h264-b.mp4")
    yield from _cases(
        "with-sound",
        _muxed,
        sound=True,
        kinds="h264-pyramid.mp4,ts hevc-open.mkv mpeg4-packed.avi mpeg2-b.ts mpeg1-b.mpg",
    )


def _beside(path: Path, container: str, codec: str, structure: str, *, is_default: bool) -> None:
    """A decoy before the video, which is the default or larger."""
    decoy = encode_for(container, codec, "plain", file=DECOY)
    real = encode_for(container, codec, structure, size=None if is_default else LARGER)
    options = {"default_mode": "passthrough"} if container == "mkv" else {}
    with av.open(str(path), "w", format=CONTAINERS[container], options=options) as output:
        packets = []
        for video, disposition in ((decoy, 0), (real, Disposition.default if is_default else 0)):
            with av.open(io.BytesIO(video.template)) as source:
                template = source.streams.video[0]
                stream = output.add_stream_from_template(template, opaque=True)
            stream.disposition = disposition
            packets += _timed(video, _constant, stream)
        output.mux(sorted(packets, key=lambda packet: packet.dts))


def _cover(path: Path, container: str, codec: str, structure: str) -> None:
    """An attached picture that the file names before the video: boxes may come in any order."""
    _muxed(path, container, codec, structure)
    jpeg = cv2.imencode(".jpg", picture(DECOY, 0, *LARGER))[1].tobytes()
    item = _box(b"covr", _box(b"data", struct.pack(">II", 13, 0), jpeg))
    handler = _box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    cover = _box(b"udta", _box(b"meta", bytes(4), handler, _box(b"ilst", item)))

    # the header lies after the packets, whose places stay
    data = path.read_bytes()
    header, track = data.rindex(b"moov") - 4, data.rindex(b"trak") - 4
    longer = _box(b"moov", data[header + 8 : track], cover, data[track:])
    path.write_bytes(data[:header] + longer)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _pictures() -> Iterator[Case]:
    """Two fields a frame, several slices, odd sizes, more bits and other planes, turned ones."""
    yield from _cases(
        "of-fields",
        _muxed,
        kinds="h264-interlaced.mp4,mkv,ts,avi mpeg2-interlaced.mp4,mkv,ts,mpg"
        " mpeg4-interlaced.mp4,mkv,ts,avi",
    )
    yield from _cases("in-a-picture", _muxed, kinds="h264-slices.mp4,mkv,ts,avi")
    for pixels, size, kinds in (
        ("yuv420p", (162, 130), "h264-plain.mp4 mpeg4-plain.avi"),
        ("yuv420p", (161, 129), "vp8-plain.webm vp9-plain.webm"),
        ("yuvj422p", (161, 129), "mjpeg-plain.avi"),
        ("yuv422p", (160, 128), "mpeg2-plain.ts"),
        ("yuv444p", (161, 129), "h264-plain.mp4 ffv1-plain.mkv"),
        ("yuv420p10le", (160, 128), "h264-plain.mkv hevc-plain.mp4"),
        ("yuv420p10le", (162, 130), "av1-plain.mp4"),
        ("gray", (160, 128), "h264-plain.mp4"),
        ("bgr0", (160, 128), "ffv1-plain.mkv"),
    ):
        yield from _cases(
            f"{pixels}-{size[0]}x{size[1]}", _muxed, kinds=kinds, size=size, pixels=pixels
        )
    for turned in (90, 180, 270):
        yield from _cases(
            f"turned-by-{turned}", _muxed, "h264-b.mp4", rotation=turned, expected=None
        )


def _forms() -> Iterator[Case]:
    """Rare forms of containers."""
    fragments = "frag_keyframe+empty_moov+default_base_moof"
    for name, kinds, options in (
        ("fragmented", "h264-pyramid.mp4 hevc-open.mp4", {"movflags": fragments}),
        ("header-first", "h264-pyramid.mp4", {"movflags": "faststart"}),
        ("without-edits", "h264-pyramid.mp4", {"use_editlist": "0"}),
        ("negative-offsets", "h264-pyramid.mp4", {"movflags": "negative_cts_offsets"}),
        ("live", "h264-pyramid.mkv", {"live": "1"}),
        ("in-small-clusters", "hevc-open.mkv", {"cluster_time_limit": "70"}),
        ("of-discs", "h264-pyramid.ts", {"mpegts_m2ts_mode": "1"}),
    ):
        yield from _cases(name, _muxed, kinds, options=options)
    yield from _cases("raw", _muxed, "vp8-plain.ivf vp9-plain.ivf av1-plain.ivf")


def _edits() -> Iterator[Case]:
    """Edit lists of more than a beginning."""
    for name, edits, expected in (
        ("two-edits", ((10, 0), (10, 18)), (*range(10), *range(18, 28))),
        ("edits-backwards", ((10, 18), (10, 0)), (*range(18, 28), *range(10))),
        ("edit-repeated", ((10, 0), (10, 0)), (*range(10), *range(10))),
        ("edit-ends-early", ((13, 3),), range(3, 16)),
        ("edit-after-a-pause", ((20, -1), (28, 0)), range(FRAMES)),
    ):
        yield from _cases(name, _edited, "h264-plain.mp4", edits=edits, expected=expected)
    yield from _cases(
        "fragmented-edit",
        _muxed,
        "h264-pyramid.mp4 hevc-open.mp4 mpeg4-b.mp4",
        clock=_hiding,
        options={"movflags": "frag_keyframe+delay_moov"},
    )


def _edited(
    path: Path, container: str, codec: str, structure: str, *, edits: Sequence[tuple[int, int]]
) -> None:
    """Replace the edit list by another of (frames, first frame), -1 for a pause."""
    _muxed(path, container, codec, structure)
    data = bytearray(path.read_bytes())
    (ticks,) = struct.unpack_from(">I", data, data.rindex(b"mdhd") + 16)  # a second
    entries = []
    for frames, first in edits:
        begin = -1 if first < 0 else first * ticks // RATE
        entries.append(struct.pack(">IiI", frames * 1000 // RATE, begin, 1 << 16))

    # the header lies after the packets, whose places stay
    place = data.rindex(b"elst") - 4
    (old,) = struct.unpack_from(">I", data, place)
    new = _box(b"elst", bytes(4), struct.pack(">I", len(entries)), *entries)
    for kind in (b"edts", b"trak", b"moov"):
        at = data.rindex(kind) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(new) - old)
    data[place : place + old] = new
    path.write_bytes(data)


def _clocks() -> Iterator[Case]:
    """Times that wrap, jump, stand still or run backwards, and AVI's packets without bytes."""
    yield from _cases("clock-wraps", _muxed, "h264-pyramid.ts mpeg2-b.ts,mpg", clock=_wrapping)
    yield from _cases(
        "clock-jumps",
        _muxed,
        clock=_jumping,
        kinds="h264-pyramid.mp4,mkv,ts,flv,mpg hevc-open.mp4,mkv,ts mpeg2-b.ts,mpg",
    )
    yield from _cases(
        "after-empty-packets",
        _muxed,
        clock=partial(_moved, _constant, 12),
        kinds="h264-pyramid.avi mpeg4-b.avi vp9-plain.avi",
    )
    for name, clock in (
        ("equal-times", _standing),
        ("times-in-pairs", _halting),
        ("falling-times", _falling),
    ):
        yield from _cases(
            name,
            _with_times,
            clock=clock,
            kinds="h264-pyramid.mkv hevc-open.mkv vp9-plain.mkv mpeg4-b.mkv av1-pyramid.mkv",
        )


def _with_times(path: Path, container: str, codec: str, structure: str, *, clock: Clock) -> None:
    """Write the times of Matroska's blocks anew, as no muxer would."""
    _muxed(path, container, codec, structure, options={"cluster_time_limit": "32000"})
    data = bytearray(path.read_bytes())
    for found in _CLUSTER.finditer(bytes(data)):
        place = found.end() + (found[1][0] & 0x7F)
        begin = int.from_bytes(data[found.end() : place], "big")
        data[found.end() : place] = bytes(place - found.end())
        while place < len(data) and data[place] in (0xA3, 0xA0):
            block, end = _sized(data, place + 1)
            if data[place] == 0xA0:  # a group, which begins with its block
                block, _ = _sized(data, block + 1)
            milliseconds = begin + struct.unpack_from(">h", data, block + 1)[0]
            new = clock(round(milliseconds * RATE / 1000)) * TICK * 1000
            struct.pack_into(">h", data, block + 1, round(new))
            place = end
    path.write_bytes(data)


def _sized(data: bytes, place: int) -> tuple[int, int]:
    """Where the body of a Matroska element begins and ends whose size lies at ``place``."""
    length = 9 - data[place].bit_length()
    size = int.from_bytes(data[place : place + length], "big") & (1 << 7 * length) - 1
    return place + length, place + length + size


def _joined() -> Iterator[Case]:
    """Transport and program streams of two parts that differ, and with two frames in a packet."""
    for kinds, after in (
        ("h264-pyramid.ts,mpg h264-b.ts,mpg", "plain"),
        ("h264-plain.ts,mpg mpeg2-plain.ts,mpg", "b"),
        ("h264-b.ts,mpg", "interlaced"),
        ("hevc-plain.ts,mpg", "open"),
    ):
        yield from _cases(f"then-{after}", _two_parts, kinds, after=after)
    # FFmpeg's decoder loses a frame between them
    yield from _cases("then-plain", _two_parts, "mpeg4-b.ts,mpg", after="plain", expected=None)
    yield from _cases(
        "then-another-stream",
        _two_parts,
        "h264-b.ts",
        after="b",
        options={"mpegts_start_pid": "300"},
        expected=range(SPLIT),
    )
    for case in _cases("then-a-larger-one", _two_parts, "h264-b.ts", after="b", size=LARGER):
        yield replace(case, used=SPLIT, permitted=r"size|\d+ ?x ?\d+")
    yield from _cases(
        "two-in-a-packet",
        _muxed,
        change=_in_pairs,
        kinds="h264-plain.ts,mpg h264-pyramid.ts,mpg mpeg2-b.ts,mpg"
        " mpeg1-plain.ts,mpg mpeg4-b.ts,mpg",
    )


def _two_parts(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    after: str,
    size: tuple[int, int] | None = None,
    options: dict[str, str] = {},
) -> None:
    """Two videos one after the other; the second one's structure is ``after``."""
    form = CONTAINERS[container]
    mux(path, form, [(encode_for(container, codec, structure, count=SPLIT), _constant)])
    data = path.read_bytes()
    second = encode_for(container, codec, after, first=SPLIT, count=FRAMES - SPLIT, size=size)
    mux(path, form, [(second, _constant)], options=options)
    path.write_bytes(data + path.read_bytes())


def _in_pairs(video: Encoded) -> Encoded:
    packets = tuple(map(bytes.__add__, video.packets[::2], video.packets[1::2]))
    keys = tuple(map(max, video.keys[::2], video.keys[1::2]))
    return replace(video.part(range(0, FRAMES, 2)), packets=packets, keys=keys)


def _keyframe_marks() -> Iterator[Case]:
    """Containers that call every packet a keyframe, or the first alone."""
    for name, marked in (("unmarked", False), ("all-marked", True)):
        yield from _cases(
            name,
            _muxed,
            change=partial(_marked, marked),
            kinds="h264-open.mp4,mkv,avi h264-refresh.mp4,mkv hevc-open.mp4,mkv"
            " mpeg4-open.mp4,mkv,avi mpeg2-open.mp4,mkv,avi vp8-plain.mkv,avi"
            " vp9-plain.mp4,mkv av1-pyramid.mp4,mkv ffv1-plain.mp4,mkv,avi",
        )


def _marked(marked: bool, video: Encoded) -> Encoded:
    return replace(video, keys=(True, *[marked] * (FRAMES - 1)))


def _without_pictures() -> Iterator[Case]:
    """Packets in between that hold no picture: filler, a delimiter, or a frame left out."""
    for data, kinds, expected in (
        (b"\0\0\0\1\x0c\xff\xff\x80", "h264-plain.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\0\1\x09\xf0", "h264-pyramid.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\0\1\x46\1\x50", "hevc-b.mp4,mkv,ts", range(FRAMES)),
        (b"\0\0\1\xb6\x50\x4f", "mpeg4-plain.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\1\xb6\x50\x4f", "mpeg4-b.mp4,mkv,ts,avi", None),
    ):
        yield from _cases(
            "packets-without-pictures",
            _muxed,
            kinds,
            expected=expected,
            change=partial(_interspersed, data),
        )


def _interspersed(data: bytes, video: Encoded) -> Encoded:
    """A packet of ``data`` after every fifth one, half a frame later."""
    rows = []
    for place in range(FRAMES):
        pts, dts = 2 * video.pts[place], 2 * video.dts[place]
        rows.append((video.packets[place], video.keys[place], pts, dts))
        if place % 5 == 3:
            rows.append((data, False, pts + 1, dts + 1))
    return Encoded(*zip(*rows), video.template)


def _damage() -> Iterator[Case]:
    """Lost packets, flipped bits, and files that break off.

    A decoder makes up what it misses, or leaves it out; what it makes up depends on its memory.
    """
    # AV1's headers do not show what damage takes along: reading such frames says what finds it
    unseen = "Run `omnidali lint --decode`"

    def damaged(*arguments: object, **options: object) -> Iterator[Case]:
        for case in _cases(*arguments, expected=None, by_pyav=True, damaged=True, **options):
            yield replace(case, permitted=unseen) if case.name.startswith("av1") else case

    kinds = (
        "h264-pyramid.mp4 h264-open.ts hevc-open.mkv hevc-b.ts mpeg4-b.mp4 mpeg4-packed.avi"
        " mpeg2-open.ts vp8-plain.webm vp9-plain.webm av1-plain.mp4"
    )
    for name, places in (("lost-keyframe", {9}), ("lost-packets", {4, 13, 22})):
        yield from damaged(name, _muxed, kinds, change=partial(_without, places))
    yield from damaged("flipped-bits", _muxed, kinds, change=_flipped)
    yield from damaged(
        "breaks-off",
        _broken_off,
        kinds="h264-pyramid.mkv,flv h264-b.ts hevc-open.mkv mpeg4-packed.avi"
        " mpeg4-b.avi vp9-plain.webm mjpeg-plain.avi mpeg2-b.mpg",
    )


def _without(places: set[int], video: Encoded) -> Encoded:
    return video.part(sorted(set(range(FRAMES)) - places))


def _flipped(video: Encoded) -> Encoded:
    """Three bits in each of three packets; the first packet and the headers stay whole."""
    rng = np.random.default_rng(1)
    packets = [bytearray(packet) for packet in video.packets]
    for place in rng.choice(range(1, FRAMES), 3, replace=False):
        size = len(packets[place])
        for at in rng.integers(min(6, size - 1), size, 3):
            packets[place][at] ^= 1 << int(rng.integers(8))
    return replace(video, packets=tuple(map(bytes, packets)))


def _broken_off(path: Path, container: str, codec: str, structure: str) -> None:
    _make(path, container, codec, structure)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])


# ---- The check


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
    data = subprocess.run(command, capture_output=True, timeout=_PATIENCE_SECONDS).stdout

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
    for place, (number, frame) in enumerate(zip(shown, frames)):
        if number is not None and number < FRAMES and shown.count(number) == 1:
            height, width = frame.shape[:2]
            losses[place] = _distance(picture(FILE, number, width, height), frame)
    usual = float(np.median(list(losses.values())))
    return {place for place, loss in losses.items() if loss < 1.2 * usual}


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def problems(
    path: Path,
    expected: Sequence[int] | None = None,
    *,
    by_pyav: bool = False,
    used: int | None = None,
    damaged: bool = False,
    permitted: str = "",
) -> list[str]:
    """What is wrong with the frames that the project reads from a file.

    They are compared with FFmpeg's sequential decoding. Arguments as the attributes of a case.
    """
    is_program = has_program() and not by_pyav
    frames = decode_by_program(path) if is_program else decode_by_pyav(path)
    shown = [painted(frame) for frame in frames]
    if expected is not None and shown != list(expected):
        return [f"the reference itself shows {shown} instead of {list(expected)}"]
    frames = frames[:used]
    compared = whole_frames(frames) if damaged else set(range(len(frames)))
    try:
        count = omnidali.count_frames(path)
        found = [] if count == len(frames) else [f"{count} frames instead of {len(frames)}"]
        reference = Reference(frames)
        for name, numbers in _readings(min(count, len(frames)), path.name):
            read = omnidali.read_frames(path, numbers)
            for number, frame in zip(numbers, read, strict=True):
                wrong = reference.difference(frame, number) if number in compared else ""
                if wrong:
                    found.append(f"{name}, frame {number}: {wrong}")
        return found
    except omnidali.UserError as error:
        is_permitted = permitted and re.search(permitted, str(error))
        return [] if is_permitted else [f"refused: {error}"]


def check(case: Case, path: Path) -> list[str]:
    """Make a case's file at ``path`` and check it."""
    case.make(path)
    return problems(
        path,
        case.expected,
        by_pyav=case.by_pyav,
        used=case.used,
        damaged=case.damaged,
        permitted=case.permitted,
    )


def _readings(count: int, name: str) -> Iterator[tuple[str, list[int]]]:
    """What is read at once: everything, each frame alone, and random sets with repeats."""
    if not count:
        return
    yield "in sequence", list(range(count))
    for number in range(count):
        yield "alone", [number]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(4):
        numbers = rng.integers(0, count, 8).tolist()
        numbers += [numbers[2], numbers[0]]
        yield f"among {numbers}", numbers


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


def _report(folder: Path | None, case: Case) -> tuple[str, list[str]]:
    """As :func:`check` for the command line, where whatever goes wrong is a problem."""
    try:
        if folder is not None:
            return case.name, check(case, folder / case.name)
        with tempfile.TemporaryDirectory() as made:
            return case.name, check(case, Path(made, case.name))
    except Exception as error:
        said = getattr(error, "stderr", b"")
        return case.name, [f"{type(error).__name__}: {error} {said!r:.200}"]


def main() -> int:
    """Check all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of the cases to check")
    parser.add_argument("--folder", type=Path, help="where to keep the files")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    cases = [
        case
        for case in [*matrix(), *extras()]
        if not arguments.names or any(name in case.name for name in arguments.names)
    ]
    cases.sort(key=lambda case: case.name)  # neighbours share their encoded packets

    began, wrong = time.perf_counter(), 0
    with ProcessPoolExecutor(2) as pool:
        for name, found in pool.map(partial(_report, arguments.folder), cases, chunksize=12):
            if found:
                wrong += 1
                print(f"{name}: {len(found)} wrong: {'; '.join(found[:4])}", flush=True)
    print(f"{len(cases)} cases, {wrong} wrong, {time.perf_counter() - began:.0f} seconds")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
