"""Similarity of very many frames with very many others, block by block.

Memory: at most ``KEY_BYTES`` bytes of prepared keys (or one chunk), one chunk of queries and one
block of ``ROWS`` x ``ROWS`` similarities (64 MiB), whatever the number of frames; and 12 bytes of
results for each query.

Cost of 3 million images against 100 thousand frames: 3e11 pairs. Features of 2048 numbers take
1.23e15 floating-point operations, those of 256 numbers 1.5e14. 12.3 GB (float16) of queries are
read once for each 512 MiB of keys (twice at 2048 numbers in float32, once at 256). On 8 GPUs with
50 Tflop/s each in float32 the products take 3 s and 0.4 s, so that reading dominates; on two busy
cores, measured at 0.055 Tflop/s, 6.2 h and 47 min. Hashes: 3e11 comparisons of 8 bytes, measured at
9 ns each on one core: 45 min on one, 6 min on 8 ranks. ``python -m benchmarks dedup`` measures
both.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
import torch

ROWS = 4096  # frames in one chunk
KEY_BYTES = 512 << 20  # of prepared keys that are held at a time
# Two items, the place of a frame of each in the source, and the frames' similarity.
PAIR_DTYPE = np.dtype(
    [
        ("item", np.int64),
        ("other_item", np.int64),
        ("frame", np.int64),
        ("other_frame", np.int64),
        ("similarity", np.float32),
    ]
)
_UNSORTED_PAIRS = 1 << 20  # that are held before they are sorted in

Prepared = TypeVar("Prepared")


class Similarity(Protocol[Prepared]):
    """How frames are compared; a higher value is more similar."""

    def prepare(self, rows: np.ndarray) -> Prepared:
        """Make rows of a frame cache, (n, width), ready to be compared."""

    def size(self, prepared: Prepared) -> int:
        """Bytes of prepared rows."""

    def __call__(self, one: Prepared, other: Prepared) -> torch.Tensor:
        """Similarity of every pair, float32 (m, k); the next call may overwrite it."""


def similarity_blocks(
    queries: np.ndarray,
    keys: np.ndarray,
    similarity: Similarity[Prepared],
    *,
    symmetric: bool = False,
    rank: int = 0,
    world: int = 1,
    rows: int = ROWS,
    key_bytes: int = KEY_BYTES,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (first query, first key, similarities (m, k)) until every pair was compared.

    Args:
        queries: rows of a frame cache, (n, width); a memory map is read as it is needed.
        keys: likewise.
        similarity: compares them.
        symmetric: queries and keys are the same; blocks below the diagonal are left out.
        rank: which share of the query chunks to take.
        world: number of shares.
        rows: frames of one chunk.
        key_bytes: bytes of prepared keys that are held at a time; at least one chunk is.
    """
    held: list[tuple[int, Prepared]] = []
    for key in range(0, len(keys), rows):
        held.append((key, similarity.prepare(keys[key : key + rows])))
        is_last = key + rows >= len(keys)
        if not is_last and sum(similarity.size(part) for _, part in held) < key_bytes:
            continue

        for query in range(rank * rows, len(queries), world * rows):
            wanted = [
                (first, part) for first, part in held if not symmetric or first + rows > query
            ]
            if wanted:
                prepared = similarity.prepare(queries[query : query + rows])
                for first, part in wanted:
                    yield query, first, similarity(prepared, part)
        held = []


