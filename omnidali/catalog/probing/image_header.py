"""The headers of photos, read without any library."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omnidali.catalog.probing.avif_header import read_avif_header
from omnidali.catalog.probing.bmp_header import read_bmp_header
from omnidali.catalog.probing.formats import HEAD_BYTES
from omnidali.catalog.probing.limits import (
    MAX_HEADER_BYTES,
    MAX_SCANS,
    MAX_SEGMENTS,
    UnsupportedMediaError,
    check_size,
)
from omnidali.catalog.probing.sniff import sniff_photo

if TYPE_CHECKING:  # a probe of images loads no library
    import numpy as np

# A segment's marker that is followed by a length: neither stuffing (00, 01) nor a restart or start
# of image (D0 to D8).
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame header
_DECODABLE_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: of every libjpeg-turbo
_PROGRESSIVE = 0xC2
_END = 0xD9
_SCAN = 0xDA
_APP1 = 0xE1
_ORIENTATION_TAG = 0x0112

_WEBP_ANIMATED = 0x02  # flags of an extended header
_WEBP_EXIF = 0x08


@dataclass(frozen=True)
class ImageHeader:
    """Size of an image as a viewer shows it, after EXIF rotation.

    Attributes:
        codec: ``jpeg``, ``png``, ``webp``, ``bmp`` or ``avif``; ``jpeg:cmyk`` for four-component
            JPEG, ``png:rotated``, ``webp:rotated`` and ``avif:rotated`` where the pixels do not lie
            as they are shown.
        width: in pixels.
        height: in pixels.
        orientation: EXIF's, 1 to 8, by which other pictures than JPEGs are turned once they are
            decoded. Of a JPEG it is 1: its decoders turn it.
        has_scans: whether it is a JPEG of several scans, which follow its header.
        crop: left, top, right, bottom of what is shown of the decoded picture, before it is turned;
            None: all of it.
        least_bytes: of a file that holds all of the picture, as far as the header tells.
        metadata: places of the names of an AVIF's items that hold metadata.
        green_bits: of a BMP with 16 bits a pixel; 0 of all others.
    """

    codec: str
    width: int
    height: int
    orientation: int = 1
    has_scans: bool = False
    crop: tuple[int, int, int, int] | None = None
    least_bytes: int = 0
    metadata: tuple[int, ...] = ()
    green_bits: int = 0

    @property
    def container(self) -> str:
        """The codec without its variant."""
        return self.codec.partition(":")[0]

    @property
    def is_jpeg(self) -> bool:
        return self.container == "jpeg"

    def without_metadata(self, data: bytes) -> bytes:
        """The file as OpenCV shall get it.

        OpenCV 5.0 does not take a file for an AVIF if metadata of its picture begin after byte 500.
        """
        if not self.metadata:
            return data
        changed = bytearray(data)
        for place in self.metadata:
            changed[place : place + 4] = b"skip"
        return bytes(changed)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The part of a decoded picture (H, W, C) that is shown; a view."""
        if self.crop is None:
            return picture
        left, top, right, bottom = self.crop
        return picture[top:bottom, left:right]


def read_image_header(data: bytes, whole: bool = True) -> ImageHeader:
    """Parse the header of a photo.

    Args:
        data: the file from its start; the first 256 KiB are enough unless metadata is larger or
            follows the picture. Scans are counted as far as they come: of a picture with
            ``has_scans`` all of the file is needed. Of an AVIF all coded pictures are.
        whole: whether there is no more to be had: an orientation that does not come is 1 then, not
            cut off.

    Raises:
        UnsupportedMediaError: for other formats, headers that are cut off, kinds that no decoder
            here takes, and pictures over the limits.
    """
    try:
        form = sniff_photo(data[:HEAD_BYTES])
        if form == "jpeg":
            header = _read_jpeg(data)
        elif form == "png":
            header = _read_png(data[:MAX_HEADER_BYTES], whole)
        elif form == "webp":
            header = _read_webp(data[:MAX_HEADER_BYTES], whole)
        elif form == "bmp":
            header = _read_bmp(data)
        else:
            header = _read_avif(data)
    except (struct.error, IndexError):
        raise UnsupportedMediaError("header cut off") from None
    check_size(header.width, header.height)
    if whole and len(data) < header.least_bytes:
        raise UnsupportedMediaError(f"cut off: {len(data):,} of {header.least_bytes:,} bytes")
    return header


def _read_bmp(data: bytes) -> ImageHeader:
    bmp = read_bmp_header(data)
    return ImageHeader(
        "bmp", bmp.width, bmp.height, least_bytes=bmp.least_bytes, green_bits=bmp.green_bits
    )


def _read_avif(data: bytes) -> ImageHeader:
    """EXIF is not asked: by the standard the file's own boxes alone turn the picture."""
    avif = read_avif_header(data)
    width, height = avif.width, avif.height
    if avif.crop is not None:
        left, top, right, bottom = avif.crop
        width, height = right - left, bottom - top
    header = _turned("avif", width, height, avif.orientation)
    return replace(header, crop=avif.crop, metadata=avif.metadata)


