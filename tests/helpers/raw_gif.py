"""GIF files made block by block: what encoders write rarely, and what they do not write.

Source: GIF89a specification.
"""

import struct
from dataclasses import dataclass

import numpy as np

KEEP, BACKGROUND, PREVIOUS = 1, 2, 3  # what becomes of a picture before the next one


@dataclass(frozen=True)
class GifPicture:
    """One picture of a GIF.

    Attributes:
        values: places in the table of colours, (H, W).
        left: on the canvas.
        top: likewise.
        disposal: what becomes of it.
        delay: hundredths of a second.
        transparent: value that shows what was there before; None: none.
        palette: its own colours, (red, green, blue) each; none: those of the file.
        is_interlaced: whether its rows are stored in four passes.
        comment: before it.
    """

    values: np.ndarray
    left: int = 0
    top: int = 0
    disposal: int = KEEP
    delay: int = 4
    transparent: int | None = None
    palette: tuple[tuple[int, int, int], ...] = ()
    is_interlaced: bool = False
    comment: bytes = b""


def gif(width, height, pictures, palette, *, loops=0, background=0):
    """A GIF file.

    Args:
        width: of the canvas, pixels.
        height: likewise.
        pictures: :class:`GifPicture` each.
        palette: 256 colours, (red, green, blue) each.
        loops: how often it is shown; 0: without end, None: the file does not say.
        background: place of the canvas's colour.
    """
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7, background, 0), _table(palette)]
    if loops is not None:
        parts.append(b"\x21\xff\x0bNETSCAPE2.0\3\1" + struct.pack("<H", loops) + b"\0")
    parts += map(_picture, pictures)
    return b"".join([*parts, b";"])


def _table(palette):
    colours = [bytes(colour) for colour in palette]
    return b"".join(colours + [bytes(3)] * (256 - len(colours)))


def _picture(picture):
    height, width = picture.values.shape
    flags = picture.disposal << 2 | (picture.transparent is not None)
    control = struct.pack("<BHB", flags, picture.delay, picture.transparent or 0)
    own = 0x87 * bool(picture.palette) | 0x40 * picture.is_interlaced
    place = struct.pack("<HHHHB", picture.left, picture.top, width, height, own)
    table = _table(picture.palette) if picture.palette else b""
    comment = b"\x21\xfe" + _blocks(picture.comment) if picture.comment else b""
    rows = range(height)
    if picture.is_interlaced:
        rows = [*rows[::8], *rows[4::8], *rows[2::4], *rows[1::2]]
    data = b"\x08" + _blocks(_codes(picture.values[list(rows)].reshape(-1).tolist()))
    return comment + b"\x21\xf9\4" + control + b"\0" + b"\x2c" + place + table + data


def _codes(values):
    """LZW that never fills its table, so that all codes have nine bits."""
    bits, count = 0, 0
    for place, value in enumerate(values):
        if place % 250 == 0:
            bits |= 256 << 9 * count
            count += 1
        bits |= value << 9 * count
        count += 1
    bits |= 257 << 9 * count
    return bits.to_bytes((9 * (count + 1) + 7) // 8, "little")


def _blocks(data):
    parts = [data[place : place + 255] for place in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
