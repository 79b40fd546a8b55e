"""Which of several similar items is dropped."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from omnidali.curation.dedup.dedup_report import SourceDuplicates
from omnidali.curation.dedup.frame_cache import ComparedItems
from omnidali.curation.dedup.nearest import (
    PAIR_DTYPE,
    SimilarPairs,
)


def test_add_within_keeps_a_piece_that_shows_its_class():
    sides, zeros = np.array([60, 40, 50]), np.zeros(3, np.int64)
    items = ComparedItems(
        SimpleNamespace(widths=sides, heights=sides),
        zeros,
        zeros + 1,
        zeros,
        zeros,
        shown=np.array([False, True, True]),
    )
    found = SourceDuplicates("long", items, None)
    found.add_within(
        [], {"hash": similar_pairs((0, 1, 0, 1, 1.0), (0, 2, 0, 2, 1.0), (1, 2, 1, 2, 1.0))}
    )
    assert found.kept.tolist() == [2, 2, -1]


def similar_pairs(*pairs):
    found = SimilarPairs()
    found.add(np.array(list(pairs), PAIR_DTYPE))
    return found


def test_add_within_drops_nothing_for_an_item_that_is_not_similar():
    """In a chain of items, each similar to the next one, every other item is dropped.

    The pair of frames that was found is noted.
    """
    sides, starts = np.full(5, 50), np.arange(5) * 2  # two frames each
    items = ComparedItems(
        SimpleNamespace(widths=sides, heights=sides),
        np.array([0, 1, 2, 3, 1]),
        starts * 0 + 2,
        starts,
        starts,
        shown=np.ones(5, bool),
    )
    found = SourceDuplicates("images", items, None)
    # 1 and 4 are similar to 2, not to each other
    found.add_within(
        [np.array([0, 3])],
        {
            "hash": similar_pairs(
                (0, 1, 0, 3, 0.8), (0, 1, 1, 2, 0.9), (1, 2, 3, 4, 0.7), (2, 4, 5, 8, 0.6)
            )
        },
    )
    assert found.kept.tolist() == [-1, 0, -1, 0, 2]
    assert found.kinds.tolist() == ["", "hash", "", "bytes", "hash"]
    assert found.mine[[1, 3, 4]].tolist() == [2, 6, 8] and found.of[[1, 3, 4]].tolist() == [
        1,
        0,
        5,
    ]
    assert found.similarity[[1, 3, 4]].round(6).tolist() == pytest.approx([0.9, 1.0, 0.6])
