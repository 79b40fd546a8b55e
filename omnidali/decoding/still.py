"""One frame of any kind of media, for people to look at."""

from __future__ import annotations

import cv2
import numpy as np

from omnidali.catalog.store import Media
from omnidali.decoding.frames import decode_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import CannotDecode


def decode_still(kind: str, media: Media, number: int, box: np.ndarray, size: int) -> np.ndarray:
    """A box of a frame in a square: uint8 (size, size, 3), RGB; grey where it cannot be decoded.

    Args:
        number: of the frame. box: int (1, 4), top, left, bottom, right.
    """
    out = np.full((1, 1, size, size, 3), 128, np.uint8)
    try:
        if kind == "image":
            decode_image(media, box, size, out)
        else:
            (decode_frames if kind == "frames" else decode_video)(media, np.array([number]), box, size, out)
    except (CannotDecode, cv2.error, OSError):
        pass
    return out[0, 0]
