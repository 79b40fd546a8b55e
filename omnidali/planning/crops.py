"""The part of the image that is seen: boxes in pixels of the upright source image.

A box is (top, left, bottom, right), bottom and right exclusive. Top and left are even, so that a
decoder can cut the half-resolution colour planes of 4:2:0 video without resampling them.
All frames of a sample share its box.
"""

from collections.abc import Sequence

import numpy as np

_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
_SCALES = np.array([1, 0.875, 0.75, 0.66])
# Down and across: the corners and the centre.
_FIVE_PLACES = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
RANDOM_RESIZED_NUMBERS = 4 * _TRIES
MULTI_SCALE_NUMBERS = 2


def random_resized(
    widths: np.ndarray, heights: np.ndarray, numbers: np.ndarray, area: tuple[float, float]
) -> np.ndarray:
    """RandomResizedCrop: uniform share of the area, log-uniform aspect from 3/4 to 4/3.

    As ``RandomResizedCrop.get_crop_bbox`` in mmaction2 0.x,
    mmaction/datasets/pipelines/augmentations.py. Where none of ten tries fits, as it may be in a
    very wide or tall image, the box is the central square with the short side; torchvision takes a
    larger part.

    Args:
        widths: int (n,), pixels.
        heights: int (n,), pixels.
        numbers: float64 (n, 40) in [0, 1).
        area: smallest and largest share of the image.

    Returns:
        int32 (n, 4).
    """
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    share, log_aspect, down, across = numbers.reshape(len(widths), 4, _TRIES).transpose(1, 0, 2)
    target = (area[0] + share * (area[1] - area[0])) * (widths * heights)[:, None]
    low, high = np.log(_ASPECT)
    aspect = np.exp(low + log_aspect * (high - low))
    wide = np.maximum(np.rint(np.sqrt(target * aspect)), 1).astype(np.int64)
    tall = np.maximum(np.rint(np.sqrt(target / aspect)), 1).astype(np.int64)

    # The first try that fits.
    fits = (wide <= widths[:, None]) & (tall <= heights[:, None])
    choice = np.arange(len(widths)), fits.argmax(axis=1)
    top = (down[choice] * (heights - tall[choice] + 1)).astype(np.int64)
    left = (across[choice] * (widths - wide[choice] + 1)).astype(np.int64)
    boxes = _boxes(top, left, tall[choice], wide[choice], widths, heights)

    central = _squares(widths, heights, size=1, short_side=1, places=[(1, 1)])[:, 0]
    return np.where(fits.any(axis=1)[:, None], boxes, central)


def multi_scale(widths: np.ndarray, heights: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """MultiScaleCrop of the TSN recipes.

    The sides come from four scales of the short side and differ by at most one step; the position
    is one of the corners, or the centre.

    Args:
        widths: int (n,), pixels.
        heights: int (n,), pixels.
        numbers: float64 (n, 2) in [0, 1).

    Returns:
        int32 (n, 4).
    """
    pairs = np.array([(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1])
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    pair = pairs[(numbers[:, 0] * len(pairs)).astype(int)]
    scaled = np.minimum(widths, heights)[:, None] * _SCALES[pair]
    h, w = np.maximum(scaled.astype(np.int64), 1).T
    down, across = np.array(_FIVE_PLACES)[(numbers[:, 1] * 5).astype(int)].T
    return _boxes((heights - h) * down // 2, (widths - w) * across // 2, h, w, widths, heights)


def centered(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """The middle square of ``size`` pixels after scaling to ``short_side``: int32 (n, 1, 4)."""
    return _squares(widths, heights, size, short_side, places=[(1, 1)])


def three(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """ThreeCrop: squares along the longer side, first, last, middle: int32 (n, 3, 4)."""
    across = _squares(widths, heights, size, short_side, places=[(1, 0), (1, 2), (1, 1)])
    down = _squares(widths, heights, size, short_side, places=[(0, 1), (2, 1), (1, 1)])
    is_wide = np.asarray(widths) >= np.asarray(heights)
    return np.where(is_wide[:, None, None], across, down)


def five(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """The corners and the centre, the half of TenCrop that is not flipped: int32 (n, 5, 4)."""
    return _squares(widths, heights, size, short_side, places=_FIVE_PLACES)


def _squares(
    widths: np.ndarray,
    heights: np.ndarray,
    size: int,
    short_side: int,
    places: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Squares at places (down, across), each 0, 1 or 2: int32 (n, places, 4)."""
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    short = np.minimum(widths, heights)
    side = np.maximum(np.rint(short * (size / short_side)).astype(np.int64), 1)

    boxes = [
        _boxes(
            (heights - side) * down // 2,
            (widths - side) * across // 2,
            side,
            side,
            widths,
            heights,
        )
        for down, across in places
    ]
    return np.stack(boxes, axis=1)


def _boxes(
    top: np.ndarray,
    left: np.ndarray,
    h: np.ndarray,
    w: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
) -> np.ndarray:
    """Boxes with even corners inside the image: int32 (n, 4)."""
    top, left = top & ~1, left & ~1
    bottom, right = np.minimum(top + h, heights), np.minimum(left + w, widths)
    return np.stack([top, left, bottom, right], axis=1).astype(np.int32)
