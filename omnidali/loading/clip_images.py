"""Clips as plots for people: what the model sees."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from omnidali.utils.constants import MEAN, STD
from omnidali.utils.untrusted_text import for_image

LINE = 14  # height of a line of text, pixels
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE = 0.4
_MARGIN = 2


def clip_grid(
    clips: torch.Tensor,
    captions: Sequence[str],
    marks: Sequence[Sequence[str]] | None = None,
    columns: int = 1,
) -> np.ndarray:
    """Clips as strips of frames under their captions: uint8 (height, width, 3), RGB.

    Args:
        clips: (N, 3, T, H, W), normalised.
        captions: N texts of the same number of lines.
        marks: for each clip T texts, written above the frames.
        columns: clips side by side.
    """
    cells = []
    for number, (frames, caption) in enumerate(zip(clip_pixels(clips), captions, strict=True)):
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


def captioned(image: np.ndarray, caption: str) -> np.ndarray:
    """An image (H, W, 3) under its caption, ``LINE`` pixels a line; as wide as the wider one."""
    lines = caption.splitlines() or [""]
    widths = [cv2.getTextSize(for_image(line), _FONT, _SCALE, 1)[0][0] for line in lines]
    width = max(max(widths) + 2 * _MARGIN, image.shape[1])

    out = np.zeros((LINE * len(lines) + len(image), width, 3), np.uint8)
    for number, line in enumerate(lines):
        _write(out[number * LINE : (number + 1) * LINE], line, 0)
    out[LINE * len(lines) :, : image.shape[1]] = image
    return out


def tile(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images in rows of ``columns``, each in a cell as large as the largest: uint8 (H, W, 3)."""
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    out = np.zeros((rows * height, min(columns, len(cells)) * width, 3), np.uint8)
    for number, cell in enumerate(cells):
        top = number // columns * height
        left = number % columns * width
        out[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return out


def label_text(label: torch.Tensor, names: tuple[str, ...]) -> str:
    """A class name, all of a clip, or the parts of a blended clip, as a line of a caption."""
    if label.ndim == 0:
        return for_image(names[int(label)])
    parts = label.nonzero()[:, 0].tolist()
    if all(float(label[part]) == 1 for part in parts):
        return " + ".join(for_image(names[part], 40) for part in parts)
    return " + ".join(f"{float(label[part]):.2f} {for_image(names[part], 40)}" for part in parts)


def _write(band: np.ndarray, text: str, left: int) -> None:
    cv2.putText(
        band,
        for_image(text),
        (left + _MARGIN, LINE - 3),
        _FONT,
        _SCALE,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
