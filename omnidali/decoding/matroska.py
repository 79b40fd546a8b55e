"""Writes one video stream as a Matroska file in memory, for decoders that read no loose packets.

Source: RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

import struct
from collections.abc import Sequence

_Bytes = bytes | memoryview

_CODECS = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "av1": b"V_AV1",
    "vp8": b"V_VP8",
    "vp9": b"V_VP9",
    "mpeg4": b"V_MPEG4/ISO/ASP",
    "mjpeg": b"V_MJPEG",
}
CODECS = frozenset(_CODECS)  # that can be written

_TICK = 1_000_000  # nanoseconds of one unit of a timestamp; a frame has one
_CLUSTER = 16_000  # frames of a cluster at most: times in it are 16-bit numbers with a sign
_KEY = 0x80
_FULL_RANGE = b"\2"
_TRACK = b"\x81"  # number 1, as a block names it

# Elements, by their names in the specification.
_EBML = b"\x1a\x45\xdf\xa3"
_DOC_TYPE = b"\x42\x82"
_SEGMENT = b"\x18\x53\x80\x67"
_INFO = b"\x15\x49\xa9\x66"
_TIMESTAMP_SCALE = b"\x2a\xd7\xb1"
_DURATION = b"\x44\x89"
_TRACKS = b"\x16\x54\xae\x6b"
_TRACK_ENTRY = b"\xae"
_TRACK_NUMBER = b"\xd7"
_TRACK_UID = b"\x73\xc5"
_TRACK_TYPE = b"\x83"
_DEFAULT_DURATION = b"\x23\xe3\x83"
_CODEC_ID = b"\x86"
_CODEC_PRIVATE = b"\x63\xa2"
_VIDEO = b"\xe0"
_PIXEL_WIDTH = b"\xb0"
_PIXEL_HEIGHT = b"\xba"
_COLOUR = b"\x55\xb0"
_RANGE = b"\x55\xb9"
_CLUSTER_ID = b"\x1f\x43\xb6\x75"
_TIMESTAMP = b"\xe7"
_SIMPLE_BLOCK = b"\xa3"


def write_matroska(
    codec: str,
    extradata: bytes,
    size: tuple[int, int],
    packets: Sequence[_Bytes],
    *,
    times: Sequence[int],
    keys: Sequence[bool],
    is_full_range: bool = False,
) -> bytes:
    """Write a stream.

    Args:
        codec: one of :data:`CODECS`.
        extradata: what a container says to the decoder.
        size: width and height, pixels.
        packets: in decoding order.
        times: by packet, when its frame is shown, a frame lasting one unit; not negative.
        keys: by packet, whether decoding may begin there.
        is_full_range: whether black is 0 and white 255. Limited range is not named: the decoder
            knows it.
    """
    picture = [
        _element(_PIXEL_WIDTH, _number(size[0])),
        _element(_PIXEL_HEIGHT, _number(size[1])),
        _element(_COLOUR, _element(_RANGE, _FULL_RANGE)) if is_full_range else b"",
    ]
    entry = [
        _element(_TRACK_NUMBER, b"\1"),
        _element(_TRACK_UID, b"\1"),
        _element(_TRACK_TYPE, b"\1"),
        _element(_DEFAULT_DURATION, _number(_TICK)),
        _element(_CODEC_ID, _CODECS[codec]),
        _element(_CODEC_PRIVATE, extradata) if extradata else b"",
        _element(_VIDEO, b"".join(picture)),
    ]
    info = [
        _element(_TIMESTAMP_SCALE, _number(_TICK)),
        _element(_DURATION, struct.pack(">d", max(times) + 1)),
    ]
    segment: list[_Bytes] = [
        _element(_INFO, b"".join(info)),
        _element(_TRACKS, _element(_TRACK_ENTRY, b"".join(entry))),
    ]
    for begin in range(0, len(packets), _CLUSTER):
        part = slice(begin, begin + _CLUSTER)
        segment += _cluster(packets[part], times[part], keys[part])
    header = _element(_EBML, _element(_DOC_TYPE, b"matroska"))
    return b"".join([header, *_enclose(_SEGMENT, segment)])


def _cluster(packets: Sequence[_Bytes], times: Sequence[int], keys: Sequence[bool]) -> list[_Bytes]:
    """A cluster of blocks, one a packet, in parts: the packets are copied once, at the end."""
    base = min(times)
    parts: list[_Bytes] = [_element(_TIMESTAMP, _number(base))]
    for packet, time, is_key in zip(packets, times, keys, strict=True):
        head = _TRACK + struct.pack(">hB", time - base, _KEY * is_key)
        parts.append(_SIMPLE_BLOCK + _length(len(head) + len(packet)) + head)
        parts.append(packet)
    return _enclose(_CLUSTER_ID, parts)


def _enclose(name: bytes, parts: list[_Bytes]) -> list[_Bytes]:
    return [name + _length(sum(map(len, parts))), *parts]


def _element(name: bytes, content: bytes) -> bytes:
    return name + _length(len(content)) + content


def _length(count: int) -> bytes:
    """A length in eight bytes, of which the first bit says so (RFC 8794, 4)."""
    return (1 << 56 | count).to_bytes(8, "big")


def _number(value: int) -> bytes:
    return value.to_bytes(max(1, -(-value.bit_length() // 8)), "big")
