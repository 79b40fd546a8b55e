"""Plots for people: bar charts, confusion matrices, and their PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from omnidali.utils.atomic_write import write_whole
from omnidali.utils.untrusted_text import for_image

_BAR_HEIGHT = 34  # pixels, with the gap to the next one
_BAR_WIDTH = 560  # of a bar of full length
_INK = (30, 30, 30)
_BAR_COLOUR = (120, 170, 220)
_DOT_COLOUR = (200, 70, 40)


def bar_chart(
    bars: Mapping[str, tuple[float, Sequence[float]]], title: str, full: float = 100
) -> np.ndarray:
    """Draw a bar for each first value, with a dot for each of its other values.

    Args:
        bars: (length of the bar, places of the dots) by name.
        title: written below the bars.
        full: the value of a bar of full length.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    names = [for_image(name) for name in bars]
    left = 20 + 9 * max(map(len, names), default=0)
    shape = (_BAR_HEIGHT * len(bars) + 30, left + _BAR_WIDTH + 90, 3)
    chart = np.full(shape, 255, np.uint8)

    for number, (name, (length, dots)) in enumerate(zip(names, bars.values(), strict=True)):
        top = 10 + number * _BAR_HEIGHT
        ends = [left + round(_BAR_WIDTH * value / full) for value in (length, *dots)]
        cv2.rectangle(chart, (left, top + 5), (ends[0], top + _BAR_HEIGHT - 8), _BAR_COLOUR, -1)
        for end in ends[1:]:
            centre = (end, top + _BAR_HEIGHT // 2 - 1)
            cv2.circle(chart, centre, 4, _DOT_COLOUR, -1, cv2.LINE_AA)
        _write(chart, name, (8, top + 21))
        _write(chart, f"{length:.1f}", (max(ends) + 10, top + 21))

    cv2.line(chart, (left, 8), (left, len(chart) - 22), _INK, 1)
    _write(chart, title, (left, len(chart) - 6))
    return chart


def confusion_image(confusion: np.ndarray) -> np.ndarray:
    """Draw a confusion matrix, whose rows are labels: uint8 (H, W, 3), RGB.

    The brightness of a cell is its share of the row.
    """
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = max(1, min(24, 1200 // len(confusion)))  # pixels
    image = np.kron((255 * share).astype(np.uint8), np.ones((cell, cell), np.uint8))
    return cv2.cvtColor(cv2.applyColorMap(image, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _write(chart: np.ndarray, text: str, place: tuple[int, int]) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(chart, for_image(text), place, font, 0.5, _INK, 1, cv2.LINE_AA)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image, uint8 (H, W, 3), as PNG."""
    write_whole(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
