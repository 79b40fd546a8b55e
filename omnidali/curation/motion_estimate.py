"""How cameras move in the target's videos: the Gaussian that ``inflate: warp`` draws from.

The paper (OmniSource, Sec. 3.3) estimates mean and covariance by maximum likelihood from
homographies between frames of target videos, and does not print them. Here corners are tracked
forwards and back (Lucas and Kanade), and RANSAC finds the homography; pairs of frames without a
common plane are left out.
"""

import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.decoders import decode_frames
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError, UserError, start_of
from omnidali.media_kind import MediaKind
from omnidali.planning.camera_motion import PARAMETERS, load_motion
from omnidali.planning.philox import Stream
from omnidali.planning.resampling import RowOrder
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.untrusted_text import say

_SIDE = 320  # frames are compared at this size, pixels
_PAIRS = 4  # of one video
_CORNERS = 400  # that are looked for
_FEWEST = 30  # inliers that are needed
_SHARE = 0.5  # of the tracked corners that must be inliers
_BACK = 1.0  # pixels: how near a corner must come to itself when tracked back
# of the short side, or of one: larger numbers are cuts and mistakes, not camera motion
_FARTHEST = 0.5
_FEWEST_OF_CLASS = 40  # pairs that a class needs for a distribution of its own


def estimate_motion(
    table: SourceTable,
    interval: int,
    videos: int,
    *,
    seed: int,
    names: Sequence[str],
    threads: int,
) -> dict:
    """Mean and covariance of the homography between frames ``interval`` apart.

    Args:
        table: a source of videos or frame folders.
        interval: frames from one frame of a pair to the other.
        videos: how many of them to look at.
        seed: of their choice.
        names: of the classes, for distributions of their own.
        threads: videos at a time.

    Returns:
        {"all": {"mean" (8,), "covariance" (8, 8), "pairs"}, "classes": {name: the same},
        "failed": [(path, reason)], ...}: rows of the homography minus the identity, lengths in
        short sides of the frame, from its centre.

    Raises:
        UserError: if too few pairs show a camera motion.
    """
    rows = RowOrder(table.labels, None, Stream(seed, 0))(np.arange(min(videos, len(table))))
    found, failed = _motions_by_class(table, rows.tolist(), interval, threads)
    for path, reason in failed:
        say(f"{table.name}: {path} is left out: {reason}", error=True)

    everything = [motion for motions in found.values() for motion in motions]
    if len(everything) < 2 * PARAMETERS:
        raise UserError(
            f"sources.{table.name}",
            f"at least {2 * PARAMETERS} pairs of frames with a common plane",
            f"{len(everything)} in {len(rows)} videos",
            "Use more videos, or a smaller interval.",
        )
    classes = {
        names[label]: _gaussian(motions)
        for label, motions in sorted(found.items())
        if label >= 0 and len(motions) >= _FEWEST_OF_CLASS
    }
    return {
        "all": _gaussian(everything),
        "classes": classes,
        "interval": interval,
        "videos": len(rows),
        "failed": failed,
    }


def _motions_by_class(
    table: SourceTable, rows: Sequence[int], interval: int, threads: int
) -> tuple[dict[int, list[np.ndarray]], list[tuple[str, str]]]:
    """The motions by label, and (path, reason) of the videos that failed."""
    found: dict[int, list[np.ndarray]] = {}
    failed: list[tuple[str, str]] = []

    def look(row: int) -> list[np.ndarray]:
        try:
            return motions_of_video(table, row, interval)
        except (DecodeError, OSError) as reason:
            failed.append((table.media(table.first_record(row)).path, str(reason)))
            return []

    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(pool.map(look, rows), total=len(rows), desc="motion", unit="video", disable=None)
        for row, motions in zip(rows, bar, strict=True):
            found.setdefault(int(table.labels[row]), []).extend(motions)
    return found, sorted(failed)


def check_motion_file(path: str | Path) -> None:
    """Refuse to overwrite anything but an earlier estimate, such as a list or a config.

    Raises:
        UserError: naming --out.
    """
    path = Path(path)
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size == 0):
            load_motion(path, per_class=False)
    except (UserError, OSError):
        raise UserError(
            "--out",
            "a new file, or one of an earlier `omnidali motion estimate`",
            f"{path}, which is something else{start_of(path)}",
            "Choose another name.",
        ) from None