def best_matches(
    queries: np.ndarray,
    keys: np.ndarray,
    similarity: Similarity[Prepared],
    *,
    least: float = -np.inf,
    rows: int = ROWS,
    key_bytes: int = KEY_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar key of every query, the first one of equals.

    Args:
        queries: rows of a frame cache, (n, width).
        keys: likewise.
        similarity: compares them.
        least: similarity from which on places are found, which costs a third of the products.
        rows: as in :func:`similarity_blocks`.
        key_bytes: likewise.

    Returns:
        The similarities, float32 (n,), -inf where there is no key, and the places of the keys,
        int64 (n,).
    """
    best = np.full(len(queries), -np.inf, np.float32)
    places = np.zeros(len(queries), np.int64)
    for query, key, block in similarity_blocks(
        queries, keys, similarity, rows=rows, key_bytes=key_bytes
    ):
        values = block.amax(dim=1).cpu().numpy()
        known = best[query : query + len(values)]
        better = np.flatnonzero((values > known) & (values >= least))
        np.maximum(known, values, out=known)
        if len(better):
            found = block[torch.from_numpy(better).to(block.device)].argmax(dim=1)
            places[query + better] = key + found.cpu().numpy()
    return best, places


def best_frame_of_items(best: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Find the frame with the highest value of every item, the first one of equals.

    Args:
        best: float (F,), a value for each frame.
        starts: int64 (n + 1,); item i has the frames starts[i] to starts[i + 1], at least one.

    Returns:
        int64 (n,), places of the frames.
    """
    items = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.lexsort((-best, items))[starts[:-1]]


class SimilarPairs:
    """Pairs of similar items, each with its two most similar frames.

    Memory: 36 bytes for a pair of items, about 120 while more are added, and about 230 in
    :meth:`from_both_sides`.
    """

    def __init__(self) -> None:
        self._sorted = np.zeros(0, PAIR_DTYPE)
        self._unsorted: list[np.ndarray] = []
        self._unsorted_count = 0

    @property
    def found(self) -> np.ndarray:
        """:data:`PAIR_DTYPE` (n,), every pair once, ``item`` below ``other_item``, ascending."""
        self._sort_in()
        return self._sorted

    def add(self, pairs: np.ndarray) -> None:
        """Add pairs, :data:`PAIR_DTYPE` (n,)."""
        self._unsorted.append(pairs)
        self._unsorted_count += len(pairs)
        if self._unsorted_count > max(_UNSORTED_PAIRS, len(self._sorted)):
            self._sort_in()

    def _sort_in(self) -> None:
        if not self._unsorted:
            return

        pairs = np.concatenate([self._sorted, *self._unsorted])
        order = (
            pairs["other_frame"],
            pairs["frame"],
            -pairs["similarity"],
            pairs["other_item"],
            pairs["item"],
        )
        pairs = pairs[np.lexsort(order)]
        is_first = np.ones(len(pairs), bool)
        is_first[1:] = (np.diff(pairs["item"]) != 0) | (np.diff(pairs["other_item"]) != 0)
        self._sorted = pairs[is_first]
        self._unsorted = []
        self._unsorted_count = 0

    def add_above(
        self,
        values: np.ndarray,
        *,
        items: np.ndarray,
        groups: np.ndarray,
        similarity: Similarity[Prepared],
        least: float,
        dropped: np.ndarray,
        rank: int = 0,
        world: int = 1,
        rows: int = ROWS,
        key_bytes: int = KEY_BYTES,
    ) -> None:
        """Add the items of all pairs of frames with a similarity of at least ``least``.

        Args:
            values: rows of a frame cache, (F, width).
            items: int64 (F,), the item of each frame.
            groups: int64 (n,); items of one group are never a pair.
            similarity: compares the rows.
            least: similarity of a pair.
            dropped: bool (n,), items to leave alone.
            rank: as in :func:`similarity_blocks`.
            world: likewise.
            rows: likewise.
            key_bytes: likewise.
        """
        for query, key, block in similarity_blocks(
            values,
            values,
            similarity,
            symmetric=True,
            rank=rank,
            world=world,
            rows=rows,
            key_bytes=key_bytes,
        ):
            above = (block >= least).cpu()

            for row in torch.nonzero(above.any(dim=1))[:, 0].tolist():
                item = int(items[query + row])
                if dropped[item]:
                    continue
                columns = np.flatnonzero(above[row].numpy())
                others = items[key + columns]
                is_pair = (groups[others] != groups[item]) & ~dropped[others]
                if is_pair.any():
                    columns = columns[is_pair]
                    self.add(
                        _ordered_pairs(
                            item,
                            others[is_pair],
                            query + row,
                            key + columns,
                            block[row, columns].cpu().numpy(),
                        )
                    )

    def from_both_sides(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Every pair once for each of its items.

        Args:
            count: number of items.

        Returns:
            The pairs, :data:`PAIR_DTYPE` (2 n,), and starts, int64 (count + 1,): those with item i
            as ``item`` are starts[i] to starts[i + 1] (exclusive).
        """
        found = self.found
        turned = found.copy()
        turned["item"] = found["other_item"]
        turned["other_item"] = found["item"]
        turned["frame"] = found["other_frame"]
        turned["other_frame"] = found["frame"]
        both = np.concatenate([found, turned])
        both = both[np.lexsort((both["other_item"], both["item"]))]
        return both, np.searchsorted(both["item"], np.arange(count + 1))


def _ordered_pairs(
    item: int, others: np.ndarray, frame: int, other_frames: np.ndarray, similarities: np.ndarray
) -> np.ndarray:
    """Pairs of an item with others, the lower item first: :data:`PAIR_DTYPE` (n,)."""
    pairs = np.empty(len(others), PAIR_DTYPE)
    is_first = item < others
    pairs["item"] = np.minimum(item, others)
    pairs["other_item"] = np.maximum(item, others)
    pairs["frame"] = np.where(is_first, frame, other_frames)
    pairs["other_frame"] = np.where(is_first, other_frames, frame)
    pairs["similarity"] = similarities
    return pairs
