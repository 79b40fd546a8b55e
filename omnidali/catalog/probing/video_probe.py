"""Probes videos: which frames there are, how they are shown, and where their packets lie."""

import errno
import functools
from collections.abc import Callable

import av
import numpy as np

from omnidali.catalog.probing.asf_objects import joined_file
from omnidali.catalog.probing.file_span import FileSpan, ReadAt, Region
from omnidali.catalog.probing.formats import DECODERS_OF, HEAD_BYTES
from omnidali.catalog.probing.frame_numbering import (
    Frames,
    frames_by_decoding,
    frames_by_headers,
    make_index,
    usable_frames,
)
from omnidali.catalog.probing.frame_planes import frame_orientation
from omnidali.catalog.probing.image_probe import read_start
from omnidali.catalog.probing.limits import (
    MAX_SIDE,
    MAX_VIDEO_PIXELS,
    UnsupportedMediaError,
    check_size,
    check_video,
)
from omnidali.catalog.probing.packed_numbers import pack_numbers
from omnidali.catalog.probing.packet_decoder import use_one_thread
from omnidali.catalog.probing.packet_scan import PacketScan
from omnidali.catalog.probing.probe import (
    DAMAGED,
    EDITED,
    HUNGRY,
    INDIRECT,
    INTERLACED,
    IRREGULAR,
    OPEN_GOP,
    UNCOUNTED,
    Probe,
    stretched,
)
from omnidali.catalog.probing.sniff import sniff_video
from omnidali.catalog.probing.video_container import open_video, packets_of, video_stream

_MAX_ASPECT = 8  # of a pixel; what claims more is a mistake
_USUAL_PIXELS = {"gif": ("bgra",)}  # of codecs that have no 4:2:0
# Codecs that a user knows by another name, and that no encoder here writes for a test.
_UNREAD_CODECS = {
    "wmv3": "WMV 9 video",
    "vc1": "VC-1 video",
    "msmpeg4v1": "MS MPEG-4 version 1 video",
}


def probe_video(
    span: FileSpan, before_decoding: Callable[[], object] = lambda: None, decodes_all: bool = False
) -> Probe:
    """Scan a video's packets and decode its first frame, or all of it if the headers are unclear.

    Frames are those that FFmpeg's sequential decoding outputs: packets that an edit list discards
    have none.

    Args:
        span: the file.
        before_decoding: called before a whole video is decoded, which may take long.
        decodes_all: whether to decode it in any case, and believe no header.

    Raises:
        UnsupportedMediaError: with the reason.
        OSError: if the file cannot be read.
    """
    demuxer = sniff_video(read_start(span, HEAD_BYTES))
    try:
        with Region(span) as file:
            examine = functools.partial(_examine, span, demuxer, file.read_at, before_decoding)
            probe = examine(decodes_all=decodes_all) or examine(decodes_all=True)
    except av.error.MemoryError:
        raise UnsupportedMediaError(HUNGRY) from None
    except (av.FFmpegError, ValueError, OverflowError) as error:
        # FFmpeg's number for a file that is cut off reads as if the disk was to blame.
        is_cut_off = getattr(error, "errno", None) == errno.EIO
        reason = "cut off" if is_cut_off else getattr(error, "strerror", None) or error
        raise UnsupportedMediaError(f"broken: {reason}") from None
    assert probe is not None, "a decoder can tell the frames of any video"
    return probe


def _examine(
    span: FileSpan,
    demuxer: str,
    read: ReadAt,
    before_decoding: Callable[[], object],
    *,
    decodes_all: bool,
) -> Probe | None:
    """One pass over the file; None if its headers alone do not determine the frames."""
    with open_video(span, demuxer, checks_fragments=True) as container:
        stream = _checked_stream(container, demuxer)
        scan = PacketScan(stream, demuxer, read, decodes_all)
        if scan.decodes_all:
            before_decoding()
        scan.run(container)
        check_video(0, len(scan.packets))
        if not scan.packets:
            raise UnsupportedMediaError("no frames")
        if demuxer == "gif" and len(scan.packets) == 1:
            raise UnsupportedMediaError("a still GIF: one picture is no video")

        if scan.decodes_all:
            if scan.first is None:
                raise UnsupportedMediaError("no frame decodes")
            frames = frames_by_decoding(scan, _order_by_times(span, demuxer))
        elif (order := scan.order_by_headers()) is not None:
            frames = frames_by_headers(scan, order)
        else:
            return None
        return _probe_of(scan, frames, stream, demuxer, read)


