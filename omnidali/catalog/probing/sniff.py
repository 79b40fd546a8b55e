"""Recognises a file by its first bytes: no name is believed and no decoder is tried."""

import re

from omnidali.catalog.probing.formats import ISO_PICTURES, PHOTOS, VIDEOS, Format, media_brands
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.media_kind import MediaKind

# Pictures that no photo source reads: their decoders are not worth their attack surface.
_PICTURES = {
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop (PSD)",
    b"gimp xcf": "GIMP (XCF)",
    b"II\x2a\0\x10\0\0\0CR": "camera raw (CR2)",
    b"IIRO": "camera raw (ORF)",
    b"IIRS": "camera raw (ORF)",
    b"IIU\0": "camera raw (RW2)",
    b"FUJIFILMCCD-RAW": "camera raw (RAF)",
    b"II\x2a\0": "TIFF or camera raw",
    b"MM\0\x2a": "TIFF or camera raw",
    b"II\x2b\0": "TIFF or camera raw",
    b"MM\0\x2b": "TIFF or camera raw",
    b"\0\0\1\0": "icon (ICO)",
}
_SOUNDS = {
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"MThd": "MIDI",
    b"#!AMR": "AMR",
    b"caff": "CAF",
    b"\x0b\x77": "AC-3",
}
_OGG_SOUNDS = {
    b"\1vorbis": "Vorbis",
    b"OpusHead": "Opus",
    b"\x7fFLAC": "FLAC",
    b"Speex   ": "Speex",
}
_OTHER_FILES = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer: fetch the file with git lfs pull",
    b"/annex/objects/": "a git-annex pointer: fetch the file with git annex get",
    b"\0\5\x16\7": "a macOS resource file, which belongs to the file without ._ in its name",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\7": "RAR",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "NumPy",
    b".RMF": "RealMedia",
    b"YUV4MPEG2": "a raw video (Y4M)",
    b"\xd0\xcf\x11\xe0": "an old Office file (DOC, XLS or PPT)",
    b"\0\0\1\xb3": "a raw MPEG video without a container",
    b"\0\0\0\1": "a raw video without a container",
}
_PAGE = re.compile(
    rb"<!doctype|<!--|<\?xml|<\?php|"
    rb"<(html|head|body|title|meta|base|link|style|script|noscript|div|span|table|form|iframe|"
    rb"frameset|center|font|pre|img|br|hr|a|b|p|h[1-6])[\s/>]"
)


def sniff_video(head: bytes) -> str:
    """Name the FFmpeg demuxer that the first bytes call for.

    With a name, FFmpeg does not try its 350 others, playlists and network descriptions among them.

    Raises:
        UnsupportedMediaError: if the bytes start no known video container.

    >>> sniff_video(bytes.fromhex("1a45dfa3"))
    'matroska'
    """
    if (found := _find(VIDEOS, head)) is None:
        raise UnsupportedMediaError(f"not a video: {describe_head(head)}")
    return found.container


def sniff_photo(head: bytes) -> str:
    """Name the format of a photo that the first bytes call for.

    Raises:
        UnsupportedMediaError: if the bytes start no photo of a format that is read.

    >>> sniff_photo(bytes.fromhex("ffd8ff"))
    'jpeg'
    """
    if (found := _find(PHOTOS, head)) is not None:
        return found.container
    if (name := _unread_picture(head)) is not None:
        raise UnsupportedMediaError(f"a photo that is not read: {name} (convert it to PNG or JPEG)")
    raise UnsupportedMediaError(f"not a photo: {describe_head(head)}")


def refusal_of(head: bytes, kind: MediaKind) -> str | None:
    """Why a file that begins like this is nothing that a source reads; None if it may be.

    The probe may still leave the file out: for what it holds, and if it is broken.

    Args:
        head: the file's first ``HEAD_BYTES``.
        kind: of the source.

    >>> refusal_of(b"<!DOCTYPE html><title>404</title>", MediaKind.IMAGE)
    'not a photo: a web page'
    """
    try:
        if kind.has_images:
            sniff_photo(head)
        else:
            sniff_video(head)
    except UnsupportedMediaError as refusal:
        return str(refusal)
    return None


def describe_head(head: bytes) -> str:
    """Say in words what the first bytes look like."""
    if not head:
        return "an empty file"
    if not any(head):
        return "zeros, as of a download that was never finished"
    if (photo := _find(PHOTOS, head)) is not None:
        kind = "an animated picture" if b"avis" in media_brands(head) else "a photo"
        return f"{kind} ({photo.name})"
    if head[:4] != b"GIF8" and (video := _find(VIDEOS, head)) is not None:
        return f"a video ({video.name})"
    if (name := _unread_picture(head)) is not None:
        return f"a picture ({name})"
    if (name := _sound(head)) is not None:
        return f"sound alone ({name})"
    for magic, name in _OTHER_FILES.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"OggS"):
        return "Ogg without Theora or VP8"
    return _describe_text(head)


def _find(formats: tuple[Format, ...], head: bytes) -> Format | None:
    return next((form for form in formats if form.begins(head)), None)


def _unread_picture(head: bytes) -> str | None:
    """The name of a format of pictures that no source reads as photos."""
    for magic, name in _PICTURES.items():
        if head.startswith(magic):
            return name
    for brand in media_brands(head)[:1]:
        return ISO_PICTURES.get(brand)
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_xml = start.startswith((b"<?xml", b"<!--", b"<!doctype svg", b"<svg"))
    return "SVG" if is_xml and b"<svg" in start and b"<html" not in start else None


def _sound(head: bytes) -> str | None:
    """The name of a format of sound."""
    for magic, name in _SOUNDS.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "WAV"
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head.startswith(b"OggS"):
        return next((name for magic, name in _OGG_SOUNDS.items() if magic in head), None)
    # Frames begin with bits that are set. Of MPEG's sound the layer follows, which ADTS has not.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFE:
        return {0: "AAC", 2: "MP3"}.get(head[1] & 6)
    return None


def _describe_text(head: bytes) -> str:
    start = head[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"#extm3u", b"ffconcat", b"v=0", b"[playlist]")) or b"<mpd" in start:
        return "a playlist"
    if start.startswith(b"<?xml") and b"<html" not in start:
        return "an XML error answer" if b"<error" in start else "XML"
    if _PAGE.match(start):
        return "a web page"

    if start and all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        is_json = start[:1] in (b"{", b"[") and b'"' in start
        return "a JSON answer" if is_json else "text"
    if head.startswith(b"MZ"):  # after the texts that begin so
        return "a Windows program"
    if head[4:8] == b"ftyp":
        brand = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in head[8:12])
        return f"ISO media ({brand})"
    return "unknown bytes"
