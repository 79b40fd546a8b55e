"""Headers of photos, and what the catalog keeps of any file; no library is needed for either."""

from __future__ import annotations

import os
from dataclasses import dataclass

from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.sniff import (
    MAX_HEADER_BYTES,
    MAX_IMAGE_BYTES,
    UnsupportedMediaError,
    read_image_header,
)

IMAGE_HEADER_BYTES = 1 << 18


@dataclass(frozen=True)
class Probe:
    """What is kept of one readable file.

    Attributes:
        container: FFmpeg's demuxer for videos, the format for images, the pattern of names for
            frames.
        codec: such as ``h264`` or ``jpeg``; a variant that not every decoder takes stands behind a
            colon: ``h264:rotated``, ``hevc:yuv420p10le``, ``jpeg:cmyk``.
        width, height: pixels as a viewer shows them, after rotation.
        frames: 1 for images.
        frame_rate: mean frames per second, 0 for images.
        rotation: degrees counter-clockwise that a viewer turns the coded picture by: 0, 90, 180 or
            270.
        timing: :func:`pack_numbers` of every frame's timestamp in presentation order, or of (first,
            step) where they are evenly spaced, or of nothing where the file has none. Of a folder
            of frames: the number in the first frame's name.
        keyframes: :func:`pack_numbers` of the presentation indices of the keyframes.
        tick: seconds of one unit of a timestamp.
        packets: a packed :class:`~omnidali.catalog.probing.packet_index.PacketIndex`, or nothing where frames
            can only be counted from the start.
        mirrored: whether a viewer mirrors the coded picture left to right before turning it.
        aspect: width of a pixel of the upright picture by its height; 1 for square ones.
        note: what a user should know of a file that is used, such as that its end is not.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int = 1
    frame_rate: float = 0.0
    rotation: int = 0
    timing: bytes = b""
    keyframes: bytes = b""
    tick: float = 0.0
    packets: bytes = b""
    mirrored: bool = False
    aspect: float = 1.0
    note: str = ""


def stretched(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Size of a picture after its pixels were made squares; it never shrinks.

    >>> stretched(720, 576, 16 / 15), stretched(720, 480, 8 / 9)
    ((768, 576), (720, 540))
    """
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def probe_image(span: FileSpan) -> Probe:
    """Read an image's header without decoding it.

    Raises:
        UnsupportedMediaError: with the reason.
        OSError: if the file cannot be read.
    """
    data = read_start(span, IMAGE_HEADER_BYTES)
    size = span.size if span.size is not None else os.path.getsize(span.path)
    if size > MAX_IMAGE_BYTES:
        raise UnsupportedMediaError(f"larger than {MAX_IMAGE_BYTES >> 20} MiB")
    try:
        header = read_image_header(data, whole=len(data) < IMAGE_HEADER_BYTES)
    except UnsupportedMediaError as refusal:
        if str(refusal) != "header cut off" or len(data) < IMAGE_HEADER_BYTES:
            raise
        data = span.read_bytes(MAX_HEADER_BYTES)  # long metadata, or behind the picture
        header = read_image_header(data)
    if header.has_scans and len(data) < size:
        read_image_header(span.read_bytes(MAX_IMAGE_BYTES))  # refuses too many scans
    return Probe(header.codec.partition(":")[0], header.codec, header.width, header.height)


def read_start(span: FileSpan, count: int) -> bytes:
    """The first ``count`` bytes; UnsupportedMediaError where there are none."""
    data = span.read_bytes(count)
    if not data:
        raise UnsupportedMediaError("empty file")
    return data
