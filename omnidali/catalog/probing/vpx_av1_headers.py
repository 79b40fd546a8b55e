"""Which packets of VP9 and AV1 show a frame, read from their headers without decoding.

These codecs show frames in the order in which they are decoded. Their packets may hold hidden
frames, which others refer to. Sources: the VP9 bitstream specification (6.2, annex B), and the AV1
one (5.5, 5.9).
"""

from dataclasses import dataclass
from typing import NamedTuple

from omnidali.catalog.probing.av1_units import (
    AV1_FRAME_HEADERS,
    AV1_SEQUENCE,
    SEQUENCE_BYTES,
    av1_units,
    read_sequence_start,
)
from omnidali.catalog.probing.bit_reader import BitReader, CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.limits import MAX_HIDDEN, UnsupportedMediaError

_VP9_HEADER = 24  # bytes that hold a frame's size, whatever comes before it
_SYNC_CODE = 0x498342
_RGB = 7  # colour space of VP9
_AV1_HEADER = 16  # bytes that hold all fields up to the size flag
_AV1C = b"\x81"  # how the container's own header begins; units follow after 4 bytes

_SELECT = 2  # of AV1's sequence: each frame says for itself

# Kinds of AV1's frames.
_KEY_FRAME = 0
_INTRA_FRAMES = (_KEY_FRAME, 2)
_SWITCH_FRAME = 3


class _Frame(NamedTuple):
    is_shown: bool
    is_shown_key: bool
    is_disposable: bool = False


class _ShownReader:
    """Reads packets of exactly one shown frame each.

    Args:
        extradata: headers as the container returns them.
    """

    max_reorder = 0  # pictures are shown as they are decoded

    def __init__(self, extradata: bytes) -> None:
        self._count = 0

    def read(self, data: bytes, flagged: bool) -> CodedPicture:
        """Read the headers of a packet.

        Args:
            data: the packet.
            flagged: whether the container calls it a keyframe; not needed here.

        Raises:
            UnclearHeadersError: for packets that show no frame or several, and for a new picture
                size.
        """
        frames = self._frames(data)
        shown = sum(frame.is_shown for frame in frames)
        if shown != 1:
            raise UnclearHeadersError(f"{shown} frames in one packet")
        is_key = frames[0].is_shown_key
        self._count += 1
        if self._count == 1 and not is_key:
            raise UnclearHeadersError("the first picture is no keyframe")
        is_disposable = all(frame.is_disposable for frame in frames)
        return CodedPicture(0, self._count, is_key, is_disposable)

    def is_key(self, data: bytes, flagged: bool) -> bool:
        """Whether decoding may begin with a packet, as far as its headers alone can say."""
        frames = self._frames(data)
        return bool(frames) and frames[0].is_shown_key

    def _frames(self, data: bytes) -> list[_Frame]:
        """The frames of a packet, shown or hidden."""
        raise NotImplementedError


