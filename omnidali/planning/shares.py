"""How many slots of each step a source gets: weights turned into a low-discrepancy rhythm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_LONGEST_PERIOD = 1 << 16


class Shares:
    """Cumulative slot counts of sources with the given weights.

    One period of slots is dealt out by Webster's divisor method, the fairest sequence for
    proportional shares, and repeated. At every moment a source is within a few slots of
    its weight's share, and over a period exactly at it where the weights are simple ratios (else to 1 in 65,536).

    >>> shares = Shares([2, 1, 1])
    >>> shares.before(8).tolist()
    [4, 2, 2]
    """

    def __init__(self, weights: Sequence[float]):
        parts = [Fraction(str(weight)) for weight in weights]
        total = sum(parts)
        period = math.lcm(*(part.denominator for part in (part / total for part in parts)))
        if period > _LONGEST_PERIOD:
            period = _LONGEST_PERIOD
        exact = [part / total * period for part in parts]
        counts = np.array([max(1, math.floor(value)) for value in exact])
        # Largest remainders take what rounding down has left; rare sources keep one slot a period.
        order = sorted(range(len(exact)), key=lambda i: (math.floor(exact[i]) - exact[i], i))
        for i in range(int(period - counts.sum())):
            counts[order[i % len(order)]] += 1
        while counts.sum() > period:
            counts[counts.argmax()] -= 1
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        sources = np.repeat(np.arange(len(counts)), counts)
        dealt = sources[np.lexsort((sources, times))]
        self._before = np.zeros((period + 1, len(counts)), np.int64)
        np.cumsum(dealt[:, None] == np.arange(len(counts)), axis=0, out=self._before[1:])
        self.shares = counts / period

    def before(self, slots: int) -> np.ndarray:
        """int64 array (sources,): how many of the first ``slots`` slots each source has."""
        periods, rest = divmod(slots, len(self._before) - 1)
        return periods * self._before[-1] + self._before[rest]
