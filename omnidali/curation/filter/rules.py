"""Which items a teacher's scores let in: pure functions on arrays.

A rule asks for the class that the item was found with, its query; an item that fails may, with
relabelling, come in with the best other class if that passes the same rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RULES = ("threshold", "topk", "quantile")


@dataclass(frozen=True, repr=False)
class Opinion:
    """What a teacher thinks of n items.

    Attributes:
        probability: float32 (n,), of the query class, 0..1; NaN for items that do not decode.
        rank: int32 (n,), how many classes are more probable. other: int32 (n,), the best class
            besides the query.
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

    @property
    def other_rank(self) -> np.ndarray:
        """int32 (n,), of the best other class: 0, or 1 where the query is best."""
        return (self.rank == 0).astype(np.int32)


@dataclass(frozen=True)
class Rules:
    """The rules that must all hold.

    By default an item's class must be likelier than all others together. A teacher of the demo
    world (52 % top-1) so keeps 43 % of the rightly labelled photos, and 90 % of what it keeps is
    right (67 % of all are); with 0.2 it keeps 51 %, 89 % right, with 0.8 36 %, 92 % right. Teachers
    are surer of some classes than of others: high thresholds empty classes, the quantile does not,
    and for pieces of long videos it was the better rule.

    Attributes:
        names: some of ``RULES``. threshold: least probability. top: how many best classes agree.
            keep: share of a class's decoded items that is kept, the most probable ones. relabel:
            whether the best other class counts.
    """

    names: tuple[str, ...] = ("threshold",)
    threshold: float = 0.5
    top: int = 1
    keep: float = 0.6
    relabel: bool = False

    def __str__(self) -> str:
        told = {
            "threshold": f"probability of at least {self.threshold:g}",
            "topk": f"among the best {self.top}",
            "quantile": f"the best {100 * self.keep:g} % of its class",
        }
        return " and ".join(told[name] for name in self.names) + (
            ", else relabelled" if self.relabel else ""
        )


@dataclass(frozen=True, repr=False)
class Verdict:
    """What becomes of n items.

    Attributes:
        kept: bool (n,). labels: int32 (n,), of the list, or new ones. failed: by rule, bool (n,),
            of the query.
    """

    kept: np.ndarray
    labels: np.ndarray
    failed: dict[str, np.ndarray]


def opinion_of(logs: np.ndarray, labels: np.ndarray) -> Opinion:
    """From log-probabilities (n, classes), NaN for items that do not decode, and query classes
    (n,).

    Ties count against the query, so that a teacher without an opinion agrees to nothing.

    >>> opinion_of(np.log([[0.2, 0.7, 0.1]]), np.array([0])).rank.tolist()
    [1]
    """
    index = np.arange(len(labels))
    own = logs[index, labels]
    rank = (logs >= own[:, None]).sum(axis=1) - 1
    others = np.where(np.isnan(logs), -np.inf, logs)
    others[index, labels] = -np.inf
    best = others.argmax(axis=1) if logs.shape[1] > 1 else labels
    return Opinion(
        np.exp(own).astype(np.float32),
        np.maximum(rank, 0).astype(np.int32),
        best.astype(np.int32),
        np.where(np.isnan(own), np.nan, np.exp(others[index, best])).astype(np.float32),
    )


def cut_offs(
    probabilities: np.ndarray, labels: np.ndarray, keep: float, classes: int
) -> np.ndarray:
    """The least probability float32 (classes,) of the best share ``keep`` of each class; infinite
    for an empty one.

    The share is rounded up, so every class keeps at least one; items that do not decode do not
    count.
    """
    least = np.full(classes, np.inf, np.float32)
    for label in np.unique(labels):
        values = np.sort(probabilities[(labels == label) & ~np.isnan(probabilities)])[::-1]
        if len(values):
            least[label] = values[max(1, math.ceil(keep * len(values) - 1e-9)) - 1]
    return least


def judge(opinion: Opinion, labels: np.ndarray, rules: Rules, classes: int) -> Verdict:
    """Apply ``rules`` to items with query classes ``labels`` (n,); items that do not decode are
    dropped.
    """
    least = (
        cut_offs(opinion.probability, labels, rules.keep, classes)
        if "quantile" in rules.names
        else None
    )

    def passes(name: str, probability: np.ndarray, rank: np.ndarray, of: np.ndarray) -> np.ndarray:
        if name == "threshold":
            return probability >= np.float32(rules.threshold)
        return rank < rules.top if name == "topk" else probability >= least[of]

    failed = {
        name: ~passes(name, opinion.probability, opinion.rank, labels) & opinion.decoded
        for name in rules.names
    }
    kept = opinion.decoded & ~np.any(list(failed.values()), axis=0)
    new = labels.astype(np.int32).copy()
    if rules.relabel and classes > 1:
        other = (
            opinion.decoded
            & ~kept
            & np.all(
                [
                    passes(name, opinion.other_probability, opinion.other_rank, opinion.other)
                    for name in rules.names
                ],
                axis=0,
            )
        )
        new[other] = opinion.other[other]
        kept = kept | other
    return Verdict(kept, new, failed)
