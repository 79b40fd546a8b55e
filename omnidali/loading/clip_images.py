"""Clips as pictures for people: what the model sees."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from omnidali.utils.constants import MEAN, STD
from omnidali.utils.untrusted_text import for_picture

LINE = 14  # height of a line of text, pixels
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
_MARGIN = 2


def clip_grid(
    clips: torch.Tensor,
    captions: Sequence[str],
    marks: Sequence[Sequence[str]] | None = None,
    columns: int = 1,
) -> np.ndarray:
    """Clips as strips of frames under their captions: uint8 (height, width, 3), RGB.

    Args:
        clips: (N, 3, T, H, W), normalised. captions: N texts of the same number of lines.
        marks: a text of T frames each, written above the frame. columns: clips side by side.
    """
    cells = []
    for number, (frames, caption) in enumerate(zip(clip_pixels(clips), captions)):
        strip = np.concatenate(list(frames), axis=1)
        if marks is not None:
            band = np.zeros((LINE, strip.shape[1], 3), np.uint8)
            for place, mark in enumerate(marks[number]):
                _write(band, mark, place * frames.shape[2])
            strip = np.concatenate([band, strip])
        cells.append(captioned(strip, caption))
    return tile(cells, columns)


def clip_pixels(clips: torch.Tensor) -> np.ndarray:
    """Normalised clips (N, 3, T, H, W) as pixels: uint8 (N, T, H, W, 3), RGB."""
    frames = clips.float().cpu().permute(0, 2, 3, 4, 1).numpy()
    return np.clip(frames * np.array(STD) + np.array(MEAN), 0, 255).round().astype(np.uint8)


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """A picture (H, W, 3) under its caption, a line of text each of 14 pixels; as wide as the wider
    of the two.
    """
    lines = caption.splitlines() or [""]
    wide = (
        max(cv2.getTextSize(for_picture(line), _FONT, _SCALE, 1)[0][0] for line in lines)
        + 2 * _MARGIN
    )
    out = np.zeros((LINE * len(lines) + len(picture), max(wide, picture.shape[1]), 3), np.uint8)
    for number, line in enumerate(lines):
        _write(out[number * LINE : (number + 1) * LINE], line, 0)
    out[LINE * len(lines) :, : picture.shape[1]] = picture
    return out


def tile(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures in rows of ``columns``, each in a cell as large as the largest: uint8 (H, W, 3)."""
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    out = np.zeros((rows * height, min(columns, len(cells)) * width, 3), np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * width
        out[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return out


def label_text(label: torch.Tensor, names: tuple[str, ...]) -> str:
    """A class name, or the parts of a blended clip, as a line of a caption."""
    if label.ndim == 0:
        return for_picture(names[int(label)])
    parts = label.nonzero()[:, 0].tolist()
    return " + ".join(f"{float(label[part]):.2f} {for_picture(names[part], 40)}" for part in parts)


def _write(band: np.ndarray, text: str, left: int) -> None:
    cv2.putText(
        band,
        for_picture(text),
        (left + _MARGIN, LINE - 3),
        _FONT,
        _SCALE,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
