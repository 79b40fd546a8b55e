"""The order in which H.264 and HEVC pictures are shown, read from their slice headers without
decoding.

Containers may carry wrong timestamps; the picture order count is what a decoder goes by. Sources:
ITU-T H.264 (7.3, 8.2.1) and H.265 (7.3, 8.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omnidali.catalog.probing.bit_reader import Bits, CodedPicture, UnclearHeadersError
from omnidali.catalog.probing.sniff import MAX_UNITS, UnsupportedMediaError

# that hold the fields of a slice header up to its order count, with room for escapes
_SLICE_BYTES = 20
_SET_BYTES, _SETS = 4096, 1000  # of a parameter set, and how many different ones a stream may have
_BUFFERS = 32  # that a stream may describe (E.1.2)
# with a chroma format in the SPS
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_INTRA = {2, 4, 7, 9}  # slice types I and SI
_EXTENDED = 255  # aspect_ratio_idc that two numbers follow
_RECOVERY_POINT = 6  # payload type of an SEI message


@dataclass(frozen=True)
class _Sps:
    """Fields of a sequence parameter set; ``max_reorder`` is None where it is not said."""

    size: tuple[int, ...]
    order_bits: int
    max_reorder: int | None
    has_separate_planes: bool
    order_type: int = 0
    frame_number_bits: int = 0
    only_frames: bool = True


@dataclass(frozen=True)
class _Pps:
    """Fields of a picture parameter set; the last two are HEVC's."""

    sps: int
    output_flag_present: bool = False
    extra_bits: int = 0


