"""Folders of frames on the CPU: each wanted frame is an image file of its own."""

from __future__ import annotations

import numpy as np

from omnidali.catalog.store import Media
from omnidali.decoding.image import decode_image
from omnidali.decoding.missing import fill_missing, places_of
from omnidali.errors import CannotDecode


def decode_frames(media: Media, frames: np.ndarray, boxes: np.ndarray, size: int, out: np.ndarray) -> int:
    """Decode the planned frames; arguments, result and errors as :func:`~omnidali.decoding.video.decode_video`."""
    places, found, reason = places_of(frames), [], None
    for frame, (first, *others) in places.items():
        try:
            decode_image(media.frame(frame), boxes, size, out[:, first:first + 1])
        except CannotDecode as error:
            reason = reason or error
            continue
        for other in others:
            out[:, other] = out[:, first]
        found.append(frame)
    if not found:
        raise reason
    return fill_missing(out, places, found)
