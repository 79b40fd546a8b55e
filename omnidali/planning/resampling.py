"""Which row a draw of a source is: every row in turn, or class by class.

The reference's ClassSpecificDistributedSampler (OmniSource, class imbalance) draws with
replacement, and only in distributed runs. Here the classes' shares of an epoch are exact, and
within a class every row comes once before any comes again, on any number of ranks.

A random order of N rows is computed, not stored: by an alternating Feistel network over the mixed
radices a x b, with a * b just above N. Each half is shifted by a keyed hash of the other, which is
a bijection for any hash. Results of N and more go through the network again until they fall below N
(Black and Rogaway, CT-RSA 2002).
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.sources import ResampleConfig
from omnidali.planning.philox import Purpose, Stream, below

# Rows that are looked at at once.
_BLOCK = 1 << 18
# Orders of a class are numbered apart from those of the whole.
_CLASS_SHIFT = 40
# Of the Feistel network.
_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permute(
    position: np.ndarray, order: np.ndarray, size: int | np.ndarray, stream: Stream
) -> np.ndarray:
    """The row at each position of each random order.

    Args:
        position: int64 (n,), 0 <= position < size.
        order: int64 (n,), which order, such as the epoch.
        size: N, the number of rows, or int64 (n,) with that of each order.
        stream: random numbers of the source.

    Returns:
        int64 (n,); over all positions of an order every row comes exactly once.

    >>> sorted(permute(np.arange(5), np.zeros(5, int), 5, Stream(seed=1, source=0)).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = np.array(position, np.int64)
    size = np.broadcast_to(np.asarray(size, np.int64), rows.shape)
    a = np.ceil(np.sqrt(size)).astype(np.int64)
    b = -(-size // a)
    orders, which = np.unique(order, return_inverse=True)
    words = stream.words(Purpose.PERMUTATION, orders, 2 * _ROUNDS)
    keys = (words[:, ::2] << np.uint64(32) | words[:, 1::2])[which]

    walking = np.arange(len(rows))
    while len(walking):
        high, low = a[walking], b[walking]
        left, right = np.divmod(rows[walking], low)
        for turn in range(_ROUNDS):
            key = keys[walking, turn]
            if turn % 2 == 0:
                left = (left + below(_hash(right, key), high)) % high
            else:
                right = (right + below(_hash(left, key), low)) % low
        rows[walking] = left * low + right
        walking = walking[rows[walking] >= size[walking]]
    return rows


def _hash(half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """32 mixed bits of (half, key): the finaliser of splitmix64 (Steele et al., OOPSLA 2014)."""
    x = half.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return (x ^ (x >> np.uint64(31))) >> np.uint64(32)


class _RowsByClass:
    """Rows sorted by label.

    Those of label i stand in ``order`` from ``starts[i]``, ``counts[i]`` of them.
    """

    def __init__(self, labels: np.ndarray):
        self.order = np.argsort(labels, kind="stable").astype(np.int32)
        self.counts = np.bincount(labels).astype(np.int64)
        self.starts = np.cumsum(self.counts) - self.counts

    def rows(self, places: np.ndarray) -> np.ndarray:
        """int64 (n,): the rows at these places of ``order``."""
        return self.order[places].astype(np.int64)

    @cached_property
    def places(self) -> np.ndarray:
        """int32 (N,): where in ``order`` each row stands."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(self.order), dtype=np.int32)
        return places


class RowOrder:
    """The endless order of a source's rows.

    Args:
        labels: int array (N,).
        resample: how classes are weighted; None for every row equally often.
        stream: random numbers of the source.

    Attributes:
        epoch: draws in which the order goes over the rows once.
    """

    def __init__(self, labels: np.ndarray, resample: ResampleConfig | None, stream: Stream):
        self._labels = labels
        self._stream = stream
        self._quota = None
        self.epoch = len(labels)
        if resample is not None:
            self._quota = quotas(self._classes.counts, resample)
            self.epoch = int(self._quota.sum())

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """int64 (n,): the rows of these draws, int64 (n,), numbered from 0 in the endless order."""
        epochs, positions = np.divmod(draws, self.epoch)
        places = permute(positions, epochs, self.epoch, self._stream)
        if self._quota is None:
            return places

        # A place of the epoch is the n-th slot of a class, and that a place in an endless order of
        # the class's own rows.
        ends = np.cumsum(self._quota)
        label = np.searchsorted(ends, places, side="right")
        quota = self._quota[label]
        turn = epochs * quota + places - (ends[label] - quota)
        count = self._classes.counts[label]
        rounds, position = np.divmod(turn, count)
        inside = permute(position, (label + 1) << _CLASS_SHIFT | rounds, count, self._stream)
        return self._classes.rows(self._classes.starts[label] + inside)

    def other_of_class(self, rows: np.ndarray, words: np.ndarray) -> np.ndarray:
        """For each row another one of its class; itself if it is the only one.

        Args:
            rows: int64 (n,).
            words: uint64 (n,), random words that choose.
        """
        classes = self._classes
        labels = self._labels[rows]
        start, count = classes.starts[labels], classes.counts[labels]
        shift = 1 + below(words, np.maximum(count - 1, 1))
        return classes.rows(start + (classes.places[rows] - start + shift) % count)

    @cached_property
    def _classes(self) -> _RowsByClass:
        # Ten million rows take seconds, and most runs never need them by class.
        return _RowsByClass(self._labels)


def quotas(counts: np.ndarray, resample: ResampleConfig) -> np.ndarray:
    """Slots of each class in one epoch.

    ``clipped`` gives a class at most so many. ``power`` p shares as many slots as there are rows in
    proportion to counts ** p, by largest remainders, so that no class with rows goes without.

    >>> quotas(np.array([1, 100]), ResampleConfig(power=0.5)).tolist()
    [9, 92]
    >>> quotas(np.array([3, 100]), ResampleConfig(clipped=50)).tolist()
    [3, 50]
    """
    if resample.clipped is not None:
        return np.minimum(counts, resample.clipped)
    assert resample.power is not None
    shares = np.where(counts > 0, np.maximum(counts, 1) ** resample.power, 0.0)
    exact = shares / shares.sum() * counts.sum()
    quota = np.floor(exact).astype(np.int64)
    left = int(counts.sum() - quota.sum())
    quota[np.lexsort((np.arange(len(exact)), quota - exact))[:left]] += 1
    return quota


def fraction_of(table: SourceTable, fraction: float, seed: int) -> SourceTable:
    """The same random share of every class's rows, at least one of each.

    It serves settings with few labels (OmniSource, Fig. 7). A larger fraction holds every smaller
    one.
    """
    if fraction == 1:
        return table
    # rows without a label are a class of their own
    known = table.labels - min(0, int(table.labels.min(initial=0)))
    classes = _RowsByClass(known)
    stream = Stream(seed, 0)
    kept = []
    for begin in range(0, len(table), _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, len(table)))
        rows = classes.rows(places)
        labels = known[rows]

        # The order depends on the class alone, so that fractions nest.
        keys = stream.words(Purpose.FRACTION, labels.astype(np.int64), 1)[:, 0].astype(np.int64)
        counts = classes.counts[labels]
        position = permute(places - classes.starts[labels], keys, counts, stream)
        kept.append(rows[position < np.ceil(fraction * counts)])
    return table.take(np.sort(np.concatenate(kept)), f"fraction {fraction} of seed {seed}")


def parts_of(owners: Iterable[str], parts: int) -> np.ndarray:
    """The part, 1 to ``parts``, that each file or long video belongs to, int64 (n,).

    It comes from a hash of the name, so that lists and catalogs agree; a CRC would put neighbouring
    numbers of files into one part.

    >>> parts_of(["a.jpg", "c.jpg", "a.jpg"], 3).tolist()
    [1, 2, 1]
    """
    hashes = (
        hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        for name in owners
    )
    return np.array([int.from_bytes(found, "big") % parts + 1 for found in hashes], np.int64)


def without_part(table: SourceTable, hold_out: tuple[int, int] | None) -> SourceTable:
    """The rows outside part ``hold_out[0]`` of ``hold_out[1]``; all of them for None."""
    if hold_out is None:
        return table
    part, parts = hold_out
    rows = np.flatnonzero(parts_of(table.owners(), parts) != part)
    return table.take(rows, f"without part {part} of {parts}")
