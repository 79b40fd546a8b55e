"""Probes images by their headers, for which no library is needed, or decodes them whole."""

import os

from omnidali.catalog.probing.avif_support import decodes_avif
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.formats import is_avif
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.limits import (
    MAX_HEADER_BYTES,
    MAX_IMAGE_BYTES,
    UnsupportedMediaError,
)
from omnidali.catalog.probing.probe import Probe

IMAGE_HEADER_BYTES = 1 << 18


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
        # long metadata, or after the picture; those of an AVIF point into all of it
        data = span.read_bytes(MAX_IMAGE_BYTES if is_avif(data) else MAX_HEADER_BYTES)
        header = read_image_header(data)
    if size < header.least_bytes:
        raise UnsupportedMediaError(f"cut off: {size:,} of {header.least_bytes:,} bytes")
    if header.container == "avif" and not decodes_avif():
        raise UnsupportedMediaError("AVIF photos are not decoded by the OpenCV that is installed")
    if header.has_scans and len(data) < size:
        read_image_header(span.read_bytes(MAX_IMAGE_BYTES))  # refuses too many scans
    return Probe(header.container, header.codec, header.width, header.height)


def check_image(span: FileSpan, probe: Probe) -> Probe:
    """Decode an image.

    Raises:
        UnsupportedMediaError: if no picture comes out, or another one than the header says.
        OSError: if the file cannot be read.
    """
    import cv2
    import numpy as np

    data = span.read_bytes()
    header = read_image_header(data)
    try:
        image = cv2.imdecode(
            np.frombuffer(header.without_metadata(data), np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    except cv2.error as error:
        raise UnsupportedMediaError(str(error.err)) from None
    if image is None:
        raise UnsupportedMediaError("no picture comes out")

    height, width = header.cut(image).shape[:2]
    if sorted((height, width)) != sorted((probe.width, probe.height)):
        raise UnsupportedMediaError(
            f"{width}x{height} pixels where the header says {probe.width}x{probe.height}"
        )
    return probe


def read_start(span: FileSpan, count: int) -> bytes:
    """The first ``count`` bytes; UnsupportedMediaError if there are none."""
    data = span.read_bytes(count)
    if not data:
        raise UnsupportedMediaError("empty file")
    return data
