"""What a file is, told from its first bytes: no name is believed and no decoder is asked."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OK = "ok"  # the state of a file that is used; any other but "new" is the reason for which it is not
UNREADABLE = "unreadable"  # how states begin that may pass: the disk was to blame
HUNGRY = "needs too much memory"
HEAD_BYTES = 4096  # enough for every signature below
# about 256 MiB as RGB; a small file can claim far more than a machine holds
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_535  # of JPEG's format, and of the catalog's columns
# a photo is read whole; more than the largest picture has as RGB is no photo
MAX_IMAGE_BYTES = 1 << 28
# of a photo's metadata: profiles, thumbnails and depth maps take a few megabytes
MAX_HEADER_BYTES = 1 << 24
# of a JPEG before its picture, or of a PNG or WebP; a 16 MiB header in full ones has 256
MAX_SEGMENTS = 4096
# A scan of 20 bytes passes over all blocks of a JPEG: up to 0.2 s at the largest picture, 20 s for
# 100 of them, well within what a file may take. Encoders write about 10.
MAX_SCANS = 100
# a frame of level 6.2, the highest of HEVC and AV1; decoders hold up to 16 of them
MAX_VIDEO_PIXELS = 35_651_584
# what timestamps span; windows are cut along them, so a claim would become memory
MAX_VIDEO_SECONDS = 48 * 3600
# 19 hours at 60 a second; the probe keeps 500 bytes a packet until it is done
MAX_VIDEO_FRAMES = 1 << 22
# A packet is decoded in one go, and what nothing shows costs time, too: slices of 14 bytes take 4
# ms each at the largest frame. Encoders write a slice a row or for each 1,500 bytes, and hide up to
# 15 frames.
MAX_UNITS, MAX_HIDDEN = 4096, 64
MAX_STREAMS = 64  # of a container; a film with all its dubs has fewer
# FFmpeg brings 500 decoders along. Those that web videos and research sets use are few, and looked
# after.
VIDEO_DECODERS = (
    "h264",
    "hevc",
    "libdav1d",
    "av1",
    "vp8",
    "vp9",
    "libvpx",
    "libvpx-vp9",
    "mpeg4",
    "mpeg1video",
    "mpeg2video",
    "mjpeg",
    "h263",
    "flv",
    "msmpeg4",
    "msmpeg4v2",
    "theora",
    "prores",
    "ffv1",
)


# a segment's marker that has a length behind it: neither stuffing (00, 01) nor a restart or start
# of image (D0 to D8)
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_JPEG_FRAMES = (
    0xC0,
    0xC1,
    0xC2,
)  # baseline, extended and progressive: what every libjpeg-turbo decodes
_PROGRESSIVE, _END, _SCAN = 0xC2, 0xD9, 0xDA  # markers
_WEBP_ANIMATED, _WEBP_EXIF = 0x02, 0x08  # flags of an extended header


class UnsupportedMediaError(Exception):
    """A file that stays out of the catalog; its text is the reason."""


@dataclass(frozen=True)
class ImageHeader:
    """Size of an image as a viewer shows it, after EXIF rotation.

    Attributes:
        codec: ``jpeg``, ``png`` or ``webp``; ``jpeg:cmyk`` for four-component JPEG, ``png:rotated``
            and ``webp:rotated`` where the pixels do not lie as they are shown.
        orientation: EXIF's, 1 to 8, by which a PNG or WebP is turned once it is decoded. Of a JPEG
            it is 1: its decoders turn it.
        has_scans: whether it is a JPEG of several scans, which lie behind its header.
    """

    codec: str
    width: int
    height: int
    orientation: int = 1
    has_scans: bool = False


def sniff_video(head: bytes) -> str:
    """Name the FFmpeg demuxer that the first bytes call for.

    Naming it keeps FFmpeg from trying its 350 others, playlists and network descriptions among
    them.

    Raises:
        UnsupportedMediaError: if the bytes start no known video container.

    >>> sniff_video(bytes.fromhex("1a45dfa3"))
    'matroska'
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot") and (
        head[:4] in (bytes(4), b"\0\0\0\1") or int.from_bytes(head[:4], "big") >= 8
    ):  # a box's own size
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
    for start, packet in (
        (0, 188),
        (4, 192),
    ):  # broadcast, and discs and cameras with a time before each packet
        if {head[place : place + 1] for place in range(start, start + 3 * packet, packet)} == {
            b"G"
        }:
            return "mpegts"
    raise UnsupportedMediaError(f"not a video: {describe_head(head)}")


