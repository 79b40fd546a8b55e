"""Which packets of VP8, VP9 and AV1 show a frame, read from their headers without decoding.

These codecs show frames in the order in which they are decoded. Their packets may hold hidden
frames, which others refer to. Sources: RFC 6386 (9.1), the VP9 bitstream specification (6.2, annex
B), and the AV1 one (5.5, 5.9).
"""

from __future__ import annotations

from omnidali.catalog.probing.bit_reader import Bits, CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.sniff import MAX_HIDDEN, UnsupportedMediaError

_VP9_HEADER = 24  # bytes that hold a frame's size, whatever comes before it
_SYNC_CODE = 0x498342
_RGB = 7  # colour space of VP9
_AV1_HEADER = 16  # bytes that hold all fields up to the size flag
_SEQUENCE_BYTES = 256  # that hold all fields of a sequence header
_SELECT = 2  # of AV1's sequence: each frame says for itself
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # kinds of AV1's units


class _ShownReader:
    """Packets of exactly one shown frame each; arguments and errors as of
    :mod:`omnidali.catalog.probing.nal_headers`.
    """

    max_reorder: int | None = 0
    is_in_order = True  # pictures are shown as they are decoded

    def __init__(self, extradata: bytes):
        self._count = 0

    def read(self, data: bytes, flagged: bool) -> CodedPicture:
        """What the headers of a packet say.

        Raises:
            UnclearHeadersError: for packets that show no frame or several, and for a new picture
                size.
        """
        shown, is_key = self._look(data)
        if shown != 1:
            raise UnclearHeadersError(f"{shown} frames in one packet")
        self._count += 1
        if self._count == 1 and not is_key:
            raise UnclearHeadersError("the first picture is no keyframe")
        return CodedPicture(0, self._count, is_key)

    def is_key(self, data: bytes, flagged: bool) -> bool:
        """Whether decoding may begin with a packet."""
        return self._look(data)[1]

    def _look(self, data: bytes) -> tuple[int, bool]:
        """How many frames a packet shows, and whether it begins with a shown keyframe."""
        raise NotImplementedError


class Vp9Reader(_ShownReader):
    """Reads packets of VP9, which may be superframes."""

    def __init__(self, extradata: bytes):
        super().__init__(extradata)
        self._size: tuple[int, ...] | None = None

    def _look(self, data: bytes) -> tuple[int, bool]:
        shown, is_key = 0, False
        for number, frame in enumerate(_vp9_frames(data)):
            is_shown, shows_key = self._frame(Bits(frame[:_VP9_HEADER]))
            shown += is_shown
            is_key |= shows_key and number == 0
        return shown, is_key

    def _frame(self, bits: Bits) -> tuple[bool, bool]:
        """Whether a frame is shown, and whether it is a keyframe as well."""
        if bits.take(2) != 2:
            raise UnclearHeadersError("no VP9 frame")
        profile = bits.take(1) | bits.take(1) << 1
        if profile == 3:
            bits.take(1)
        if bits.take(1):  # shows one that was decoded before
            return True, False

        is_inter, is_shown, is_robust = bits.take(1), bool(bits.take(1)), bits.take(1)
        if not is_inter:
            self._check_sync(bits)
            self._check_size(self._colours(bits, profile), bits)
            return is_shown, is_shown

        is_intra_only = bits.take(1) if not is_shown else 0
        if not is_robust:
            bits.take(2)
        if is_intra_only:
            self._check_sync(bits)
            if profile:
                self._colours(bits, profile)
            bits.take(8)
            self._check_size((), bits)
        else:
            bits.take(8 + 3 * 4)
            if not any(bits.take(1) for _ in range(3)):  # the size is not that of a reference
                self._check_size((), bits)
        return is_shown, False

    @staticmethod
    def _check_sync(bits: Bits) -> None:
        if bits.take(24) != _SYNC_CODE:
            raise UnclearHeadersError("no VP9 frame")

    @staticmethod
    def _colours(bits: Bits, profile: int) -> tuple[int, ...]:
        depth = bits.take(1) if profile >= 2 else 0
        space = bits.take(3)
        if space == _RGB:
            return depth, space, bits.take(1) if profile & 1 else 0
        bits.take(1)  # range
        return depth, bits.take(3) if profile & 1 else 0

    def _check_size(self, colours: tuple[int, ...], bits: Bits) -> None:
        size = bits.take(16), bits.take(16)
        if self._size is None:
            self._size = (*size, *colours)
        elif self._size[:2] != size or (colours and self._size[2:] != colours):
            raise UnclearHeadersError("the picture size changes")


