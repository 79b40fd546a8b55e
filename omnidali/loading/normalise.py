"""Normalising on the CPU: each thread writes the clips that it has decoded into the batch."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import torch

from omnidali.utils.constants import MEAN, STD

_SCALE_AND_SHIFT = np.column_stack([np.diag(1 / np.array(STD)), -np.array(MEAN) / STD]).astype(
    np.float32
)
_SCRATCH = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Uninitialised memory of this thread's own, the same one for the same name and shape."""
    held = getattr(_SCRATCH, name, None)
    if held is None or held.shape != shape:
        held = np.empty(shape, dtype)
        setattr(_SCRATCH, name, held)
    return held


def normalise(pixels: np.ndarray, flips: np.ndarray, out: torch.Tensor) -> None:
    """Normalise and mirror a sample's clips.

    Args:
        pixels: uint8 (V, F, S, S, 3), RGB.
        flips: bool (V,), which views are mirrored left to right.
        out: (V, T, S, S, 3), float32, float16 or bfloat16, written; T is F, or F is 1 and all T
            frames are the same.
    """
    mirrored = scratch("mirrored", pixels.shape[2:], np.uint8)
    floats = scratch("floats", pixels.shape[2:], np.float32)
    # OpenCV writes no half precision
    out_array = out.numpy() if out.dtype == torch.float32 else None

    for view, frames in enumerate(pixels):
        for number, frame in enumerate(frames):
            np.copyto(floats, cv2.flip(frame, 1, dst=mirrored) if flips[view] else frame)
            if out_array is not None:
                cv2.transform(floats, _SCALE_AND_SHIFT, dst=out_array[view, number])
            else:
                cv2.transform(floats, _SCALE_AND_SHIFT, dst=floats)
                out[view, number].copy_(torch.from_numpy(floats))
        if len(frames) < out.shape[1]:
            out[view, 1:] = out[view, :1]
