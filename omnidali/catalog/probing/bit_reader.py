"""Reads the headers of coded video bit by bit."""

from typing import NamedTuple


class UnclearHeadersError(Exception):
    """The headers alone do not say which frames a decoder outputs; the text is the reason."""


class CodedPicture(NamedTuple):
    """What the headers of one packet say about the picture in it.

    Attributes:
        sequence: all pictures of a sequence are shown before those of the next one.
        order: place among the pictures of its sequence; gaps are allowed.
        is_key: whether decoding may begin here and give the right pixels.
        is_disposable: whether all other pictures decode alike without it.
    """

    sequence: int
    order: int
    is_key: bool
    is_disposable: bool = False


class BitReader:
    """Reads bits from the most significant one of the first byte on.

    Raises:
        UnclearHeadersError: at the end of the data.

    >>> bits = BitReader(bytes([0b1_010_0110, 0b1000_0000]))
    >>> bits.take(1), bits.golomb(), bits.golomb()
    (1, 1, 2)
    """

    __slots__ = ("_left", "_value")

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    @property
    def left(self) -> int:
        """How many bits were not read."""
        return self._left

    def take(self, count: int) -> int:
        """Read an unsigned number of ``count`` bits."""
        self._left -= count
        if self._left < 0:
            raise UnclearHeadersError("a header is cut off")
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Read an unsigned Exp-Golomb code, ue(v) of H.264 9.1."""
        rest = self._value & (1 << self._left) - 1
        self._left = 2 * rest.bit_length() - self._left - 1
        if self._left < 0:
            raise UnclearHeadersError("a header is cut off")
        return (rest >> self._left) - 1

    def golombs(self, count: int) -> list[int]:
        """Read ``count`` unsigned Exp-Golomb codes."""
        return [self.golomb() for _ in range(count)]

    def signed_golomb(self) -> int:
        """Read a signed Exp-Golomb code, se(v) of H.264 9.1.1."""
        code = self.golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)