def write_motion(path: str | Path, values: dict) -> None:
    """Write what :func:`estimate_motion` found.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        write_whole(Path(path), json.dumps(values) + "\n")
    except OSError as error:
        raise UserError(
            str(path),
            "a file that can be written",
            f"{error.strerror}{start_of(path)}",
            "Choose another.",
        ) from None


def motions_of_video(table: SourceTable, row: int, interval: int) -> list[np.ndarray]:
    """The homographies, (8,) each, between frames of a video's middle.

    Raises:
        DecodeError: if none of these frames can be decoded within the limits of memory and time.
    """
    piece = row if table.starts is None else int(table.starts[row])
    length = int(table.frames[piece])
    first = 0 if table.firsts is None else int(table.firsts[piece])
    count = min(_PAIRS, (length - 1) // interval)
    if count < 1:
        return []

    start = first + (length - 1 - count * interval) // 2
    frames = np.arange(start, start + count * interval + 1, interval)
    return list(
        np.array(
            call_isolated(motions_between, table.media(table.records[piece]), table.kind, frames),
            float,
        ).reshape(-1, PARAMETERS)
    )


def motions_between(media: Media, kind: str, frames: np.ndarray) -> list[np.ndarray]:
    """The homographies, (8,) each, between frames of a video or folder.

    Raises:
        DecodeError: if none of them can be decoded.
    """
    pixels = np.empty((1, len(frames), _SIDE, _SIDE, 3), np.uint8)
    box = np.array([[0, 0, media.height, media.width]])
    decode = decode_frames if MediaKind(kind).is_folder else decode_video
    decode(media, frames, box, _SIDE, pixels)

    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pixels[0]]
    units = _units(media.width, media.height)
    matrices = [homography(one, other) for one, other in itertools.pairwise(grey)]
    motions = [_normalised(matrix, units) for matrix in matrices if matrix is not None]
    return [motion for motion in motions if motion is not None]


def homography(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The matrix (3, 3) that takes points of ``one`` to points of ``other``, uint8 (H, W).

    It is None if none holds.
    """
    corners = cv2.goodFeaturesToTrack(one, _CORNERS, 0.01, 7)
    if corners is None or len(corners) < _FEWEST:
        return None

    # OpenCV's hints do not know that it makes the third array
    there, seen, _ = cv2.calcOpticalFlowPyrLK(one, other, corners, None)  # type: ignore[call-overload]
    back, again, _ = cv2.calcOpticalFlowPyrLK(other, one, there, None)  # type: ignore[call-overload]
    near = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < _BACK
    kept = (seen.ravel() == 1) & (again.ravel() == 1) & near
    if kept.sum() < _FEWEST:
        return None

    matrix, inliers = cv2.findHomography(corners[kept], there[kept], cv2.RANSAC, 2.0)
    if matrix is None or inliers.sum() < max(_FEWEST, _SHARE * kept.sum()):
        return None
    return matrix


def _units(width: int, height: int) -> np.ndarray:
    """The matrix from pixels of the compared square to short sides around the picture's centre."""
    short = min(width, height)
    return np.array(
        [
            [width / _SIDE / short, 0, -width / 2 / short],
            [0, height / _SIDE / short, -height / 2 / short],
            [0, 0, 1],
        ]
    )


def _normalised(matrix: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """The numbers (8,) of a homography in ``units``; None for what no camera does."""
    matrix = units @ matrix @ np.linalg.inv(units)
    if abs(matrix[2, 2]) < 1e-6:
        return None
    motion = (matrix / matrix[2, 2] - np.eye(3)).reshape(-1)[:PARAMETERS]
    return motion if np.isfinite(motion).all() and np.abs(motion).max() < _FARTHEST else None


def _gaussian(motions: Sequence[np.ndarray]) -> dict:
    values = np.array(motions)
    return {
        "mean": values.mean(axis=0).tolist(),
        "covariance": np.cov(values, rowvar=False, bias=True).tolist(),
        "pairs": len(values),
    }
