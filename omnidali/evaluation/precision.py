"""Average precision from scores, of classes that items may have several of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.source_table import SourceTable
from omnidali.evaluation.accuracy import Accuracy, measure_accuracy, percent


@dataclass(frozen=True, repr=False)
class LabelPrecision:
    """How well the scores of each class rank the items that have it.

    Attributes:
        items: how many were scored.
        hits: how many of them have the class that scores highest.
        class_items: int64 (classes,), items by label; those with several count several times.
        class_precision: float64 (classes,), average precision, 0..1; NaN without an item.
        mean_of_all: in percent the mean average precision with items without a score ranked last.
        unreadable: items that have no score, as their files do not decode; they count nowhere else.
    """

    items: int
    hits: int
    class_items: np.ndarray
    class_precision: np.ndarray
    mean_of_all: float
    unreadable: int = 0

    @property
    def mean(self) -> float:
        """Mean average precision over the classes that have items, 0..1."""
        return _mean(self.class_precision)

    @property
    def result(self) -> float:
        """Percent, to compare evaluations; see :attr:`mean_of_all`."""
        return self.mean_of_all

    @cached_property
    def summary(self) -> str:
        """The figures in a few words."""
        return (
            f"mAP {100 * self.mean:.2f}, top1 in the labels {percent(self.hits, self.items):.2f}"
            f" ({self.hits}/{self.items})"
        )

    def as_row(self) -> dict[str, float | int]:
        """Percentages and the counts beside them, for JSON."""
        return {
            "mAP": round(100 * self.mean, 3),
            "top1": round(percent(self.hits, self.items), 3),
            "hits": self.hits,
            "labels": int(self.class_items.sum()),
            "classes": int((self.class_items > 0).sum()),
            "items": self.items,
            "unreadable": self.unreadable,
        }


def measure_precision(scores: np.ndarray, labels: LabelSets) -> LabelPrecision:
    """The average precision of each class.

    Args:
        scores: float (N, classes); a row of NaN is an item without a score.
        labels: of the N items.

    >>> measure_precision(np.array([[0.9], [0.8], [0.1]]), LabelSets.of_rows([(0,), (), (0,)])).mean
    0.8333333333333333
    """
    classes = scores.shape[1]
    is_scored = ~np.isnan(scores).all(axis=1)
    scored = labels.take(np.flatnonzero(is_scored))
    values = scores[is_scored]
    hot = scored.multi_hot(classes)
    precision = _by_class(values, hot)

    mean_of_all = _mean(precision)
    if not is_scored.all():
        last = np.where(is_scored[:, None], scores, -np.inf)
        mean_of_all = _mean(_by_class(last, labels.multi_hot(classes)))
    return LabelPrecision(
        items=len(values),
        hits=int(hot[np.arange(len(values)), values.argmax(axis=1)].sum()),
        class_items=np.bincount(scored.values, minlength=classes),
        class_precision=precision,
        mean_of_all=round(100 * mean_of_all, 3),
        unreadable=int((~is_scored).sum()),
    )


def measure_scores(scores: np.ndarray, table: SourceTable) -> Accuracy | LabelPrecision:
    """How good the scores of a table's rows are, by what its rows may have: one label or several.

    Args:
        scores: float (N, classes); a row of NaN is an item without a score.
        table: of the N items.
    """
    if table.label_sets is None:
        return measure_accuracy(scores, table.labels)
    return measure_precision(scores, table.label_sets)


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float:
    """The mean precision at the ranks of the positives, as torchmetrics and scikit-learn have it.

    It is the sum over thresholds of the precision times the gain in recall. Items with equal scores
    pass a threshold together, so that their order does not matter.

    Args:
        scores: float (N,).
        positives: bool (N,).

    Returns:
        0..1; NaN without a positive.
    """
    if not positives.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(positives[order])[ends]
    gains = np.diff(found, prepend=0)
    return float((gains * found / (ends + 1)).sum() / found[-1])


def _by_class(scores: np.ndarray, hot: np.ndarray) -> np.ndarray:
    pairs = zip(scores.T, hot.T > 0, strict=True)
    return np.array([average_precision(column, positives) for column, positives in pairs])


def _mean(precision: np.ndarray) -> float:
    """The mean over the classes that have items."""
    return float(np.nanmean(precision)) if not np.isnan(precision).all() else 0.0
