"""Cut a planned box out of a picture and scale it, on the CPU.

Filter: bilinear, as the reference (OpenCV, sample positions at pixel centres); where a box is at
least twice as large as the output in both directions it is averaged by area instead, so that large
images do not alias.
"""

from collections.abc import Sequence

import cv2
import numpy as np

cv2.setNumThreads(0)  # samples run in parallel, one thread each


def cut_and_scale(
    picture: np.ndarray,
    box: Sequence[int] | np.ndarray,
    width: int,
    height: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Scale ``picture[top:bottom, left:right]`` to (height, width).

    Args:
        picture: uint8 (H, W) or (H, W, C).
        box: (top, left, bottom, right) in pixels of ``picture``.
        width: of the result, pixels.
        height: of the result, pixels.
        out: where to write, uint8 (height, width[, C]); made if missing.
    """
    top, left, bottom, right = box
    shrinks = bottom - top >= 2 * height and right - left >= 2 * width
    return cv2.resize(
        picture[top:bottom, left:right],
        (width, height),
        dst=out,
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
