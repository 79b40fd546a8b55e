"""One frame of any kind of media, for people to look at."""

from __future__ import annotations

import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.decoding.frame_folder import decode_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError
from omnidali.processes import child_pool as children
from omnidali.utils.untrusted_text import say


def decode_still(kind: str, media: Media, number: int, box: np.ndarray, size: int) -> np.ndarray:
    """A box of a frame in a square: uint8 (size, size, 3), RGB.

    It is decoded within limits of memory and time; where that fails it is grey, and the reason is
    printed.

    Args:
        number: of the frame. box: int (1, 4), top, left, bottom, right.
    """
    try:
        picture = children.call(still_of, media, kind, number, box, size)
        if (
            isinstance(picture, np.ndarray)
            and picture.shape == (size, size, 3)
            and picture.dtype == np.uint8
        ):
            return picture.copy()  # what another process sent cannot be drawn into
        reason = "no picture"
    except (DecodeError, OSError) as error:
        reason = str(error)
    say(f"{media.path} is not shown: {reason}", error=True)
    return np.full((size, size, 3), 128, np.uint8)


def still_of(media: Media, kind: str, number: int, box: np.ndarray, size: int) -> np.ndarray:
    """As :func:`decode_still`, in this process.

    Raises:
        DecodeError: if it cannot be decoded.
    """
    out = np.empty((1, 1, size, size, 3), np.uint8)
    if kind == "image":
        decode_image(media, box, size, out)
    else:
        (decode_frames if kind == "frames" else decode_video)(
            media, np.array([number]), box, size, out
        )
    return out[0, 0]