class Vp9Reader(_ShownReader):
    """Reads packets of VP9, which may be superframes."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__(extradata)
        self._size: tuple[int, ...] | None = None

    def _frames(self, data: bytes) -> list[_Frame]:
        frames = split_superframe(data)
        return [self._read_frame(BitReader(frame[:_VP9_HEADER])) for frame in frames]

    def _read_frame(self, bits: BitReader) -> _Frame:
        if bits.take(2) != 2:
            raise UnclearHeadersError("no VP9 frame")
        profile = bits.take(1) | bits.take(1) << 1
        if profile == 3:
            bits.take(1)
        if bits.take(1):  # shows one that was decoded before
            return _Frame(is_shown=True, is_shown_key=False)

        is_inter = bits.take(1)
        is_shown = bool(bits.take(1))
        is_robust = bits.take(1)
        if not is_inter:
            _check_sync(bits)
            colours = _read_colours(bits, profile)
            self._check_size(colours, bits)
            return _Frame(is_shown, is_shown)

        is_intra_only = bits.take(1) if not is_shown else 0
        if not is_robust:
            bits.take(2)
        if is_intra_only:
            _check_sync(bits)
            if profile:
                _read_colours(bits, profile)
            bits.take(8)
            self._check_size((), bits)
        else:
            bits.take(8 + 3 * 4)
            if not any(bits.take(1) for _ in range(3)):  # the size is not that of a reference
                self._check_size((), bits)
        return _Frame(is_shown, is_shown_key=False)

    def _check_size(self, colours: tuple[int, ...], bits: BitReader) -> None:
        size = bits.take(16), bits.take(16)
        if self._size is None:
            self._size = (*size, *colours)
        elif self._size[:2] != size or (colours and self._size[2:] != colours):
            raise UnclearHeadersError("the picture size changes")


def _check_sync(bits: BitReader) -> None:
    if bits.take(24) != _SYNC_CODE:
        raise UnclearHeadersError("no VP9 frame")


def _read_colours(bits: BitReader, profile: int) -> tuple[int, ...]:
    depth = bits.take(1) if profile >= 2 else 0
    space = bits.take(3)
    if space == _RGB:
        return depth, space, bits.take(1) if profile & 1 else 0
    bits.take(1)  # range
    return depth, bits.take(3) if profile & 1 else 0


def split_superframe(data: bytes) -> list[bytes]:
    """The frames of a VP9 superframe (annex B), or the packet itself."""
    mark = data[-1]
    count = (mark & 7) + 1
    width = (mark >> 3 & 3) + 1
    index = len(data) - 2 - count * width
    if mark & 0xE0 != 0xC0 or index < 0 or data[index] != mark:
        return [data]

    frames = []
    place = 0
    for begin in range(index + 1, index + 1 + count * width, width):
        size = int.from_bytes(data[begin : begin + width], "little")
        if size:
            frames.append(data[place : place + size])
        place += size
    return frames


@dataclass(frozen=True)
class _Av1Sequence:
    """The fields of a sequence header (5.5.1) that frame headers depend on.

    Attributes:
        picture_format: width, height and depth, which all frames have in common.
        time_bits: width of a frame's own presentation time.
        id_bits: width of a frame's number.
        screen_tools: whether frames use tools for screen content, or ``_SELECT``.
        integer_motion: whether motion vectors are whole numbers, or ``_SELECT``.
        order_bits: width of a frame's place in the order.
        has_model: whether frames tell a decoder when to free its buffers.
    """

    picture_format: tuple[int, ...] = ()
    time_bits: int = 0
    id_bits: int = 0
    screen_tools: int = _SELECT
    integer_motion: int = _SELECT
    order_bits: int = 0
    has_model: bool = False

    def read_frame(self, bits: BitReader) -> _Frame:
        """Read a frame header (5.9.2).

        All that a decoder keeps of a frame lies in the buffers that the frame refreshes (7.20):
        without any, the next frames decode alike without it.
        """
        if bits.take(1):  # shows one that was decoded before, which may be a keyframe
            return _Frame(is_shown=True, is_shown_key=False)
        kind = bits.take(2)
        is_shown = bool(bits.take(1))
        is_shown_key = kind == _KEY_FRAME and is_shown
        bits.take(self.time_bits if is_shown else 1)
        is_robust = kind == _SWITCH_FRAME or is_shown_key or bool(bits.take(1))
        bits.take(1)

        uses_tools = bits.take(1) if self.screen_tools == _SELECT else self.screen_tools
        if uses_tools and self.integer_motion == _SELECT:
            bits.take(1)
        bits.take(self.id_bits)
        if kind == _SWITCH_FRAME or bits.take(1):
            raise UnclearHeadersError("a frame with a size of its own")
        if is_shown_key or self.has_model:
            return _Frame(is_shown, is_shown_key)

        bits.take(self.order_bits)
        if kind not in _INTRA_FRAMES and not is_robust:
            bits.take(3)  # the frame whose context it continues
        return _Frame(is_shown, is_shown_key, is_disposable=not bits.take(8))


class Av1Reader(_ShownReader):
    """Reads packets of AV1: temporal units of one shown frame."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__(extradata)
        self._header = b""
        self._sequence = _Av1Sequence()
        self._picture_format: tuple[int, ...] = ()
        if extradata.startswith(_AV1C):
            self._frames(extradata[4:])

    def _frames(self, data: bytes) -> list[_Frame]:
        frames: list[_Frame] = []
        for kind, unit in av1_units(data):
            if kind == AV1_SEQUENCE:
                self._use_sequence(unit)
            elif kind in AV1_FRAME_HEADERS:
                frames.append(self._sequence.read_frame(BitReader(unit[:_AV1_HEADER])))
                if len(frames) > MAX_HIDDEN:
                    raise UnsupportedMediaError(f"more than {MAX_HIDDEN} frames in a packet")
        return frames

    def _use_sequence(self, header: bytes) -> None:
        if header == self._header:
            return
        self._header = header
        self._sequence = _Av1Sequence()  # if the header cannot be read
        self._sequence = _read_sequence(BitReader(header[:SEQUENCE_BYTES]))
        self._picture_format = self._picture_format or self._sequence.picture_format
        if self._sequence.picture_format != self._picture_format:
            raise UnclearHeadersError("the picture size changes")


def _read_sequence(bits: BitReader) -> _Av1Sequence:
    start = read_sequence_start(bits)
    if start.is_reduced:
        raise UnclearHeadersError("a still picture")
    if start.points > 1:
        raise UnclearHeadersError("several layers")

    id_bits = bits.take(4) + bits.take(3) + 3 if bits.take(1) else 0
    bits.take(7)  # superblock, intra filter and edge, inter tools
    has_order = bits.take(1)
    bits.take(2 * has_order)
    screen_tools = _SELECT if bits.take(1) else bits.take(1)
    integer_motion = _SELECT
    if screen_tools:
        integer_motion = _SELECT if bits.take(1) else bits.take(1)
    order_bits = bits.take(3) + 1 if has_order else 0
    bits.take(3)  # superresolution, filters
    return _Av1Sequence(
        picture_format=(start.width, start.height, bits.take(1)),
        time_bits=start.time_bits,
        id_bits=id_bits,
        screen_tools=screen_tools,
        integer_motion=integer_motion,
        order_bits=order_bits,
        has_model=start.delay_bits > 0,
    )
