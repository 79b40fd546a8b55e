"""The order in which HEVC pictures are shown, read from their slice headers without decoding.

Source: ITU-T H.265 (7.3, 8.3.1).
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
_RASL = (8, 9)  # leading pictures that refer to others before the keyframe
_LEADING = range(6, 10)
_KEYS = range(16, 24)
_STARTS = range(16, 21)  # BLA and IDR
_IDR = (19, 20)
_SLICES = range(32)
_SPS = 33
_PPS = 34
_ENDS = (36, 37)  # of a sequence, of the stream


class HevcReader(NalReader):
    """Reads packets of HEVC; see :class:`~omnidali.catalog.probing.nal_reader.NalReader`."""

    _drops_rasl = True  # whether a decoder leaves out the RASL pictures of the keyframe before

    def is_key(self, data: bytes, flagged: bool) -> bool:
        return any(_kind(unit) in _KEYS for unit in self._units(data))

    def _configured_units(self, extradata: bytes) -> Iterator[bytes]:
        self._length_bytes = 1 + (extradata[21] & 3)
        place = 23
        for _ in range(extradata[22]):  # arrays of one kind of parameter set each
            count = int.from_bytes(extradata[place + 1 : place + 3], "big")
            place = yield from sized_units(extradata, place + 3, count)

    def _pictures(self, data: bytes, flagged: bool) -> Iterator[bytes]:
        for unit in self._units(data):
            kind = _kind(unit)
            if kind is None or unit[0] & 1 or unit[1] & 0xF8:  # of another layer: a second view
                continue
            if kind in _SLICES:
                if unit[2] & 0x80:  # the first slice of its picture
                    yield unit[:SLICE_BYTES]
            elif kind in (_SPS, _PPS):
                self._keep_parameter_set(unit)
            elif kind in _ENDS:
                raise UnclearHeadersError("an end of the sequence inside the stream")

    def _keep_parameter_set(self, unit: bytes) -> None:
        kind = _kind(unit)
        if kind not in (_SPS, _PPS) or unit[1] & 0xF8 or not self._is_new_set(unit):
            return
        bits = BitReader(unescape(unit[2:]))
        if kind == _SPS:
            number, sps = read_hevc_sps(bits)
            self.replaces_sets |= number in self._sps
            self._sps[number] = sps
        else:
            number, sps_number = bits.golombs(2)
            self.replaces_sets |= number in self._pps
            bits.take(1)  # dependent slices
            self._pps[number] = Pps(sps_number, bool(bits.take(1)), bits.take(3))

    def _read_slice(self, data: bytes, flagged: bool) -> CodedPicture:
        kind = data[0] >> 1 & 63
        is_key = kind in _KEYS
        bits = BitReader(unescape(data[2:]))
        bits.take(1)  # first slice of the picture
        drops_earlier = bool(is_key and bits.take(1))
        pps, sps = self._sets_of(bits.golomb())
        self._use(sps)

        starts = kind in _STARTS or self._sequence < 0  # also a CRA that comes first
        if starts and not is_key:
            raise UnclearHeadersError("the first picture is no keyframe")
        if starts and drops_earlier and self._sequence >= 0:
            raise UnclearHeadersError("a picture that drops those before it")
        if kind in _RASL and self._drops_rasl:
            raise UnclearHeadersError("leading pictures whose references are missing")
        if is_key:
            self._drops_rasl = starts
        self._sequence += starts

        bits.take(pps.extra_bits)
        bits.golomb()  # slice type
        if pps.output_flag_present and not bits.take(1):
            raise UnclearHeadersError("a picture that is not shown")
        if sps.has_separate_planes:
            bits.take(2)
        low = 0 if kind in _IDR else bits.take(sps.order_bits)
        # 8.3.1: of the lowest temporal layer, neither leading nor without a reference to it.
        is_unreferenced = kind in _LEADING or (kind < 16 and kind % 2 == 0)
        is_reference = data[1] & 7 == 1 and not is_unreferenced
        order = self._full_order(low, sps.order_bits, starts, is_reference)
        # 7.4.2.2: pictures of higher temporal layers alone may refer to it, and there are none
        is_last_layer = data[1] & 7 == sps.layers
        is_disposable = kind < 16 and kind % 2 == 0 and is_last_layer
        return CodedPicture(self._sequence, order, is_key, is_disposable)


def _kind(unit: bytes) -> int | None:
    """The kind of a unit; None if it has no payload after its two bytes of header."""
    return unit[0] >> 1 & 63 if len(unit) > 2 else None


def read_hevc_sps(bits: BitReader) -> tuple[int, Sps]:
    """Read a sequence parameter set; returns its number and its fields."""
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)  # nesting; profile, tier and level
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)

    number = bits.golomb()
    chroma = bits.golomb()
    has_separate_planes = bool(chroma == 3 and bits.take(1))
    size = bits.golombs(2)
    cropping = read_cropping(bits)
    coded_size = (size[0], size[1])
    size += cropping.sides
    depths = bits.golombs(2)
    order_bits = bits.golomb() + 4

    for _ in range(layers + 1 if bits.take(1) else 1):
        _, max_reorder, _ = bits.golombs(3)
    return number, Sps(
        picture_format=(*size, chroma, *depths),
        order_bits=order_bits,
        max_reorder=max_reorder,
        has_separate_planes=has_separate_planes,
        layers=layers + 1,
        cropping=cropping,
        coded_size=coded_size,
    )
