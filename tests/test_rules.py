"""The rules of a filter, compared with plain lines."""

import numpy as np
import pytest

from omnidali.curation.filter.rules import Rules, apply_rules, cut_offs, scores_of_queries


@pytest.mark.parametrize("seed", range(5))
def test_rules_equal_plain_lines(seed):
    rng = np.random.default_rng(seed)
    count, classes = 60, 5
    probabilities = rng.dirichlet(np.full(classes, 0.4), count).astype(np.float32)
    labels = rng.integers(0, classes - 1, count)  # the last class has no item
    logs = np.log(probabilities)
    logs[::11] = np.nan
    rules = Rules(("threshold", "topk", "quantile"), 0.1, 2, 0.5, relabel=True)
    least = cut_offs(np.exp(logs[np.arange(count), labels]), labels, 0.5, classes)

    def passes(row, label):
        values = probabilities[row].tolist()
        mine = sorted(
            (probabilities[i, labels[i]] for i in range(count) if labels[i] == label and i % 11),
            reverse=True,
        )
        best = mine[: -(-len(mine) // 2)]
        return (
            values[label] >= 0.1
            and sorted(values, reverse=True).index(values[label]) < 2
            and bool(best)
            and values[label] >= best[-1] * (1 - 1e-6)
        )

    verdict = apply_rules(scores_of_queries(logs, labels), labels, rules, classes)
    assert np.isinf(least[4])
    for row in range(count):
        other = max(
            (value, label) for label, value in enumerate(probabilities[row]) if label != labels[row]
        )[1]
        kept = row % 11 != 0 and passes(row, labels[row])
        moved = row % 11 != 0 and not kept and passes(row, other)
        assert verdict.kept[row] == (kept or moved)
        assert verdict.labels[row] == (other if moved else labels[row])
    alone = apply_rules(scores_of_queries(logs, labels), labels, Rules(("topk",), top=1), classes)
    assert np.array_equal(
        alone.kept, (probabilities.argmax(1) == labels) & (np.arange(count) % 11 != 0)
    )
    assert verdict.kept.any() and (verdict.labels != labels).any() and not alone.kept.all()


def test_ties_count_against_the_query():
    opinion = scores_of_queries(np.log(np.full((3, 4), 0.25)), np.array([0, 1, 3]))
    assert opinion.rank.tolist() == [3, 3, 3]
    assert not apply_rules(opinion, np.array([0, 1, 3]), Rules(("topk",), top=3), 4).kept.any()
