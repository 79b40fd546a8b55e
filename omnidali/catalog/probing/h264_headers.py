"""The order in which H.264 pictures are shown, read from their slice headers without decoding.

Source: ITU-T H.264 (7.3, 8.2.1).
"""

from collections.abc import Iterator

from omnidali.catalog.probing.bit_reader import BitReader, CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.nal_reader import (
    SLICE_BYTES,
    NalReader,
    Pps,
    Sps,
    read_cropping,
    sized_units,
    unescape,
)

# Kinds of units (table 7-1).
_SLICE = 1
_PARTITIONS = (2, 3, 4)
_IDR_SLICE = 5
_SEI = 6
_SPS = 7
_PPS = 8

_INTRA = {2, 4, 7, 9}  # slice types I and SI
_RECOVERY_POINT = 6  # payload type of an SEI message
# Profiles whose parameter sets name a chroma format (7.3.2.1.1).
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_EXTENDED = 255  # an aspect_ratio_idc that two numbers follow
_BUFFERS = 32  # that a stream may describe (E.1.2)


class H264Reader(NalReader):
    """Reads packets of H.264; see :class:`~omnidali.catalog.probing.nal_reader.NalReader`."""

    has_open_gop = False  # whether a keyframe that was read is no IDR picture
    may_have_fields = False  # whether a parameter set that was used permits fields

    _recovery: int | None = None  # recovery_frame_cnt of the packet that is read

    def is_key(self, data: bytes, flagged: bool) -> bool:
        recovery = None
        for unit in self._units(data):
            kind = _kind(unit)
            if kind == _IDR_SLICE:
                return True
            if kind == _SEI and flagged:
                recovery = _recovery_frames(unit[1:], recovery)
            elif kind == _SLICE:
                _, slice_type = BitReader(unescape(unit[1:SLICE_BYTES])).golombs(2)
                is_key = flagged and recovery == 0 and slice_type in _INTRA
                self.has_open_gop |= is_key
                return is_key
        return False

    def _configured_units(self, extradata: bytes) -> Iterator[bytes]:
        self._length_bytes = 1 + (extradata[4] & 3)
        place = 5
        for count_mask in (31, 255):  # of the SPS, then of the PPS
            count = extradata[place] & count_mask
            place = yield from sized_units(extradata, place + 1, count)

    def _pictures(self, data: bytes, flagged: bool) -> Iterator[bytes]:
        self._recovery = None
        for unit in self._units(data):
            kind = _kind(unit)
            if kind in (_SLICE, _IDR_SLICE):
                if unit[1:2] >= b"\x80":  # it begins with the first macroblock
                    yield unit[:SLICE_BYTES]
            elif kind == _SEI and flagged:
                self._recovery = _recovery_frames(unit[1:], self._recovery)
            elif kind in (_SPS, _PPS):
                self._keep_parameter_set(unit)
            elif kind in _PARTITIONS:
                raise UnclearHeadersError("data partitions")

    def _keep_parameter_set(self, unit: bytes) -> None:
        kind = _kind(unit)
        if kind not in (_SPS, _PPS) or not self._is_new_set(unit):
            return
        bits = BitReader(unescape(unit[1:]))
        if kind == _SPS:
            number, sps = read_h264_sps(bits)
            self.replaces_sets |= number in self._sps
            self._sps[number] = sps
        else:
            number, sps_number = bits.golombs(2)
            self.replaces_sets |= number in self._pps
            self._pps[number] = Pps(sps_number)

    def _read_slice(self, data: bytes, flagged: bool) -> CodedPicture:
        bits = BitReader(unescape(data[1:]))
        _, slice_type, pps_number = bits.golombs(3)
        _, sps = self._sets_of(pps_number)

        starts = data[0] & 31 == _IDR_SLICE
        if starts:
            self._sequence += 1
        elif self._sequence < 0:
            raise UnclearHeadersError("the first picture is no keyframe")
        self._use(sps)
        self.may_have_fields |= not sps.only_frames

        if sps.has_separate_planes:
            bits.take(2)
        frame_number = bits.take(sps.frame_number_bits)
        if not sps.only_frames and bits.take(1):
            raise UnclearHeadersError("fields in packets of their own")
        if starts:
            bits.golomb()  # idr_pic_id

        is_reference = bool(data[0] & 0x60)
        if sps.order_type == 0:
            low = bits.take(sps.order_bits)
            order = self._full_order(low, sps.order_bits, starts, is_reference)
        else:  # type 2: shown as decoded (8.2.1.3)
            order = 2 * self._full_order(frame_number, sps.frame_number_bits, starts, True)
            order -= not is_reference
        is_key = starts or (flagged and self._recovery == 0 and slice_type in _INTRA)
        self.has_open_gop |= is_key and not starts
        return CodedPicture(self._sequence, order, is_key, is_disposable=not is_reference)


