"""Folders of frames on the CPU: each wanted frame is an image file of its own."""

from __future__ import annotations

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.decoding.failure_cause import Cause, cause_of, graver
from omnidali.decoding.frame_fill import fill_missing, places_of
from omnidali.decoding.image import decode_image
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import report_progress


def decode_frames(
    media: Media,
    frames: np.ndarray,
    boxes: np.ndarray,
    size: int,
    out: np.ndarray,
    causes: list[Cause] | None = None,
) -> int:
    """Decode the planned frames and write their crops.

    Arguments, result and errors are those of :class:`~omnidali.decoding.decoders.Decoder`.
    """
    places = places_of(frames)
    found = []
    cause = None
    for frame, (first, *others) in places.items():
        report_progress()
        try:
            decode_image(media.frame(frame), boxes, size, out[:, first : first + 1])
        except DecodeError as error:
            cause = graver(cause, cause_of(error))
            continue
        for other in others:
            out[:, other] = out[:, first]
        found.append(frame)

    if cause is not None and not found:
        raise cause.error()
    if cause is not None and causes is not None:
        causes.append(cause)
    return fill_missing(out, places, found)