def describe_head(head: bytes) -> str:
    """Say in words what the first bytes look like."""
    known = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG": "PNG",
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"%PDF": "PDF",
        b"\x1f\x8b": "gzip",
        b"PK\3\4": "ZIP",
        b"BZh": "bzip2",
        b"\xfd7zXZ": "xz",
        b"\x28\xb5\x2f\xfd": "zstd",
        b"ID3": "MP3",
        b"\x30\x26\xb2\x75": "ASF (WMV)",
    }
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return (
            f"ISO media ({''.join(chr(byte) if 32 <= byte < 127 else '?' for byte in head[8:12])})"
        )
    start = head[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page"
    if start.startswith((b"#extm3u", b"ffconcat", b"v=0", b"[playlist]")):
        return "a playlist"
    if start and all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return "text"
    return "unknown bytes"


def read_image_header(data: bytes, whole: bool = True) -> ImageHeader:
    """Parse the header of a JPEG, PNG or WebP file.

    Args:
        data: the file from its start; the first 256 KiB are enough unless metadata is larger or
            behind the picture. Scans are counted as far as they come: of a picture with
            ``has_scans`` all of the file is needed.
        whole: whether there is no more to be had: an orientation that does not come is 1 then, not
            cut off.

    Raises:
        UnsupportedMediaError: for other formats, cut headers, kinds that no decoder here takes, and pictures over
            the limits.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data[:MAX_HEADER_BYTES], whole)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data[:MAX_HEADER_BYTES], whole)
        else:
            raise UnsupportedMediaError(
                f"not a JPEG, PNG or WebP image: {describe_head(data[:HEAD_BYTES])}"
            )
    except (struct.error, IndexError):
        raise UnsupportedMediaError("header cut off") from None
    check_size(header.width, header.height)
    return header


def check_size(width: int, height: int, pixels: int = MAX_PIXELS) -> None:
    """Raise UnsupportedMediaError for pictures without area and for those over the limits."""
    if width < 1 or height < 1:
        raise UnsupportedMediaError(f"no picture: {width}x{height}")
    if width * height > pixels or max(width, height) > MAX_SIDE:
        raise UnsupportedMediaError(f"too large: {width}x{height}")


def check_video(seconds: float, frames: int) -> None:
    """Raise UnsupportedMediaError for more time or frames than a video has."""
    if frames > MAX_VIDEO_FRAMES:
        raise UnsupportedMediaError(f"more than {MAX_VIDEO_FRAMES:,} frames")
    if not abs(seconds) <= MAX_VIDEO_SECONDS:
        raise UnsupportedMediaError(f"longer than {MAX_VIDEO_SECONDS // 3600} hours")


def _png(data: bytes, whole: bool) -> ImageHeader:
    if data[12:16] != b"IHDR"[: len(data[12:16])]:
        raise UnsupportedMediaError("PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)

    exif = _find_chunk(data, 8, b"eXIf", _png_chunk, whole)
    return _turned("png", width, height, _exif_orientation(exif))


def _jpeg(data: bytes) -> ImageHeader:
    position, orientation = 2, None
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position)  # garbage between segments is allowed for
        if found is None:
            raise IndexError
        marker, position = found[1][0], found.end()
        if marker in (_END, _SCAN):
            raise UnsupportedMediaError("JPEG without a frame header")
        (length,) = struct.unpack_from(">H", data, position)
        if (
            marker == 0xE1
            and orientation is None
            and data[position + 2 : position + 8] == b"Exif\0\0"
        ):
            orientation = _exif_orientation(data[position + 8 : position + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, position + 2)
            if marker not in _JPEG_FRAMES or bits != 8 or components not in (1, 3, 4):
                raise UnsupportedMediaError(
                    f"JPEG of a rare kind: process {marker - 0xC0}, {bits} bits, {components} components"
                )
            if (orientation or 1) >= 5:
                width, height = height, width
            has_scans = (
                marker == _PROGRESSIVE or _components_of_scan(data, position + length) != components
            )
            # other bytes that look like a scan's mark are few, as in a thumbnail: most files need
            # no closer look
            if has_scans and data.count(b"\xff\xda", position) > MAX_SCANS:
                _check_scans(data, position + length)
            return ImageHeader(
                "jpeg:cmyk" if components == 4 else "jpeg", width, height, has_scans=has_scans
            )
        position += max(length, 2)
    raise UnsupportedMediaError(f"JPEG with more than {MAX_SEGMENTS:,} segments before its picture")


def _jpeg_segments(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield (marker, place of its length) from ``position`` on, as far as the data reach; bytes of
    pictures and garbage are passed over.
    """
    while (found := _MARKER.search(data, position)) is not None and found.end() + 2 <= len(data):
        yield found[1][0], found.end()
        position = found.end() + max(int.from_bytes(data[found.end() : found.end() + 2], "big"), 2)


def _components_of_scan(data: bytes, position: int) -> int:
    """How many components the next scan holds; 0 where it does not come."""
    for marker, place in itertools.islice(_jpeg_segments(data, position), MAX_SEGMENTS):
        if marker == _SCAN and place + 2 < len(data):
            return data[place + 2]
        if marker in (_SCAN, _END):
            break
    return 0


def _check_scans(data: bytes, position: int) -> None:
    """Raise UnsupportedMediaError for more scans behind a frame's header than a picture has."""
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
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except (struct.error, TypeError):
        pass
    return 1


def _webp(data: bytes, whole: bool) -> ImageHeader:
    chunk, exif = data[12:16], b""
    if chunk == b"VP8X":
        flags = data[20]
        if flags & _WEBP_ANIMATED:
            raise UnsupportedMediaError("animated WebP")
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        if flags & _WEBP_EXIF:
            size = 8 + int.from_bytes(data[4:8], "little")
            exif = _find_chunk(data[:size], 12, b"EXIF", _riff_chunk, whole or len(data) >= size)
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a"[: len(data[23:26])]:
            raise UnsupportedMediaError("WebP without a picture")
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise UnsupportedMediaError("WebP without a picture")
    return _turned("webp", width, height, _exif_orientation(exif.removeprefix(b"Exif\0\0")))


def _turned(codec: str, width: int, height: int, orientation: int) -> ImageHeader:
    """The header of a picture whose decoder does not turn it."""
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(
        codec if orientation == 1 else f"{codec}:rotated", width, height, orientation
    )


def _find_chunk(
    data: bytes,
    position: int,
    wanted: bytes,
    chunk_at: Callable[[bytes, int], tuple[bytes, int, int]],
    whole: bool,
) -> bytes:
    """What the first chunk of a name holds; nothing where there is none.

    Args:
        position: of the first chunk.
        chunk_at: gives the name of the chunk at a position, the bytes that it holds, and those that
            end it.

    Raises:
        UnsupportedMediaError: if the data end before the chunk, and more is to be had.
    """
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            break
        name, length, tail = chunk_at(data, position)
        end = position + 8 + length
        if name == b"IEND":
            return b""
        if name == wanted and end <= len(data):
            return data[position + 8 : end]
        position = end + tail

    if position + 8 > len(data) and not whole:
        raise UnsupportedMediaError("header cut off")
    return b""


def _png_chunk(data: bytes, position: int) -> tuple[bytes, int, int]:
    length, name = struct.unpack_from(">I4s", data, position)
    return name, length, 4  # a checksum


def _riff_chunk(data: bytes, position: int) -> tuple[bytes, int, int]:
    name, length = struct.unpack_from("<4sI", data, position)
    return name, length, length % 2
