"""Wanted frames of a video through FFmpeg's demuxer, where the index alone cannot find them.

Needed if a container cuts its packets up (MPEG-TS), and if the index gave less than was
wanted, as of a file that changed after the probe. Frames are known by the packets that they come
from, as in the index.
"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.limits import UnsupportedMediaError, check_size
from omnidali.catalog.probing.packet_decoder import KEEPS_STATE, decode_run, use_one_thread
from omnidali.catalog.probing.packet_index import FRAMING, PacketIndex
from omnidali.catalog.probing.video_container import open_video, packets_of, video_stream
from omnidali.decoding.failure_cause import cause_of
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import report_progress

_SOUGHT = 64  # packets among which to look for one that the index knows
# Demuxers that go to a place in the file; their clocks may start again.
_BY_BYTES = {"mpegts", "mpeg"}


class _NotFoundError(Exception):
    """The demuxer's packets are not those of the index."""


def demuxed_frames(
    media: Media, index: PacketIndex | None, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames, each at most once.

    Each run of the index is looked for with a seek, then from the start. Where the file is not the
    one of the index, or has none, its frames are counted from the start.

    Raises:
        DecodeError, UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError: from a
            file that is broken, or not the one that was probed.
    """
    if index is None:
        yield from counted_frames(media, set(wanted))
        return
    runs = index.runs(wanted)
    if media.codec.partition(":")[0] in KEEPS_STATE and len(runs) > 1:  # a new decoder for each
        for run in runs:
            yield from demuxed_frames(media, index, sorted(run.frames.values()))
        return

    with open_video(media.span, media.container) as container:
        source = _IndexedSource(container, _open_stream(container), media, index)
        for place, run in enumerate(runs):
            for seeks in (True, False):
                with suppress(_NotFoundError):
                    packets = source.packets(run.first, seeks)
                    run_packets = itertools.islice(packets, run.last + 1 - run.first)
                    yield from decode_run(source.stream.codec_context, run_packets, run.frames)
                    break
            else:
                left = {number for rest in runs[place:] for number in rest.frames.values()}
                yield from counted_frames(media, left)
                return


def counted_frames(media: Media, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames, numbered by counting from the start.

    Errors are those of :func:`demuxed_frames`.
    """
    with open_video(media.span, media.container) as container:
        frames = enumerate(_all_frames(container, _open_stream(container)))
        for number, frame in itertools.islice(frames, max(wanted) + 1):
            if number in wanted:
                yield number, frame


def frames_from(media: Media, first: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of all frames from ``first`` on, in order.

    Packets that do not decode are skipped.

    Raises:
        DecodeError: if the file cannot be read, or is not the one that was probed.
    """
    try:
        if not media.packets:
            with open_video(media.span, media.container) as container:
                frames = enumerate(_all_frames(container, _open_stream(container)))
                yield from itertools.islice(frames, first, None)
            return

        index = PacketIndex.unpack(media.packets)
        begin = index.runs([first])[0].first
        left = first
        # The seek may land elsewhere; then the file is read from its start, opened anew: demuxers
        # remember where they were.
        for seeks in (True, False) if begin else (False,):
            with open_video(media.span, media.container) as container, suppress(_NotFoundError):
                source = _IndexedSource(container, _open_stream(container), media, index)
                packets = source.packets(begin, seeks, may_end=not seeks)
                for packet in itertools.chain(packets, [None]):
                    for frame in _decode(source.stream, packet):
                        number = -1 if frame.pts is None else int(index.numbers[frame.pts])
                        if number >= left:
                            left = number + 1
                            yield number, frame
                return
    except (UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise cause_of(error).error() from None
    raise DecodeError("the file changed after the probe")


def _open_stream(container: av.container.InputContainer) -> av.VideoStream:
    stream = video_stream(container)
    if stream is None or stream.codec_context is None:
        raise DecodeError("no video stream")
    context = stream.codec_context
    check_size(context.width or 1, context.height or 1)  # it may be another file by now
    use_one_thread(context)
    return stream


@dataclass(frozen=True)
class _IndexedSource:
    """An opened video whose packets are known by its index."""

    container: av.container.InputContainer
    stream: av.VideoStream
    media: Media
    index: PacketIndex

    def packets(self, first: int, seeks: bool, may_end: bool = False) -> Iterator[av.Packet]:
        """Yield the packets from ``first`` on, each with its number in the index as its time.

        Args:
            first: number of the first packet.
            seeks: whether to go there, or through the file from its start.
            may_end: whether there may be fewer than in the index.

        Raises:
            _NotFoundError: if the demuxer gives others.
        """
        expected = self._seek(first) if seeks else 0
        if not seeks:
            by_bytes = self.media.container in _BY_BYTES
            self.container.seek(0, any_frame=True, unsupported_byte_offset=by_bytes)
        yield from self._numbered(expected, first, may_end=may_end)

    def _seek(self, first: int) -> int | None:
        """Go to a packet, or a little before it; its number where it is the next one for sure."""
        try:
            if self.media.container in _BY_BYTES:
                offset = int(self.index.offsets[first])
                self.container.seek(offset, any_frame=True, unsupported_byte_offset=True)
                return first

            times = self.media.frame_times
            number = int(self.index.numbers[first])
            if times is None or number < 0:
                raise _NotFoundError
            self.container.seek(int(times[number]), stream=self.stream)
            return None
        except av.FFmpegError:  # no such time, as ASF says near its end
            raise _NotFoundError from None

    def _numbered(self, expected: int | None, first: int, *, may_end: bool) -> Iterator[av.Packet]:
        """Number packets by where they lie.

        Args:
            expected: the number of the first one, if its place does not say so.
            first: the first packet to yield.
            may_end: whether there may be fewer than in the index.
        """
        number = None
        skipped = 0
        for packet in packets_of(self.container, self.stream):
            if not packet.size:
                continue
            report_progress()
            if number is None:
                number = self._find(packet, expected, first)
                skipped += number is None
                if skipped > _SOUGHT or (number is not None and number > first):
                    raise _NotFoundError
                if number is None:
                    continue
            elif number == len(self.index.sizes) or packet.size != self.index.sizes[number]:
                raise _NotFoundError

            if number >= first:
                packet.pts = number
                yield packet
            number += 1
        # After a seek, the demuxer of Ogg sees the end where files were joined.
        if number is None or number <= first or (number < len(self.index.sizes) and not may_end):
            raise _NotFoundError

    def _find(self, packet: av.Packet, expected: int | None, first: int) -> int | None:
        """The number of a packet by its place and size; None if that does not tell it."""
        position = -1 if packet.pos is None else packet.pos
        alike = np.flatnonzero(self.index.sizes[: first + 1] == packet.size)
        offsets = self.index.offsets[alike]
        # The bytes of a packet may lie a few after the position that the demuxer reports.
        after = offsets - position
        found = alike[(after >= 0) & (after < FRAMING)]
        if expected in found:
            return expected
        # Packets of one size on one page of Ogg look the same: the next one will tell.
        return int(found[0]) if len(found) == 1 else None


def _all_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    packets = (packet for packet in packets_of(container, stream) if packet.size)
    for packet in itertools.chain(packets, [None]):
        yield from _decode(stream, packet)


def _decode(stream: av.VideoStream, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that come with a packet, or without one, those that the decoder held back.

    There are none if it does not decode.
    """
    report_progress()
    try:
        return stream.codec_context.decode(packet)
    except av.error.MemoryError:
        raise
    except av.FFmpegError:
        return []
