"""What a frame looks like in 200 bytes: a perceptual hash of 64 bits and a thumbnail of 8 x 8
pixels in colour.

The hash holds the signs of the 64 lowest frequencies of the grey picture's cosine transform without
the mean, on the frame's middle square scaled to 32 x 32 pixels: scaling and JPEG hardly change
them. 64 signs alone cannot tell a moving copy from other pictures, so pairs that are near by the
hash are compared by their thumbnails: how much these differ, as a share of their own contrast. A
frame without contrast is like nothing.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from omnidali.utils.constants import MEAN, STD

VERSION = 1  # of what is kept of a frame
SIDE = 64  # of the square that frames are decoded to, pixels
WIDTH = 200  # bytes kept of a frame
DISTANCE = 18  # bits of 64: farther pairs are not looked at
LEAST = 0.5  # likeness of duplicates: thumbnails that differ by half of their contrast
NOT_ALIKE = -1.0  # likeness of pairs that are farther
_BITS, _GRID, _THUMB = 64, 32, 8
_BLANK = 2.0  # contrast of a thumbnail, of 255, below which a frame is black, white or plain
_AT_ONCE = 1 << 14  # pairs whose thumbnails are compared at a time
_STRIP = 32  # rows of codes that are compared at a time
_GREY = (0.299, 0.587, 0.114)


class Sketches(NamedTuple):
    """Frames made ready to be compared: codes uint64 (n,), thumbs float32 (n, 192), contrast
    float32 (n,).
    """

    codes: np.ndarray
    thumbs: np.ndarray
    contrast: np.ndarray


def sketch_frames(clips: torch.Tensor) -> torch.Tensor:
    """Bits (0 or 1) and thumbnail of every frame.

    Args:
        clips: (N, 3, T, 64, 64), normalised as the loader gives them.

    Returns:
        (N, T * 256): for each frame 64 bits and then 192 values of the thumbnail, 0 to 255.
    """
    frames = pixels_of(clips)
    thumbs = F.avg_pool2d(frames, frames.shape[-1] // _THUMB).flatten(1)
    grey = (frames * frames.new_tensor(_GREY).view(3, 1, 1)).sum(dim=1, keepdim=True)
    small = F.avg_pool2d(grey, grey.shape[-1] // _GRID)[:, 0]
    cosines, lowest = _cosines().to(small.device), _lowest()
    waves = (cosines @ small @ cosines.T).flatten(1)[:, lowest]
    return torch.cat([(waves > 0).float(), thumbs], dim=1).view(len(clips), -1)


def pixels_of(clips: torch.Tensor) -> torch.Tensor:
    """The frames of normalised clips (N, 3, T, H, W) as pixels from 0 to 255: (N * T, 3, H, W)."""
    frames = clips.float().transpose(1, 2).flatten(0, 1)
    return frames * frames.new_tensor(STD).view(3, 1, 1) + frames.new_tensor(MEAN).view(3, 1, 1)


def pack_sketches(outputs: np.ndarray) -> np.ndarray:
    """What :func:`sketch_frames` gave, (n, T * 256), as bytes to keep: uint8 (n * T, 200)."""
    frames = outputs.reshape(-1, _BITS + 3 * _THUMB**2)
    bits = np.packbits(frames[:, :_BITS] > 0.5, axis=1)
    return np.concatenate(
        [bits, np.clip(frames[:, _BITS:], 0, 255).round().astype(np.uint8)], axis=1
    )


class HashLikeness:
    """Compare frames by hash and thumbnail; see :mod:`omnidali.curation.dedup.nearest`.

    Args:
        distance: bits by which the hashes of a pair may differ, 0 to 64.
    """

    def __init__(self, distance: int = DISTANCE):
        self.distance = distance

    def prepare(self, kept: np.ndarray) -> Sketches:
        """Kept bytes (n, 200) made ready."""
        kept = np.asarray(kept)
        thumbs = kept[:, _BITS // 8 :].astype(np.float32)
        around = thumbs.reshape(-1, 3, _THUMB**2)
        contrast = around.std(axis=2).astype(np.float64)
        return Sketches(
            np.ascontiguousarray(kept[:, : _BITS // 8]).view(np.uint64).ravel(),
            thumbs,
            np.sqrt((contrast**2).mean(axis=1)).astype(np.float32),
        )

    def size(self, prepared: Sketches) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in prepared)

    def __call__(self, one: Sketches, other: Sketches) -> torch.Tensor:
        """Likeness float32 (m, k): 1 for equal thumbnails, 0 where they differ as much as their
        contrast, -1 beyond the distance.
        """
        alike = np.full((len(one.codes), len(other.codes)), NOT_ALIKE, np.float32)
        differing = np.empty((_STRIP, len(other.codes)), np.uint64)
        bits = np.empty(differing.shape, np.uint8)
        blank = other.contrast < _BLANK
        # what is counted stays in the processor's cache
        for top in range(0, len(one.codes), _STRIP):
            codes = one.codes[top : top + _STRIP, None]
            np.bitwise_xor(codes, other.codes, out=differing[: len(codes)])
            near = (
                np.bitwise_count(differing[: len(codes)], out=bits[: len(codes)]) <= self.distance
            )
            near[one.contrast[top : top + _STRIP] < _BLANK] = False
            near[:, blank] = False
            places = np.flatnonzero(near)
            for first in range(0, len(places), _AT_ONCE):
                rows, columns = np.divmod(places[first : first + _AT_ONCE], near.shape[1])
                rows += top
                apart = np.sqrt(((one.thumbs[rows] - other.thumbs[columns]) ** 2).mean(axis=1))
                contrast = np.minimum(one.contrast[rows], other.contrast[columns])
                alike[rows, columns] = np.maximum(1 - apart / contrast, NOT_ALIKE)
        return torch.from_numpy(alike)


def distance_of(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits by which kept frames (n, 200) differ, row by row: int (n,)."""
    return np.bitwise_count(one[:, : _BITS // 8] ^ other[:, : _BITS // 8]).sum(
        axis=1, dtype=np.int64
    )


@functools.cache
def _cosines() -> torch.Tensor:
    """The orthonormal cosine transform of 32 values: (32, 32)."""
    order, place = np.arange(_GRID)[:, None], np.arange(_GRID)
    matrix = np.sqrt(2 / _GRID) * np.cos(np.pi * order * (2 * place + 1) / (2 * _GRID))
    matrix[0] /= np.sqrt(2)
    return torch.from_numpy(matrix.astype(np.float32))


@functools.cache
def _lowest() -> list[int]:
    """Places of the 64 lowest frequencies but the mean, by the sum of both directions' orders."""
    order = np.add.outer(np.arange(_GRID), np.arange(_GRID)).ravel()
    return np.argsort(order, kind="stable")[1 : 1 + _BITS].tolist()
