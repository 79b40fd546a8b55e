"""Wanted frames of a video through FFmpeg's demuxer, where its packets cannot be read from the file
by the index.

Needed where a container cuts its packets up (MPEG-TS), and where the index gave less than was
wanted, as of a file that changed after the probe. Frames are known by the packets that they come
from, as in the index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import av
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.packet_index import FRAMING, KEEPS_STATE, PacketIndex, decode_run
from omnidali.catalog.probing.probe import open_video, video_stream
from omnidali.catalog.probing.sniff import UnsupportedMediaError, check_size
from omnidali.decoding.failure_cause import cause_of
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import moves_on

_SOUGHT = 64  # packets in which one that the index knows is looked for
# demuxers that go to a place in the file; their clocks may start again
_BY_BYTES = {"mpegts", "mpeg"}


class _NotFoundError(Exception):
    """The demuxer's packets are not those of the index."""


def demuxed_frames(
    media: Media, index: PacketIndex | None, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of the wanted frames, each at most once.

    Each run of the index is looked for with a seek, then from the start. Where the file is not the
    one of the index, or has none, its frames are counted from the start.

    Raises:
        UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError, DecodeError: from a file that is
            broken.
    """
    if index is None:
        yield from counted_frames(media, wanted)
        return
    runs = index.runs(wanted)
    if media.codec.partition(":")[0] in KEEPS_STATE and len(runs) > 1:  # a new decoder for each
        for _, _, frames in runs:
            yield from demuxed_frames(media, index, sorted(frames.values()))
        return
    with open_video(media.span, media.container) as container:
        stream = _opened(container)
        for place, (first, last, frames) in enumerate(runs):
            for seeks in (True, False):
                try:
                    yield from _run(container, stream, media, index, first, last, frames, seeks)
                    break
                except _NotFoundError:
                    continue
            else:
                left = {number for _, _, rest in runs[place:] for number in rest.values()}
                yield from counted_frames(media, sorted(left))
                return


def counted_frames(media: Media, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of the wanted frames, where a frame's number is how many came before it;
    errors as above.
    """
    left = set(wanted)
    with open_video(media.span, media.container) as container:
        for number, frame in enumerate(_all_frames(container, _opened(container))):
            if number in left:
                left.discard(number)
                yield number, frame
            if not left:
                return


def frames_from(media: Media, first: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of all frames from ``first`` on, in order; packets that do not decode give
    none.

    Raises:
        DecodeError: if the file cannot be read, or is not the one that was probed.
    """
    try:
        with open_video(media.span, media.container) as container:
            stream = _opened(container)
            if not media.packets:
                yield from itertools.islice(enumerate(_all_frames(container, stream)), first, None)
                return
            index = PacketIndex.unpack(media.packets)
            begin, _, _ = index.runs([first])[0]
            left = first
            for seeks in (True, False):
                try:
                    packets = _packets(container, stream, media, index, begin, seeks)
                    for packet in itertools.chain(packets, [None]):
                        for frame in _decoded(stream, packet):
                            number = _number(index, frame)
                            if number >= left:
                                left = number + 1
                                yield number, frame
                    return
                except _NotFoundError:
                    continue
    except (UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise cause_of(error).error() from None
    raise DecodeError("the file changed after the probe")


def _opened(container: av.container.InputContainer) -> av.VideoStream:
    stream = video_stream(container)
    if stream is None or stream.codec_context is None:
        raise DecodeError("no video stream")
    context = stream.codec_context
    check_size(context.width or 1, context.height or 1)  # it may be another file by now
    context.thread_count = 1
    context.thread_type = "NONE"
    return stream


def _run(
    container,
    stream,
    media: Media,
    index: PacketIndex,
    first: int,
    last: int,
    frames: dict[int, int],
    seeks: bool,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of one run of the index, by packet; a frame that came is taken out of ``frames``."""
    packets = itertools.islice(
        _packets(container, stream, media, index, first, seeks), last + 1 - first
    )
    yield from decode_run(stream.codec_context, packets, frames)


def _packets(
    container, stream, media: Media, index: PacketIndex, first: int, seeks: bool
) -> Iterator[av.Packet]:
    """The demuxer's packets from ``first`` on, each with its number in the index as its time.

    Raises:
        _NotFoundError: if the demuxer gives others.
    """
    if not seeks:
        container.seek(
            0, backward=True, any_frame=True, unsupported_byte_offset=media.container in _BY_BYTES
        )
        return _numbered(container, stream, index, 0, first)
    if media.container in _BY_BYTES:
        container.seek(int(index.offsets[first]), any_frame=True, unsupported_byte_offset=True)
        return _numbered(container, stream, index, first, first)
    times, number = media.frame_times, int(index.numbers[first])
    if times is None or number < 0:
        raise _NotFoundError
    container.seek(int(times[number]), stream=stream, backward=True, any_frame=False)
    return _numbered(container, stream, index, None, first)


def _numbered(
    container, stream, index: PacketIndex, expected: int | None, first: int
) -> Iterator[av.Packet]:
    """Number packets by where they lie; ``expected``: what the first is if its place does not say
    so.
    """
    places, sizes = index.offsets, index.sizes
    number = None
    skipped = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        moves_on()
        if number is None:
            number = _place(index, packet, expected, first)
            skipped += number is None
            if skipped > _SOUGHT or (number is not None and number > first):
                raise _NotFoundError
            if number is None:
                continue
        elif number == len(sizes) or packet.size != sizes[number]:
            raise _NotFoundError
        if number >= first:
            packet.pts = number
            yield packet
        number += 1
    if number is None:
        raise _NotFoundError


def _place(index: PacketIndex, packet: av.Packet, expected: int | None, first: int) -> int | None:
    """The number of a packet, told from its place and size; None where the index has none such."""
    alike = np.flatnonzero(index.sizes[: first + 1] == packet.size)
    # offsets are of the bytes, which lie a few behind the position that the demuxer tells
    if index.is_direct:
        behind = index.offsets[alike] - (packet.pos if packet.pos is not None else -1)
        alike = alike[(behind >= 0) & (behind < FRAMING)]
    else:
        alike = alike[index.offsets[alike] == (-1 if packet.pos is None else packet.pos)]
    if expected in alike:
        return expected
    return int(alike[0]) if len(alike) else None


def _all_frames(container, stream) -> Iterator[av.VideoFrame]:
    packets = (packet for packet in container.demux(stream) if packet.size)
    for packet in itertools.chain(packets, [None]):
        yield from _decoded(stream, packet)


def _decoded(stream: av.VideoStream, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that come with a packet, or those that the decoder held back; none where it does
    not decode.
    """
    moves_on()
    try:
        return stream.codec_context.decode(packet)
    except av.error.MemoryError:
        raise
    except av.FFmpegError:
        return []


def _number(index: PacketIndex, frame: av.VideoFrame) -> int:
    return int(index.numbers[frame.pts]) if frame.pts is not None else -1
