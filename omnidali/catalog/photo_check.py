"""Whether photos can be decoded whole, which their headers do not say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from omnidali.catalog.files import FileSpan
from omnidali.catalog.gate import Refused
from omnidali.catalog.photo import Probe, probe_image
from omnidali.catalog.probe import unpack_numbers

_JPEG_END = b"\xff\xd9"


def checked(probe: Callable[[FileSpan], Probe]) -> Callable[[FileSpan], Probe]:
    """A probe of photos, or of folders of them, that also decodes them; damage is in its note.

    It raises Refused for what gives no picture at all.
    """
    def look(span: FileSpan) -> Probe:
        found = probe(span)
        if not found.timing:  # one photo
            return replace(found, note=_damage(span, found))
        first = int(unpack_numbers(found.timing)[0])
        damaged = {}
        for number in range(found.frames):
            path = os.path.join(span.path, found.container.format(first + number))
            try:
                damage = _damage(FileSpan(path), probe_image(FileSpan(path)))
            except Refused as reason:
                damage = str(reason)
            if damage:
                damaged[number] = damage
        if not damaged:
            return found
        number, damage = next(iter(damaged.items()))
        return replace(found, note=f"{len(damaged):,} of {found.frames:,} frames are damaged, the first is frame"
                                   f" {number}: {damage}")

    return look


def _damage(span: FileSpan, found: Probe) -> str:
    """What is wrong with the pixels of a photo; nothing if they are all there.

    Raises:
        Refused: where no picture comes out, or another one than the header says.
    """
    data = span.read_bytes()
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise Refused(str(error.err)) from None
    if picture is None:
        raise Refused("no picture comes out")
    if sorted(picture.shape[:2]) != sorted((found.width, found.height)):
        raise Refused(f"{picture.shape[1]}x{picture.shape[0]} pixels where the header says"
                      f" {found.width}x{found.height}")
    # cut off, which decoders fill up with grey
    is_cut = found.codec.startswith("jpeg") and _JPEG_END not in data[len(data) // 2:]
    return "its end is missing" if is_cut else ""
