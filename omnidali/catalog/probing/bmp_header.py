"""The headers of BMP files, read without any library.

Source: Microsoft's documentation of BITMAPFILEHEADER, BITMAPINFOHEADER, BITMAPV5HEADER and of
bitmap compression; OS/2's BITMAPCOREHEADER.
"""

import struct
from dataclasses import dataclass

from omnidali.catalog.probing.limits import UnsupportedMediaError, check_size

_CORE_HEADER = 12  # bytes, of OS/2
_USUAL_HEADER = 40
_MASKS_WITHIN = 52  # bytes of a header from which on it holds the masks itself
_RGB, _RLE8, _RLE4, _MASKS = range(4)  # compressions
_NAMES = {4: "JPEG", 5: "PNG", 6: "masks with alpha"}
# Bits of a pixel by compression: those that OpenCV decodes.
_BITS = {_RGB: (1, 4, 8, 16, 24, 32), _RLE8: (8,), _RLE4: (4,), _MASKS: (16, 32)}
# Masks of red, green and blue that OpenCV decodes.
_MASKS_565 = (0xF800, 0x07E0, 0x001F)
_USUAL_MASKS = {
    16: ((0x7C00, 0x03E0, 0x001F), _MASKS_565),
    32: ((0xFF0000, 0x00FF00, 0x0000FF),),
}


@dataclass(frozen=True)
class BmpHeader:
    """What a BMP says of its picture.

    Attributes:
        width: pixels.
        height: pixels.
        least_bytes: of a file that holds all of the picture.
        green_bits: of a pixel's 16; 0 if it has more, or a table of colours. Red and blue have 5.
    """

    width: int
    height: int
    least_bytes: int
    green_bits: int = 0


def read_bmp_header(data: bytes) -> BmpHeader:
    """Parse the header of a BMP.

    Args:
        data: the file from its start, which begins as a BMP.

    Raises:
        UnsupportedMediaError: for kinds that OpenCV does not decode, and pictures over the limits.
        struct.error: if it is cut off.
    """
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    compression = _RGB
    colours = 0
    if header_bytes == _CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)

    height = abs(height)  # below 0 the first row comes first
    check_size(width, height)
    if bits not in _BITS.get(compression, ()):
        name = f" as {_NAMES[compression]}" if compression in _NAMES else ""
        raise UnsupportedMediaError(
            f"BMP of a rare kind: {bits} bits a pixel, compression {compression}{name}"
        )
    masks = _read_masks(data, bits) if compression == _MASKS else None
    if bits == 16 and header_bytes != _USUAL_HEADER:
        raise UnsupportedMediaError(f"BMP of a rare kind: 16 bits a pixel, header {header_bytes}")

    # OpenCV reads the table of colours whatever there is room for.
    if bits <= 8 and colours > 1 << bits:
        raise UnsupportedMediaError(f"BMP of {bits} bits a pixel with {colours:,} colours")
    table = 0
    if bits <= 8:
        table = (colours or 1 << bits) * (3 if header_bytes == _CORE_HEADER else 4)
    mask_bytes = 12 if masks is not None and header_bytes < _MASKS_WITHIN else 0
    if offset < 14 + header_bytes + mask_bytes + table:
        raise UnsupportedMediaError(f"BMP whose picture begins in its header, at byte {offset:,}")
    size = offset + _picture_bytes(width, height, bits, compression)
    green_bits = 0
    if bits == 16:
        green_bits = 6 if masks == _MASKS_565 else 5
    return BmpHeader(width, height, size, green_bits)


def _read_masks(data: bytes, bits: int) -> tuple[int, ...]:
    """Where red, green and blue lie in a pixel.

    Raises:
        UnsupportedMediaError: if that is elsewhere than OpenCV takes them from.
    """
    masks = struct.unpack_from("<III", data, 54)
    if masks not in _USUAL_MASKS[bits]:
        raise UnsupportedMediaError(
            f"BMP of a rare kind: masks {', '.join(f'{mask:08x}' for mask in masks)}"
        )
    return masks


def _picture_bytes(width: int, height: int, bits: int, compression: int) -> int:
    """Bytes of the picture, where its header determines them; rows have multiples of four."""
    if compression in (_RLE8, _RLE4):
        return 2  # at least the mark of its end
    return -(-width * bits // 32) * 4 * height
