"""What a file is, told from its first bytes: no name is believed and no decoder is asked."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 4096  # enough for every signature below
MAX_PIXELS = 89_478_485  # about 256 MiB as RGB; a small file can claim far more than a machine holds
MAX_SIDE = 65_535


class Refused(Exception):
    """A file that stays out of the catalog; its text is the reason."""


@dataclass(frozen=True)
class ImageHeader:
    """Size of an image as a viewer shows it, after EXIF rotation.

    ``codec`` is ``jpeg``, ``png`` or ``webp``, or ``jpeg:cmyk`` for four-component JPEG.
    """

    codec: str
    width: int
    height: int


def sniff_video(head: bytes) -> str:
    """Name the FFmpeg demuxer that the first bytes call for.

    Naming it keeps FFmpeg from trying its 350 others, playlists and network descriptions among them.

    Raises:
        Refused: if the bytes start no known video container.

    >>> sniff_video(bytes.fromhex("1a45dfa3"))
    'matroska'
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if head.startswith(b"DKIF"):
        return "ivf"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    raise Refused(f"not a video: {describe_head(head)}")


def describe_head(head: bytes) -> str:
    """Say in words what the first bytes look like."""
    known = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF",
             b"MM\0*": "TIFF", b"%PDF": "PDF", b"\x1f\x8b": "gzip", b"PK\3\4": "ZIP"}
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return f"ISO media ({head[8:12].decode('ascii', 'replace')})"
    start = head[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page"
    if start and all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return "text"
    return "unknown bytes"


def read_image_header(data: bytes) -> ImageHeader:
    """Parse the header of a JPEG, PNG or WebP file.

    Args:
        data: the file from its start; the first 256 KiB are enough unless metadata is larger.

    Raises:
        Refused: for other formats, cut headers and pictures over the limits.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = ImageHeader("png", *struct.unpack_from(">II", data, 16))
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise Refused(f"not a JPEG, PNG or WebP image: {describe_head(data[:HEAD_BYTES])}")
    except (struct.error, IndexError):
        raise Refused("header cut off") from None
    check_size(header.width, header.height)
    return header


def check_size(width: int, height: int) -> None:
    """Raise Refused for pictures without area and for those over the limits."""
    if width < 1 or height < 1:
        raise Refused(f"no picture: {width}x{height}")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise Refused(f"too large: {width}x{height}")


def _jpeg(data: bytes) -> ImageHeader:
    position, orientation = 2, None
    while True:
        while data[position] != 0xFF:  # garbage between segments is allowed for
            position += 1
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xD9, 0xDA):
            raise Refused("JPEG without a frame header")
        length, = struct.unpack_from(">H", data, position)
        if marker == 0xE1 and orientation is None and data[position + 2:position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8:position + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            if (orientation or 1) >= 5:
                width, height = height, width
            return ImageHeader("jpeg:cmyk" if components == 4 else "jpeg", width, height)
        position += length


def _exif_orientation(tiff: bytes) -> int:
    """The orientation tag (1 to 8) of the first directory; 1 where it is missing or broken."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        start, = struct.unpack_from(order + "I", tiff, 4)
        count, = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except (struct.error, TypeError):
        pass
    return 1


def _webp(data: bytes) -> ImageHeader:
    chunk = data[12:16]
    if chunk == b"VP8X":
        if data[20] & 2:
            raise Refused("animated WebP")
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif chunk == b"VP8L":
        bits, = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise Refused("WebP without a picture")
    return ImageHeader("webp", width, height)
