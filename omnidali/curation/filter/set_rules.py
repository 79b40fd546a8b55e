"""Rules for items with several labels: each label is a query, and the least probable one counts.

An item comes in if all of its labels pass the rules. With relabelling, the labels that fail are
taken away from an item; one that has none left gets the best class that it did not have, if that
passes.
"""

from dataclasses import replace

import numpy as np

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.curation.filter.rules import (
    RuleOutcome,
    Rules,
    TeacherScores,
    apply_rules,
    cut_offs,
    passes_rules,
)


def scores_of_sets(logs: np.ndarray, labels: LabelSets) -> TeacherScores:
    """Compare each label of n items with the classes that its item does not have.

    Ties count against the label.

    Args:
        logs: log-probabilities (n, classes); NaN for items that do not decode.
        labels: of the n items, L in all.

    Returns:
        The scores of L queries.

    >>> scores_of_sets(np.log([[0.2, 0.7, 0.3]]), LabelSets.of_rows([(0, 1)])).rank.tolist()
    [1, 0]
    """
    rows = labels.rows
    own = logs[rows, labels.values]
    others = np.where(np.isnan(logs), -np.inf, logs)
    others[rows, labels.values] = -np.inf
    rank = (others[rows] >= own[:, None]).sum(axis=1)

    best = others.argmax(axis=1)
    best_probability = np.exp(others[np.arange(len(logs)), best])[rows]
    return TeacherScores(
        probability=np.exp(own).astype(np.float32),
        rank=rank.astype(np.int32),
        other=best[rows].astype(np.int32),
        other_probability=np.where(np.isnan(own), np.nan, best_probability).astype(np.float32),
    )


def likeliest_queries(logs: np.ndarray, labels: LabelSets) -> tuple[TeacherScores, np.ndarray]:
    """The scores of the most probable label of each item, and that label: int32 (n,).

    Args:
        logs: as for :func:`scores_of_sets`.
        labels: of the n items.
    """
    scores = scores_of_sets(logs, labels)
    order = np.lexsort((-np.nan_to_num(scores.probability, nan=-1), labels.rows))
    places = order[labels.starts[:-1]]
    return scores.take(places), labels.values[places]


def least_probable(scores: TeacherScores, labels: LabelSets) -> np.ndarray:
    """The query of each item that is least probable: int64 (n,), places among all queries."""
    return np.lexsort((scores.probability, labels.rows))[labels.starts[:-1]]


def apply_set_rules(
    scores: TeacherScores, labels: LabelSets, rules: Rules, classes: int
) -> tuple[TeacherScores, RuleOutcome]:
    """Apply ``rules`` to items with several labels.

    Args:
        scores: of all queries, as :func:`scores_of_sets` has them.
        labels: of the n items; each has one or more.
        rules: to apply.
        classes: number of classes.

    Returns:
        The scores of the n items, which are those of their least probable labels; and what becomes
            of the items.
    """
    begins = labels.starts[:-1]
    queries = apply_rules(scores, labels.values, replace(rules, relabel=False), classes)
    weakest = least_probable(scores, labels)
    items = scores.take(weakest)
    kept = np.logical_and.reduceat(queries.kept, begins)
    failed = {name: np.logical_or.reduceat(rows, begins) for name, rows in queries.failed.items()}

    sets = labels
    if rules.relabel:
        keeps = queries.kept | kept[labels.rows]
        is_empty = ~np.logical_or.reduceat(keeps, begins)
        least = cut_offs(scores.probability, labels.values, rules.keep, classes)
        is_free = np.isfinite(items.other_probability) & (items.other_probability > 0)
        gains = is_empty & is_free & items.decoded
        gains &= passes_rules(
            rules, items.other_probability, np.zeros_like(items.rank), least[items.other]
        )
        sets = _changed(labels, keeps, gains, others=items.other)
        kept = kept | (items.decoded & (~is_empty | gains))
    return items, RuleOutcome(kept, labels.values[weakest], failed, label_sets=sets)


def changed_rows(old: LabelSets, new: LabelSets) -> np.ndarray:
    """Which rows have other labels: bool (n,)."""
    changed = old.sizes != new.sizes
    same = np.flatnonzero(~changed)
    one, other = old.take(same), new.take(same)
    if len(same):
        differs = one.values != other.values
        changed[same] = np.logical_or.reduceat(differs, one.starts[:-1])
    return changed


def _changed(
    labels: LabelSets, keeps: np.ndarray, gains: np.ndarray, others: np.ndarray
) -> LabelSets:
    """The labels that stay; of items without one the new class, or the old labels for a report."""
    stays = np.logical_or.reduceat(keeps, labels.starts[:-1])
    first = np.zeros(len(labels.values), bool)
    first[labels.starts[:-1]] = True
    chosen = np.where(stays[labels.rows], keeps, ~gains[labels.rows] | first)
    values = np.where(gains[labels.rows], others[labels.rows], labels.values)
    return LabelSets.of(np.add.reduceat(chosen, labels.starts[:-1]), values[chosen])
