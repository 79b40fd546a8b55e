"""Decodes images whole: their headers do not say whether that succeeds."""

import os
from dataclasses import replace

import cv2

from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.catalog.probing.probe import Probe


def check_folder(span: FileSpan, probe: Probe) -> Probe:
    """Decode all images of a folder of frames; those that fail are in the note.

    Raises:
        OSError: if an image cannot be read.
    """
    first = int(unpack_numbers(probe.timing)[0])
    failed = {}
    for number in range(probe.frames):
        frame = FileSpan(os.path.join(span.path, probe.container.format(first + number)))
        try:
            check_image(frame, probe_image(frame))
        except UnsupportedMediaError as error:
            failed[number] = str(error)
    if not failed:
        return probe

    number, reason = next(iter(failed.items()))
    return replace(
        probe,
        note=f"{len(failed):,} of {probe.frames:,} frames are damaged, the first is frame"
        f" {number}: {reason}",
    )


def check_image(span: FileSpan, probe: Probe) -> Probe:
    """Decode an image.

    Raises:
        UnsupportedMediaError: where no picture comes out, or another one than the header says.
        OSError: if the file cannot be read.
    """
    try:
        image = cv2.imdecode(span.read(), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UnsupportedMediaError(str(error.err)) from None
    if image is None:
        raise UnsupportedMediaError("no picture comes out")

    height, width = image.shape[:2]
    if sorted((height, width)) != sorted((probe.width, probe.height)):
        raise UnsupportedMediaError(
            f"{width}x{height} pixels where the header says {probe.width}x{probe.height}"
        )
    return probe
