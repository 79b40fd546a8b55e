"""Likeness of very many frames with very many others, a block at a time, in memory that grows with
what is found.

A measure says how frames are compared: ``prepare`` makes kept rows ready, ``size`` tells their
bytes, and a call gives the likeness of every pair of two prepared chunks, float32 (m, k).

Memory: at most ``KEYS`` bytes of prepared keys (or one chunk), one chunk of queries and one block
of ``ROWS`` x ``ROWS`` likenesses (64 MiB), whatever the number of frames; and 12 bytes a query of
results.

Cost of 3 million photos against 100 thousand frames: 3e11 pairs. With features of 2048 numbers
1.23e15 floating-point operations, of 256 numbers 1.5e14; read are 12.3 GB (float16) of queries once
for each 512 MiB of keys (twice at 2048 numbers in float32, once at 256). On 8 GPUs that hold 50
Tflop/s each in float32 that is 3 s and 0.4 s of products, so reading the features is what it costs;
on two busy cores that were measured at 0.055 Tflop/s 6.2 h and 47 min. Hashes: 3e11 comparisons of
8 bytes, measured at 9 ns each on one core: 45 min on one, 6 min on 8 ranks. `python -m benchmarks dedup`
measures both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

ROWS = 4096  # frames in one chunk
KEYS = 512 << 20  # bytes of prepared keys that are held at a time
# two items, the places of a frame of each, and how alike these are
PAIR = np.dtype(
    [
        ("one", np.int64),
        ("other", np.int64),
        ("mine", np.int64),
        ("of", np.int64),
        ("alike", np.float32),
    ]
)
_WAITING = 1 << 20  # pairs of frames that are sorted in at a time


class Measure(Protocol):
    """How frames are compared; higher is more alike."""

    def prepare(self, kept: np.ndarray) -> object:
        """Rows as they are kept, (n, width), made ready."""

    def size(self, prepared: object) -> int:
        """Bytes of what :meth:`prepare` gave."""

    def __call__(self, one: object, other: object) -> torch.Tensor:
        """Likeness of every pair, float32 (m, k); may be written over by the next call."""


def blocks(
    queries: np.ndarray,
    keys: np.ndarray,
    measure: Measure,
    rows: int = ROWS,
    held: int = KEYS,
    same: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (first query, first key, likeness (m, k)) until every pair was compared.

    Args:
        queries, keys: kept rows, (n, width); memory maps are read as they are needed.
        rows: of a chunk. held: bytes of keys held at a time; at least one chunk is.
        same: queries and keys are the same; blocks below the diagonal are left out.
        rank, world: which chunks of the queries to take.
    """
    ready: list[tuple[int, object]] = []
    for key in range(0, len(keys), rows):
        ready.append((key, measure.prepare(keys[key : key + rows])))
        if key + rows < len(keys) and sum(measure.size(chunk) for _, chunk in ready) < held:
            continue
        for query in range(rank * rows, len(queries), world * rows):
            wanted = [(first, chunk) for first, chunk in ready if not same or first + rows > query]
            prepared = measure.prepare(queries[query : query + rows]) if wanted else None
            for first, chunk in wanted:
                yield query, first, measure(prepared, chunk)
        ready = []