def _order_by_times(span: FileSpan, demuxer: str) -> np.ndarray:
    """Packets in the order of their timestamps, which FFmpeg invents if a file has none.

    They are not to be believed. DALI's decoders go by them, and so did catalogs before version 5:
    a file is regular if they give the right order.
    """
    with open_video(span, demuxer, invents_times=True) as container:
        stream = video_stream(container)
        assert stream is not None
        facts = [
            (packet.pts, packet.is_discard)
            for packet in packets_of(container, stream)
            if packet.size
        ]
    times = [time for time, is_hidden in facts if not is_hidden]
    shown = np.flatnonzero([not is_hidden for _, is_hidden in facts])
    if None in times:
        return shown
    return shown[np.argsort(np.array(times, np.int64), kind="stable")]


def _checked_stream(container: av.container.InputContainer, demuxer: str) -> av.VideoStream:
    """The stream to decode, checked before a decoder takes memory."""
    stream = video_stream(container)
    if stream is None:
        raise UnsupportedMediaError("sound alone" if container.streams.audio else "no video stream")
    context = stream.codec_context
    if context is None:
        raise UnsupportedMediaError("no decoder for its codec")
    if context.codec.name not in DECODERS_OF[demuxer]:
        codec = context.codec.canonical_name
        name = _UNREAD_CODECS.get(codec, "video")
        raise UnsupportedMediaError(f"{name} ({codec}): not read, convert it to H.264")
    check_size(context.width or 1, context.height or 1, MAX_VIDEO_PIXELS)
    check_video((container.duration or 0) / av.time_base, 1)
    use_one_thread(context)
    return stream


def _probe_of(
    scan: PacketScan, frames: Frames | None, stream: av.VideoStream, demuxer: str, read: ReadAt
) -> Probe:
    """What the catalog keeps; without ``frames``, they can only be counted from the start."""
    assert scan.first is not None
    rotation, mirrored = frame_orientation(scan.first)
    width, height = scan.first.width, scan.first.height
    if rotation % 180 != 0:
        width, height = height, width
    check_size(width, height, MAX_VIDEO_PIXELS)

    rate = max(float(stream.average_rate or stream.base_rate or 0), 0.0)
    tick = float(stream.time_base or 0)
    timing = keyframes = packets = b""
    if frames is None:
        count, notes = usable_frames(scan)
    else:
        count, notes = len(frames.packets), frames.notes
        index = make_index(scan, frames, read)
        packets = index.pack()
        numbers = index.numbers[index.keys]
        keyframes = pack_numbers(np.sort(numbers[numbers >= 0]))
        timing = _packed_times(frames, tick)
    if demuxer == "asf" and (place := joined_file(read)) is not None:
        notes = (*notes, f"another file is joined to it at byte {place}: it is not used")
    if rate > 0 and not timing:  # else its times are known
        check_video(count / rate, 1)
    return Probe(
        container=demuxer,
        codec=_codec_name(scan, is_turned=bool(rotation or mirrored), frames=frames),
        width=width,
        height=height,
        frames=count,
        frame_rate=rate,
        rotation=rotation,
        mirrored=mirrored,
        aspect=_upright_aspect(stream, width, height, rotation),
        timing=timing,
        keyframes=keyframes,
        tick=tick,
        packets=packets,
        note="; ".join(notes),
    )


def _packed_times(frames: Frames, tick: float) -> bytes:
    if frames.times is None:
        return b""
    check_video(float(frames.times[-1] - frames.times[0]) * tick, 1)
    steps = np.diff(frames.times)
    is_even = len(steps) > 1 and steps[0] > 0 and (steps == steps[0]).all()
    return pack_numbers(frames.times[:2] if is_even else frames.times)


def _upright_aspect(stream: av.VideoStream, width: int, height: int, rotation: int) -> float:
    """Width of a pixel by its height, as shown; 1 if the file claims the impossible."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if rotation % 180 != 0:
        aspect = 1 / aspect
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        return 1.0
    return aspect if max(stretched(width, height, aspect)) <= MAX_SIDE else 1.0


def _codec_name(scan: PacketScan, *, is_turned: bool, frames: Frames | None) -> str:
    """The codec and its variant; not the library that happens to decode it here.

    As an example, libdav1d decodes av1.
    """
    name = scan.context.codec.canonical_name
    if frames is None:
        return f"{name}{UNCOUNTED}{IRREGULAR}"
    variant = _variant(scan, frames, is_turned=is_turned)
    return f"{name}{variant}" if frames.is_plain else f"{name}{variant}{IRREGULAR}"


def _variant(scan: PacketScan, frames: Frames, *, is_turned: bool) -> str:
    """The first reason why not every decoder takes the video; empty if there is none."""
    assert scan.first is not None
    pixels = scan.first.format.name
    if is_turned:
        return ":rotated"
    if pixels not in _USUAL_PIXELS.get(scan.context.codec.canonical_name, ("yuv420p", "yuvj420p")):
        return f":{pixels}"
    if frames.is_damaged:
        return DAMAGED
    if not scan.is_direct:
        return INDIRECT
    if scan.may_have_fields:
        return INTERLACED
    if scan.has_open_gop:
        return OPEN_GOP
    return EDITED if frames.is_edited or scan.replaces_sets else ""
