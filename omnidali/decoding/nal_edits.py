"""Edits of H.264 and HEVC streams that change no coded picture.

A hardware decoder is used again for the next video only if the coded and the shown size are equal:
DALI compares the one with the other. So the cropping is taken out of the parameter sets. The
padding, which it hides, lies at the right and at the bottom, and whoever gets the pictures cuts it.
"""

import functools
import re
from collections.abc import Callable

from omnidali.catalog.probing.bit_reader import BitReader, UnclearHeadersError
from omnidali.catalog.probing.h264_headers import read_h264_sps
from omnidali.catalog.probing.hevc_headers import read_hevc_sps
from omnidali.catalog.probing.nal_reader import unescape

Edit = Callable[[bytes], bytes]  # of one NAL unit

_START_CODE = re.compile(rb"\x00\x00\x01")
_ESCAPED = re.compile(rb"\x00\x00(?=[\x00-\x03])")
_H264_SPS = 7
_HEVC_SPS = 33
_HEVC_CRA = 21
_HEVC_BLA = 18  # a keyframe after a cut, without pictures that are shown before it


def has_units(codec: str) -> bool:
    """Whether packets of a codec consist of NAL units."""
    return codec in ("h264", "hevc")


@functools.lru_cache(maxsize=256)  # most videos of a set have the same few parameter sets
def without_cropping(codec: str, extradata: bytes) -> bytes:
    """The parameter sets of a container, avcC, hvcC or start codes, without cropping."""
    edit = functools.partial(_uncropped, codec)
    if not extradata.startswith(b"\1"):
        return edit_units(extradata, 0, edit)
    if codec == "h264":
        count = extradata[5] & 31
        units, end = _edit_sized(extradata, 6, count, edit)
        return extradata[:6] + units + extradata[end:]

    parts = [extradata[:23]]
    end = 23
    for _ in range(extradata[22]):  # arrays of one kind of parameter set each
        begin = end
        count = int.from_bytes(extradata[begin + 1 : begin + 3], "big")
        units, end = _edit_sized(extradata, begin + 3, count, edit)
        parts += [extradata[begin : begin + 3], units]
    return b"".join(parts) + extradata[end:]


def length_bytes(codec: str, extradata: bytes) -> int:
    """How many bytes say the length of a unit in a packet; 0: units begin with start codes."""
    if not extradata.startswith(b"\1"):
        return 0
    return 1 + (extradata[4 if codec == "h264" else 21] & 3)


def edit_keyframe(codec: str, data: bytes, length_size: int, *, is_cut: bool) -> bytes:
    """Take the cropping out of a keyframe's own parameter sets.

    Args:
        codec: h264 or hevc.
        data: the packet.
        length_size: as of :func:`length_bytes`.
        is_cut: whether the packets before it were not those that it follows in the video. Then a
            keyframe of HEVC that would count on from them begins to count anew.
    """

    def edit(unit: bytes) -> bytes:
        if is_cut and codec == "hevc" and unit and unit[0] >> 1 & 63 == _HEVC_CRA:
            return bytes([unit[0] & 0x81 | _HEVC_BLA << 1]) + unit[1:]
        return _uncropped(codec, unit)

    return edit_units(data, length_size, edit)


def edit_units(data: bytes, length_size: int, edit: Edit) -> bytes:
    """Edit every NAL unit of a packet.

    Args:
        data: the packet.
        length_size: bytes of the length before each unit; 0: units begin with start codes.
        edit: returns a unit as it shall be.
    """
    parts = []
    end = 0
    if length_size:
        while end + length_size <= len(data):
            begin = end + length_size
            end = begin + int.from_bytes(data[end:begin], "big")
            unit = edit(data[begin:end])
            parts += [len(unit).to_bytes(length_size, "big"), unit]
        return b"".join(parts) + data[end:]

    for code in _START_CODE.finditer(data):
        parts.append(edit(data[end : code.start()]) if parts else data[: code.start()])
        parts.append(code.group())
        end = code.end()
    parts.append(edit(data[end:]) if parts else data)
    return b"".join(parts)


def _edit_sized(data: bytes, begin: int, count: int, edit: Edit) -> tuple[bytes, int]:
    """Edit ``count`` units, each with its length in two bytes before it; also where they end."""
    parts = []
    end = begin
    for _ in range(count):
        start = end + 2
        end = start + int.from_bytes(data[end:start], "big")
        unit = edit(data[start:end])
        parts += [len(unit).to_bytes(2, "big"), unit]
    return b"".join(parts), end


def _uncropped(codec: str, unit: bytes) -> bytes:
    """A unit without cropping if it is a parameter set with some; else as it is.

    What is cut off at the left or at the top stays: the picture would move.
    """
    head = 1 if codec == "h264" else 2
    if len(unit) <= head or _kind(codec, unit) != (_H264_SPS if head == 1 else _HEVC_SPS):
        return unit
    content = unescape(unit[head:]).rstrip(b"\0")
    read = read_h264_sps if codec == "h264" else read_hevc_sps
    try:
        _, sps = read(BitReader(content))
    except (UnclearHeadersError, IndexError):
        return unit
    cropping = sps.cropping
    if cropping is None or not cropping.sides or cropping.sides[0] or cropping.sides[2]:
        return unit

    # the flag becomes 0, its fields go, and zeros fill up the last byte
    value = int.from_bytes(content, "big")
    rest = value & (1 << cropping.bits_after) - 1
    before = value >> cropping.bits_after + cropping.bits
    count = 8 * len(content) - cropping.bits + 1
    padding = -count % 8
    edited = (before << 1 + cropping.bits_after | rest) << padding
    payload = edited.to_bytes((count + padding) // 8, "big").rstrip(b"\0")
    return unit[:head] + _ESCAPED.sub(b"\0\0\3", payload)


def _kind(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
