"""Folders of frames on the CPU: each wanted frame is an image file of its own."""

from __future__ import annotations

import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.decoding.failure_cause import Cause, cause_of, graver
from omnidali.decoding.frame_fill import fill_missing, places_of
from omnidali.decoding.image import decode_image
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import moves_on


def decode_frames(
    media: Media,
    frames: np.ndarray,
    boxes: np.ndarray,
    size: int,
    out: np.ndarray,
    causes: list[Cause] | None = None,
) -> int:
    """Decode the planned frames; arguments, result and errors as
    :func:`~omnidali.decoding.video.decode_video`.
    """
    places, found, cause = places_of(frames), [], None
    for frame, (first, *others) in places.items():
        moves_on()
        try:
            decode_image(media.frame(frame), boxes, size, out[:, first : first + 1])
        except DecodeError as error:
            cause = graver(cause, cause_of(error))
            continue
        for other in others:
            out[:, other] = out[:, first]
        found.append(frame)
    if not found:
        raise cause.error()
    if causes is not None and cause is not None:
        causes.append(cause)
    return fill_missing(out, places, found)
