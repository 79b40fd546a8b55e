"""Where every packet of a video lies and which frame comes out of it.

The probe reads the packets once and keeps their places. Later the bytes go from the file straight
to a decoder: no demuxer, no search for keyframes, and no packet more than the wanted frames need.
Frames are told apart by the packet that they come from, never by a timestamp: each packet is handed
to the decoder with its own number as its time.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

# Packets, bytes of extradata, colour space, colour range, reorder depth, flags, width, height.
_HEAD = struct.Struct("<IIiiBBHH")
_COLUMNS = ("<i8", "<i4", "<i4", "u1")
_DIRECT = 1
_SKIPPABLE = 2
_FIELDS = 4

# Bytes that a container may put between the position that FFmpeg reports and a packet's data.
FRAMING = 64


class Run(NamedTuple):
    """Packets to decode one after the other.

    Attributes:
        first: the first packet, where decoding may begin.
        last: the last packet.
        frames: the number of the frame that is wanted of a packet, by packet.
    """

    first: int
    last: int
    frames: dict[int, int]


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one video stream, P of them in decoding order.

    Attributes:
        offsets: int64 (P,), first byte in the file, or where the demuxer says that a packet begins.
        sizes: int32 (P,), bytes.
        numbers: int32 (P,), which frame of the video comes out of the packet; -1 for packets that
            give none, such as hidden ones that others refer to.
        keys: bool (P,), whether decoding may begin here.
        extradata: what the container says to the decoder.
        colorspace: FFmpeg's number.
        color_range: FFmpeg's number.
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
        # Differences compress well: gaps are 0 where packets follow each other.
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])
        columns = (gaps, self.sizes, np.diff(self.numbers, prepend=-1), self.keys)
        data = b"".join(
            column.astype(kind).tobytes() for column, kind in zip(columns, _COLUMNS, strict=True)
        )
        head = _HEAD.pack(
            len(self.sizes),
            len(self.extradata),
            self.colorspace,
            self.color_range,
            self.reorder,
            _DIRECT * self.is_direct | _SKIPPABLE * self.is_skippable | _FIELDS * self.has_fields,
            *self.size,
        )
        return head + self.extradata + zlib.compress(data, 1)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of :meth:`pack`."""
        count, extra, colorspace, color_range, reorder, flags, width, height = _HEAD.unpack_from(
            data
        )
        columns = zlib.decompress(memoryview(data)[_HEAD.size + extra :])
        arrays: list[np.ndarray] = []
        place = 0
        for kind in _COLUMNS:
            arrays.append(np.frombuffer(columns, kind, count, place))
            place += arrays[-1].nbytes
        gaps, sizes, steps, keys = arrays
        return cls(
            offsets=np.cumsum(gaps + np.concatenate([[0], sizes[:-1]])),
            sizes=sizes,
            numbers=np.cumsum(steps) - 1,
            keys=keys.astype(bool),
            extradata=data[_HEAD.size : _HEAD.size + extra],
            colorspace=colorspace,
            color_range=color_range,
            reorder=reorder,
            is_direct=bool(flags & _DIRECT),
            is_skippable=bool(flags & _SKIPPABLE),
            size=(width, height),
            has_fields=bool(flags & _FIELDS),
        )

    def runs(self, wanted: Sequence[int]) -> list[Run]:
        """What to decode for the frames ``wanted``.

        A run begins with the last keyframe before its first frame and ends with its last frame, or
        the second field of it.
        """
        numbers = np.asarray(wanted)
        packets = self.packet_of[numbers]
        begins = np.searchsorted(self.key_packets, packets, side="right") - 1
        # Frames that are shown before the keyframe they follow in the file may refer to what is
        # before it.
        while (late := (self.numbers[self.key_packets[begins]] > numbers) & (begins > 0)).any():
            begins = begins - late

        order = np.argsort(packets)
        runs: list[Run] = []
        for packet, begin, number in zip(
            packets[order].tolist(),
            self.key_packets[begins][order].tolist(),
            numbers[order].tolist(),
            strict=True,
        ):
            frames = {packet: number}
            # A leading frame may reach back over several runs.
            while runs and begin <= runs[-1].last:
                earlier = runs.pop()
                begin = min(begin, earlier.first)
                frames = {**earlier.frames, **frames}
            runs.append(Run(begin, packet, frames))
        if not self.has_fields:
            return runs
        is_second = np.append(self.numbers[1:] < 0, False)
        return [run._replace(last=run.last + int(is_second[run.last])) for run in runs]

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
