"""Where every packet of a video lies and which frame comes out of it, so that wanted frames are
found at once.

The probe walks the packets once and keeps their places. Later the bytes go from the file straight
to a decoder: no demuxer, no search for keyframes, and no packet more than the wanted frames need.
Frames are told apart by the packet that they come from, never by a timestamp: each packet is handed
to the decoder with its own number as its time.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from omnidali.catalog.probing.sniff import MAX_VIDEO_PIXELS
from omnidali.utils.heartbeat import moves_on

# packets, bytes of extradata, colour space, colour range, reorder depth, flags, width, height
_HEAD = struct.Struct("<IIiiBBHH")
_DIRECT, _SKIPPABLE, _FIELDS = 1, 2, 4
# bytes that a container may put between the position that FFmpeg tells and a packet's data
FRAMING = 64
_BLOCK = 1 << 22  # bytes that are read at once
_DECODERS = {"av1": "libdav1d"}  # FFmpeg's own av1 needs hardware
# whose packets say how large the picture is
_SELF_SIZED = {"h264", "hevc", "vp8", "vp9", "av1", "mjpeg"}
# Decoders that keep something of what they decoded before when they are told to begin anew.
KEEPS_STATE = {"mpeg4", "ffv1"}
# Decoders that know which frames no other refers to. HEVC's do, but for frames of the same temporal
# layer only.
_SKIPPING = {"h264"}


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one video stream, P of them in decoding order.

    Attributes:
        offsets: int64 (P,), first byte in the file, or where the demuxer says that a packet begins.
            sizes: int32 (P,), bytes.
        numbers: int32 (P,), which frame of the video comes out of the packet; -1 for packets that
            give none, such as hidden ones that others refer to.
        keys: bool (P,), whether decoding may begin here.
        extradata: what the container says to the decoder. colorspace, color_range: FFmpeg's
            numbers.
        reorder: how many frames a decoder holds back to put them in order.
        is_direct: whether the bytes lie in the file as a decoder needs them; else a demuxer must
            put them together.
        is_skippable: whether each packet is one whole frame, so that those that nobody refers to
            may be left out.
        size: (width, height) that the container says, which decoders of some codecs need.
        has_fields: whether a frame may come of two packets, of which the first one has its number.
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
    size: tuple[int, int] = (0, 0)
    has_fields: bool = False

    def pack(self) -> bytes:
        """The index in a few bytes a packet."""
        # 0 where nothing is between
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])
        columns = [
            gaps.astype("<i8"),
            self.sizes.astype("<i4"),
            np.diff(self.numbers, prepend=-1).astype("<i4"),
            self.keys.astype("u1"),
        ]
        flags = (
            _DIRECT * self.is_direct | _SKIPPABLE * self.is_skippable | _FIELDS * self.has_fields
        )
        head = _HEAD.pack(
            len(self.sizes),
            len(self.extradata),
            self.colorspace,
            self.color_range,
            self.reorder,
            flags,
            *self.size,
        )
        return (
            head
            + self.extradata
            + zlib.compress(b"".join(column.tobytes() for column in columns), 1)
        )

    @classmethod
    def unpack(cls, data: bytes) -> PacketIndex:
        """The inverse of :meth:`pack`."""
        count, extra, colorspace, color_range, reorder, flags, *size = _HEAD.unpack_from(data)
        columns, place = zlib.decompress(memoryview(data)[_HEAD.size + extra :]), 0
        arrays = []
        for kind in ("<i8", "<i4", "<i4", "u1"):
            arrays.append(np.frombuffer(columns, kind, count, place))
            place += arrays[-1].nbytes
        gaps, sizes, steps, keys = arrays
        offsets = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]))
        return cls(
            offsets,
            sizes,
            np.cumsum(steps) - 1,
            keys.astype(bool),
            data[_HEAD.size : _HEAD.size + extra],
            colorspace,
            color_range,
            reorder,
            bool(flags & _DIRECT),
            bool(flags & _SKIPPABLE),
            tuple(size),
            bool(flags & _FIELDS),
        )

    def runs(self, wanted: Sequence[int]) -> list[tuple[int, int, dict[int, int]]]:
        """What to decode for the frames ``wanted``: (first packet, last packet, {packet: its
        frame}) of each run.

        A run begins with the last keyframe before its first frame and ends with its last frame, or
        the second field of it.
        """
        wanted = np.asarray(wanted)
        packets = self.packet_of[wanted]
        begins = np.searchsorted(self.key_packets, packets, side="right") - 1
        # frames that are shown before the keyframe they follow in the file may refer to what is
        # before it
        while (late := (self.numbers[self.key_packets[begins]] > wanted) & (begins > 0)).any():
            begins = begins - late
        order = np.argsort(packets)
        runs: list[tuple[int, int, dict[int, int]]] = []
        for packet, begin, number in zip(
            packets[order].tolist(),
            self.key_packets[begins][order].tolist(),
            wanted[order].tolist(),
        ):
            frames = {packet: number}
            # a leading frame may reach back behind several runs
            while runs and begin <= runs[-1][1]:
                first, _, others = runs.pop()
                begin, frames = min(begin, first), {**others, **frames}
            runs.append((begin, packet, frames))
        if not self.has_fields:
            return runs
        is_second = np.append(self.numbers[1:] < 0, False)
        return [(begin, last + int(is_second[last]), frames) for begin, last, frames in runs]

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


def make_context(codec: str, index: PacketIndex) -> av.VideoCodecContext:
    """A new decoder for the packets of an index."""
    context = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    if index.extradata:
        context.extradata = index.extradata
    context.colorspace, context.color_range = index.colorspace, index.color_range
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = decoder_options(codec)
    if codec not in _SELF_SIZED:
        context.width, context.height = index.size
    return context


def decoder_options(codec: str) -> dict[str, str]:
    """What FFmpeg's decoder of a codec is told, whoever feeds it."""
    # pictures may grow behind the header that was checked
    options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
    # newer versions of FFmpeg keep back frames whose references are lost; older ones do not
    if codec == "hevc":
        options["flags"] = "+output_corrupt"
    return options


