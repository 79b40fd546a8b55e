"""Writes encoded packets into containers."""

from __future__ import annotations

import io
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np

from helpers.frame_matrix.case import FRAMES, PATIENCE_SECONDS, RATE, SPLIT
from helpers.frame_matrix.clocks import (
    LATE_SECONDS,
    TICK,
    Clock,
    clock_of,
    constant_clock,
    moved_clock,
)
from helpers.frame_matrix.encoding import Encoded, encode_for

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
    "ogv": "ogg",
    "wmv": "asf",
    "gif": "gif",
}

# what PyAV does not let into a container though FFmpeg does, and where FFmpeg copies it from
COPIED_FROM = {
    ("mkv", "h263"): "nut",
    ("mkv", "flv1"): "nut",
    ("mkv", "msmpeg4v2"): "nut",
    ("mkv", "wmv1"): "nut",
    ("mkv", "wmv2"): "nut",
    ("mov", "flv1"): "nut",
    ("mov", "msmpeg4v2"): "nut",
    ("mov", "wmv1"): "nut",
    ("mov", "wmv2"): "nut",
    ("mov", "ffv1"): "nut",
    ("mov", "theora"): "mkv",
    ("avi", "hevc"): "mp4",
    ("avi", "prores"): "mkv",
}

# a cluster of Matroska up to its timestamp, and how many bytes that has
CLUSTER = re.compile(b"\x1f\x43\xb6\x75.{1,8}?(?:\xbf\x84.{4})?\xe7([\x81-\x84])", re.DOTALL)


def mux(
    path: Path,
    form: str,
    parts: Sequence[tuple[Encoded, Clock]],
    *,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
) -> None:
    """Write one stream of the parts' packets, one part after another.

    Args:
        path: of the file.
        form: FFmpeg's name of the container.
        parts: packets with the clock of each part; the codec's parameters are the first part's.
        options: the muxer's.
        rotation: degrees counter-clockwise that viewers turn the pictures by.
        sound: whether silence lies beside the pictures.
    """
    template = io.BytesIO(parts[0][0].template)
    with (
        av.open(template) as source,
        av.open(str(path), "w", format=form, options=options or {}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0], opaque=True)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("mp2", rate=44100) if sound else None
        for video, clock in parts:
            container.mux(list(timed_packets(video, clock, stream)))
        if audio is not None:
            for frame in [*_silence(), None]:
                container.mux(audio.encode(frame))


def timed_packets(video: Encoded, clock: Clock, stream) -> Iterator[av.Packet]:
    for data, key, pts, dts in zip(video.packets, video.keys, video.pts, video.dts, strict=True):
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


def make_file(
    path: Path, container: str, codec: str, structure: str, timing: str = "constant"
) -> None:
    """Write one kind of file."""
    if timing != "restart":
        parts = [(encode_for(container, codec, structure), clock_of(container, timing))]
        _write(path, container, codec=codec, parts=parts)
        if container == "avi":
            start = LATE_SECONDS * RATE if timing == "late" else 0
            patch_avi(path, codec, structure=structure, start=start)
        return
    one = encode_for(container, codec, structure, count=SPLIT)
    two = encode_for(container, codec, structure, first=SPLIT, count=FRAMES - SPLIT)
    if container in ("ts", "mpg", "ogv"):
        pieces = []
        for part in (one, two):
            _write(path, container, codec=codec, parts=[(part, constant_clock)])
            pieces.append(path.read_bytes())
        path.write_bytes(b"".join(pieces))
        return
    later = partial(moved_clock, constant_clock, 4 * SPLIT)
    _write(path, container, codec=codec, parts=[(one, constant_clock), (two, later)])
    restart = _restart_flv if container == "flv" else _restart_matroska
    path.write_bytes(restart(path.read_bytes()))


def _write(
    path: Path, container: str, *, codec: str, parts: Sequence[tuple[Encoded, Clock]]
) -> None:
    """Mux by PyAV, or by the program what PyAV does not mux."""
    between = COPIED_FROM.get((container, codec))
    if between is None:
        mux(path, CONTAINERS[container], parts)
        return
    offset = min(0, parts[0][1](0))  # the container between may hold no time below 0
    moved = [(video, partial(moved_clock, clock, -offset)) for video, clock in parts]
    base = path.with_name(f"{path.name}.{between}")
    mux(base, CONTAINERS.get(between, between), moved)
    copy(base, path, arguments=["-copyts", "-output_ts_offset", str(float(offset * TICK))])


def copy(
    base: Path, path: Path, *, before: Sequence[str] = (), arguments: Sequence[str] = ()
) -> None:
    """Copy the packets of a file into another container by the program, and remove the file."""
    command = ["ffmpeg", "-v", "error", "-y", *before, "-i", str(base), "-c", "copy", *arguments]
    command += ["-f", CONTAINERS[path.suffix[1:]], str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
    base.unlink()


def patch_avi(path: Path, codec: str, *, structure: str, start: int = 0) -> None:
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
    for found in CLUSTER.finditer(data):
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
