"""The CPU's decoder for each kind of media, and one frame of any kind for people to look at."""

from typing import Protocol

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.decoding.failure_cause import Cause, cause_of, graver
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video, fill_missing, places_of
from omnidali.errors import DecodeError
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.heartbeat import report_progress
from omnidali.utils.untrusted_text import say


class Decoder(Protocol):
    """A function that decodes the planned frames of one file and writes their crops."""

    def __call__(
        self,
        media: Media,
        frames: np.ndarray,
        boxes: np.ndarray,
        size: int,
        out: np.ndarray,
        causes: list[Cause] | None = None,
    ) -> int:
        """Decode the planned frames and write their crops.

        Args:
            media: the file.
            frames: int (F,), frame numbers, in any order, repeats allowed; an image has frame 0.
            boxes: int (V, 4), top, left, bottom, right, pixels of the upright picture.
            size: side of each crop, pixels.
            out: uint8 (V, F, size, size, 3), RGB.
            causes: receives the reason if frames did not come.

        Returns:
            How many of the F frames did not decode and were filled from the nearest decoded one.

        Raises:
            DecodeError: if none of the frames can be decoded.
        """


def decode_frames(
    media: Media,
    frames: np.ndarray,
    boxes: np.ndarray,
    size: int,
    out: np.ndarray,
    causes: list[Cause] | None = None,
) -> int:
    """Decode a folder of frames; arguments, result and errors are those of :class:`Decoder`."""
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


def _decode_still(
    media: Media,
    frames: np.ndarray,
    boxes: np.ndarray,
    size: int,
    out: np.ndarray,
    causes: list[Cause] | None = None,
) -> int:
    decode_image(media, boxes, size, out)
    return 0


# An image with camera motion needs its motions as well: call decode_image for it.
DECODERS: dict[MediaKind, Decoder] = {
    MediaKind.VIDEO: decode_video,
    MediaKind.UNTRIMMED: decode_video,
    MediaKind.FRAMES: decode_frames,
    MediaKind.IMAGE: _decode_still,
}


def decode_thumbnail(
    kind: MediaKind, media: Media, number: int, box: np.ndarray, size: int
) -> np.ndarray:
    """A box of a frame in a square: uint8 (size, size, 3), RGB.

    It is decoded within limits of memory and time; if that fails it is grey, and the reason is
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
