"""Headers of media files: what the catalog keeps of each."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

import av
import numpy as np

from omnidali.catalog.files import FileSpan
from omnidali.catalog.gate import HEAD_BYTES, Refused, check_size, read_image_header, sniff_video
from omnidali.catalog.packets import IndexMaker

IMAGE_HEADER_BYTES = 1 << 18


@dataclass(frozen=True)
class Probe:
    """What is kept of one readable file.

    Attributes:
        container: FFmpeg's demuxer for videos, the format for images, the pattern of names for frames.
        codec: such as ``h264`` or ``jpeg``; a variant that not every decoder takes stands behind a
            colon: ``h264:rotated``, ``hevc:yuv420p10le``, ``jpeg:cmyk``.
        width, height: pixels as a viewer shows them, after rotation.
        frames: 1 for images.
        frame_rate: mean frames per second, 0 for images.
        rotation: degrees counter-clockwise that a viewer turns the coded picture by: 0, 90, 180 or 270.
        timing: :func:`pack_numbers` of every frame's timestamp in presentation order, or of (first,
            step) where they are evenly spaced, or of nothing where the file has none. Of a folder of
            frames: the number in the first frame's name.
        keyframes: :func:`pack_numbers` of the presentation indices of the keyframes.
        tick: seconds of one unit of a timestamp.
        packets: a packed :class:`~omnidali.catalog.packets.PacketIndex`, or nothing where the packets do not lie
            in the file as a decoder needs them.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int = 1
    frame_rate: float = 0.0
    rotation: int = 0
    timing: bytes = b""
    keyframes: bytes = b""
    tick: float = 0.0
    packets: bytes = b""


def pack_numbers(numbers: np.ndarray) -> bytes:
    """Sorted int64 numbers as compressed differences."""
    return zlib.compress(np.diff(np.asarray(numbers, np.int64), prepend=0).tobytes(), 1)


def unpack_numbers(data: bytes) -> np.ndarray:
    """The inverse of :func:`pack_numbers`."""
    return np.cumsum(np.frombuffer(zlib.decompress(data), np.int64)) if data else np.zeros(0, np.int64)


def unpack_times(timing: bytes, frames: int) -> np.ndarray | None:
    """Every frame's timestamp in presentation order, in stream ticks; None where the file has none."""
    times = unpack_numbers(timing)
    if not len(times):
        return None
    return times if len(times) == frames else times[0] + np.arange(frames) * (times[1] - times[0])


def probe_image(span: FileSpan) -> Probe:
    """Read an image's header without decoding it.

    Raises:
        Refused: with the reason.
        OSError: if the file cannot be read.
    """
    data = _read_start(span, IMAGE_HEADER_BYTES)
    try:
        header = read_image_header(data)
    except Refused as refusal:
        if str(refusal) != "header cut off" or len(data) < IMAGE_HEADER_BYTES:
            raise
        header = read_image_header(span.read().tobytes())  # metadata longer than usual
    return Probe(header.codec.partition(":")[0], header.codec, header.width, header.height)


def probe_frames(span: FileSpan, pattern: str) -> Probe:
    """Count the images of a folder that are named by ``pattern``, from 0 or 1 on without a gap.

    Raises:
        Refused: with the reason.
        OSError: if the folder or its first image cannot be read.
    """
    names = {entry.name for entry in os.scandir(span.path)}
    first = next((number for number in (1, 0) if pattern.format(number) in names), None)
    if first == 1 and pattern.format(0) in names:
        first = 0
    if first is None:
        raise Refused(f"no frame named {pattern.format(1)}")
    count = 1
    while pattern.format(first + count) in names:
        count += 1
    image = probe_image(FileSpan(os.path.join(span.path, pattern.format(first))))
    return Probe(pattern, image.codec, image.width, image.height, count, timing=pack_numbers(np.array([first])))


def open_video(span: FileSpan, container: str):
    """Open a video with exactly one demuxer and no way to other files or the network."""
    return av.open(span.open(), format=container, options={"protocol_whitelist": "file"}, buffer_size=1 << 18)


def probe_video(span: FileSpan) -> Probe:
    """Walk a video's packets and decode its first frame.

    Packets that an edit list discards are not counted: they give no frame.

    Raises:
        Refused: with the reason.
        OSError: if the file cannot be read.
    """
    demuxer = sniff_video(_read_start(span, HEAD_BYTES))
    try:
        with open(span.path, "rb", buffering=0) as file, open_video(span, demuxer) as container:
            return _walk(container, demuxer, IndexMaker(span.reader(file)))
    except (av.FFmpegError, ValueError) as error:
        raise Refused(f"broken: {getattr(error, 'strerror', None) or error}") from None


def _read_start(span: FileSpan, count: int) -> bytes:
    """The first ``count`` bytes; Refused where there are none."""
    data = span.read(count).tobytes()
    if not data:
        raise Refused("empty file")
    return data


def _walk(container, demuxer: str, index: IndexMaker) -> Probe:
    if not container.streams.video:
        raise Refused("no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise Refused("no decoder for its codec")
    check_size(stream.codec_context.width or 1, stream.codec_context.height or 1)  # before a decoder takes memory
    stream.codec_context.thread_count = 1
    times, keys, first = [], [], None
    for packet in container.demux(stream):
        if packet.size:
            index.add(packet)
            if not packet.is_discard:
                times.append(packet.pts)
                keys.append(packet.is_keyframe)
        if first is None:  # the last: decoding takes the packet's bytes away
            first = next(iter(packet.decode()), None)
    if not times:
        raise Refused("no frames")
    if first is None:
        raise Refused("first frame does not decode")
    keys = np.asarray(keys, bool)
    packets = b""
    if None in times:  # no timestamps: frames are counted from the start instead
        timing, keys = b"", keys[:1]
    else:
        times = np.asarray(times, np.int64)
        order = np.argsort(times, kind="stable")
        times, keys = times[order], keys[order]
        steps = np.diff(times)
        even = len(times) > 2 and (steps == steps[0]).all() and steps[0] > 0
        timing = pack_numbers(times[:2] if even else times)
        packets = index.make(order, stream.codec_context, first if first.pts == times[0] else None)
    rotation = round(first.rotation) % 360
    if rotation % 90:
        raise Refused(f"rotated by {rotation} degrees")
    size = (first.width, first.height) if rotation % 180 == 0 else (first.height, first.width)
    check_size(*size)
    return Probe(demuxer, _codec_name(stream, first.format.name, rotation), *size, len(keys if timing else times),
                 float(stream.average_rate or stream.base_rate or 0), rotation, timing,
                 pack_numbers(np.flatnonzero(keys)), float(stream.time_base or 0), packets)


def _codec_name(stream, pixels: str, rotation: int) -> str:
    """The codec, not the library that happens to decode it here (libdav1d decodes av1), and its variant."""
    name = stream.codec_context.codec.canonical_name
    if rotation:
        return f"{name}:rotated"
    return name if pixels in ("yuv420p", "yuvj420p") else f"{name}:{pixels}"
