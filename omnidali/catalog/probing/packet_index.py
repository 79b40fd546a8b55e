"""Where every packet of a video lies and which frame comes out of it.

The probe reads the packets once and keeps their places. Later the bytes go from the file straight
to a decoder: no demuxer, no search for keyframes, and no packet more than the wanted frames need.
Frames are told apart by the packet that they come from, never by a timestamp: each packet is handed
to the decoder with its own number as its time.
"""

import bisect
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from omnidali.catalog.probing.file_span import ReadAt

# Packets, checksums, bytes of extradata, colour space, colour range, reorder depth, flags, width,
# height.
_HEAD = struct.Struct("<IIIiiBBHH")
_COLUMNS = ("<i8", "<i4", "<i4", "u1")
_DIRECT = 1
_LEADING = 2
_FIELDS = 4
_FULL_RANGE = 8
# Bits of the last column.
_KEY = 1
_DISPOSABLE = 2
_CHECKED = 4

_BLOCK = 1 << 22  # bytes that are read at once
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
            give none, such as hidden ones that others refer to. Frames that an edit list hides
            count back from -2, which comes out right before frame 0.
        keys: bool (P,), whether decoding may begin here.
        extradata: what the container says to the decoder.
        colorspace: FFmpeg's number.
        color_range: FFmpeg's number, which a decoder is told.
        reorder: how many frames a decoder holds back to put them in order.
        is_direct: whether the bytes lie in the file as a decoder needs them; else a demuxer must
            put them together.
        size: (width, height) that the container says, which decoders of some codecs need.
        has_fields: whether a frame may come of two packets, of which the first one has its number.
        is_full_range: whether black is 0 and white 255 in the decoded frames.
        drops_leading: whether no later frame refers to those that are shown before the keyframe
            that they follow.
        disposable: bool (P,), packets that no other refers to; None: none is known.
        checked: bool (P,), whether a new stretch of packets with a checksum begins here, as of
            :class:`~omnidali.catalog.probing.run_checksums.RunChecksums`; None: there are none.
        checksums: uint32 (C,), of the stretches.
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
    size: tuple[int, int] = (0, 0)
    has_fields: bool = False
    is_full_range: bool = False
    drops_leading: bool = False
    disposable: np.ndarray | None = None
    checked: np.ndarray | None = None
    checksums: np.ndarray | None = None

    def pack(self) -> bytes:
        """The index in a few bytes a packet."""
        # Differences compress well: gaps are 0 where packets follow each other.
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])
        marks = self.keys * np.uint8(_KEY)
        if self.disposable is not None:
            marks |= self.disposable * np.uint8(_DISPOSABLE)
        if self.checked is not None:
            marks |= self.checked * np.uint8(_CHECKED)
        columns = (gaps, self.sizes, np.diff(self.numbers, prepend=-1), marks)
        data = b"".join(
            column.astype(kind).tobytes() for column, kind in zip(columns, _COLUMNS, strict=True)
        )

        checksums = b"" if self.checksums is None else self.checksums.astype("<u4").tobytes()
        flags = (
            _DIRECT * self.is_direct
            | _LEADING * self.drops_leading
            | _FIELDS * self.has_fields
            | _FULL_RANGE * self.is_full_range
        )
        head = _HEAD.pack(
            len(self.sizes),
            len(checksums) // 4,
            len(self.extradata),
            self.colorspace,
            self.color_range,
            self.reorder,
            flags,
            *self.size,
        )
        return head + self.extradata + checksums + zlib.compress(data, 1)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of :meth:`pack`."""
        count, checksums, extra, colorspace, color_range, reorder, flags, width, height = (
            _HEAD.unpack_from(data)
        )
        extra_end = _HEAD.size + extra
        columns = zlib.decompress(memoryview(data)[extra_end + 4 * checksums :])
        arrays: list[np.ndarray] = []
        place = 0
        for kind in _COLUMNS:
            arrays.append(np.frombuffer(columns, kind, count, place))
            place += arrays[-1].nbytes
        gaps, sizes, steps, marks = arrays
        return cls(
            offsets=np.cumsum(gaps + np.concatenate([[0], sizes[:-1]])),
            sizes=sizes,
            numbers=np.cumsum(steps) - 1,
            keys=marks & _KEY > 0,
            extradata=data[_HEAD.size : extra_end],
            colorspace=colorspace,
            color_range=color_range,
            reorder=reorder,
            is_direct=bool(flags & _DIRECT),
            size=(width, height),
            has_fields=bool(flags & _FIELDS),
            is_full_range=bool(flags & _FULL_RANGE),
            drops_leading=bool(flags & _LEADING),
            disposable=marks & _DISPOSABLE > 0,
            checked=marks & _CHECKED > 0 if checksums else None,
            checksums=np.frombuffer(data, "<u4", checksums, extra_end) if checksums else None,
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
        is_second = np.append(self.numbers[1:] == -1, False)
        return [run._replace(last=run.last + int(is_second[run.last])) for run in runs]

    def needed(self, run: Run) -> np.ndarray:
        """The packets of a run without those that no wanted frame needs: int64, rising."""
        packets = np.arange(run.first, run.last + 1)
        is_needed = np.ones(len(packets), bool)
        if self.disposable is not None:
            is_needed &= ~self.disposable[packets]
        if self.drops_leading:
            numbers = self.numbers[packets]
            is_needed &= (numbers == -1) | (numbers >= numbers[0])
        is_needed[[packet - run.first for packet in run.frames]] = True
        return packets[is_needed]

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

    def stretches(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """The stretches with checksums that hold the packets from ``first`` to ``last``.

        Returns:
            Of each its place among the checksums, its first packet, and the one after its last.
        """
        edges = self._stretch_edges
        low = bisect.bisect_right(edges, first) - 1
        high = bisect.bisect_right(edges, last)
        return [(place, edges[place], edges[place + 1]) for place in range(low, high)]

    @cached_property
    def _stretch_edges(self) -> list[int]:
        assert self.checked is not None
        return [*np.flatnonzero(self.checked).tolist(), len(self.checked)]

    def read(self, packets: np.ndarray, read: ReadAt) -> Iterator[memoryview]:
        """Yield the bytes of packets, which are read in blocks; fewer where the file ends.

        Args:
            packets: their numbers, rising.
            read: the file's bytes.
        """
        offsets = self.offsets[packets]
        ends = offsets + self.sizes[packets]
        end = int(ends.max(initial=0))
        block = memoryview(b"")
        begin = 0
        for offset, packet_end in zip(offsets.tolist(), ends.tolist(), strict=True):
            if not begin <= offset <= packet_end <= begin + len(block):
                begin = offset
                block = memoryview(read(begin, max(packet_end - begin, min(_BLOCK, end - begin))))
            yield block[offset - begin : packet_end - begin]
