"""Where every packet of a video lies and which frame comes out of it, so that wanted frames are found at once.

The probe walks the packets once and keeps their places. Later the bytes go from the file straight to a decoder: no
demuxer, no search for keyframes, and no packet more than the wanted frames need. Frames are told apart by the packet
that they come from, never by a timestamp: each packet is handed to the decoder with its own number as its time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from omnidali.catalog.gate import MAX_VIDEO_PIXELS

# packets, bytes of extradata, colour space, colour range, reorder depth, flags
_HEAD = struct.Struct("<IIiiBB")
_DIRECT, _SKIPPABLE = 1, 2
_BLOCK = 1 << 22  # bytes that are read at once
_DECODERS = {"av1": "libdav1d"}  # FFmpeg's own av1 needs hardware
# Decoders that know which frames no other refers to. HEVC's do, but for frames of the same temporal layer only.
_SKIPPING = {"h264"}


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one video stream, P of them in decoding order.

    Attributes:
        offsets: int64 (P,), first byte in the file, or where the demuxer says that a packet begins. sizes: int32
            (P,), bytes.
        numbers: int32 (P,), which frame of the video comes out of the packet; -1 for packets that give none, such as
            hidden ones that others refer to.
        keys: bool (P,), whether decoding may begin here.
        extradata: what the container says to the decoder. colorspace, color_range: FFmpeg's numbers.
        reorder: how many frames a decoder holds back to put them in order.
        is_direct: whether the bytes lie in the file as a decoder needs them; else a demuxer must put them together.
        is_skippable: whether each packet is one whole frame, so that those that nobody refers to may be left out.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray
    keys: np.ndarray
    extradata: bytes
    colorspace: int
    color_range: int
    reorder: int
    is_direct: bool = True
    is_skippable: bool = True

    def pack(self) -> bytes:
        """The index in a few bytes a packet."""
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])  # 0 where nothing is between
        columns = [gaps.astype("<i8"), self.sizes.astype("<i4"), np.diff(self.numbers, prepend=-1).astype("<i4"),
                   self.keys.astype("u1")]
        flags = _DIRECT * self.is_direct | _SKIPPABLE * self.is_skippable
        head = _HEAD.pack(len(self.sizes), len(self.extradata), self.colorspace, self.color_range, self.reorder, flags)
        return head + self.extradata + zlib.compress(b"".join(column.tobytes() for column in columns), 1)

    @classmethod
    def unpack(cls, data: bytes) -> "PacketIndex":
        """The inverse of :meth:`pack`."""
        count, extra, colorspace, color_range, reorder, flags = _HEAD.unpack_from(data)
        columns, place = zlib.decompress(memoryview(data)[_HEAD.size + extra:]), 0
        arrays = []
        for kind in ("<i8", "<i4", "<i4", "u1"):
            arrays.append(np.frombuffer(columns, kind, count, place))
            place += arrays[-1].nbytes
        gaps, sizes, steps, keys = arrays
        offsets = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]))
        return cls(offsets, sizes, np.cumsum(steps) - 1, keys.astype(bool), data[_HEAD.size:_HEAD.size + extra],
                   colorspace, color_range, reorder, bool(flags & _DIRECT), bool(flags & _SKIPPABLE))

    def runs(self, wanted: Sequence[int]) -> list[tuple[int, int, dict[int, int]]]:
        """What to decode for the frames ``wanted``: (first packet, last packet, {packet: its frame}) of each run.

        A run begins with the last keyframe before its first frame and ends with its last frame.
        """
        wanted = np.asarray(wanted)
        packets = self.packet_of[wanted]
        begins = np.searchsorted(self.key_packets, packets, side="right") - 1
        # frames that are shown before the keyframe they follow in the file may refer to what is before it
        while (late := (self.numbers[self.key_packets[begins]] > wanted) & (begins > 0)).any():
            begins = begins - late
        order = np.argsort(packets)
        runs: list[tuple[int, int, dict[int, int]]] = []
        for packet, begin, number in zip(packets[order].tolist(), self.key_packets[begins][order].tolist(),
                                         wanted[order].tolist()):
            frames = {packet: number}
            while runs and begin <= runs[-1][1]:  # a leading frame may reach back behind several runs
                first, _, others = runs.pop()
                begin, frames = min(begin, first), {**others, **frames}
            runs.append((begin, packet, frames))
        return runs

    @cached_property
    def packet_of(self) -> np.ndarray:
        """int64 (frames,): the packet that each frame comes out of."""
        shown = np.flatnonzero(self.numbers >= 0)
        places = np.empty(len(shown), np.int64)
        places[self.numbers[shown]] = shown
        return places

    @cached_property
    def key_packets(self) -> np.ndarray:
        """int64, rising: where decoding may begin; always the first packet, too."""
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
            read: the file's bytes, by (offset, count). wanted: numbers of frames.

        Raises:
            av.FFmpegError: from a packet that the decoder does not take.
        """
        context = self._context
        skips = self._skips and index.is_skippable
        for first, last, frames in index.runs(wanted):
            context.flush_buffers() if context.is_open else context.open()
            context.reorder_depth = index.reorder
            if self._skips and not skips:
                context.skip_frame = "DEFAULT"
            for number, packet in enumerate(_read_packets(index, read, first, last), start=first):
                packet.pts = number
                if skips:  # a frame that nothing refers to is decoded only if it is wanted itself
                    context.skip_frame = "DEFAULT" if number in frames else "NONREF"
                for frame in context.decode(packet):
                    if frame.pts in frames:
                        yield frames.pop(frame.pts), frame
                if not frames:
                    break
            else:  # what the decoder holds back
                for frame in context.decode(None):
                    if frame.pts in frames:
                        yield frames.pop(frame.pts), frame


def _read_packets(index: PacketIndex, read: Callable[[int, int], memoryview], first: int,
                  last: int) -> Iterator[av.Packet]:
    """The packets ``first`` to ``last``, read in blocks."""
    offsets, sizes = index.offsets[first:last + 1].tolist(), index.sizes[first:last + 1].tolist()
    block, begin, end = memoryview(b""), 0, max(map(sum, zip(offsets, sizes)))
    for offset, size in zip(offsets, sizes):
        if not begin <= offset <= offset + size <= begin + len(block):
            begin, block = offset, read(offset, max(size, min(_BLOCK, end - offset)))
        packet = av.Packet(size)
        packet.update(block[offset - begin:offset - begin + size])
        yield packet
