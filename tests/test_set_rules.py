"""Rules of the filter over items with several labels."""

import numpy as np
import pytest

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.curation.filter.rules import Rules
from omnidali.curation.filter.set_rules import (
    apply_set_rules,
    changed_rows,
    likeliest_queries,
    scores_of_sets,
)

PROBABILITIES = np.array(
    [
        [0.9, 0.8, 0.1],  # both labels are right
        [0.9, 0.3, 0.1],  # one of them is
        [0.1, 0.2, 0.9],  # none is, and another class
        [0.1, 0.2, 0.3],  # none is
        [np.nan] * 3,
    ]
)
SETS = LabelSets.of_rows([(0, 1)] * 5)


def judge(rules):
    scores = scores_of_sets(np.log(PROBABILITIES), SETS)
    return apply_set_rules(scores, SETS, rules, classes=3)


@pytest.mark.parametrize(
    "rules, kept",
    [
        (Rules(("threshold",), threshold=0.5), [1, 0, 0, 0, 0]),
        (Rules(("threshold",), threshold=0.25), [1, 1, 0, 0, 0]),
        (Rules(("topk",), top=1), [1, 1, 0, 0, 0]),  # before all classes that it does not have
        (Rules(("quantile",), keep=0.5), [1, 1, 0, 0, 0]),
        (Rules(("quantile", "threshold"), keep=1, threshold=0.15), [1, 1, 0, 0, 0]),
    ],
)
def test_item_is_judged_by_its_least_probable_label(rules, kept):
    items, outcome = judge(rules)
    assert outcome.kept.tolist() == list(map(bool, kept))
    assert items.probability[:3] == pytest.approx([0.8, 0.3, 0.1])
    assert outcome.labels[:4].tolist() == [1, 1, 0, 0]
    assert [outcome.label_sets.at(row) for row in range(5)] == [(0, 1)] * 5


def test_relabelling_takes_wrong_labels_away_and_gives_the_best_class_to_an_item_without_one():
    _, outcome = judge(Rules(("threshold",), threshold=0.5, relabel=True))
    assert outcome.kept.tolist() == [True, True, True, False, False]
    sets = [outcome.label_sets.at(row) for row in range(5)]
    assert sets[:3] == [(0, 1), (0,), (2,)]
    assert changed_rows(SETS, outcome.label_sets)[:3].tolist() == [False, True, True]


def test_item_that_has_all_classes_gains_none():
    sets = LabelSets.of_rows([(0, 1, 2)])
    scores = scores_of_sets(np.log(PROBABILITIES[3:4]), sets)
    _, outcome = apply_set_rules(scores, sets, Rules(("threshold",), 0.5, relabel=True), 3)
    assert not outcome.kept[0]


def test_teacher_is_right_if_its_class_is_one_of_the_labels():
    scores, labels = likeliest_queries(np.log(PROBABILITIES), SETS)
    assert labels[:4].tolist() == [0, 0, 1, 1]
    assert (scores.rank[:4] == 0).tolist() == [True, True, False, False]
