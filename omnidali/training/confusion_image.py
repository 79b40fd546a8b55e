"""Pictures for people: where the model errs."""

from __future__ import annotations

import cv2
import numpy as np


def confusion_picture(confusion: np.ndarray, cell: int = 24) -> np.ndarray:
    """A confusion matrix (rows are labels) as uint8 (H, W, 3); brightness is the share of the row."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = max(1, min(cell, 1200 // len(confusion)))
    picture = np.kron((255 * share).astype(np.uint8), np.ones((cell, cell), np.uint8))
    return cv2.cvtColor(cv2.applyColorMap(picture, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
