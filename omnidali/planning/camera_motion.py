"""Images as clips: where in the picture each pixel of each frame lies (OmniSource, Sec. 3.3).

A motion is a homography a frame, from pixels of the output to pixels of the picture, corners at
whole numbers. ``warp`` composes homographies drawn from a Gaussian, J_1 = I, J_i = H_i(J_{i-1});
``translate_*`` moves the crop window. The paper gives no numbers: the Gaussian comes from
``omnidali motion estimate``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnidali.errors import UserError
from omnidali.planning.philox import normals
from omnidali.utils.text_files import parse_json

SHIPPED = Path(__file__).parent / "motion.json"
PARAMETERS = 8  # of a homography minus the identity, row by row, the last one being 0
_REACH = 0.2  # of the box's side: how far a translated window gets
_LARGEST = 2.5  # standard deviations
_NEAREST = 0.3  # smallest depth of a corner, where the crop plane is at 1


@dataclass(frozen=True)
class Motion:
    """Gaussians of the homography between neighbouring frames, in units of the picture's short side
    from its centre.

    Attributes:
        mean: (K, 8). factor: (K, 8, 8), Cholesky factors of the covariances. K = 1, or one a class
            and the common one last, which classes without an entry take.
        fingerprint: text that changes with the content.
    """

    mean: np.ndarray
    factor: np.ndarray
    fingerprint: str

    def of(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and factors for these labels."""
        place = np.where((labels >= 0) & (labels < len(self.mean) - 1), labels, len(self.mean) - 1)
        return self.mean[place], self.factor[place]


def load_motion(path: Path | None, per_class: bool, classes: list[str] | None = None) -> Motion:
    """Read a file of ``omnidali motion estimate``; None reads the shipped one.

    Args:
        per_class: also take the distributions of single classes, which the file names by
            ``classes``.

    Raises:
        UserError: if it is missing, no such file, or lacks the classes that are asked for.
    """
    path = path or SHIPPED
    try:
        values = parse_json(path.read_text(encoding="utf-8"), str(path))
        rows = [values["all"]]
        if per_class:
            found = values.get("classes", {})
            if not found:
                raise UserError(
                    str(path),
                    "distributions of single classes",
                    "none",
                    "Estimate them with `omnidali motion estimate`, or set motion_per_class: false.",
                )
            rows = [found.get(name, values["all"]) for name in classes or ()] + rows
        mean = np.array([row["mean"] for row in rows], float).reshape(-1, PARAMETERS)
        covariance = np.array([row["covariance"] for row in rows], float).reshape(
            -1, PARAMETERS, PARAMETERS
        )
        factor = np.stack([_factor(matrix) for matrix in covariance])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            str(path), "a file of `omnidali motion estimate`", "no such file", "Check the path."
        ) from None
    except KeyError as error:
        raise UserError(
            str(path),
            "mean and covariance of homographies",
            f"no entry {error}",
            "Make the file with `omnidali motion estimate`.",
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, np.linalg.LinAlgError) as error:
        raise UserError(
            str(path),
            "mean and covariance of homographies",
            str(error),
            "Make the file with `omnidali motion estimate`.",
        ) from None
    return Motion(mean, factor, hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16])


