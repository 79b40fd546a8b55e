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
_SPS = {"h264": 7, "hevc": 33}  # kinds of sequence parameter sets
_SLICES = {"h264": range(1, 6), "hevc": range(32)}
_HEVC_CRA = 21
_DROPS_PRIOR = 0x40  # in the first byte of a keyframe's slice header
_HEVC_BLA = 18  # a keyframe after a cut, without pictures that are shown before it


def has_units(codec: str) -> bool:
    """Whether packets of a codec consist of NAL units."""
    return codec in ("h264", "hevc")


@functools.cache
def _slice_heads(codec: str) -> frozenset[int]:
    """First bytes of the units that are slices."""
    heads = range(256)
    return frozenset(head for head in heads if _kind(codec, bytes([head])) in _SLICES[codec])


class NalEditor:
    """Edits one stream.

    Args:
        codec: h264 or hevc.
        extradata: parameter sets as the container has them: avcC, hvcC or start codes.

    Attributes:
        extradata: the same without cropping.
        coded_size: width and height of the pictures of the edited stream, pixels; None if no
            parameter set has come, or one keeps its cropping.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.coded_size: tuple[int, int] | None = None
        self._codec = codec
        self._slice_heads = _slice_heads(codec)
        self._length_size = 0  # bytes of the length before a unit; 0: start codes
        if extradata.startswith(b"\1"):
            self._length_size = 1 + (extradata[4 if codec == "h264" else 21] & 3)
        self.extradata = self._edit_extradata(extradata)

    def edit_packet(self, data: bytes | memoryview, *, is_cut: bool) -> bytes | memoryview:
        """Take the cropping out of a packet's own parameter sets.

        Packets between keyframes may repeat them, too, where pictures are renewed piece by piece.

        Args:
            data: the packet.
            is_cut: whether the packets before it are not those that it follows in the video. Then
                a keyframe of HEVC that would count on from them begins to count anew.
        """
        if not is_cut and self._begins_with_slice(data):
            return data
        data = bytes(data)

        def edit(unit: bytes) -> bytes:
            is_cra = self._codec == "hevc" and len(unit) > 2 and _kind("hevc", unit) == _HEVC_CRA
            if is_cut and is_cra:
                # no_output_of_prior_pics_flag would drop pictures that wait to be shown (C.5.2.2)
                head = bytes([unit[0] & 0x81 | _HEVC_BLA << 1, unit[1], unit[2] & ~_DROPS_PRIOR])
                return head + unit[3:]
            return self._edit_unit(unit)

        return edit_units(data, self._length_size, edit)

    def _begins_with_slice(self, data: bytes | memoryview) -> bool:
        """Whether a packet has no parameter sets: they come before its slices."""
        place = self._length_size or bytes(data[:4]).find(1) + 1
        return place < len(data) and data[place] in self._slice_heads

    def _edit_extradata(self, extradata: bytes) -> bytes:
        if not self._length_size:
            return edit_units(extradata, 0, self._edit_unit)
        if self._codec == "h264":
            units, end = self._edit_sized(extradata, 6, extradata[5] & 31)
            return extradata[:6] + units + extradata[end:]

        parts = [extradata[:23]]
        end = 23
        for _ in range(extradata[22]):  # arrays of one kind of parameter set each
            begin = end
            count = int.from_bytes(extradata[begin + 1 : begin + 3], "big")
            units, end = self._edit_sized(extradata, begin + 3, count)
            parts += [extradata[begin : begin + 3], units]
        return b"".join(parts) + extradata[end:]

    def _edit_sized(self, data: bytes, begin: int, count: int) -> tuple[bytes, int]:
        """Edit ``count`` units, each with its length in two bytes before it; also their end."""
        parts = []
        end = begin
        for _ in range(count):
            start = end + 2
            end = start + int.from_bytes(data[end:start], "big")
            unit = self._edit_unit(data[start:end])
            parts += [len(unit).to_bytes(2, "big"), unit]
        return b"".join(parts), end

    def _edit_unit(self, unit: bytes) -> bytes:
        head = 1 if self._codec == "h264" else 2
        if len(unit) <= head or _kind(self._codec, unit) != _SPS[self._codec]:
            return unit
        if head == 2 and (unit[0] & 1 or unit[1] & 0xF8):  # of another layer: a second view
            return unit
        edited, self.coded_size = _without_cropping(self._codec, unit)
        return edited


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


@functools.lru_cache(maxsize=256)  # most videos of a set have the same few parameter sets
def _without_cropping(codec: str, unit: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """A sequence parameter set without cropping, and the size of its pictures.

    What is cut off at the left or at the top stays, as the picture would move: the size is None.
    """
    head = 1 if codec == "h264" else 2
    content = unescape(unit[head:]).rstrip(b"\0")
    read = read_h264_sps if codec == "h264" else read_hevc_sps
    try:
        _, sps = read(BitReader(content))
    except (UnclearHeadersError, IndexError):
        return unit, None
    cropping = sps.cropping
    if cropping is None or not cropping.sides:
        return unit, sps.coded_size
    if cropping.sides[0] or cropping.sides[2]:
        return unit, None

    # the flag becomes 0, its fields go, and zeros fill up the last byte
    value = int.from_bytes(content, "big")
    rest = value & (1 << cropping.bits_after) - 1
    before = value >> cropping.bits_after + cropping.bits
    count = 8 * len(content) - cropping.bits + 1
    padding = -count % 8
    edited = (before << 1 + cropping.bits_after | rest) << padding
    payload = edited.to_bytes((count + padding) // 8, "big").rstrip(b"\0")
    return unit[:head] + escape(payload), sps.coded_size


def escape(payload: bytes) -> bytes:
    """A unit's payload with emulation prevention bytes (H.264 7.4.1)."""
    return _ESCAPED.sub(b"\0\0\3", payload)


def _kind(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
