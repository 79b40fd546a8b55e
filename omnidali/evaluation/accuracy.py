"""Accuracy from scores, counted as integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """What came out of one evaluation.

    Attributes:
        items: how many were scored. top1, top5: how many of them had the label first, or among the
            first five. class_correct, class_items: int64 (classes,), for top-1.
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
        return float((self.class_correct[seen] / self.class_items[seen]).mean())

    @property
    def top1_of_all(self) -> float:
        """Top-1 accuracy in percent where items without a score count as wrong: to compare
        evaluations by.

        Else one that could read a single item, and was right, would stay the best for ever.
        """
        return round(100 * self.top1 / (self.items + self.unreadable), 3)

    def as_row(self) -> dict[str, float | int]:
        """Percentages and the counts behind them, for JSON."""
        return {
            "top1": round(100 * self.top1 / self.items, 3),
            "top5": round(100 * self.top5 / self.items, 3),
            "mean_class": round(100 * self.mean_class, 3),
            "correct": self.top1,
            "correct_top5": self.top5,
            "items": self.items,
            "unreadable": self.unreadable,
        }


def measure(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Accuracy of scores (N, classes) against int labels (N,); a row of NaN is an item without a
    score.

    A label's rank is the number of classes that score higher, ties counting against it: a model
    that gives every class the same score is not right about any.

    >>> measure(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])).top1
    1
    """
    classes, everything = scores.shape[1], len(labels)
    scored = ~np.isnan(scores).all(axis=1)
    scores, labels = scores[scored], labels[scored]
    own = scores[np.arange(len(labels)), labels][:, None]
    rank = (~(scores < own)).sum(axis=1) - 1  # a score that is no number is not below
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    correct = np.bincount(labels[rank == 0], minlength=classes)
    return Accuracy(
        len(labels),
        int((rank < 1).sum()),
        int((rank < 5).sum()),
        correct,
        np.bincount(labels, minlength=classes),
        confusion,
        everything - len(labels),
    )
