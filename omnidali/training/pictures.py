"""Pictures for people: what the model sees, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from pipelines.feeds import MEAN, STD

_TEXT = 14  # height of a line of text, pixels


def clip_grid(clips: torch.Tensor, labels: Sequence[str]) -> np.ndarray:
    """Clips (N, 3, T, H, W) as rows of frames with their labels: uint8 (height, width, 3), RGB."""
    frames = clips.float().cpu().permute(0, 2, 3, 4, 1).numpy()
    frames = np.clip(frames * np.array(STD) + np.array(MEAN), 0, 255).round().astype(np.uint8)
    rows = []
    for clip, label in zip(frames, labels):
        strip = np.concatenate(list(clip), axis=1)
        title = np.zeros((_TEXT, strip.shape[1], 3), np.uint8)
        cv2.putText(title, label, (2, _TEXT - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        rows += [title, strip]
    return np.concatenate(rows)


def confusion_picture(confusion: np.ndarray, cell: int = 24) -> np.ndarray:
    """A confusion matrix (rows are labels) as uint8 (H, W, 3); brightness is the share of the row."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = max(1, min(cell, 1200 // len(confusion)))
    picture = np.kron((255 * share).astype(np.uint8), np.ones((cell, cell), np.uint8))
    return cv2.cvtColor(cv2.applyColorMap(picture, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
