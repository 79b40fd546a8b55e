"""The labels of items that may have several, as two arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, repr=False)
class LabelSets:
    """All labels of N rows: those of row i are values[starts[i]:starts[i + 1]], in rising order.

    Attributes:
        starts: int64 (N + 1,), from 0.
        values: int32 (L,), each row's own ones once; -1 alone where a row has none.
    """

    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, values: np.ndarray) -> "LabelSets":
        """The sets of rows with so many labels each.

        >>> LabelSets.of(np.array([2, 1]), np.array([1, 3, 0])).at(0)
        (1, 3)
        """
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return cls(starts, np.asarray(values, np.int32))

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]]) -> "LabelSets":
        """The sets of rows that are given as sequences of labels."""
        sizes = np.array([len(row) for row in rows], np.int64)
        return cls.of(sizes, np.array([label for row in rows for label in row], np.int32))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """int64 (N,): how many labels each row has."""
        return np.diff(self.starts)

    @property
    def rows(self) -> np.ndarray:
        """int64 (L,): the row that each of the values belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def at(self, row: int) -> tuple[int, ...]:
        """The labels of one row."""
        return tuple(self.values[self.starts[row] : self.starts[row + 1]].tolist())

    def take(self, rows: np.ndarray) -> "LabelSets":
        """The sets of these rows, int64 (n,), in their order."""
        sizes = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        places = np.repeat(self.starts[rows] - starts[:-1], sizes) + np.arange(starts[-1])
        return LabelSets(starts, self.values[places])

    def rarest(self) -> np.ndarray:
        """The label of each row that fewest rows have, of equally rare ones the lowest.

        So an item belongs to one class where classes are balanced, and to the one that has fewest
        others.

        Returns:
            int32 (N,).

        >>> LabelSets.of_rows([(0, 1), (0,), (0, 1, 2)]).rarest().tolist()
        [1, 0, 2]
        """
        if not len(self):
            return np.empty(0, np.int32)
        counts = np.bincount(self.values + 1)  # those without a label first
        by_rarity = np.argsort(counts, kind="stable").astype(np.int32)
        place_of = np.empty_like(by_rarity)
        place_of[by_rarity] = np.arange(len(by_rarity), dtype=np.int32)
        return by_rarity[np.minimum.reduceat(place_of[self.values + 1], self.starts[:-1])] - 1

    def multi_hot(self, classes: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Which classes rows have: float32 (n, classes), 1 for those that a row has.

        Args:
            classes: number of classes.
            rows: int64 (n,); None: all.

        >>> LabelSets.of_rows([(0, 2), (1,)]).multi_hot(3).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
        """
        sets = self if rows is None else self.take(rows)
        hot = np.zeros((len(sets), classes), np.float32)
        known = sets.values >= 0
        hot[sets.rows[known], sets.values[known]] = 1
        return hot
