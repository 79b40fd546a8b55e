"""Whether photos can be decoded whole, which their headers do not say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.image_probe import Probe, probe_image
from omnidali.catalog.probing.probe import unpack_numbers
from omnidali.catalog.probing.sniff import UnsupportedMediaError


def checked(probe: Callable[[FileSpan], Probe]) -> Callable[[FileSpan], Probe]:
    """A probe of photos, or of folders of them, that also decodes them.

    It raises UnsupportedMediaError for a photo that gives no picture. Of a folder, what fails is in the note.
    """

    def look(span: FileSpan) -> Probe:
        found = probe(span)
        if not found.timing:  # one photo
            _decode(span, found)
            return found
        first = int(unpack_numbers(found.timing)[0])
        failed = {}
        for number in range(found.frames):
            frame = FileSpan(os.path.join(span.path, found.container.format(first + number)))
            try:
                _decode(frame, probe_image(frame))
            except UnsupportedMediaError as reason:
                failed[number] = str(reason)
        if not failed:
            return found
        number, reason = next(iter(failed.items()))
        return replace(
            found,
            note=f"{len(failed):,} of {found.frames:,} frames are damaged, the first is frame"
            f" {number}: {reason}",
        )

    return look


def _decode(span: FileSpan, found: Probe) -> None:
    """Raise UnsupportedMediaError where no picture comes out, or another one than the header says."""
    data = np.frombuffer(span.read_bytes(), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UnsupportedMediaError(str(error.err)) from None
    if picture is None:
        raise UnsupportedMediaError("no picture comes out")
    if sorted(picture.shape[:2]) != sorted((found.width, found.height)):
        raise UnsupportedMediaError(
            f"{picture.shape[1]}x{picture.shape[0]} pixels where the header says"
            f" {found.width}x{found.height}"
        )