def decode_run(
    context: av.VideoCodecContext, packets: Iterator[av.Packet], frames: dict[int, int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames of one run as they come.

    As FFmpeg does, a packet that does not decode is passed over.

    Args:
        packets: each with its number as its time. frames: wanted frames by packet; those that came
            are taken out.

    Raises:
        av.FFmpegError: the first of the packets, where a frame is missing in the end.
    """
    failure = None
    for packet in itertools.chain(packets, [None]):  # at the end: what the decoder holds back
        moves_on()
        try:
            for frame in context.decode(packet):
                if frame.pts in frames:
                    yield frames.pop(frame.pts), frame
        except av.error.MemoryError:
            raise
        except av.FFmpegError as error:
            failure = failure or error
        if not frames:
            return
    if failure is not None:
        raise failure


class PacketDecoder:
    """A decoder that is fed from an index, one thread's own; used again for the next video that
    fits.
    """

    def __init__(self, codec: str, index: PacketIndex):
        self._codec = codec
        self._made_for = self._needs(codec, index)
        self._context = make_context(codec, index)

    def fits(self, codec: str, index: PacketIndex) -> bool:
        """Whether it may decode by this index, too."""
        return self._made_for == self._needs(codec, index)

    @staticmethod
    def _needs(codec: str, index: PacketIndex) -> tuple:
        size = None if codec in _SELF_SIZED else index.size
        return codec, index.extradata, index.colorspace, index.color_range, size

    def frames(
        self, index: PacketIndex, read: Callable[[int, int], memoryview], wanted: Sequence[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) of the wanted frames as they come; what the stream does not give is
        left out.

        Args:
            read: the file's bytes, by (offset, count). wanted: numbers of frames.

        Raises:
            av.FFmpegError: from a packet that the decoder does not take, if a wanted frame did not
                come.
        """
        for first, last, frames in index.runs(wanted):
            context = self._begin(index)
            packets = self._packets(context, index, read, first, last, frames)
            yield from decode_run(context, packets, frames)

    def _begin(self, index: PacketIndex) -> av.VideoCodecContext:
        """The decoder as if it were new."""
        if self._context.is_open and self._codec in KEEPS_STATE:
            self._context = make_context(self._codec, index)
        if self._context.is_open:
            self._context.flush_buffers()
        else:
            self._context.open()
        self._context.reorder_depth = index.reorder
        return self._context

    def _packets(
        self,
        context: av.VideoCodecContext,
        index: PacketIndex,
        read: Callable[[int, int], memoryview],
        first: int,
        last: int,
        frames: dict[int, int],
    ) -> Iterator[av.Packet]:
        """The packets of a run; the decoder is told what it may leave out."""
        skips = self._codec in _SKIPPING and index.is_skippable
        if self._codec in _SKIPPING:
            context.skip_frame = "DEFAULT"
        for number, packet in enumerate(_read_packets(index, read, first, last), start=first):
            packet.pts = number
            if skips:  # a frame that nothing refers to is decoded only if it is wanted itself
                context.skip_frame = "DEFAULT" if number in frames else "NONREF"
            yield packet


def _read_packets(
    index: PacketIndex, read: Callable[[int, int], memoryview], first: int, last: int
) -> Iterator[av.Packet]:
    """The packets ``first`` to ``last``, read in blocks."""
    offsets, sizes = (
        index.offsets[first : last + 1].tolist(),
        index.sizes[first : last + 1].tolist(),
    )
    block, begin, end = memoryview(b""), 0, max(map(sum, zip(offsets, sizes)))
    for offset, size in zip(offsets, sizes):
        if not begin <= offset <= offset + size <= begin + len(block):
            begin, block = offset, read(offset, max(size, min(_BLOCK, end - offset)))
        packet = av.Packet(size)
        packet.update(block[offset - begin : offset - begin + size])
        yield packet
