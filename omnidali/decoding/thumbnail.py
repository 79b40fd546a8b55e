"""One frame of any kind of media, for people to look at."""

from __future__ import annotations

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.decoding.decoders import DECODERS
from omnidali.errors import DecodeError
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.untrusted_text import say


def decode_thumbnail(
    kind: MediaKind, media: Media, number: int, box: np.ndarray, size: int
) -> np.ndarray:
    """A box of a frame in a square: uint8 (size, size, 3), RGB.

    It is decoded within limits of memory and time; where that fails it is grey, and the reason is
    printed.

    Args:
        kind: of the source.
        media: the file.
        number: of the frame.
        box: int (1, 4), top, left, bottom, right.
        size: side of the square, pixels.
    """
    try:
        image = call_isolated(thumbnail_of, media, kind, number, box, size)
        if (
            isinstance(image, np.ndarray)
            and image.shape == (size, size, 3)
            and image.dtype == np.uint8
        ):
            return image.copy()  # what another process sent cannot be drawn into
        reason = "no picture"
    except (DecodeError, OSError) as error:
        reason = str(error)
    say(f"{media.path} is not shown: {reason}", error=True)
    return np.full((size, size, 3), 128, np.uint8)


def thumbnail_of(media: Media, kind: str, number: int, box: np.ndarray, size: int) -> np.ndarray:
    """As :func:`decode_thumbnail`, in this process.

    Raises:
        DecodeError: if it cannot be decoded.
    """
    out = np.empty((1, 1, size, size, 3), np.uint8)
    DECODERS[MediaKind(kind)](media, np.array([number]), box, size, out)
    return out[0, 0]
