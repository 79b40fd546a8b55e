"""The units of AV1's packets and pictures, and how their sequence headers begin.

Source: the AV1 bitstream specification (5.3, 5.5).
"""

from collections.abc import Iterator
from typing import NamedTuple

from omnidali.catalog.probing.bit_reader import BitReader

SEQUENCE_BYTES = 512  # that hold all fields of a sequence header, with 32 operating points

# Kinds of units.
AV1_SEQUENCE = 1
AV1_FRAME_HEADERS = (3, 6)  # of a header alone, and of a whole frame


class SequenceStart(NamedTuple):
    """The fields of a sequence header up to the size of its pictures.

    Attributes:
        width: pixels.
        height: likewise.
        is_reduced: whether the header is the short one of a still picture.
        points: how many operating points, as of several layers.
        delay_bits: width of a buffer delay; 0 without a decoder model.
        time_bits: width of a frame's own presentation time.
    """

    width: int
    height: int
    is_reduced: bool
    points: int
    delay_bits: int
    time_bits: int


def av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, payload) of the units of an AV1 packet (5.3)."""
    place = 0
    while place < len(data):
        head = data[place]
        place += 2 if head & 4 else 1
        end = len(data)
        if head & 2:
            size, place = _leb128(data, place)
            end = min(place + size, end)
        yield head >> 3 & 15, data[place:end]
        place = end


def frame_headers(data: bytes) -> list[bytes]:
    """The units of an AV1 packet that begin with a frame's header."""
    return [unit for kind, unit in av1_units(data) if kind in AV1_FRAME_HEADERS]


def read_sequence_start(bits: BitReader) -> SequenceStart:
    """Read a sequence header up to the size of its pictures (5.5.1).

    Raises:
        UnclearHeadersError: if it is cut off.
    """
    bits.take(4)  # profile, still picture
    is_reduced = bool(bits.take(1))
    points = 1
    delay_bits = time_bits = 0
    if is_reduced:
        bits.take(5)
    else:
        if bits.take(1):
            delay_bits, time_bits = _read_timing(bits)
        has_delays = bits.take(1)
        points = bits.take(5) + 1
        for _ in range(points):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delay_bits and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if has_delays and bits.take(1):
                bits.take(4)

    width_bits = bits.take(4) + 1
    height_bits = bits.take(4) + 1
    width = bits.take(width_bits) + 1
    height = bits.take(height_bits) + 1
    return SequenceStart(width, height, is_reduced, points, delay_bits, time_bits)


def _read_timing(bits: BitReader) -> tuple[int, int]:
    """Read timing_info and decoder_model_info.

    Returns:
        The widths of a buffer delay and of a frame's presentation time; zeros without a model.
    """
    bits.take(64)
    is_even = bits.take(1)
    if is_even:
        bits.golomb()
    if not bits.take(1):
        return 0, 0
    delay_bits = bits.take(5) + 1
    bits.take(37)
    time_bits = bits.take(5) + 1
    return delay_bits, 0 if is_even else time_bits


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """A number in AV1's variable length (4.10.5), and where it ends."""
    value = 0
    for shift in range(0, 56, 7):
        value |= (data[place] & 127) << shift
        place += 1
        if not data[place - 1] & 128:
            break
    return value, place
