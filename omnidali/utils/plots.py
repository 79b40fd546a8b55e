"""Bars as a picture, and pictures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from omnidali.utils.atomic_write import write_whole
from omnidali.utils.untrusted_text import for_picture


def bar_chart(
    bars: Mapping[str, tuple[float, Sequence[float]]], title: str, full: float = 100
) -> np.ndarray:
    """A bar of the first value with a dot for each of the others; ``full`` is as wide as all: uint8
    (H, W, 3), RGB.
    """
    names = list(map(for_picture, bars))
    height, left, wide = 34, 20 + 9 * max(map(len, names), default=0), 560
    chart = np.full((height * len(bars) + 30, left + wide + 90, 3), 255, np.uint8)

    def write(text: str, x: int, y: int) -> None:
        cv2.putText(
            chart,
            for_picture(text),
            (x, y),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.5,
            (30, 30, 30),
            1,
            cv2.LINE_AA,
        )

    for number, (name, (length, dots)) in enumerate(zip(names, bars.values())):
        top = 10 + number * height
        ends = [left + round(wide * value / full) for value in (length, *dots)]
        cv2.rectangle(chart, (left, top + 5), (ends[0], top + height - 8), (120, 170, 220), -1)
        for end in ends[1:]:
            cv2.circle(chart, (end, top + height // 2 - 1), 4, (200, 70, 40), -1, cv2.LINE_AA)
        write(name, 8, top + 21)
        write(f"{length:.1f}", max(ends) + 10, top + 21)
    cv2.line(chart, (left, 8), (left, len(chart) - 22), (30, 30, 30), 1)
    write(title, left, len(chart) - 6)
    return chart


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write RGB uint8 (H, W, 3) as PNG."""
    write_whole(path, cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
