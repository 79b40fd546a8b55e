"""Photos on the CPU, through OpenCV (libjpeg-turbo, libpng, libwebp)."""

from __future__ import annotations

import cv2
import numpy as np

from omnidali.catalog.store import Media
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import CannotDecode
from omnidali.planning.motion import through_region

# JPEG decodes at 1/2, 1/4 and 1/8 size for a fraction of the work; the averaging is the transform's own.
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

_FROM_CORNER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_TO_CORNER = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


def decode_image(media: Media, boxes: np.ndarray, size: int, out: np.ndarray,
                 motions: np.ndarray | None = None) -> None:
    """Decode a photo, turn it upright by EXIF, and write its crops.

    Args:
        boxes: int (V, 4), in pixels of the upright picture.
        size: side of each crop, pixels.
        out: uint8 (V, T, size, size, 3), RGB; T is 1 but for a moving picture.
        motions: (T, 3, 3) of :mod:`omnidali.planning.motion`, instead of the boxes; V is 1 then.

    Raises:
        CannotDecode: if OpenCV returns no picture, or one of another size than at the probe.
    """
    try:
        data = media.span.read()
    except OSError as error:
        raise CannotDecode(f"unreadable: {error.strerror}") from None
    factor = 1
    if media.container == "jpeg":
        smallest = int((boxes[:, 2:] - boxes[:, :2]).min())
        factor = next((f for f in _REDUCED if smallest >= f * size), 1)
    try:
        # only JPEG's orientation is honoured, as the header parser and viewers do
        flags = cv2.IMREAD_COLOR_RGB if media.container == "jpeg" else \
            cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(data, _REDUCED.get(factor, flags)) if len(data) else None
        if factor > 1 and picture is not None:  # the reduced modes know no RGB
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise CannotDecode(error.err) from None
    if picture is None:
        raise CannotDecode("OpenCV reads no picture in it")
    expected = (-(-media.height // factor), -(-media.width // factor))
    if picture.shape[:2] != expected:
        raise CannotDecode(f"{picture.shape[1]}x{picture.shape[0]} pixels where the header said "
                           f"{expected[1]}x{expected[0]}")
    if motions is not None:
        region, sides, matrices = through_region(motions, media.width, media.height, size)
        part = cut_and_scale(picture, np.maximum(region // factor, [0, 0, 1, 1]), *sides[::-1].tolist())
        for frame, matrix in zip(out[0], matrices):  # OpenCV counts from the middle of the first pixel
            cv2.warpPerspective(part, _TO_CORNER @ matrix @ _FROM_CORNER, (size, size), dst=frame,
                                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
        return
    for view, box in enumerate(boxes):
        cut_and_scale(picture, np.maximum(box // factor, [0, 0, 1, 1]), size, size, out[view, 0])
