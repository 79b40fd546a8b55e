"""Ogg files made page by page.

Source: RFC 3533 (Ogg), and Theora's specification, appendix A.2.
"""

import struct

_POLYNOMIAL = 0x04C11DB7
_BEGIN, _END = 2, 4


def theora_ogg(extradata, packets, keys, *, in_page, serial=7):
    """One stream of Theora.

    Args:
        extradata: its three headers as Matroska holds them.
        packets: the frames.
        keys: whether each is a keyframe.
        in_page: packets on a page.
        serial: number of the stream.
    """
    headers = _headers(extradata)
    shift = (headers[0][40] & 3) << 3 | headers[0][41] >> 5
    pages = [([headers[0]], 0, _BEGIN), (headers[1:], 0, 0)]
    key = 0
    granules = []
    for number, is_key in enumerate(keys, 1):
        key = number if is_key else key
        granules.append(key << shift | number - key)
    for begin in range(0, len(packets), in_page):
        end = min(begin + in_page, len(packets))
        flags = _END if end == len(packets) else 0
        pages.append((packets[begin:end], granules[end - 1], flags))
    return b"".join(
        _page(content, granule, flags, serial=serial, number=number)
        for number, (content, granule, flags) in enumerate(pages)
    )


def _headers(extradata):
    """Xiph's lacing: how many headers follow the first, lengths but the last one's, headers."""
    sizes = []
    place = 1
    for _ in range(extradata[0]):
        size = 0
        while extradata[place] == 255:
            size += 255
            place += 1
        sizes.append(size + extradata[place])
        place += 1
    parts = []
    for size in sizes:
        parts.append(extradata[place : place + size])
        place += size
    return [*parts, extradata[place:]]


def _page(packets, granule, flags, *, serial, number):
    segments = b"".join(
        b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets
    )
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, serial, number, 0, len(segments))
    page = head + segments + b"".join(packets)
    return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def _table():
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ _POLYNOMIAL * (value >> 31)) & 0xFFFFFFFF
        table.append(value)
    return table


_TABLE = _table()


def _checksum(data):
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFFFFFF) ^ _TABLE[value >> 24 ^ byte]
    return value
