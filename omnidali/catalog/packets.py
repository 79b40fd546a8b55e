"""Where every packet of a video lies, so that wanted frames are decoded without opening the container again.

The probe walks the packets once and keeps their places. Later the bytes go from the file straight to a decoder: no
demuxer, no search for keyframes, and no packet more than the wanted frames need.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import av
import numpy as np

from omnidali.catalog.gate import MAX_VIDEO_PIXELS

_HEAD = struct.Struct("<IIiiB")  # packets, bytes of extradata, colour space, colour range, reorder depth
_BLOCK = 1 << 22  # bytes that are read at once
_FRAMING = 64  # bytes that a container may put between the position that FFmpeg tells and a packet's data
_DECODERS = {"av1": "libdav1d"}  # FFmpeg's own av1 needs hardware
# Decoders that know which frames no other refers to. HEVC's do, but for frames of the same temporal layer only.
_SKIPPING = {"h264"}


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one video stream, P of them in decoding order.

    Attributes:
        offsets: int64 (P,), first byte in the file. sizes: int32 (P,), bytes.
        numbers: int32 (P,), place of the packet's frame in presentation order; -1 for packets that an edit list
            hides, which others may refer to.
        keys: bool (P,), whether decoding may begin here.
        extradata: what the container says to the decoder. colorspace, color_range: FFmpeg's numbers.
        reorder: how many frames a decoder holds back to put them in order.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray
    keys: np.ndarray
    extradata: bytes
    colorspace: int
    color_range: int
    reorder: int

    def pack(self) -> bytes:
        """The index in a few bytes a packet."""
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])  # 0 where nothing is between
        columns = [gaps.astype("<i8"), self.sizes.astype("<i4"), np.diff(self.numbers, prepend=-1).astype("<i4"),
                   self.keys.astype("u1")]
        head = _HEAD.pack(len(self.sizes), len(self.extradata), self.colorspace, self.color_range, self.reorder)
        return head + self.extradata + zlib.compress(b"".join(column.tobytes() for column in columns), 1)

    @classmethod
    def unpack(cls, data: bytes) -> "PacketIndex":
        """The inverse of :meth:`pack`."""
        count, extra, colorspace, color_range, reorder = _HEAD.unpack_from(data)
        columns, place = zlib.decompress(memoryview(data)[_HEAD.size + extra:]), 0
        arrays = []
        for kind in ("<i8", "<i4", "<i4", "u1"):
            arrays.append(np.frombuffer(columns, kind, count, place))
            place += arrays[-1].nbytes
        gaps, sizes, steps, keys = arrays
        offsets = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]))
        return cls(offsets, sizes, np.cumsum(steps) - 1, keys.astype(bool), data[_HEAD.size:_HEAD.size + extra],
                   colorspace, color_range, reorder)

    def runs(self, wanted: Sequence[int]) -> list[tuple[int, int, set[int]]]:
        """What to decode for the frames ``wanted``: (first packet, last packet, frames) of each run.

        A run begins with the last keyframe before its first frame and ends with its last frame.
        """
        wanted = np.asarray(wanted)
        packets = self._packet_of[wanted]
        begins = np.searchsorted(self._key_packets, packets, side="right") - 1
        # frames that are shown before the keyframe they follow in the file may refer to what is before it
        while (late := (self.numbers[self._key_packets[begins]] > wanted) & (begins > 0)).any():
            begins = begins - late
        order = np.argsort(packets)
        runs: list[tuple[int, int, set[int]]] = []
        for packet, begin, number in zip(packets[order].tolist(), self._key_packets[begins][order].tolist(),
                                         wanted[order].tolist()):
            numbers = {number}
            while runs and begin <= runs[-1][1]:  # a leading frame may reach back behind several runs
                first, _, others = runs.pop()
                begin, numbers = min(begin, first), numbers | others
            runs.append((begin, packet, numbers))
        return runs

    @cached_property
    def _packet_of(self) -> np.ndarray:
        shown = np.flatnonzero(self.numbers >= 0)
        places = np.empty(len(shown), np.int64)
        places[self.numbers[shown]] = shown
        return places

    @cached_property
    def _key_packets(self) -> np.ndarray:
        keys = np.flatnonzero(self.keys)
        return keys if len(keys) and keys[0] == 0 else np.concatenate([[0], keys])


class PacketDecoder:
    """A decoder that is fed from an index, one thread's own; used again for the next video that fits."""

    def __init__(self, codec: str, index: PacketIndex):
        self._made_for = self._needs(codec, index)
        self._context = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
        if index.extradata:
            self._context.extradata = index.extradata
        self._context.colorspace, self._context.color_range = index.colorspace, index.color_range
        self._context.thread_count, self._context.thread_type = 1, "NONE"
        self._context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}  # pictures may grow in the middle of a video
        self._skips = codec in _SKIPPING

    def fits(self, codec: str, index: PacketIndex) -> bool:
        """Whether it may decode by this index, too."""
        return self._made_for == self._needs(codec, index)

    @staticmethod
    def _needs(codec: str, index: PacketIndex) -> tuple:
        return codec, index.extradata, index.colorspace, index.color_range

    def frames(self, index: PacketIndex, read: Callable[[int, int], memoryview],
               wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) of the wanted frames as they come; what the stream does not give is left out.

        Args:
            read: the file's bytes, by (offset, count). wanted: numbers in presentation order.

        Raises:
            av.FFmpegError: from a packet that the decoder does not take.
        """
        context = self._context
        for first, last, numbers in index.runs(wanted):
            context.flush_buffers() if context.is_open else context.open()
            context.reorder_depth = index.reorder
            offsets, sizes = index.offsets[first:last + 1].tolist(), index.sizes[first:last + 1].tolist()
            block, begin, end = memoryview(b""), 0, max(map(sum, zip(offsets, sizes)))
            places = zip(offsets, sizes, index.numbers[first:last + 1].tolist())
            for offset, size, number in chain(places, [(0, 0, None)]):
                packet = None  # at the end: what the decoder holds back
                if number is not None:
                    if not begin <= offset <= offset + size <= begin + len(block):
                        begin, block = offset, read(offset, max(size, min(_BLOCK, end - offset)))
                    packet = av.Packet(size)
                    packet.update(block[offset - begin:offset - begin + size])
                    packet.pts = number
                    if self._skips:  # a frame that nothing refers to is decoded only if it is wanted itself
                        context.skip_frame = "DEFAULT" if number in numbers else "NONREF"
                for frame in context.decode(packet):
                    if frame.pts in numbers:
                        numbers.discard(frame.pts)
                        yield frame.pts, frame
                if not numbers:
                    break


class IndexMaker:
    """Collects the index while a probe walks the packets; ``read`` as for :class:`PacketDecoder`."""

    def __init__(self, read: Callable[[int, int], memoryview]):
        self._read, self._rows, self._fits = read, [], True

    def add(self, packet: av.Packet) -> None:
        """Note a packet, if its bytes lie in the file as the decoder gets them."""
        if self._fits:
            position = -1 if packet.pos is None or packet.has_sidedata("new_extradata") else packet.pos
            at = bytes(self._read(position, packet.size + _FRAMING)).find(bytes(packet)) if position >= 0 else -1
            self._rows.append((position + at, packet.size, packet.pts, packet.is_keyframe, packet.is_discard))
            self._fits = at >= 0

    def make(self, order: np.ndarray, context: av.VideoCodecContext, first: av.VideoFrame | None) -> bytes:
        """The packed index, or nothing if decoding by it does not give the frame that the demuxer gave.

        Args:
            order: int (frames,), the packets that are not hidden in presentation order, counted without the hidden.
            context: of the demuxer's stream. first: frame 0, from the demuxer.
        """
        if not self._fits or first is None:
            return b""
        offsets, sizes, times, keys, hidden = map(np.array, zip(*self._rows))
        if None in times:
            return b""
        numbers = np.full(len(times), -1)
        numbers[np.flatnonzero(~hidden)[order]] = np.arange(len(order))
        ranks = np.argsort(np.argsort(times, kind="stable"), kind="stable")
        reorder = int(np.clip((np.arange(len(times)) - ranks).max(), 0, 16))
        index = PacketIndex(offsets, sizes, numbers, keys, context.extradata or b"", context.colorspace,
                            context.color_range, reorder)
        try:
            decoder = PacketDecoder(context.codec.canonical_name, index)
            again = dict(decoder.frames(index, self._read, [0])).get(0)
        except (av.FFmpegError, ValueError):
            return b""
        return index.pack() if again is not None and _same(first, again) else b""


def _same(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    facts = ("width", "height", "colorspace", "color_range")
    if one.format.name != other.format.name or any(getattr(one, name) != getattr(other, name) for name in facts):
        return False
    return np.array_equal(*(frame.to_ndarray(format="rgb24") for frame in (one, other)))
