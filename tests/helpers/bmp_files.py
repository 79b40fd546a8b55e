"""BMP files of every kind, made byte by byte.

Source: Microsoft's documentation of BITMAPINFOHEADER and of bitmap compression.
"""

import struct

import numpy as np

RGB, RLE8, RLE4, MASKS = range(4)
MASKS_565 = (0xF800, 0x07E0, 0x001F)
MASKS_555 = (0x7C00, 0x03E0, 0x001F)


def bmp(
    width,
    height,
    bits,
    picture,
    *,
    compression=RGB,
    palette=(),
    masks=(),
    header=40,
    colours=None,
    gap=0,
    offset=None,
):
    """A BMP file.

    Args:
        width: as its header says, like all that follows.
        height: below 0: the first row comes first.
        bits: of a pixel.
        picture: bytes of the pixels.
        compression: of them.
        palette: colours, (red, green, blue) each.
        masks: of red, green, blue.
        header: bytes of the second header.
        colours: how many; None: as the palette has.
        gap: bytes between the headers and the picture.
        offset: of the picture; None: where it lies.
    """
    colours = len(palette) if colours is None else colours
    if header == 12:
        second = struct.pack("<IHHHH", 12, width, height, 1, bits)
        table = b"".join(bytes([blue, green, red]) for red, green, blue in palette)
    else:
        second = struct.pack("<IiiHHI", header, width, height, 1, bits, compression)
        second += struct.pack("<IiiII", len(picture), 2835, 2835, colours, 0)
        second += struct.pack(f"<{len(masks)}I", *masks)
        second += bytes(max(0, 14 + header - 14 - len(second)))
        table = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    start = 14 + len(second) + len(table) + gap
    total = start + len(picture)
    first = b"BM" + struct.pack("<IHHI", total, 0, 0, start if offset is None else offset)
    return first + second + table + bytes(gap) + picture


def rows(values, bits):
    """Rows of a picture, the first one first, as BMP stores values of so many bits (H, W).

    Rows of 24 bits are (H, W, 3), blue first.
    """
    stored = []
    for row in values:
        if bits < 8:
            text = "".join(format(int(value), f"0{bits}b") for value in row)
            text += "0" * (-len(text) % 8)
            data = int(text, 2).to_bytes(len(text) // 8, "big")
        else:
            kind = {8: "u1", 16: "<u2", 24: "u1", 32: "<u4"}[bits]
            data = np.ascontiguousarray(row).astype(kind).tobytes()
        stored.append(data + bytes(-len(data) % 4))
    return stored


def bottom_up(values, bits):
    return b"".join(rows(values, bits)[::-1])


def top_down(values, bits):
    return b"".join(rows(values, bits))
