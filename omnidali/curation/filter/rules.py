"""Which items a teacher's scores let in: pure functions on arrays.

A rule asks about the class that an item was found with, its query. With relabelling, an item that
fails comes in with the best other class, if that class passes the same rules.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from omnidali.catalog.database.label_sets import LabelSets


@dataclass(frozen=True, repr=False)
class TeacherScores:
    """What a teacher says of n items and their query classes.

    Attributes:
        probability: float32 (n,), of the query class, 0 to 1; NaN for items that do not decode.
        rank: int32 (n,), how many classes are more probable than the query.
        other: int32 (n,), the best class besides the query.
        other_probability: float32 (n,).
    """

    probability: np.ndarray
    rank: np.ndarray
    other: np.ndarray
    other_probability: np.ndarray

    @property
    def decoded(self) -> np.ndarray:
        """bool (n,)."""
        return ~np.isnan(self.probability)

    @classmethod
    def joined(cls, chunks: Sequence["TeacherScores"]) -> "TeacherScores":
        """The scores of chunks of items, one after another."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names))

    def take(self, places: np.ndarray) -> "TeacherScores":
        """The scores of the items at ``places``."""
        return TeacherScores(*(getattr(self, field.name)[places] for field in fields(self)))


@dataclass(frozen=True)
class Rules:
    """The rules, all of which an item has to pass.

    By default an item's class must be likelier than all others together. So a teacher of the
    demo world (52 % top-1) keeps 43 % of the rightly labelled images, and 90 % of what it keeps is
    right (67 % of all are); with 0.2 it keeps 51 %, 89 % right, with 0.8 36 %, 92 % right. Teachers
    are surer of some classes than of others: high thresholds empty classes, the quantile does not,
    and for pieces of long videos it was the better rule.

    Attributes:
        names: some of ``threshold``, ``topk`` and ``quantile``.
        threshold: least probability.
        top: how many best classes agree.
        keep: share of a class's decoded items that is kept, the most probable ones.
        relabel: whether the best other class counts.
    """

    names: tuple[str, ...] = ("threshold",)
    threshold: float = 0.5
    top: int = 1
    keep: float = 0.6
    relabel: bool = False

    def __str__(self) -> str:
        texts = {
            "threshold": f"probability of at least {self.threshold:g}",
            "topk": f"among the best {self.top}",
            "quantile": f"the best {100 * self.keep:g} % of its class",
        }
        ending = ", else relabelled" if self.relabel else ""
        return " and ".join(texts[name] for name in self.names) + ending


@dataclass(frozen=True, repr=False)
class RuleOutcome:
    """What becomes of n items.

    Attributes:
        kept: bool (n,).
        labels: int32 (n,), those of the list, or new ones; of items with several the one that they
            are judged by.
        failed: bool (n,) by rule, whether the query fails it.
        label_sets: of items that may have several labels: those of the list, or what is left of
            them, or a new one.
    """

    kept: np.ndarray
    labels: np.ndarray
    failed: dict[str, np.ndarray]
    label_sets: LabelSets | None = None


def scores_of_queries(logs: np.ndarray, labels: np.ndarray) -> TeacherScores:
    """Compare the query classes ``labels`` (n,) with all others.

    Ties count against the query, so that a teacher without an opinion agrees to nothing.

    Args:
        logs: log-probabilities (n, classes); NaN for items that do not decode.
        labels: (n,).

    >>> scores_of_queries(np.log([[0.2, 0.7, 0.1]]), np.array([0])).rank.tolist()
    [1]
    """
    index = np.arange(len(labels))
    own = logs[index, labels]
    rank = (logs >= own[:, None]).sum(axis=1) - 1

    others = np.where(np.isnan(logs), -np.inf, logs)
    others[index, labels] = -np.inf
    best = others.argmax(axis=1) if logs.shape[1] > 1 else labels
    best_probability = np.where(np.isnan(own), np.nan, np.exp(others[index, best]))

    return TeacherScores(
        probability=np.exp(own).astype(np.float32),
        rank=np.maximum(rank, 0).astype(np.int32),
        other=best.astype(np.int32),
        other_probability=best_probability.astype(np.float32),
    )


def cut_offs(
    probabilities: np.ndarray, labels: np.ndarray, keep: float, classes: int
) -> np.ndarray:
    """The least probability of the best share ``keep`` of each class: float32 (classes,).

    It is infinite for an empty class. The share is rounded up, so that every class keeps at least
    one item; items that do not decode do not count.
    """
    least = np.full(classes, np.inf, np.float32)
    for label in np.unique(labels):
        values = np.sort(probabilities[(labels == label) & ~np.isnan(probabilities)])[::-1]
        if len(values):
            least[label] = values[max(1, math.ceil(keep * len(values) - 1e-9)) - 1]
    return least


def apply_rules(
    scores: TeacherScores, labels: np.ndarray, rules: Rules, classes: int
) -> RuleOutcome:
    """Apply ``rules`` to items with query classes ``labels`` (n,).

    Items that do not decode are dropped.
    """
    least = cut_offs(scores.probability, labels, rules.keep, classes)
    passed = _passed(rules, scores.probability, scores.rank, least[labels])
    failed = {name: scores.decoded & ~good for name, good in passed.items()}
    kept = scores.decoded & np.all(list(passed.values()), axis=0)
    new_labels = labels.astype(np.int32)

    if rules.relabel and classes > 1:
        # the best other class is the best of all, unless the query is
        other_rank = (scores.rank == 0).astype(np.int32)
        passed = _passed(rules, scores.other_probability, other_rank, least[scores.other])
        relabelled = scores.decoded & ~kept & np.all(list(passed.values()), axis=0)
        new_labels[relabelled] = scores.other[relabelled]
        kept = kept | relabelled
    return RuleOutcome(kept, new_labels, failed)


def passes_rules(
    rules: Rules, probability: np.ndarray, rank: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """Whether items pass all rules: bool (n,); arguments as of :func:`_passed`."""
    return np.all(list(_passed(rules, probability, rank, least).values()), axis=0)


def _passed(
    rules: Rules, probability: np.ndarray, rank: np.ndarray, least: np.ndarray
) -> dict[str, np.ndarray]:
    """bool (n,) by rule; ``least`` (n,) are the cut-offs of the items' classes."""
    passed = {
        "threshold": probability >= np.float32(rules.threshold),
        "topk": rank < rules.top,
        "quantile": probability >= least,
    }
    return {name: passed[name] for name in rules.names}
