"""Headers of videos and of folders of frames: what the catalog keeps of each."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
import numpy as np
from av.container import Flags
from av.stream import Disposition

from omnidali.catalog.file_span import FileSpan, Region
from omnidali.catalog.listing.folders import escape_reason
from omnidali.catalog.probing.frame_numbering import (
    Frames,
    frames_by_decoding,
    frames_by_headers,
    make_index,
    usable_frames,
)
from omnidali.catalog.probing.frame_planes import frame_orientation
from omnidali.catalog.probing.image_probe import Probe, probe_image, read_start, stretched
from omnidali.catalog.probing.mp4_boxes import OVERLAP, check_boxes, check_compression
from omnidali.catalog.probing.packet_index import decoder_options
from omnidali.catalog.probing.packet_walk import PacketWalk
from omnidali.catalog.probing.sniff import (
    HEAD_BYTES,
    HUNGRY,
    MAX_SIDE,
    MAX_STREAMS,
    MAX_VIDEO_PIXELS,
    VIDEO_DECODERS,
    UnsupportedMediaError,
    check_size,
    check_video,
    sniff_video,
)

# variants of a codec: files whose frames timestamps do not tell, and those of which a decoder makes
# something up
_MAX_ASPECT = 8  # of a pixel; what claims more is a mistake
IRREGULAR, DAMAGED = ":irregular", ":damaged"


def pack_numbers(numbers: np.ndarray) -> bytes:
    """Sorted int64 numbers as compressed differences."""
    return zlib.compress(np.diff(np.asarray(numbers, np.int64), prepend=0).tobytes(), 1)


def unpack_numbers(data: bytes) -> np.ndarray:
    """The inverse of :func:`pack_numbers`."""
    return (
        np.cumsum(np.frombuffer(zlib.decompress(data), np.int64)) if data else np.zeros(0, np.int64)
    )


def unpack_times(timing: bytes, frames: int) -> np.ndarray | None:
    """Every frame's timestamp in presentation order, in stream ticks; None where the file has none."""
    times = unpack_numbers(timing)
    if not len(times):
        return None
    return times if len(times) == frames else times[0] + np.arange(frames) * (times[1] - times[0])


def probe_frames(span: FileSpan, pattern: str, root: str | None = None) -> Probe:
    """Count the images of a folder that are named by ``pattern``, from 0 or 1 on without a gap.

    Args:
        root: real path of the folder that links among the frames may not leave; none: the folder
            itself.

    Raises:
        UnsupportedMediaError: with the reason.
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
            raise UnsupportedMediaError("a frame is a link that leaves the root")
        if not entry.is_file():
            raise UnsupportedMediaError(
                "a frame is not a regular file"
            )  # a pipe would be waited for
        return True

    first = next((number for number in (0, 1) if holds(number)), None)
    if first is None:
        raise UnsupportedMediaError(f"no frame named {pattern.format(1)}")
    count = 1
    while holds(first + count):
        count += 1
    image = probe_image(FileSpan(os.path.join(span.path, pattern.format(first))))
    return Probe(
        pattern,
        image.codec,
        image.width,
        image.height,
        count,
        timing=pack_numbers(np.array([first])),
    )


@contextmanager
def open_video(
    span: FileSpan, container: str, invents_times: bool = False, checks_fragments: bool = False
) -> Iterator[av.container.InputContainer]:
    """Open a video with exactly one demuxer, few decoders, and no way to other files or the
    network.

    FFmpeg gets an opened file instead of a name, and leave to use that alone: what a file says of
    other places, as QuickTime's external references do, names protocols that are not there.

    Args:
        invents_times: whether FFmpeg makes up presentation times where a file has none, as PyAV
            asks it to: wrong ones where frames are reordered.
        checks_fragments: whether all fragments of a film pass the gate first; its header does in
            any case.

    Raises:
        UnsupportedMediaError: if its boxes claim more than they can hold, or hide its header.
        OSError: if the file could not be read, whatever FFmpeg made of it; at the latest at the
            end.
        av.FFmpegError: if its content is not as it must be.
    """
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": container,
        "codec_whitelist": ",".join(VIDEO_DECODERS),
        "max_streams": str(MAX_STREAMS),
        "enable_drefs": "0",
    }
    is_film = container == "mov"
    with Region(span, check_compression if is_film else None, OVERLAP) as file:
        if is_film:
            check_boxes(file.read_at, file.size, with_fragments=checks_fragments)
        try:
            with av.open(file, format=container, options=options, buffer_size=1 << 18) as opened:
                if not invents_times:
                    opened.flags &= ~Flags.gen_pts.value
                for stream in opened.streams.video:
                    if stream.codec_context is not None:
                        stream.codec_context.options = decoder_options(
                            stream.codec_context.codec.canonical_name
                        )
                yield opened
        except Exception as error:
            if file.error is not None:  # the cause; what came of it is no news
                raise file.error from error
            raise
        if file.error is not None:
            raise file.error


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The default video stream; of several, or without one, that with the largest picture.

    Covers and thumbnails are none.
    """
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

    def rank(stream: av.VideoStream) -> tuple[bool, int]:
        context = stream.codec_context
        area = context.width * context.height if context is not None else 0
        return bool(stream.disposition & Disposition.default), area

    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    return max(streams, key=rank, default=None)


