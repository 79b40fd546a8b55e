"""What a network predicts for a file, as values."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """What a network predicts for a part of a video.

    Attributes:
        start: in seconds after the first frame; of a folder of frames at 25 frames a second.
        end: exclusive; the last window of a video may be shorter or longer than the others.
        labels: names of the classes, the most probable first; empty if the part does not decode, or
            is not there.
        probabilities: float64 (classes,), of ``labels``, in their order.
        numbers: int64 (classes,), the numbers of ``labels``: two classes may have one name.
    """

    start: float
    end: float
    labels: tuple[str, ...] = ()
    probabilities: np.ndarray
    numbers: np.ndarray

    @property
    def is_predicted(self) -> bool:
        """Whether the part decoded."""
        return bool(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """What a network predicts for a file or a folder of frames.

    Attributes:
        path: as it was given, or below the folder or beside the list that was given.
        kind: ``video``, ``image`` or ``frames``; empty if it is none of them.
        labels: names of the classes, the most probable first; empty if there is no prediction.
        probabilities: float64 (classes,), of ``labels``, in their order. They sum to 1, unless the
            network was trained on several labels an item: then each is one of its own.
        numbers: int64 (classes,), the numbers of ``labels``: two classes may have one name.
        windows: parts of a long video in their order.
        error: why there is no prediction; empty if there is one.
    """

    path: str
    kind: str
    labels: tuple[str, ...] = ()
    probabilities: np.ndarray
    numbers: np.ndarray
    windows: tuple[Window, ...] = ()
    error: str = ""

    @property
    def is_predicted(self) -> bool:
        """Whether there is a prediction."""
        return not self.error


NOTHING = np.zeros(0)  # probabilities of what was not predicted


class Ranking(TypedDict):
    """Fields of a prediction or a window: classes, the most probable first."""

    labels: tuple[str, ...]
    probabilities: np.ndarray
    numbers: np.ndarray


NO_CLASSES: Ranking = {"labels": (), "probabilities": NOTHING, "numbers": NOTHING.astype(int)}


def refused(path: str, kind: str, error: str) -> Prediction:
    """The prediction of a file that does not give one."""
    return Prediction(path=path, kind=kind, error=error, **NO_CLASSES)


def ranked(probabilities: np.ndarray, names: tuple[str, ...]) -> Ranking:
    """The classes, the most probable first; equal ones in label order.

    Args:
        probabilities: float64 (classes,), in label order.
        names: of the classes, in label order.

    >>> ranked(np.array([0.2, 0.7, 0.1]), ("run", "swim", "ski"))["labels"]
    ('swim', 'run', 'ski')
    """
    order = np.argsort(-probabilities, kind="stable")
    return {
        "labels": tuple(names[label] for label in order.tolist()),
        "probabilities": probabilities[order],
        "numbers": order,
    }
