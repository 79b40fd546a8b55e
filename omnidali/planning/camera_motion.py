"""Images as clips: the place in the image of each pixel of each frame (OmniSource, Sec. 3.3).

A motion is one homography for each frame, from pixels of the output to pixels of the image, with
corners at whole numbers. ``warp`` composes homographies drawn from a Gaussian, J_1 = I,
J_i = H_i(J_{i-1}); ``translate_*`` moves the crop window. The paper gives no numbers: the Gaussian
comes from ``omnidali motion estimate``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnidali.errors import UserError, start_of
from omnidali.planning.philox import normals
from omnidali.utils.text_files import parse_json

_SHIPPED = Path(__file__).parent / "motion.json"
# Numbers of a homography minus the identity, row by row; the last one, which is 0, is left out.
PARAMETERS = 8
# How far a translated window gets, in sides of the box.
_REACH = 0.2
# Largest deviation of a drawn number, in standard deviations.
_LARGEST = 2.5
# Smallest depth of a corner, with the crop plane at 1.
_NEAREST = 0.3


@dataclass(frozen=True)
class Motion:
    """Gaussians of the homography between neighbouring frames.

    The unit is the image's short side, the origin its centre. There is one Gaussian (K = 1), or one
    for each class and after them the common one for classes without an entry.

    Attributes:
        mean: float64 (K, 8).
        factor: float64 (K, 8, 8), Cholesky factors of the covariances.
        fingerprint: text that changes with the content.
    """

    mean: np.ndarray
    factor: np.ndarray
    fingerprint: str

    def of_labels(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means (n, 8) and factors (n, 8, 8) for labels (n,)."""
        common = len(self.mean) - 1
        place = np.where((labels >= 0) & (labels < common), labels, common)
        return self.mean[place], self.factor[place]


def load_motion(path: Path | None, per_class: bool, classes: Sequence[str] | None = None) -> Motion:
    """Read a file of ``omnidali motion estimate``.

    Args:
        path: of the file; None reads the shipped one.
        per_class: whether to take the Gaussians of single classes, too.
        classes: names of the classes, by which the file has their Gaussians.

    Raises:
        UserError: if the file is missing, is none of that command, or lacks single classes.
    """
    path = path or _SHIPPED
    try:
        values: Any = parse_json(path.read_text(encoding="utf-8"), str(path))
        rows = [values["all"]]
        by_class = values.get("classes", {}) if per_class else {}
        if by_class:
            rows = [by_class.get(name, values["all"]) for name in classes or ()] + rows

        mean = np.array([row["mean"] for row in rows], float).reshape(-1, PARAMETERS)
        covariances = np.array([row["covariance"] for row in rows], float)
        square = covariances.reshape(-1, PARAMETERS, PARAMETERS)
        factor = np.stack([_factor(covariance) for covariance in square])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            str(path),
            "a file of `omnidali motion estimate`",
            f"no such file{start_of(path)}",
            "Check the path.",
        ) from None
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            str(path),
            "mean and covariance of homographies",
            f"no entry {error}" if isinstance(error, KeyError) else str(error),
            "Make the file with `omnidali motion estimate`.",
        ) from None

    if per_class and not by_class:
        raise UserError(
            str(path),
            "distributions of single classes",
            "none",
            "Estimate them with `omnidali motion estimate`, or set motion_per_class: false.",
        )
    return Motion(mean, factor, hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16])


def _factor(covariance: np.ndarray) -> np.ndarray:
    """The Cholesky factor, with a little noise where the camera never moves in some direction."""
    for noise in (0, 1e-14, 1e-12, 1e-10):
        try:
            return np.linalg.cholesky(covariance + noise * np.eye(PARAMETERS))
        except np.linalg.LinAlgError:
            continue
    raise ValueError("a covariance that is not positive")


def _corners(size: int) -> np.ndarray:
    """The output's corners as columns: float64 (3, 4)."""
    return np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], float).T


def still(boxes: np.ndarray, frames: int, size: int) -> np.ndarray:
    """A camera that stands.

    Args:
        boxes: (n, 4).
        frames: of the clip, T.
        size: side of the output, pixels.

    Returns:
        float64 (n, T, 3, 3).
    """
    top, left, bottom, right = np.asarray(boxes, float).T
    matrix = np.zeros((len(boxes), 3, 3))
    matrix[:, 0, 0] = (right - left) / size
    matrix[:, 0, 2] = left
    matrix[:, 1, 1] = (bottom - top) / size
    matrix[:, 1, 2] = top
    matrix[:, 2, 2] = 1
    return np.repeat(matrix[:, None], frames, axis=1)


