"""Which row a draw of a source means: every row in turn, or class by class (OmniSource, class
imbalance).

Reference: ClassSpecificDistributedSampler draws with replacement, and in distributed runs alone.
Here the classes' shares of an epoch are exact, and within a class every row comes once before any
comes again, on any number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.config.schema import ResampleConfig
from omnidali.planning.permutation import permute
from omnidali.planning.philox import Purpose, Stream, below

_BLOCK = 1 << 18  # rows that are looked at at once
_CLASS_SHIFT = 40  # orders of a class are numbered apart from those of the whole


class Rows:
    """The endless order of a source's rows.

    Args:
        labels: int array (N,). resample: how classes are weighted. stream: random numbers of the
            source.
    """

    def __init__(self, labels: np.ndarray, resample: ResampleConfig | None, stream: Stream):
        self._labels, self._stream, self._classes = labels, stream, None
        self._quota = None
        self.epoch = len(labels)
        if resample is not None:
            counts = self._by_class().counts
            self._quota = quotas(counts, resample)
            self.epoch = int(self._quota.sum())
            self._ends = np.cumsum(self._quota)

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        """int64 (n,): the rows of these draws, int64 (n,), numbered from 0 in the endless order."""
        epochs, positions = np.divmod(draws, self.epoch)
        places = permute(positions, epochs, self.epoch, self._stream)
        if self._quota is None:
            return places
        group = self._by_class()
        label = np.searchsorted(self._ends, places, side="right")
        quota, count = self._quota[label], group.counts[label]
        turn = epochs * quota + places - (self._ends[label] - quota)
        rounds, position = np.divmod(turn, count)
        inside = permute(position, (label + 1) << _CLASS_SHIFT | rounds, count, self._stream)
        return group.order[group.starts[label] + inside].astype(np.int64)

    def other(self, rows: np.ndarray, words: np.ndarray) -> np.ndarray:
        """For each row another one of its class, chosen by ``words`` (n,); itself if it is the only
        one.
        """
        group = self._by_class()
        labels = self._labels[rows]
        start, count = group.starts[labels], group.counts[labels]
        shift = 1 + below(words, np.maximum(count - 1, 1))
        return group.order[start + (group.place()[rows] - start + shift) % count].astype(np.int64)

    def _by_class(self) -> _ByClass:
        if self._classes is None:  # ten million rows take seconds, and most runs never need it
            self._classes = _ByClass(self._labels)
        return self._classes


class _ByClass:
    """Rows sorted by label: those of label i stand in ``order`` from ``starts[i]``, ``counts[i]``
    of them.
    """

    def __init__(self, labels: np.ndarray):
        self.order = np.argsort(labels, kind="stable").astype(np.int32)
        self.counts = np.bincount(labels).astype(np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self._place = None

    def place(self) -> np.ndarray:
        """Where in ``order`` each row stands."""
        if self._place is None:
            place = np.empty_like(self.order)
            place[self.order] = np.arange(len(self.order), dtype=np.int32)
            self._place = place  # not before it is filled: several threads may ask at once
        return self._place


def quotas(counts: np.ndarray, resample: ResampleConfig) -> np.ndarray:
    """Slots of each class in one epoch.

    ``clipped`` gives a class at most so many; ``power`` p shares out as many slots as there are
    rows in proportion to counts ** p, by largest remainders, so that no class with rows goes
    without.

    >>> quotas(np.array([1, 100]), ResampleConfig(power=0.5)).tolist()
    [9, 92]
    >>> quotas(np.array([3, 100]), ResampleConfig(clipped=50)).tolist()
    [3, 50]
    """
    if resample.clipped is not None:
        return np.minimum(counts, resample.clipped)
    shares = np.where(counts > 0, np.maximum(counts, 1) ** float(resample.power), 0.0)
    exact = shares / shares.sum() * counts.sum()
    quota = np.floor(exact).astype(np.int64)
    left = int(counts.sum() - quota.sum())
    quota[np.lexsort((np.arange(len(exact)), quota - exact))[:left]] += 1
    return quota


def fraction_of(table: SourceTable, fraction: float, seed: int) -> SourceTable:
    """The same random share of every class's rows, at least one of each (few-label settings,
    OmniSource, Fig. 7).
    """
    if fraction == 1:
        return table
    group = _ByClass(table.labels)
    stream, kept = Stream(seed, 0), []
    for begin in range(0, len(table), _BLOCK):
        rows = group.order[begin : begin + _BLOCK].astype(np.int64)
        labels = table.labels[rows]
        position = begin + np.arange(len(rows)) - group.starts[labels]
        # the order is keyed by the class alone, so that a larger fraction holds every smaller one
        keys = stream.words(Purpose.FRACTION, labels.astype(np.int64), 1)[:, 0].astype(np.int64)
        counts = group.counts[labels]
        kept.append(rows[permute(position, keys, counts, stream) < np.ceil(fraction * counts)])
    return table.take(np.sort(np.concatenate(kept)), f"fraction {fraction} of seed {seed}")


def parts_of(owners: Iterable[str], parts: int) -> np.ndarray:
    """The part, 1 to ``parts``, that each file or long video belongs to, int64 (n,).

    A hash of the name says which, so that lists and catalogs agree; a CRC would give numbered files
    in runs.

    >>> parts_of(["a.jpg", "c.jpg", "a.jpg"], 3).tolist()
    [1, 2, 1]
    """
    hashes = (
        hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        for name in owners
    )
    return np.array([int.from_bytes(found, "big") % parts + 1 for found in hashes], np.int64)


def without_part(table: SourceTable, hold_out: tuple[int, int] | None) -> SourceTable:
    """The rows that do not belong to the part ``hold_out[0]`` of ``hold_out[1]``; all of them for
    None.
    """
    if hold_out is None:
        return table
    part, parts = hold_out
    rows = np.flatnonzero(parts_of(table.owners(), parts) != part)
    return table.take(rows, f"without part {part} of {parts}")