class Av1Reader(_ShownReader):
    """Reads packets of AV1: temporal units of one shown frame."""

    def __init__(self, extradata: bytes):
        super().__init__(extradata)
        self._header = b""
        self._size: tuple[int, ...] | None = None
        self._fields = _Av1Sequence()
        if extradata[:1] == b"\x81":  # av1C, whose units follow after 4 bytes
            self._look(extradata[4:])

    def _look(self, data: bytes) -> tuple[int, bool]:
        shown, is_key, is_first, place, frames = 0, False, True, 0, 0
        while place < len(data):
            head = data[place]
            kind = head >> 3 & 15
            place += 2 if head & 4 else 1
            end = len(data)
            if head & 2:
                size, place = _leb128(data, place)
                end = min(place + size, end)
            if kind == _SEQUENCE:
                self._read_sequence(data[place:end])
            elif kind in (_FRAME_HEADER, _FRAME):
                is_shown, shows_key = self._fields.look(
                    Bits(data[place : min(end, place + _AV1_HEADER)])
                )
                is_key |= is_first and shows_key
                shown, is_first, frames = shown + is_shown, False, frames + 1
                if frames > MAX_HIDDEN:
                    raise UnsupportedMediaError(f"more than {MAX_HIDDEN} frames in a packet")
            place = end
        return shown, is_key

    def _read_sequence(self, data: bytes) -> None:
        if data == self._header:
            return
        self._header = data
        self._fields = _Av1Sequence()
        size = self._fields.read(Bits(data[:_SEQUENCE_BYTES]))
        self._size = self._size or size
        if size != self._size:
            raise UnclearHeadersError("the picture size changes")


class _Av1Sequence:
    """The fields of a sequence header (5.5.1) that frame headers depend on."""

    def __init__(self):
        self._time_bits = 0  # of a frame's own presentation time
        self._id_bits = 0
        self._screen_tools = self._integer_motion = _SELECT

    def read(self, bits: Bits) -> tuple[int, ...]:
        """Read a sequence header; returns what all frames have in common: width, height, and depth."""
        bits.take(4)  # profile, still picture
        if bits.take(1):
            raise UnclearHeadersError("a still picture")
        delay_bits = 0
        if bits.take(1):
            delay_bits = self._timing(bits)
        has_delays = bits.take(1)
        if bits.take(5):
            raise UnclearHeadersError("several layers")
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_delays and bits.take(1):
            bits.take(4)

        width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
        width, height = bits.take(width_bits), bits.take(height_bits)
        if bits.take(1):
            self._id_bits = bits.take(4) + 2
            self._id_bits += bits.take(3) + 1
        bits.take(7)  # superblock, intra filter and edge, inter tools
        has_order = bits.take(1)
        bits.take(2 * has_order)
        self._screen_tools = _SELECT if bits.take(1) else bits.take(1)
        if self._screen_tools:
            self._integer_motion = _SELECT if bits.take(1) else bits.take(1)
        bits.take(3 * has_order + 3)  # order, superresolution, filters
        return width, height, bits.take(1)

    def _timing(self, bits: Bits) -> int:
        """Read timing_info and decoder_model_info; returns the bits of a buffer delay, 0 without a
        model.
        """
        bits.take(64)
        is_even = bits.take(1)
        if is_even:
            bits.golomb()
        if not bits.take(1):
            return 0
        delay_bits = bits.take(5) + 1
        bits.take(37)
        time_bits = bits.take(5) + 1
        self._time_bits = 0 if is_even else time_bits
        return delay_bits

    def look(self, bits: Bits) -> tuple[bool, bool]:
        """Whether a frame is shown, and whether it is a shown keyframe (5.9.2)."""
        if bits.take(1):
            return True, False
        kind, is_shown = bits.take(2), bool(bits.take(1))
        is_key = kind == 0 and is_shown
        if is_shown:
            bits.take(self._time_bits)
        else:
            bits.take(1)
        if kind != 3 and not is_key:
            bits.take(1)  # error resilience
        bits.take(1)
        uses_tools = bits.take(1) if self._screen_tools == _SELECT else self._screen_tools
        if uses_tools and self._integer_motion == _SELECT:
            bits.take(1)
        bits.take(self._id_bits)
        if kind == 3 or bits.take(1):
            raise UnclearHeadersError("a frame with a size of its own")
        return is_shown, is_key


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """A number in AV1's variable length (4.10.5), and where it ends."""
    value = 0
    for shift in range(0, 56, 7):
        if place >= len(data):
            raise UnclearHeadersError("a unit is cut off")
        value |= (data[place] & 127) << shift
        place += 1
        if not data[place - 1] & 128:
            break
    return value, place


def _vp9_frames(data: bytes) -> list[bytes]:
    """The frames of a superframe (annex B), or the packet itself."""
    mark = data[-1]
    count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = len(data) - 2 - count * width
    if mark & 0xE0 != 0xC0 or index < 0 or data[index] != mark:
        return [data]

    frames, place = [], 0
    for number in range(count):
        begin = index + 1 + number * width
        size = int.from_bytes(data[begin : begin + width], "little")
        if size:
            frames.append(data[place : place + size])
        place += size
    return frames
