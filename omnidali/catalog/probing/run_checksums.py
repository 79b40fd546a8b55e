"""Checksums of the packets of a video, one a stretch of them.

A stretch begins with each keyframe. Long ones are split, so that a clip reads little more than it
needs to compare.
"""

import zlib
from collections.abc import Iterable

_LONGEST = 32  # packets of a stretch


class RunChecksums:
    """Computes the checksums while the packets go by.

    >>> checksums = RunChecksums()
    >>> for data, is_key in [(b"I", True), (b"P", False), (b"I", True)]:
    ...     checksums.add(data, is_key)
    >>> checksums.begins, checksums.values == [checksum_of([b"I", b"P"]), checksum_of([b"I"])]
    ([True, False, True], True)

    Attributes:
        begins: whether a stretch begins with the packet, one a packet.
        values: CRC-32 of the bytes of each stretch.
    """

    def __init__(self) -> None:
        self.begins: list[bool] = []
        self.values: list[int] = []
        self._count = 0  # packets of the last stretch

    def add(self, data: bytes, is_key: bool) -> None:
        """Take the next packet."""
        begins = is_key or not self.begins or self._count == _LONGEST
        if begins:
            self.values.append(0)
            self._count = 0
        self.begins.append(begins)
        self.values[-1] = zlib.crc32(data, self.values[-1])
        self._count += 1


def checksum_of(packets: Iterable[bytes | memoryview]) -> int:
    """CRC-32 of the bytes of some packets."""
    value = 0
    for packet in packets:
        value = zlib.crc32(packet, value)
    return value