def translated(
    boxes: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    frames: int,
    size: int,
    uniform: np.ndarray,
    constant: bool,
) -> np.ndarray:
    """A window that moves, by a random step in every frame or with one velocity.

    It never leaves the image.

    Args:
        boxes: (n, 4).
        widths: (n,), of the images, pixels.
        heights: (n,), of the images, pixels.
        frames: of the clip, T.
        size: side of the output, pixels.
        uniform: (n, 2 * T) in [0, 1).
        constant: whether the velocity is constant.

    Returns:
        float64 (n, T, 3, 3).
    """
    matrices = still(boxes, frames, size)
    shifts = (2 * uniform - 1).reshape(len(boxes), frames, 2) * _REACH
    if constant:  # half of the way lies before the planned box, half after
        shifts = shifts[:, :1] * np.linspace(-1, 1, frames)[None, :, None]

    for axis, (low, high, room) in enumerate(((1, 3, widths), (0, 2, heights))):
        side = (boxes[:, high] - boxes[:, low]).astype(float)
        moved = boxes[:, low, None] + shifts[:, :, axis] * side[:, None]
        matrices[:, :, axis, 2] = np.clip(moved, 0, (np.asarray(room, float) - side)[:, None])
    return matrices


def warped(
    boxes: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    frames: int,
    size: int,
    uniform: np.ndarray,
    mean: np.ndarray,
    factor: np.ndarray,
) -> np.ndarray:
    """A camera that moves: homographies drawn from a Gaussian and composed over time.

    Args:
        boxes: (n, 4).
        widths: (n,), of the images, pixels.
        heights: (n,), of the images, pixels.
        frames: of the clip, T.
        size: side of the output, pixels.
        uniform: (n, 8 * (T - 1)) in [0, 1).
        mean: (n, 8), of the Gaussian.
        factor: (n, 8, 8), of the Gaussian.

    Returns:
        float64 (n, T, 3, 3); a camera that would pass through the image stands still.
    """
    matrices = still(boxes, frames, size)
    count = len(boxes)
    drawn = normals(uniform).clip(-_LARGEST, _LARGEST).reshape(count, frames - 1, PARAMETERS)
    steps = np.zeros((count, frames - 1, 9))
    steps[:, :, :PARAMETERS] = mean[:, None] + np.einsum("nij,ntj->nti", factor, drawn)
    steps = steps.reshape(count, frames - 1, 3, 3) + np.eye(3)

    # From units of the short side around the centre to pixels.
    pixels = np.zeros((count, 3, 3))
    pixels[:, 0, 0] = pixels[:, 1, 1] = np.minimum(widths, heights).astype(float)
    pixels[:, 0, 2] = widths / 2
    pixels[:, 1, 2] = heights / 2
    pixels[:, 2, 2] = 1
    outputs = np.linalg.inv(pixels) @ matrices[:, 0]

    moved = np.eye(3)
    fits = np.ones(count, bool)
    warped_matrices = matrices.copy()
    for time in range(1, frames):
        moved = steps[:, time - 1] @ moved
        inverse = np.linalg.inv(moved)
        inverse = inverse / inverse[:, 2:, 2:]
        depth = (inverse @ outputs @ _corners(size))[:, 2]
        fits &= (depth > _NEAREST).all(axis=1) & (depth < 1 / _NEAREST).all(axis=1)
        warped_matrices[:, time] = pixels @ inverse @ outputs
    return np.where(fits[:, None, None, None], warped_matrices, matrices)


def through_region(
    motions: np.ndarray, width: int, height: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a motion into a crop and a scaling of the region that is seen, and a warp.

    The warp has about equal scale. A warp alone would skip pixels of images much larger than the
    crop.

    Args:
        motions: (T, 3, 3) of one sample.
        width: of the image, pixels.
        height: of the image, pixels.
        size: side of the output, pixels.

    Returns:
        The region, int64 (top, left, bottom, right) in pixels with even top and left; its sides
        after scaling, int64 (height, width); float64 (T, 3, 3) from pixels of the output to those
        of the scaled region.
    """
    points = motions.astype(float) @ _corners(size)
    points = (points[:, :2] / points[:, 2:]).transpose(1, 0, 2).reshape(2, -1)
    low = np.clip(np.floor(points.min(axis=1)) - 2, 0, [width - 2, height - 2]).astype(np.int64)
    low = np.maximum(low, 0) & ~1
    high = np.clip(np.ceil(points.max(axis=1)) + 2, low + 2, [width, height]).astype(np.int64)

    zoom = max(1.0, min(motions[0, 0, 0], motions[0, 1, 1]))
    if zoom < 1.5:
        zoom = 1.0
    sides = np.maximum(np.rint((high - low) / zoom), 1).astype(np.int64)
    scale = sides / (high - low)
    into = np.array(
        [[scale[0], 0, -low[0] * scale[0]], [0, scale[1], -low[1] * scale[1]], [0, 0, 1]]
    )
    return np.array([low[1], low[0], high[1], high[0]]), sides[::-1], into @ motions
