"""Recognises a file by its first bytes: no name is believed and no decoder is tried."""

from omnidali.catalog.probing.limits import UnsupportedMediaError

HEAD_BYTES = 4096  # enough for every signature below

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Demuxers by how their files begin.
_VIDEOS = {
    b"\x1aE\xdf\xa3": "matroska",
    b"FLV\x01": "flv",
    b"\x00\x00\x01\xba": "mpeg",
    b"DKIF": "ivf",
}
# Where the first packet of MPEG-TS begins, and the bytes to the next one: broadcast, and discs and
# cameras with a time before each packet.
_TS_PACKETS = ((0, 188), (4, 192))
_OTHER_FILES = {
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


def sniff_video(head: bytes) -> str:
    """Name the FFmpeg demuxer that the first bytes call for.

    With a name, FFmpeg does not try its 350 others, playlists and network descriptions among them.

    Raises:
        UnsupportedMediaError: if the bytes start no known video container.

    >>> sniff_video(bytes.fromhex("1a45dfa3"))
    'matroska'
    """
    # A box of size 0 reaches to the end of the file; size 1 is written after the name.
    box_size = int.from_bytes(head[:4], "big")
    if head[4:8] in _MOV_BOXES and (box_size in (0, 1) or box_size >= 8):
        return "mov"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    for magic, demuxer in _VIDEOS.items():
        if head.startswith(magic):
            return demuxer
    for start, packet in _TS_PACKETS:
        if head[start : start + 3 * packet : packet] == b"GGG":
            return "mpegts"
    raise UnsupportedMediaError(f"not a video: {describe_head(head)}")


def describe_head(head: bytes) -> str:
    """Say in words what the first bytes look like."""
    for magic, name in _OTHER_FILES.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        brand = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in head[8:12])
        return f"ISO media ({brand})"

    start = head[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page"
    if start.startswith((b"#extm3u", b"ffconcat", b"v=0", b"[playlist]")):
        return "a playlist"
    if start and all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return "text"
    return "unknown bytes"
