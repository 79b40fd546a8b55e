"""The classes of a long video over time, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from omnidali.prediction.lines import clock
from omnidali.prediction.prediction import Prediction, Window
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.plots import write_png
from omnidali.utils.untrusted_text import for_image

_CLASSES = 8  # rows of a picture
_LEFT = 220  # pixels, for the names
_WIDTH = 900  # pixels, of the whole video
_ROW = 34  # pixels, with the gap to the next one
_TOP = 40
_BOTTOM = 40
_RIGHT = 64  # for the greatest probability
_TICKS = 6  # times below the picture, at most one more
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds
_INK = (30, 30, 30)
_EMPTY = np.array([238, 242, 247])
_FULL = np.array([24, 78, 140])
_BROKEN = (225, 225, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_timelines(folder: Path, predictions: Sequence[Prediction]) -> dict[int, Path]:
    """Draw a picture for each video with windows.

    Args:
        folder: for the pictures, which are named by place and name of the video.
        predictions: in their order.

    Returns:
        The pictures, by place of the prediction.

    Raises:
        UserError: if the folder cannot be written.
    """
    written = {}
    with writing_to(folder):
        for place, prediction in enumerate(predictions):
            if prediction.windows:
                path = folder / f"{place + 1:04}-{_name_of(prediction.path)}.png"
                write_png(path, draw_timeline(prediction))
                written[place] = path
    return written


def draw_timeline(prediction: Prediction) -> np.ndarray:
    """The most probable classes of a video over time: uint8 (H, W, 3), RGB.

    A row is a class, the darker the more probable it is, with its greatest probability at the end;
    what does not decode is grey.

    Args:
        prediction: with windows.
    """
    windows = prediction.windows
    names = _shown_classes(windows)
    length = max(window.end for window in windows)
    height = _TOP + _ROW * len(names) + _BOTTOM
    picture = np.full((height, _LEFT + _WIDTH + _RIGHT, 3), 255, np.uint8)
    _write(picture, for_image(prediction.path), (8, 22))

    for place, name in enumerate(names):
        top = _TOP + place * _ROW
        _write(picture, for_image(name, 24), (8, top + 20))
        for window in windows:
            _draw_window(picture, window, name, top=top, length=length)
        greatest = max(_share(window, name) for window in windows)
        _write(picture, f"{100 * greatest:.0f} %", (_LEFT + _WIDTH + 8, top + 20))
    _draw_times(picture, length)
    return picture


def _shown_classes(windows: Sequence[Window]) -> list[str]:
    """The classes that are the most probable somewhere, and others up to ``_CLASSES``, by their
    greatest probability.
    """
    greatest: dict[str, float] = {}
    for window in windows:
        for name, value in zip(window.labels[:_CLASSES], window.probabilities, strict=False):
            greatest[name] = max(greatest.get(name, 0.0), float(value))
    return sorted(greatest, key=greatest.__getitem__, reverse=True)[:_CLASSES]


def _draw_window(
    picture: np.ndarray, window: Window, name: str, *, top: int, length: float
) -> None:
    """Fill the part of a class's row that belongs to a window."""
    left, right = (_LEFT + round(_WIDTH * at / length) for at in (window.start, window.end))
    colour = _BROKEN
    if window.is_predicted:
        mixed = np.rint(_EMPTY + _share(window, name) * (_FULL - _EMPTY)).astype(int).tolist()
        colour = (mixed[0], mixed[1], mixed[2])
    # thin windows touch; a gap would hide them
    gap = 1 if right - left > 3 else 0
    cv2.rectangle(
        picture, (left, top + 4), (max(left, right - 1 - gap), top + _ROW - 4), colour, -1
    )


def _share(window: Window, name: str) -> float:
    """The probability of a class in a window; 0 without a prediction."""
    if not window.is_predicted:
        return 0.0
    return float(window.probabilities[window.labels.index(name)])


def _draw_times(picture: np.ndarray, length: float) -> None:
    """Write times below the rows."""
    base = picture.shape[0] - _BOTTOM
    step = next((step for step in _STEPS if length / step <= _TICKS), length / _TICKS)
    for number in range(int(length / step) + 1):
        at = _LEFT + round(_WIDTH * number * step / length)
        cv2.line(picture, (at, base), (at, base + 5), _INK, 1)
        _write(picture, clock(number * step), (at - 12, base + 20))


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, _FONT, 0.45, _INK, 1, cv2.LINE_AA)


def _name_of(path: str) -> str:
    """The name of a video as a part of a file's name."""
    stem = Path(path).stem
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in stem)[:60]