def probe_video(
    span: FileSpan, before_decoding: Callable[[], object] = lambda: None, decodes_all: bool = False
) -> Probe:
    """Walk a video's packets and decode its first frame, or all of it where its headers do not tell
    its frames.

    Frames are those that FFmpeg's sequential decoding gives: packets that an edit list discards
    give none.

    Args:
        before_decoding: called before a whole video is decoded, which may take long.
        decodes_all: whether to decode it in any case, and believe no header.

    Raises:
        UnsupportedMediaError: with the reason.
        OSError: if the file cannot be read.
    """
    demuxer = sniff_video(read_start(span, HEAD_BYTES))
    try:
        with open(span.path, "rb", buffering=0) as file:
            read = span.reader(file)
            found = (
                None
                if decodes_all
                else _examine(span, demuxer, read, before_decoding, decodes_all=False)
            )
            return found or _examine(span, demuxer, read, before_decoding, decodes_all=True)
    except av.error.MemoryError:
        raise UnsupportedMediaError(HUNGRY) from None
    except (av.FFmpegError, ValueError, OverflowError) as error:
        # FFmpeg's number for a file that is cut off reads as if the disk was to blame
        reason = (
            "cut off"
            if getattr(error, "errno", None) == errno.EIO
            else getattr(error, "strerror", None) or error
        )
        raise UnsupportedMediaError(f"broken: {reason}") from None


def _examine(
    span: FileSpan,
    demuxer: str,
    read: Callable[[int, int], memoryview],
    before_decoding: Callable,
    decodes_all: bool,
) -> Probe | None:
    """One pass over the file; None where its headers alone do not tell the frames."""
    with open_video(span, demuxer, checks_fragments=True) as container:
        stream = _checked_stream(container)
        walk = PacketWalk(stream, demuxer, read, decodes_all)
        if walk.decodes_all:
            before_decoding()
        walk.run(container)
        check_video(0, len(walk.sizes))
        if not walk.sizes:
            raise UnsupportedMediaError("no frames")
        if walk.decodes_all:
            if walk.first is None:
                raise UnsupportedMediaError("no frame decodes")
            frames = frames_by_decoding(walk, _order_by_times(span, demuxer))
        elif (shown := walk.order_by_headers()) is not None:
            frames = frames_by_headers(walk, shown)
        else:
            return None
        return _probe_of(walk, frames, stream, demuxer, read)


def _order_by_times(span: FileSpan, demuxer: str) -> np.ndarray:
    """Packets in the order of their timestamps, invented ones where a file has none: not to be
    believed.

    DALI's decoders go by it, and so did catalogs before version 5: files that it tells right are
    regular.
    """
    with open_video(span, demuxer, invents_times=True) as container:
        facts = [
            (packet.pts, packet.is_discard)
            for packet in container.demux(video_stream(container))
            if packet.size
        ]
    times = [time for time, is_hidden in facts if not is_hidden]
    shown = np.flatnonzero([not is_hidden for _, is_hidden in facts])
    if None in times:
        return shown
    return shown[np.argsort(np.array(times, np.int64), kind="stable")]


def _checked_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The stream to decode, if the gate lets it through; before a decoder takes memory."""
    stream = video_stream(container)
    if stream is None:
        raise UnsupportedMediaError("no video stream")
    context = stream.codec_context
    if context is None:
        raise UnsupportedMediaError("no decoder for its codec")
    if context.codec.name not in VIDEO_DECODERS:
        raise UnsupportedMediaError(
            f"a codec that the gate does not let through: {context.codec.canonical_name}"
        )
    check_size(context.width or 1, context.height or 1, MAX_VIDEO_PIXELS)
    check_video((container.duration or 0) / av.time_base, 1)
    context.thread_count = 1
    context.thread_type = "NONE"
    return stream


def _probe_of(
    walk: PacketWalk, frames: Frames | None, stream: av.VideoStream, demuxer: str, read
) -> Probe:
    """What the catalog keeps; ``frames`` None: they can only be counted from the start."""
    first, tick = walk.first, float(stream.time_base or 0)
    rotation, mirrored = frame_orientation(first)
    size = (first.width, first.height) if rotation % 180 == 0 else (first.height, first.width)
    check_size(*size, MAX_VIDEO_PIXELS)
    rate = max(float(stream.average_rate or stream.base_rate or 0), 0.0)
    timing = keyframes = packets = b""
    count, notes = usable_frames(walk) if frames is None else (len(frames.packets), frames.notes)
    if frames is not None:
        index = make_index(walk, frames, read)
        packets = index.pack()
        numbers = index.numbers[index.keys]
        keyframes = pack_numbers(np.sort(numbers[numbers >= 0]))
        if frames.times is not None:
            check_video(float(frames.times[-1] - frames.times[0]) * tick, 1)
            steps = np.diff(frames.times)
            even = count > 2 and (steps == steps[0]).all() and steps[0] > 0
            timing = pack_numbers(frames.times[:2] if even else frames.times)
    if rate > 0 and not timing:  # else its times are known
        check_video(count / rate, 1)
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if rotation % 180 == 0 else 1 / aspect
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT or max(stretched(*size, aspect)) > MAX_SIDE:
        aspect = 1.0
    return Probe(
        demuxer,
        _codec_name(stream, first.format.name, bool(rotation or mirrored), frames),
        *size,
        frames=count,
        frame_rate=rate,
        rotation=rotation,
        mirrored=mirrored,
        aspect=aspect,
        timing=timing,
        keyframes=keyframes,
        tick=tick,
        packets=packets,
        note="; ".join(notes),
    )


def _codec_name(stream, pixels: str, is_turned: bool, frames: Frames | None) -> str:
    """The codec, not the library that happens to decode it here (libdav1d decodes av1), and its
    variant.
    """
    name = stream.codec_context.codec.canonical_name
    if frames is None or not frames.is_plain:
        return f"{name}{IRREGULAR}"
    if is_turned:
        return f"{name}:rotated"
    if pixels not in ("yuv420p", "yuvj420p"):
        return f"{name}:{pixels}"
    return f"{name}{DAMAGED}" if frames.is_damaged else name