def _factor(covariance: np.ndarray) -> np.ndarray:
    """The Cholesky factor; a camera that never moves in some direction needs a little noise there."""
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
    """The box alone in every frame: float64 (n, frames, 3, 3) from boxes (n, 4)."""
    top, left, bottom, right = np.asarray(boxes, float).T
    matrix = np.zeros((len(boxes), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 2] = (right - left) / size, left
    matrix[:, 1, 1], matrix[:, 1, 2] = (bottom - top) / size, top
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
    """The window moves, by a random step in every frame or with one velocity; it never leaves the
    picture.

    Args:
        boxes: (n, 4). widths, heights: (n,), pixels. uniform: (n, 2 * frames) in [0, 1).

    Returns:
        float64 (n, frames, 3, 3).
    """
    matrices = still(boxes, frames, size)
    shifts = (2 * uniform - 1).reshape(len(boxes), frames, 2) * _REACH
    if constant:  # half of the way lies before the planned box, half behind
        shifts = shifts[:, :1] * np.linspace(-1, 1, frames)[None, :, None]
    for axis, (low, high, room) in enumerate(((1, 3, widths), (0, 2, heights))):
        start, side = boxes[:, low].astype(float), (boxes[:, high] - boxes[:, low]).astype(float)
        moved = start[:, None] + shifts[:, :, axis] * side[:, None]
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
    """A moving camera: homographies drawn from a Gaussian and composed over time.

    Args:
        boxes: (n, 4). widths, heights: (n,), pixels. uniform: (n, 8 * (frames - 1)) in [0, 1).
        mean: (n, 8). factor: (n, 8, 8).

    Returns:
        float64 (n, frames, 3, 3); a sample whose camera would pass through the picture stands
            still.
    """
    matrices = still(boxes, frames, size)
    count = len(boxes)
    drawn = normals(uniform).clip(-_LARGEST, _LARGEST).reshape(count, frames - 1, PARAMETERS)
    steps = np.zeros((count, frames - 1, 9))
    steps[:, :, :PARAMETERS] = mean[:, None] + np.einsum("nij,ntj->nti", factor, drawn)
    steps = steps.reshape(count, frames - 1, 3, 3) + np.eye(3)
    short = np.minimum(widths, heights).astype(float)
    pixels = np.zeros((count, 3, 3))  # from units of the short side around the centre
    pixels[:, 0, 0] = pixels[:, 1, 1] = short
    pixels[:, 0, 2], pixels[:, 1, 2], pixels[:, 2, 2] = widths / 2, heights / 2, 1
    outputs = np.linalg.inv(pixels) @ matrices[:, 0]
    moved, fine = np.eye(3), np.ones(count, bool)
    warped_matrices = matrices.copy()
    for time in range(1, frames):
        moved = steps[:, time - 1] @ moved
        inverse = np.linalg.inv(moved)
        inverse = inverse / inverse[:, 2:, 2:]
        depth = (inverse @ outputs @ _corners(size))[:, 2]
        fine &= (depth > _NEAREST).all(axis=1) & (depth < 1 / _NEAREST).all(axis=1)
        warped_matrices[:, time] = pixels @ inverse @ outputs
    return np.where(fine[:, None, None, None], warped_matrices, matrices)


def through_region(
    motions: np.ndarray, width: int, height: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a motion into cutting and shrinking the part of the picture that is seen, and a warp of
    about equal scale.

    A warp alone would skip pixels of pictures much larger than the crop.

    Args:
        motions: (T, 3, 3) of one sample. width, height: of the picture.

    Returns:
        The region, int64 (top, left, bottom, right) in pixels with even top and left; its sides
            after
        scaling, int64 (height, width); float64 (T, 3, 3) from pixels of the output to those of the
            scaled region.
    """
    points = motions.astype(float) @ _corners(size)
    points = (points[:, :2] / points[:, 2:]).transpose(1, 0, 2).reshape(2, -1)
    low = np.clip(np.floor(points.min(axis=1)) - 2, 0, [width - 2, height - 2]).astype(np.int64)
    low = np.maximum(low, 0) & ~1
    high = np.clip(np.ceil(points.max(axis=1)) + 2, low + 2, [width, height]).astype(np.int64)
    zoom = max(1.0, min(motions[0, 0, 0], motions[0, 1, 1]))
    zoom = zoom if zoom >= 1.5 else 1.0
    sides = np.maximum(np.rint((high - low) / zoom), 1).astype(np.int64)
    scale = sides / (high - low)
    into = np.array(
        [[scale[0], 0, -low[0] * scale[0]], [0, scale[1], -low[1] * scale[1]], [0, 0, 1]]
    )
    return np.array([low[1], low[0], high[1], high[0]]), sides[::-1], into @ motions