def best_matches(
    queries: np.ndarray,
    keys: np.ndarray,
    measure: Measure,
    rows: int = ROWS,
    held: int = KEYS,
    least: float = -np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """For every query the likeness and the place of the key most like it, the first of equals.

    Args:
        least: likeness below which places are not asked for: to find them costs as much as a third
            of the products.

    Returns:
        float32 (n,), -inf where there is no key, and int64 (n,).
    """
    best, places = np.full(len(queries), -np.inf, np.float32), np.zeros(len(queries), np.int64)
    for query, key, alike in blocks(queries, keys, measure, rows, held):
        values = alike.amax(dim=1).cpu().numpy()
        mine = best[query : query + len(values)]
        better = np.flatnonzero((values > mine) & (values >= least))
        np.maximum(mine, values, out=mine)
        if len(better):
            places[query + better] = (
                key + alike[torch.from_numpy(better).to(alike.device)].argmax(dim=1).cpu().numpy()
            )
    return best, places


def best_of_items(best: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of every item the place of its frame with the highest value, the first of equals.

    Args:
        best: float (F,). starts: int64 (n + 1,), item i has the frames starts[i] to starts[i + 1],
            one or more.
    """
    items = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.lexsort((-best, items))[starts[:-1]]


class Pairs:
    """Pairs of items that are alike, each with its two frames that are most alike.

    Memory: 36 bytes a pair of items, about 120 while more are added, and about 230 in
    :meth:`around`.
    """

    def __init__(self) -> None:
        self._found, self._more, self._waiting = np.zeros(0, PAIR), [], 0

    @property
    def found(self) -> np.ndarray:
        """:data:`PAIR` (n,), every pair once, ``one`` below ``other``, in rising order."""
        self._sort_in()
        return self._found

    def _sort_in(self) -> None:
        if self._more:
            every = np.concatenate([self._found, *self._more])
            every = every[
                np.lexsort(
                    (every["of"], every["mine"], -every["alike"], every["other"], every["one"])
                )
            ]
            first = np.ones(len(every), bool)
            first[1:] = (every["one"][1:] != every["one"][:-1]) | (
                every["other"][1:] != every["other"][:-1]
            )
            self._found, self._more, self._waiting = every[first], [], 0

    def add_above(
        self,
        values: np.ndarray,
        items: np.ndarray,
        groups: np.ndarray,
        measure: Measure,
        least: float,
        dropped: np.ndarray,
        rank: int = 0,
        world: int = 1,
        rows: int = ROWS,
        held: int = KEYS,
    ) -> None:
        """Add the items of all pairs of frames that are alike by ``least`` or more.

        Args:
            values: kept rows (F, width). items: int64 (F,), whose frame it is.
            groups: int64 (count,), items of one group are never a pair. dropped: bool (count,),
                items to leave alone.
            rank, world: which share of the pairs to compare.
        """
        for query, key, alike in blocks(values, values, measure, rows, held, True, rank, world):
            above = (alike >= least).cpu()
            for row in torch.nonzero(above.any(dim=1))[:, 0].tolist():
                columns = np.flatnonzero(above[row].numpy())
                one, others = int(items[query + row]), items[key + columns]
                apart = (groups[others] != groups[one]) & ~dropped[others] & (not dropped[one])
                if apart.any():
                    columns, others, more = (
                        columns[apart],
                        others[apart],
                        np.empty(int(apart.sum()), PAIR),
                    )
                    more["one"], more["other"] = np.minimum(one, others), np.maximum(one, others)
                    more["mine"] = np.where(one < others, query + row, key + columns)
                    more["of"] = np.where(one < others, key + columns, query + row)
                    more["alike"] = alike[row, columns].cpu().numpy()
                    self.add(more)

    def add(self, more: np.ndarray) -> None:
        """Add pairs, :data:`PAIR` (n,)."""
        self._more.append(more)
        self._waiting += len(more)
        if self._waiting > max(_WAITING, len(self._found)):
            self._sort_in()

    def around(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Every pair from both sides, :data:`PAIR` (2 n,), and int64 (count + 1,): those with item
        i as ``one`` are starts[i] to starts[i + 1] (exclusive).
        """
        turned = np.empty_like(self.found)
        for name, other in (
            ("one", "other"),
            ("other", "one"),
            ("mine", "of"),
            ("of", "mine"),
            ("alike", "alike"),
        ):
            turned[name] = self.found[other]
        both = np.concatenate([self.found, turned])
        both = both[np.lexsort((both["other"], both["one"]))]
        return both, np.searchsorted(both["one"], np.arange(count + 1))
