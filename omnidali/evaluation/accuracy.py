"""Accuracy from scores, counted as integers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """The counts of one evaluation.

    Attributes:
        items: how many were scored.
        top1: how many of them had the label first.
        top5: how many of them had the label among the first five.
        class_correct: int64 (classes,), items with the label first, by label.
        class_items: int64 (classes,), items by label.
        confusion: int64 (classes, classes), rows are labels, columns predictions.
        unreadable: items that have no score, as their files do not decode; they count nowhere else.
    """

    items: int
    top1: int
    top5: int
    class_correct: np.ndarray
    class_items: np.ndarray
    confusion: np.ndarray
    unreadable: int = 0

    @property
    def mean_class(self) -> float:
        """Top-1 accuracy averaged over the classes that have items, 0..1."""
        seen = self.class_items > 0
        if not seen.any():
            return 0.0
        return float((self.class_correct[seen] / self.class_items[seen]).mean())

    @property
    def top1_of_all(self) -> float:
        """Top-1 accuracy in percent with items without a score as wrong, to compare evaluations.

        Else an evaluation that reads a single item, and is right, would stay the best for ever.
        """
        return round(percent(self.top1, self.items + self.unreadable), 3)

    @property
    def result(self) -> float:
        """Percent, to compare evaluations; see :attr:`top1_of_all`."""
        return self.top1_of_all

    @property
    def summary(self) -> str:
        """The figures in a few words."""
        top1 = f"top1 {percent(self.top1, self.items):.2f} ({self.top1}/{self.items})"
        return f"{top1}, mean class {100 * self.mean_class:.2f}"

    def as_row(self) -> dict[str, float | int]:
        """Percentages and the counts that they are computed from, for JSON."""
        return {
            "top1": round(percent(self.top1, self.items), 3),
            "top5": round(percent(self.top5, self.items), 3),
            "mean_class": round(100 * self.mean_class, 3),
            "correct": self.top1,
            "correct_top5": self.top5,
            "items": self.items,
            "unreadable": self.unreadable,
        }


def percent(count: int, items: int) -> float:
    """The share that ``count`` is of ``items``; 0 without an item.

    >>> percent(3, 4)
    75.0
    """
    return 100 * count / items if items else 0.0


def measure_accuracy(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Count the items whose label scores highest, or among the five highest.

    A label's rank is the number of classes that score higher, ties counting against it: a model
    that gives every class the same score is not right about any.

    Args:
        scores: float (N, classes); a row of NaN is an item without a score.
        labels: int (N,).

    >>> measure_accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])).top1
    1
    """
    classes = scores.shape[1]
    is_scored = ~np.isnan(scores).all(axis=1)
    scores = scores[is_scored]
    labels = labels[is_scored]

    own = scores[np.arange(len(labels)), labels][:, None]
    rank = (~(scores < own)).sum(axis=1) - 1  # NaN is not below
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    return Accuracy(
        items=len(labels),
        top1=int((rank < 1).sum()),
        top5=int((rank < 5).sum()),
        class_correct=np.bincount(labels[rank == 0], minlength=classes),
        class_items=np.bincount(labels, minlength=classes),
        confusion=confusion,
        unreadable=int((~is_scored).sum()),
    )
