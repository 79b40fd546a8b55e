"""Headers of videos and of folders of frames: what the catalog keeps of each."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import av
import numpy as np

from omnidali.catalog.files import FileSpan, Region
from omnidali.catalog.folders import escape_reason
from omnidali.catalog.gate import (
    HEAD_BYTES,
    HUNGRY,
    MAX_STREAMS,
    MAX_VIDEO_PIXELS,
    VIDEO_DECODERS,
    Refused,
    check_size,
    check_video,
    sniff_video,
)
from omnidali.catalog.packets import IndexMaker
from omnidali.catalog.photo import Probe, probe_image, read_start


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


def probe_frames(span: FileSpan, pattern: str, root: str | None = None) -> Probe:
    """Count the images of a folder that are named by ``pattern``, from 0 or 1 on without a gap.

    Args:
        root: real path of the folder that links among the frames may not leave; none: the folder itself.

    Raises:
        Refused: with the reason.
        OSError: if the folder or its first image cannot be read.
    """
    folder = os.path.realpath(span.path)
    root = root or folder
    entries = {entry.name: entry for entry in os.scandir(folder)}

    def holds(number: int) -> bool:
        entry = entries.get(pattern.format(number))
        if entry is None:
            return False
        if entry.is_symlink() and escape_reason(root, os.path.relpath(entry.path, root)):
            raise Refused("a frame is a link that leaves the root")
        if not entry.is_file():
            raise Refused("a frame is not a regular file")  # a pipe would be waited for
        return True

    first = next((number for number in (0, 1) if holds(number)), None)
    if first is None:
        raise Refused(f"no frame named {pattern.format(1)}")
    count = 1
    while holds(first + count):
        count += 1
    image = probe_image(FileSpan(os.path.join(span.path, pattern.format(first))))
    return Probe(pattern, image.codec, image.width, image.height, count, timing=pack_numbers(np.array([first])))


@contextmanager
def open_video(span: FileSpan, container: str) -> Iterator[av.container.InputContainer]:
    """Open a video with exactly one demuxer, few decoders, and no way to other files or the network.

    FFmpeg gets an opened file instead of a name, and leave to use that alone: what a file says of other places, as
    QuickTime's external references do, names protocols that are not there.
    """
    options = {"protocol_whitelist": "fd", "format_whitelist": container, "codec_whitelist": ",".join(VIDEO_DECODERS),
               "max_streams": str(MAX_STREAMS), "enable_drefs": "0"}
    with open(span.path, "rb", buffering=0) if span.size is None else Region(span) as file:
        if span.size is None:
            opened = av.open("fd:", format=container, options={**options, "fd": str(file.fileno())},
                             buffer_size=1 << 18)
        else:
            opened = av.open(file, format=container, options=options, buffer_size=1 << 18)
        with opened:
            for stream in opened.streams.video:
                if stream.codec_context is not None:  # pictures may grow behind the header that was checked
                    stream.codec_context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
            yield opened


def probe_video(span: FileSpan) -> Probe:
    """Walk a video's packets and decode its first frame.

    Packets that an edit list discards are not counted: they give no frame.

    Raises:
        Refused: with the reason.
        OSError: if the file cannot be read.
    """
    demuxer = sniff_video(read_start(span, HEAD_BYTES))
    try:
        with open(span.path, "rb", buffering=0) as file, open_video(span, demuxer) as container:
            return _walk(container, demuxer, IndexMaker(span.reader(file)))
    except av.error.MemoryError:
        raise Refused(HUNGRY) from None
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise Refused(f"broken: {getattr(error, 'strerror', None) or error}") from None


def _walk(container, demuxer: str, index: IndexMaker) -> Probe:
    if not container.streams.video:
        raise Refused("no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise Refused("no decoder for its codec")
    if stream.codec_context.codec.name not in VIDEO_DECODERS:
        raise Refused(f"a codec that the gate does not let through: {stream.codec_context.codec.canonical_name}")
    # before a decoder takes memory
    check_size(stream.codec_context.width or 1, stream.codec_context.height or 1, MAX_VIDEO_PIXELS)
    check_video((container.duration or 0) / av.time_base, 1)
    stream.codec_context.thread_count = 1
    times, keys, first = [], [], None
    for packet in container.demux(stream):
        if packet.size:
            index.add(packet)
            if not packet.is_discard:
                times.append(packet.pts)
                keys.append(packet.is_keyframe)
                check_video(0, len(times))
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
        check_video((max(times) - min(times)) * (stream.time_base or 0), 1)
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
    check_size(*size, MAX_VIDEO_PIXELS)
    rate = float(stream.average_rate or stream.base_rate or 0)
    if rate > 0 and not timing:  # else its times are known
        check_video(len(times) / rate, 1)
    return Probe(demuxer, _codec_name(stream, first.format.name, rotation), *size, len(keys if timing else times),
                 max(rate, 0.0), rotation, timing,
                 pack_numbers(np.flatnonzero(keys)), float(stream.time_base or 0), packets)


def _codec_name(stream, pixels: str, rotation: int) -> str:
    """The codec, not the library that happens to decode it here (libdav1d decodes av1), and its variant."""
    name = stream.codec_context.codec.canonical_name
    if rotation:
        return f"{name}:rotated"
    return name if pixels in ("yuv420p", "yuvj420p") else f"{name}:{pixels}"
