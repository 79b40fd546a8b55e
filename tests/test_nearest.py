"""The all-pairs comparison in chunks, against plain products."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidali.curation.dedup.nearest import (
    SimilarPairs,
    best_frame_of_items,
    best_matches,
)


class Dot:
    """Products of whole numbers, which are exact in any order."""

    def prepare(self, kept):
        return torch.from_numpy(np.asarray(kept, np.float32))

    def size(self, prepared):
        return prepared.numel() * 4

    def __call__(self, one, other):
        return one @ other.T


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 2000),
    st.integers(0, 1 << 30),
)
def test_best_matches_in_chunks_equal_the_plain_result(queries, keys, rows, held, seed):
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(-3, 4, (count, 5)).astype(np.float32) for count in (queries, keys))
    best, places = best_matches(one, other, Dot(), rows=rows, key_bytes=held)
    plain = one @ other.T
    # the first of equals
    assert (best == plain.max(axis=1)).all() and (places == plain.argmax(axis=1)).all()
    best, places = best_matches(one, other, Dot(), rows=rows, key_bytes=held, least=8)
    assert (best == plain.max(axis=1)).all() and (places == plain.argmax(axis=1))[best >= 8].all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 500),
    st.integers(1, 3),
    st.integers(0, 1 << 30),
)
def test_similar_pairs_of_chunks_and_ranks_equal_the_plain_ones(
    items, frames, rows, held, world, seed
):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (items * frames, 4)).astype(np.float32)
    of, groups, dropped = (
        np.repeat(np.arange(items), frames),
        rng.integers(0, items, items),
        rng.random(items) < 0.1,
    )
    whole, plain, similarity = SimilarPairs(), {}, values @ values.T
    for rank in range(world):
        mine = SimilarPairs()
        mine.add_above(
            values,
            items=of,
            groups=groups,
            similarity=Dot(),
            least=9,
            dropped=dropped,
            rank=rank,
            world=world,
            rows=rows,
            key_bytes=held,
        )
        whole.add(mine.found)
    for i, j in zip(*np.nonzero(similarity >= 9), strict=True):
        pair = of[i], of[j]
        if (
            pair[0] < pair[1]
            and groups[pair[0]] != groups[pair[1]]
            and not dropped[list(pair)].any()
        ):
            # the first of equals
            plain[pair] = min(plain.get(pair, (0, 0, 0)), (-similarity[i, j], i, j))
    assert [tuple(pair) for pair in whole.found.tolist()] == [
        (*pair, i, j, -least) for pair, (least, i, j) in sorted(plain.items())
    ]
    both, starts = whole.from_both_sides(items)
    for item in range(items):
        assert both["other_item"][starts[item] : starts[item + 1]].tolist() == sorted(
            {
                *(one for one, other in plain if other == item),
                *(other for one, other in plain if one == item),
            }
        )


def test_best_frame_of_items_takes_the_first_of_equals():
    starts = np.array([0, 2, 3, 6])
    assert best_frame_of_items(np.array([1.0, 3, -np.inf, 2, 5, 5]), starts).tolist() == [1, 2, 4]