class _NalReader:
    """What both codecs share: NAL units, parameter sets, and the high part of the order count.

    Args:
        extradata: parameter sets as the container gives them, avcC, hvcC or start codes.
    """

    is_in_order = False  # pictures may be shown in another order than they are decoded in

    def __init__(self, extradata: bytes):
        self._sps: dict[int, _Sps] = {}
        self._pps: dict[int, _Pps] = {}
        self._known: set[bytes] = set()
        self._size: tuple[int, ...] | None = None
        self._used: _Sps | None = None
        self._sequence = -1
        self._previous_order = 0
        self._length_bytes = 0
        self.max_reorder: int | None = 0
        self._read_extradata(extradata)

    def _read_extradata(self, data: bytes) -> None:
        raise NotImplementedError

    def _units(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where the NAL units of a packet begin and end; raises UnsupportedMediaError for more than a packet has."""
        for number, unit in enumerate(self._all_units(data)):
            if number == MAX_UNITS:
                raise UnsupportedMediaError(f"more than {MAX_UNITS:,} units in a packet")
            yield unit

    def _all_units(self, data: bytes) -> Iterator[tuple[int, int]]:
        if self._length_bytes:
            place, count = 0, self._length_bytes
            while place + count < len(data):
                begin = place + count
                place = begin + int.from_bytes(data[place:begin], "big")
                if place > len(data):
                    raise UnclearHeadersError("a NAL unit is cut off")
                yield begin, place
            return

        begin = data.find(b"\0\0\1")
        while begin >= 0:
            end = data.find(b"\0\0\1", begin + 3)
            yield begin + 3, len(data) if end < 0 else end
            begin = end

    def _keep_set(self, data: bytes) -> bool:
        """Whether a parameter set is new; most streams repeat the same ones all the time."""
        data = data.rstrip(b"\0")
        if data in self._known:
            return False
        if len(data) > _SET_BYTES or len(self._known) == _SETS:
            raise UnclearHeadersError("more parameter sets than a stream has, or larger ones")
        self._known.add(data)
        return True

    def _full_order(self, low: int, bits: int, starts: bool, is_reference: bool) -> int:
        """The whole order count from its low bits and the reference picture before (8.2.1.1 and
        8.3.1).
        """
        whole = 1 << bits
        previous = low if starts else self._previous_order
        order = previous - previous % whole + low
        if order - previous > whole // 2:
            order -= whole
        elif previous - order >= whole // 2:
            order += whole
        if is_reference:
            self._previous_order = order
        return order

    def _use(self, sps: _Sps) -> None:
        """Note the sequence that a picture belongs to; its size must be that of the first."""
        if sps is self._used:  # as nearly always
            return
        self._used = sps
        self._size = self._size or sps.size
        if sps.size != self._size:
            raise UnclearHeadersError("the picture size changes")
        if sps.max_reorder is None or self.max_reorder is None:
            self.max_reorder = None
        else:
            self.max_reorder = max(self.max_reorder, sps.max_reorder)


class H264Reader(_NalReader):
    """Reads packets of H.264, in decoding order, of one whole frame each.

    Attributes:
        max_reorder: how many frames a decoder holds back, as the stream says; None where it does
            not.
    """

    def read(self, data: bytes, flagged: bool) -> CodedPicture:
        """What the headers of a packet say.

        Args:
            flagged: whether the container calls it a keyframe.

        Raises:
            UnclearHeadersError: where a decoder may give another number of frames than one, or
                another order.
        """
        picture = None
        recovery = None
        for begin, end in self._units(data):
            kind = data[begin] & 31 if begin < end else 0
            if kind in (1, 5):
                # a slice that does not begin with the first macroblock
                if not data[begin + 1] & 0x80:
                    continue
                if picture is not None:
                    raise UnclearHeadersError("two pictures in one packet")
                picture = self._slice(data[begin : begin + _SLICE_BYTES], flagged, recovery)
            elif kind == 6 and flagged:
                recovery = _recovery_frames(data[begin + 1 : end], recovery)
            elif kind in (7, 8):
                self._parameter_set(data[begin:end])
            elif kind in (2, 3, 4):
                raise UnclearHeadersError("data partitions")

        if picture is None:
            raise UnclearHeadersError("a packet without the first slice of a picture")
        return picture

    def is_key(self, data: bytes, flagged: bool) -> bool:
        """Whether decoding may begin with a packet, as far as its headers alone can say."""
        recovery = None
        for begin, end in self._units(data):
            kind = data[begin] & 31 if begin < end else 0
            if kind == 5:
                return True
            if kind == 6 and flagged:
                recovery = _recovery_frames(data[begin + 1 : end], recovery)
            elif kind == 1:
                bits = Bits(_unescape(data[begin + 1 : begin + _SLICE_BYTES]))
                bits.golomb()
                return flagged and recovery == 0 and bits.golomb() in _INTRA
        return False

    def _read_extradata(self, data: bytes) -> None:
        if not data.startswith(b"\1"):
            for begin, end in self._units(data):
                self._parameter_set(data[begin:end])
            return

        self._length_bytes = 1 + (data[4] & 3)
        place = 5
        for mask in (31, 255):  # of the numbers of SPS and PPS
            count = data[place] & mask
            place += 1
            for _ in range(count):
                begin = place + 2
                place = begin + int.from_bytes(data[place:begin], "big")
                self._parameter_set(data[begin:place])

    def _parameter_set(self, data: bytes) -> None:
        if not data or data[0] & 31 not in (7, 8) or not self._keep_set(data):
            return
        bits = Bits(_unescape(data[1:]))
        if data[0] & 31 == 7:
            number, sps = _h264_sps(bits)
            self._sps[number] = sps
        else:
            number = bits.golomb()
            self._pps[number] = _Pps(bits.golomb())

    def _slice(self, data: bytes, flagged: bool, recovery: int | None) -> CodedPicture:
        bits = Bits(_unescape(data[1:]))
        bits.golomb()  # the first macroblock
        kind = bits.golomb()
        try:
            sps = self._sps[self._pps[bits.golomb()].sps]
        except KeyError:
            raise UnclearHeadersError("a parameter set is missing") from None

        starts = data[0] & 31 == 5
        if starts:
            self._sequence += 1
        elif self._sequence < 0:
            raise UnclearHeadersError("the first picture is no keyframe")
        self._use(sps)
        if sps.has_separate_planes:
            bits.take(2)
        number = bits.take(sps.frame_number_bits)
        if not sps.only_frames and bits.take(1):
            raise UnclearHeadersError("fields in packets of their own")
        if starts:
            bits.golomb()  # idr_pic_id

        is_key = starts or (flagged and recovery == 0 and kind in _INTRA)
        if sps.order_type == 0:
            order = self._full_order(
                bits.take(sps.order_bits), sps.order_bits, starts, bool(data[0] & 0x60)
            )
        elif sps.order_type == 2:  # shown as decoded (8.2.1.3)
            order = self._full_order(number, sps.frame_number_bits, starts, True)
            order = 2 * order - (not data[0] & 0x60)
        else:
            raise UnclearHeadersError("picture order count of type 1")
        return CodedPicture(self._sequence, order, is_key)


class HevcReader(_NalReader):
    """Reads packets of HEVC; arguments, attributes and errors as those of :class:`H264Reader`."""

    _drops_rasl = True  # whether a decoder leaves out the RASL pictures of the keyframe before

    def read(self, data: bytes, flagged: bool) -> CodedPicture:
        """What the headers of a packet say; ``flagged`` is not needed, as HEVC itself names its
        keyframes.
        """
        picture = None
        for begin, end in self._units(data):
            if end - begin < 3:
                continue
            kind = data[begin] >> 1 & 63
            if data[begin] & 1 or data[begin + 1] & 0xF8:  # another layer, such as a second view
                continue
            if kind < 32:
                if not data[begin + 2] & 0x80:  # not the first slice of its picture
                    continue
                if picture is not None:
                    raise UnclearHeadersError("two pictures in one packet")
                picture = self._slice(data[begin : begin + _SLICE_BYTES], kind)
            elif kind in (33, 34):
                self._parameter_set(data[begin:end], kind)
            elif kind in (36, 37):
                raise UnclearHeadersError("an end of the sequence inside the stream")

        if picture is None:
            raise UnclearHeadersError("a packet without the first slice of a picture")
        return picture

    def is_key(self, data: bytes, flagged: bool) -> bool:
        """Whether decoding may begin with a packet."""
        kinds = (data[begin] >> 1 & 63 for begin, end in self._units(data) if end - begin >= 3)
        return any(16 <= kind <= 23 for kind in kinds)

    def _read_extradata(self, data: bytes) -> None:
        if not data.startswith(b"\1"):
            for begin, end in self._units(data):
                if end - begin >= 3:
                    self._parameter_set(data[begin:end], data[begin] >> 1 & 63)
            return

        self._length_bytes = 1 + (data[21] & 3)
        place = 23
        for _ in range(data[22]):  # arrays of one kind of parameter set each
            count = int.from_bytes(data[place + 1 : place + 3], "big")
            place += 3
            for _ in range(count):
                begin = place + 2
                place = begin + int.from_bytes(data[place:begin], "big")
                if place > begin:
                    self._parameter_set(data[begin:place], data[begin] >> 1 & 63)

    def _parameter_set(self, data: bytes, kind: int) -> None:
        if kind not in (33, 34) or data[1] & 0xF8 or not self._keep_set(data):
            return
        bits = Bits(_unescape(data[2:]))
        if kind == 33:
            number, sps = _hevc_sps(bits)
            self._sps[number] = sps
        else:
            number, sps_number = bits.golomb(), bits.golomb()
            bits.take(1)  # dependent slices
            self._pps[number] = _Pps(sps_number, bool(bits.take(1)), bits.take(3))

    def _slice(self, data: bytes, kind: int) -> CodedPicture:
        bits = Bits(_unescape(data[2:]))
        bits.take(1)  # first slice of the picture
        is_key = 16 <= kind <= 23
        drops_earlier = bool(is_key and bits.take(1))
        try:
            pps = self._pps[bits.golomb()]
            sps = self._sps[pps.sps]
        except KeyError:
            raise UnclearHeadersError("a parameter set is missing") from None

        self._use(sps)
        starts = 16 <= kind <= 20 or self._sequence < 0  # IDR, BLA, and a CRA that comes first
        if starts and not is_key:
            raise UnclearHeadersError("the first picture is no keyframe")
        if starts and drops_earlier and self._sequence >= 0:
            raise UnclearHeadersError("a picture that drops those before it")
        if kind in (8, 9) and self._drops_rasl:
            raise UnclearHeadersError("leading pictures whose references are missing")
        if is_key:
            self._drops_rasl = starts
        self._sequence += starts

        if pps.extra_bits:
            bits.take(pps.extra_bits)
        bits.golomb()  # slice type
        if pps.output_flag_present and not bits.take(1):
            raise UnclearHeadersError("a picture that is not shown")
        if sps.has_separate_planes:
            bits.take(2)
        low = 0 if kind in (19, 20) else bits.take(sps.order_bits)
        # 8.3.1: of the lowest temporal layer, neither leading nor one that its own layer does not
        # refer to
        is_reference = data[1] & 7 == 1 and not 6 <= kind <= 9 and not (kind < 16 and kind % 2 == 0)
        return CodedPicture(
            self._sequence, self._full_order(low, sps.order_bits, starts, is_reference), is_key
        )


def _unescape(data: bytes) -> bytes:
    """The payload without emulation prevention bytes (7.4.1)."""
    return data.replace(b"\0\0\3", b"\0\0") if b"\0\0\3" in data else data


def _recovery_frames(data: bytes, known: int | None) -> int | None:
    """``recovery_frame_cnt`` of an SEI unit's recovery point (D.1.8); ``known`` where it has none."""
    data = _unescape(data)
    place = 0
    while place + 2 <= len(data):
        numbers = []
        for _ in range(2):  # payload type and size
            number = 0
            while place < len(data) and data[place] == 255:
                number, place = number + 255, place + 1
            numbers.append(number + (data[place] if place < len(data) else 0))
            place += 1
        if numbers[0] == _RECOVERY_POINT:
            return Bits(data[place : place + 8]).golomb()
        place += numbers[1]
    return known


def _h264_sps(bits: Bits) -> tuple[int, _Sps]:
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    number = bits.golomb()
    chroma, has_separate_planes = 1, False
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        has_separate_planes = bool(chroma == 3 and bits.take(1))
        depths = bits.golomb(), bits.golomb()
        bits.take(1)  # transform bypass
        if bits.take(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    else:
        depths = 0, 0

    frame_number_bits = bits.golomb() + 4
    order_type = bits.golomb()
    order_bits = bits.golomb() + 4 if order_type == 0 else 0
    if order_type == 1:
        raise UnclearHeadersError("picture order count of type 1")
    bits.golomb()  # reference frames
    bits.take(1)  # gaps in frame numbers
    size = [bits.golomb(), bits.golomb()]
    only_frames = bool(bits.take(1))
    if not only_frames:
        bits.take(1)  # macroblock adaptive fields
    bits.take(1)  # direct 8x8
    if bits.take(1):
        size += [bits.golomb() for _ in range(4)]  # cropping
    max_reorder = _h264_reorder(bits) if bits.take(1) else None
    if order_type == 2:
        max_reorder = 0
    return number, _Sps(
        (*size, only_frames, chroma, *depths),
        order_bits,
        max_reorder,
        has_separate_planes,
        order_type,
        frame_number_bits,
        only_frames,
    )


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    for number in range(count):
        if not bits.take(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


def _h264_reorder(bits: Bits) -> int | None:
    """``max_num_reorder_frames`` at the end of the VUI (E.1.1); None where the stream does not say."""
    if bits.take(1) and bits.take(8) == _EXTENDED:
        bits.take(32)
    if bits.take(1):
        bits.take(1)  # overscan
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)  # colours
    if bits.take(1):
        bits.golomb(), bits.golomb()  # chroma location
    if bits.take(1):
        bits.take(65)  # timing
    models = 0
    for _ in range(2):
        if bits.take(1):
            models += 1
            count = bits.golomb() + 1
            if count > _BUFFERS:
                raise UnclearHeadersError("too many buffers")
            bits.take(8)
            for _ in range(count):
                bits.golomb(), bits.golomb(), bits.take(1)
            bits.take(20)
    bits.take(1 + bool(models))  # low delay, picture structure
    if not bits.take(1):
        return None
    bits.take(1)
    for _ in range(4):
        bits.golomb()
    return bits.golomb()


def _hevc_sps(bits: Bits) -> tuple[int, _Sps]:
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)  # nesting; profile, tier and level
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)

    number = bits.golomb()
    chroma = bits.golomb()
    has_separate_planes = bool(chroma == 3 and bits.take(1))
    size = [bits.golomb(), bits.golomb()]
    if bits.take(1):
        size += [bits.golomb() for _ in range(4)]  # cropping
    depths = bits.golomb(), bits.golomb()
    order_bits = bits.golomb() + 4
    all_layers = bits.take(1)
    for _ in range(layers + 1 if all_layers else 1):
        bits.golomb()
        max_reorder = bits.golomb()
        bits.golomb()
    return number, _Sps((*size, chroma, *depths), order_bits, max_reorder, has_separate_planes)
