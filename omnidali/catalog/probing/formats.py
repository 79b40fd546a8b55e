"""The formats that are read: how their files begin and end, and which decoders they may bring.

This is the only list of them. A file is recognised by how it begins; endings only say which files
of a tar are media, and which of a folder are taken for media before they are opened.
"""

from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 4096  # enough for every signature


@dataclass(frozen=True)
class Format:
    """A format of photos, or a container of videos.

    Attributes:
        name: for people.
        container: what the catalog calls it; of videos FFmpeg's name of the demuxer.
        endings: of its files' names, with the dot.
        begins: whether a file begins as one of this format, by its first ``HEAD_BYTES``.
        decoders: FFmpeg's, which may decode the videos in it; none of a photo.
    """

    name: str
    container: str
    endings: tuple[str, ...]
    begins: Callable[[bytes], bool]
    decoders: tuple[str, ...] = ()


# FFmpeg has 500 decoders. Those that web videos and research sets use are few, and maintained.
_DECODERS = (
    "h264",
    "hevc",
    "libdav1d",  # AV1; FFmpeg's own needs hardware
    "vp8",
    "vp9",
    "mpeg4",
    "mpeg1video",
    "mpeg2video",
    "mjpeg",
    "h263",
    "flv",
    "msmpeg4v2",
    "msmpeg4",  # its version 3
    "wmv1",
    "wmv2",
    "theora",
    "prores",
    "ffv1",
)

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Where the first packet of MPEG-TS begins, and the bytes to the next one: broadcast, and discs and
# cameras with a time before each packet.
_TS_PACKETS = ((0, 188), (4, 192))
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # its GUID
_OGG_VIDEOS = (b"\x80theora", b"OVP80\1")  # how the first packets of the streams begin
# Bytes of a BMP's second header: of OS/2 and of the versions of Windows.
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def media_brands(head: bytes) -> list[bytes]:
    """The brands of an ISO media file, the major one first; none of other files.

    Source: ISO/IEC 14496-12, 4.3.
    """
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[place : place + 4] for place in range(16, end - 3, 4))]


def is_avif(head: bytes) -> bool:
    """Whether an ISO media file is a picture in AV1, or an animation that shows one.

    Source: AV1 Image File Format, 6 and 8.
    """
    brands = media_brands(head)
    return brands[:1] in ([b"avif"], [b"avis"]) or (
        brands[:1] in ([b"mif1"], [b"miaf"]) and b"avif" in brands
    )


# Pictures in ISO media files that are no videos, by their major brand.
ISO_PICTURES = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"mif1": "HEIC",
    b"crx ": "camera raw (CR3)",
}


def _is_mov(head: bytes) -> bool:
    # A box of size 0 reaches to the end of the file; size 1 is written after the name.
    box_size = int.from_bytes(head[:4], "big")
    is_box = head[4:8] in _MOV_BOXES and (box_size in (0, 1) or box_size >= 8)
    is_picture = head[4:8] == b"ftyp" and (head[8:12] in ISO_PICTURES or is_avif(head))
    return is_box and not is_picture


def _is_bmp(head: bytes) -> bool:
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _is_mpegts(head: bytes) -> bool:
    return any(head[start : start + 3 * packet : packet] == b"GGG" for start, packet in _TS_PACKETS)


def _is_ogg(head: bytes) -> bool:
    # The first pages hold the first packet of each stream.
    return head.startswith(b"OggS") and any(mark in head for mark in _OGG_VIDEOS)


def _riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(b"RIFF") and head[8:12] == form


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


PHOTOS = (
    Format("JPEG", "jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), _starts(b"\xff\xd8\xff")),
    Format("PNG", "png", (".png",), _starts(b"\x89PNG\r\n\x1a\n")),
    Format("WebP", "webp", (".webp",), _riff(b"WEBP")),
    Format("BMP", "bmp", (".bmp", ".dib"), _is_bmp),
    Format("AVIF", "avif", (".avif",), is_avif),
)
VIDEOS = (
    Format("MP4", "mov", (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2"), _is_mov, _DECODERS),
    Format("Matroska", "matroska", (".mkv", ".webm"), _starts(b"\x1aE\xdf\xa3"), _DECODERS),
    Format("AVI", "avi", (".avi", ".divx"), _riff(b"AVI "), _DECODERS),
    Format("FLV", "flv", (".flv",), _starts(b"FLV\x01"), _DECODERS),
    Format("MPEG", "mpeg", (".mpg", ".mpeg", ".vob"), _starts(b"\x00\x00\x01\xba"), _DECODERS),
    Format("MPEG-TS", "mpegts", (".ts", ".m2ts", ".mts"), _is_mpegts, _DECODERS),
    Format("IVF", "ivf", (".ivf",), _starts(b"DKIF"), _DECODERS),
    Format("Ogg", "ogg", (".ogv", ".ogg"), _is_ogg, ("theora", "vp8")),
    Format("ASF", "asf", (".wmv", ".asf"), _starts(_ASF_HEADER), _DECODERS),
    Format("GIF", "gif", (".gif",), _starts(b"GIF87a", b"GIF89a"), ("gif",)),
)

IMAGE_ENDINGS = frozenset(ending for format_ in PHOTOS for ending in format_.endings)
VIDEO_ENDINGS = frozenset(ending for format_ in VIDEOS for ending in format_.endings)
DECODERS_OF = {form.container: form.decoders for form in VIDEOS}
