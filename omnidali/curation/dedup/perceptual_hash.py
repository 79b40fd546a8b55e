"""A sketch of a frame in 200 bytes: a perceptual hash of 64 bits and a thumbnail of 8 x 8 pixels.

The hash holds the signs of the 64 lowest frequencies, without the mean, of the cosine transform of
the grey frame, its middle square scaled to 32 x 32 pixels: scaling and JPEG hardly change
them. 64 signs alone cannot tell a moving copy from other images. Pairs with similar hashes are
therefore compared by their thumbnails in colour: by how much these differ, as a share of their own
contrast. A frame without contrast is similar to nothing.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from omnidali.utils.constants import MEAN, STD

SKETCH_VERSION = 1  # changes with what a sketch holds
SKETCH_BYTES = 200
FRAME_SIDE = 64  # of the square that frames are decoded to, pixels
MAX_DISTANCE = 18  # bits of 64 in which the hashes of duplicates may differ
MIN_SIMILARITY = 0.5  # of duplicates: their thumbnails differ by half of their contrast
NOT_SIMILAR = -1.0  # similarity of pairs that are farther
MIN_CONTRAST = 2.0  # of 255, below which a frame is black, white or plain
_BITS = 64
_GRID = 32
_THUMB = 8
_PAIRS_AT_ONCE = 1 << 14  # of thumbnails that are compared at a time
_STRIP = 32  # rows of hashes that are compared at a time
_GREY = (0.299, 0.587, 0.114)


class Sketches(NamedTuple):
    """Sketches of n frames, ready to be compared.

    Attributes:
        hashes: uint64 (n,).
        thumbs: float32 (n, 192), 0 to 255.
        contrast: float32 (n,), 0 to 255.
    """

    hashes: np.ndarray
    thumbs: np.ndarray
    contrast: np.ndarray


def sketch_frames(clips: torch.Tensor) -> torch.Tensor:
    """Compute the bits (0 or 1) and the thumbnail of every frame.

    Args:
        clips: (N, 3, T, 64, 64), normalised as the loader returns them.

    Returns:
        (N, T * 256): for each frame 64 bits and then 192 values of the thumbnail, 0 to 255.
    """
    frames = pixels_of(clips)
    thumbs = F.avg_pool2d(frames, frames.shape[-1] // _THUMB).flatten(1)

    grey = (frames * frames.new_tensor(_GREY).view(3, 1, 1)).sum(dim=1, keepdim=True)
    small = F.avg_pool2d(grey, grey.shape[-1] // _GRID)[:, 0]
    cosines = _cosines().to(small.device)
    waves = (cosines @ small @ cosines.T).flatten(1)[:, _lowest_frequencies()]
    return torch.cat([(waves > 0).float(), thumbs], dim=1).view(len(clips), -1)


def pixels_of(clips: torch.Tensor) -> torch.Tensor:
    """The frames of normalised clips (N, 3, T, H, W) as pixels from 0 to 255: (N * T, 3, H, W)."""
    frames = clips.float().transpose(1, 2).flatten(0, 1)
    return frames * frames.new_tensor(STD).view(3, 1, 1) + frames.new_tensor(MEAN).view(3, 1, 1)


def pack_sketches(outputs: np.ndarray) -> np.ndarray:
    """Pack outputs of :func:`sketch_frames`, (n, T * 256), into bytes: uint8 (n * T, 200)."""
    frames = outputs.reshape(-1, _BITS + 3 * _THUMB**2)
    bits = np.packbits(frames[:, :_BITS] > 0.5, axis=1)
    thumbs = np.clip(frames[:, _BITS:], 0, 255).round().astype(np.uint8)
    return np.concatenate([bits, thumbs], axis=1)


class HashSimilarity:
    """Compares sketches; a :class:`~omnidali.curation.dedup.nearest.Similarity`.

    Args:
        max_distance: bits in which the hashes of a pair may differ, 0 to 64.
    """

    def __init__(self, max_distance: int = MAX_DISTANCE):
        self.max_distance = max_distance

    def prepare(self, rows: np.ndarray) -> Sketches:
        """Make packed sketches, uint8 (n, 200), ready to be compared."""
        rows = np.asarray(rows)
        hashes = np.ascontiguousarray(rows[:, : _BITS // 8]).view(np.uint64).ravel()
        thumbs = rows[:, _BITS // 8 :].astype(np.float32)
        by_colour = thumbs.reshape(-1, 3, _THUMB**2).std(axis=2).astype(np.float64)
        contrast = np.sqrt((by_colour**2).mean(axis=1)).astype(np.float32)
        return Sketches(hashes, thumbs, contrast)

    def size(self, prepared: Sketches) -> int:
        """Bytes of prepared sketches."""
        return sum(array.nbytes for array in prepared)

    def __call__(self, one: Sketches, other: Sketches) -> torch.Tensor:
        """Similarity of every pair, float32 (m, k).

        It is 1 for equal thumbnails, 0 where they differ as much as their contrast, and -1 where
        the hashes are too far apart.
        """
        similarity = np.full((len(one.hashes), len(other.hashes)), NOT_SIMILAR, np.float32)
        differing = np.empty((_STRIP, len(other.hashes)), np.uint64)
        distances = np.empty(differing.shape, np.uint8)
        is_blank = other.contrast < MIN_CONTRAST

        # A strip of distances stays in the processor's cache.
        for top in range(0, len(one.hashes), _STRIP):
            hashes = one.hashes[top : top + _STRIP, None]
            strip = slice(0, len(hashes))
            np.bitwise_xor(hashes, other.hashes, out=differing[strip])
            np.bitwise_count(differing[strip], out=distances[strip])
            near = distances[strip] <= self.max_distance
            near[one.contrast[top : top + _STRIP] < MIN_CONTRAST] = False
            near[:, is_blank] = False

            places = np.flatnonzero(near)
            for first in range(0, len(places), _PAIRS_AT_ONCE):
                rows, columns = np.divmod(places[first : first + _PAIRS_AT_ONCE], near.shape[1])
                rows += top
                difference = np.sqrt(((one.thumbs[rows] - other.thumbs[columns]) ** 2).mean(axis=1))
                contrast = np.minimum(one.contrast[rows], other.contrast[columns])
                similarity[rows, columns] = np.maximum(1 - difference / contrast, NOT_SIMILAR)
        return torch.from_numpy(similarity)


def hamming_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which the hashes of packed sketches (n, 200) differ, row by row: int64 (n,)."""
    differing = one[:, : _BITS // 8] ^ other[:, : _BITS // 8]
    return np.bitwise_count(differing).sum(axis=1, dtype=np.int64)


@functools.cache
def _cosines() -> torch.Tensor:
    """The orthonormal cosine transform of 32 values: (32, 32)."""
    order = np.arange(_GRID)[:, None]
    place = np.arange(_GRID)
    matrix = np.sqrt(2 / _GRID) * np.cos(np.pi * order * (2 * place + 1) / (2 * _GRID))
    matrix[0] /= np.sqrt(2)
    return torch.from_numpy(matrix.astype(np.float32))


@functools.cache
def _lowest_frequencies() -> list[int]:
    """Places of the 64 lowest frequencies but the mean, by the sum of both directions' orders."""
    order = np.add.outer(np.arange(_GRID), np.arange(_GRID)).ravel()
    return np.argsort(order, kind="stable")[1 : 1 + _BITS].tolist()