def _kind(unit: bytes) -> int:
    return unit[0] & 31 if unit else 0


def _recovery_frames(data: bytes, known: int | None) -> int | None:
    """``recovery_frame_cnt`` of an SEI unit's recovery point (D.1.8); ``known`` without one."""
    data = unescape(data)
    place = 0
    while place + 2 <= len(data):
        kind, place = _read_extended(data, place)
        size, place = _read_extended(data, place)
        if kind == _RECOVERY_POINT:
            return BitReader(data[place : place + 8]).golomb()
        place += size
    return known


def _read_extended(data: bytes, place: int) -> tuple[int, int]:
    """A number of which bytes of 255 are a part (7.3.2.3.1), and where it ends."""
    number = 0
    while place < len(data) and data[place] == 255:
        number += 255
        place += 1
    return number + (data[place] if place < len(data) else 0), place + 1


def read_h264_sps(bits: BitReader) -> tuple[int, Sps]:
    """Read a sequence parameter set; returns its number and its fields."""
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    number = bits.golomb()
    chroma = 1
    has_separate_planes = False
    depths = [0, 0]
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        has_separate_planes = bool(chroma == 3 and bits.take(1))
        depths = bits.golombs(2)
        bits.take(1)  # transform bypass
        if bits.take(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)

    frame_number_bits = bits.golomb() + 4
    order_type = bits.golomb()
    if order_type == 1:
        raise UnclearHeadersError("picture order count of type 1")
    order_bits = bits.golomb() + 4 if order_type == 0 else 0
    bits.golomb()  # reference frames
    bits.take(1)  # gaps in frame numbers

    size = bits.golombs(2)  # less one, in macroblocks, or pairs of them
    only_frames = bool(bits.take(1))
    if not only_frames:
        bits.take(1)  # macroblock adaptive fields
    bits.take(1)  # direct 8x8
    cropping = read_cropping(bits)
    coded_size = (16 * (size[0] + 1), 16 * (size[1] + 1) * (2 - only_frames))
    size += cropping.sides
    max_reorder = _read_max_reorder(bits) if bits.take(1) else None
    return number, Sps(
        picture_format=(*size, only_frames, chroma, *depths),
        order_bits=order_bits,
        max_reorder=0 if order_type == 2 else max_reorder,
        has_separate_planes=has_separate_planes,
        order_type=order_type,
        frame_number_bits=frame_number_bits,
        only_frames=only_frames,
        cropping=cropping,
        coded_size=coded_size,
    )


def _skip_scaling_lists(bits: BitReader, count: int) -> None:
    for number in range(count):
        if not bits.take(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


def _read_max_reorder(bits: BitReader) -> int | None:
    """``max_num_reorder_frames`` at the end of the VUI (E.1.1); None if the stream says none."""
    if bits.take(1) and bits.take(8) == _EXTENDED:
        bits.take(32)  # aspect ratio
    if bits.take(1):
        bits.take(1)  # overscan
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)  # colours
    if bits.take(1):
        bits.golombs(2)  # chroma location
    if bits.take(1):
        bits.take(65)  # timing

    has_buffers = False
    for _ in range(2):  # of NAL units, of the video coding layer
        if bits.take(1):
            has_buffers = True
            _skip_buffers(bits)
    bits.take(1 + has_buffers)  # low delay, picture structure
    if not bits.take(1):
        return None
    bits.take(1)
    return bits.golombs(5)[-1]


def _skip_buffers(bits: BitReader) -> None:
    """Skip ``hrd_parameters`` (E.1.2)."""
    count = bits.golomb() + 1
    if count > _BUFFERS:
        raise UnclearHeadersError("too many buffers")
    bits.take(8)
    for _ in range(count):
        bits.golombs(2)
        bits.take(1)
    bits.take(20)
