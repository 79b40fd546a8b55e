"""The CPU's decoder for each kind of media, behind one signature."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.decoding.failure_cause import Cause
from omnidali.decoding.frame_folder import decode_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.media_kind import MediaKind


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
            causes: receives the reason where frames did not come.

        Returns:
            How many of the F frames did not come and were filled from the nearest decoded one.

        Raises:
            DecodeError: if none of the frames can be decoded.
        """


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
