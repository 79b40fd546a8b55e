"""Which part of the picture is seen: boxes in pixels of the upright source picture.

A box is (top, left, bottom, right), bottom and right exclusive. Top and left are even, so that a
decoder can cut the half-resolution colour planes of 4:2:0 video without resampling them.
All frames of a sample share its box.
"""

from __future__ import annotations

import numpy as np

_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
_SCALES = np.array([1, 0.875, 0.75, 0.66])
RANDOM_RESIZED_NUMBERS = 4 * _TRIES
MULTI_SCALE_NUMBERS = 2


def random_resized(
    widths: np.ndarray, heights: np.ndarray, numbers: np.ndarray, area: tuple[float, float]
) -> np.ndarray:
    """RandomResizedCrop: uniform area share, log-uniform aspect from 3/4 to 4/3, ten tries, then
    the central square.

    As ``RandomResizedCrop.get_crop_bbox`` in mmaction2 0.x,
    mmaction/datasets/pipelines/augmentations.py. Where no try fits, as it may be on a very wide or
    tall picture, the square has the short side; torchvision takes a larger part.

    Args:
        widths, heights: int arrays (n,), pixels.
        numbers: float64 array (n, 40) in [0, 1).
        area: smallest and largest share of the picture.

    Returns:
        int32 array (n, 4).
    """
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    share, log_aspect, down, across = numbers.reshape(len(widths), 4, _TRIES).transpose(1, 0, 2)
    target = (area[0] + share * (area[1] - area[0])) * (widths * heights)[:, None]
    low, high = np.log(_ASPECT)
    aspect = np.exp(low + log_aspect * (high - low))
    wide = np.maximum(np.rint(np.sqrt(target * aspect)), 1).astype(np.int64)
    tall = np.maximum(np.rint(np.sqrt(target / aspect)), 1).astype(np.int64)
    fits = (wide <= widths[:, None]) & (tall <= heights[:, None])
    rows, choice = np.arange(len(widths)), fits.argmax(axis=1)
    w, h = wide[rows, choice], tall[rows, choice]
    top = (down[rows, choice] * (heights - h + 1)).astype(np.int64)
    left = (across[rows, choice] * (widths - w + 1)).astype(np.int64)
    boxes = _boxes(top, left, h, w, widths, heights)
    missed = ~fits.any(axis=1)
    if missed.any():
        short = np.minimum(widths, heights)
        middle = _boxes(
            (heights - short) // 2, (widths - short) // 2, short, short, widths, heights
        )
        boxes[missed] = middle[missed]
    return boxes


def multi_scale(widths: np.ndarray, heights: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """MultiScaleCrop of the TSN recipes: sides from four scales of the short side that differ by at
    most one step, at one of five positions (corners and centre).

    Args and returns as in :func:`random_resized`, with ``numbers`` (n, 2).
    """
    pairs = np.array([(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1])
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    short = np.minimum(widths, heights)
    pair = pairs[(numbers[:, 0] * len(pairs)).astype(int)]
    h, w = (np.maximum((short * _SCALES[pair[:, k]]).astype(np.int64), 1) for k in (0, 1))
    down, across = np.array([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)])[
        (numbers[:, 1] * 5).astype(int)
    ].T
    return _boxes((heights - h) * down // 2, (widths - w) * across // 2, h, w, widths, heights)


def centered(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """The middle square of ``size`` pixels after scaling to ``short_side``: int32 array (n, 1, 4)."""
    return _squares(widths, heights, size, short_side, [(1, 1)])


def three(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """ThreeCrop: squares along the longer side, first, last, middle: int32 array (n, 3, 4)."""
    wide = np.asarray(widths) >= np.asarray(heights)
    across = _squares(widths, heights, size, short_side, [(1, 0), (1, 2), (1, 1)])
    down = _squares(widths, heights, size, short_side, [(0, 1), (2, 1), (1, 1)])
    return np.where(wide[:, None, None], across, down)


def five(widths: np.ndarray, heights: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """The corners and the centre, the half of TenCrop that is not flipped: int32 array (n, 5, 4)."""
    return _squares(widths, heights, size, short_side, [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)])


def _squares(widths, heights, size, short_side, places) -> np.ndarray:
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    short = np.minimum(widths, heights)
    side = np.maximum(np.rint(short * (size / short_side)).astype(np.int64), 1)
    return np.stack(
        [
            _boxes(
                (heights - side) * down // 2,
                (widths - side) * across // 2,
                side,
                side,
                widths,
                heights,
            )
            for down, across in places
        ],
        axis=1,
    )


def _boxes(top, left, h, w, widths, heights) -> np.ndarray:
    top, left = top & ~1, left & ~1
    return np.stack(
        [top, left, np.minimum(top + h, heights), np.minimum(left + w, widths)], axis=1
    ).astype(np.int32)
