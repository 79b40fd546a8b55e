"""Average precision of several labels an item."""

import numpy as np
import pytest
import torch

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.evaluation.accuracy import measure_accuracy
from omnidali.evaluation.precision import average_precision, measure_precision


def random_sets(rng, items, classes, share=0.2):
    hot = rng.random((items, classes)) < share
    return LabelSets.of_rows([tuple(np.flatnonzero(row)) for row in hot]), hot


@pytest.mark.parametrize("ties", [0, 1, 2])
def test_precision_equals_torchmetrics(ties):
    metrics = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(ties)
    sets, hot = random_sets(rng, items=300, classes=7)
    scores = rng.random((300, 7))
    if ties:
        scores = scores.round(ties)
    found = measure_precision(scores, sets)
    values, targets = torch.from_numpy(scores), torch.from_numpy(hot.astype(np.int64))
    by_class = metrics.MultilabelAveragePrecision(7, average=None)(values, targets).numpy()
    assert found.class_precision == pytest.approx(by_class, abs=1e-6)
    mean = metrics.MultilabelAveragePrecision(7, average="macro")(values, targets)
    assert found.mean == pytest.approx(float(mean), abs=1e-6)
    assert found.as_row()["mAP"] == round(100 * found.mean, 3)


def test_class_without_an_item_does_not_count():
    scores = np.array([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]])
    found = measure_precision(scores, LabelSets.of_rows([(0,), (0, 1)]))
    assert found.class_items.tolist() == [2, 1, 0]
    assert found.mean == 1.0 and np.isnan(found.class_precision[2])
    assert found.as_row()["classes"] == 2 and found.hits == 2


def test_order_of_items_with_equal_scores_does_not_matter():
    positives = np.array([True, False, False, True])
    scores = np.array([0.5, 0.5, 0.9, 0.1])
    orders = [np.array(order) for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2])]
    found = {average_precision(scores[order], positives[order]) for order in orders}
    assert found == {(1 / 3 + 2 / 4) / 2}


def test_items_without_a_score_are_ranked_last_where_evaluations_are_compared():
    scores = np.array([[0.9], [0.8], [np.nan], [0.1]])
    sets = LabelSets.of_rows([(0,), (), (0,), ()])
    found = measure_precision(scores, sets)
    assert (found.items, found.unreadable, found.mean) == (3, 1, 1.0)
    assert found.result == pytest.approx(75.0)
    assert found.as_row()["items"] == 3 and found.as_row()["labels"] == 1


def test_figures_without_a_scored_item_are_zero():
    scores = np.full((2, 3), np.nan)
    precision = measure_precision(scores, LabelSets.of_rows([(0,), (1, 2)]))
    accuracy = measure_accuracy(scores, np.array([0, 1]))
    assert precision.as_row()["mAP"] == accuracy.as_row()["mean_class"] == 0.0
    for found in (precision, accuracy):
        assert (found.items, found.unreadable, found.as_row()["top1"]) == (0, 2, 0.0)
        assert "(0/0)" in found.summary