def _read_png(data: bytes, whole: bool) -> ImageHeader:
    if data[12:16] != b"IHDR"[: len(data[12:16])]:
        raise UnsupportedMediaError("PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)
    exif = _find_chunk(data, 8, b"eXIf", is_png=True, whole=whole)
    return _turned("png", width, height, _exif_orientation(exif))


def _read_webp(data: bytes, whole: bool) -> ImageHeader:
    chunk = data[12:16]
    exif = b""
    if chunk == b"VP8X":
        flags = data[20]
        if flags & _WEBP_ANIMATED:
            raise UnsupportedMediaError("animated WebP")
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        if flags & _WEBP_EXIF:
            size = 8 + int.from_bytes(data[4:8], "little")
            whole = whole or len(data) >= size
            exif = _find_chunk(data[:size], 12, b"EXIF", is_png=False, whole=whole)
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a"[: len(data[23:26])]:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise UnsupportedMediaError("WebP without a picture")
    return _turned("webp", width, height, _exif_orientation(exif.removeprefix(b"Exif\0\0")))


def _turned(codec: str, width: int, height: int, orientation: int) -> ImageHeader:
    """The header of a picture that its decoder does not turn."""
    if orientation >= 5:
        width, height = height, width
    name = codec if orientation == 1 else f"{codec}:rotated"
    return ImageHeader(name, width, height, orientation)


def _find_chunk(data: bytes, position: int, wanted: bytes, *, is_png: bool, whole: bool) -> bytes:
    """Find the content of the first chunk of a name; empty if there is none.

    Args:
        data: the file from its start.
        position: of the first chunk.
        wanted: its name.
        is_png: whether the chunks are those of PNG, else those of RIFF.
        whole: whether there is no more to be had.

    Raises:
        UnsupportedMediaError: if the data end before the chunk, and more is to be had.
    """
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            break
        if is_png:
            length, name = struct.unpack_from(">I4s", data, position)
            tail = 4  # a checksum
        else:
            name, length = struct.unpack_from("<4sI", data, position)
            tail = length % 2
        end = position + 8 + length
        if name == b"IEND":
            return b""
        if name == wanted and end <= len(data):
            return data[position + 8 : end]
        position = end + tail

    if position + 8 > len(data) and not whole:
        raise UnsupportedMediaError("header cut off")
    return b""


def _read_jpeg(data: bytes) -> ImageHeader:
    position = 2
    orientation = None
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position)  # there may be garbage between segments
        if found is None:
            raise UnsupportedMediaError("header cut off")
        marker = found[1][0]
        position = found.end()
        if marker in (_END, _SCAN):
            raise UnsupportedMediaError("JPEG without a frame header")

        (length,) = struct.unpack_from(">H", data, position)
        if marker in _FRAMES:
            return _read_jpeg_frame(data, marker, position, length, orientation or 1)
        has_exif = marker == _APP1 and data[position + 2 : position + 8] == b"Exif\0\0"
        if has_exif and orientation is None:
            orientation = _exif_orientation(data[position + 8 : position + length])
        position += max(length, 2)
    raise UnsupportedMediaError(f"JPEG with more than {MAX_SEGMENTS:,} segments before its picture")


def _read_jpeg_frame(
    data: bytes, marker: int, position: int, length: int, orientation: int
) -> ImageHeader:
    """Read the frame header whose ``length`` is at ``position``."""
    bits, height, width, components = struct.unpack_from(">BHHB", data, position + 2)
    if marker not in _DECODABLE_FRAMES or bits != 8 or components not in (1, 3, 4):
        raise UnsupportedMediaError(
            f"JPEG of a rare kind: process {marker - 0xC0}, {bits} bits, {components} components"
        )
    if orientation >= 5:
        width, height = height, width

    end = position + length
    has_scans = marker == _PROGRESSIVE or _components_of_scan(data, end) != components
    # Other bytes that look like a scan's mark are few, as in a thumbnail: most files need no closer
    # look.
    if has_scans and data.count(b"\xff\xda", position) > MAX_SCANS:
        _check_scans(data, end)
    codec = "jpeg:cmyk" if components == 4 else "jpeg"
    return ImageHeader(codec, width, height, has_scans=has_scans)


def _jpeg_segments(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield (marker, place of its length) from ``position`` on, as far as the data reach.

    Bytes of pictures and garbage are passed over.
    """
    while (found := _MARKER.search(data, position)) is not None and found.end() + 2 <= len(data):
        yield found[1][0], found.end()
        position = found.end() + max(int.from_bytes(data[found.end() : found.end() + 2], "big"), 2)


def _components_of_scan(data: bytes, position: int) -> int:
    """How many components the next scan holds; 0 if there is none."""
    for marker, place in itertools.islice(_jpeg_segments(data, position), MAX_SEGMENTS):
        if marker == _SCAN and place + 2 < len(data):
            return data[place + 2]
        if marker in (_SCAN, _END):
            break
    return 0


def _check_scans(data: bytes, position: int) -> None:
    """Raise UnsupportedMediaError for more scans after a frame's header than a picture has."""
    scans = 0
    for number, (marker, _) in enumerate(_jpeg_segments(data, position)):
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise UnsupportedMediaError(f"JPEG with more than {MAX_SCANS} scans")
        if number == MAX_SEGMENTS:
            raise UnsupportedMediaError(
                f"JPEG with more than {MAX_SEGMENTS:,} segments behind its header"
            )
        if marker == _END:
            return


def _exif_orientation(tiff: bytes) -> int:
    """The orientation tag (1 to 8) of the first directory; 1 where it is missing or broken."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
