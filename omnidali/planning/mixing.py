"""Which sources fill a step, and with how many slots: weights, fixed batches, or batches in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_LONGEST_PERIOD = 1 << 16


class Weighted:
    """Steps of ``batch`` slots, shared out by weights with low discrepancy.

    One period of slots is dealt out by Webster's divisor method, the fairest sequence for
    proportional shares, and repeated. At every moment a source is within a few slots of its
    weight's share, and over a period exactly at it where the weights are simple ratios (else to 1
    in 65,536).

    >>> Weighted([2, 1, 1], batch=8).before(1).tolist()
    [4, 2, 2]
    """

    def __init__(self, weights: Sequence[float], batch: int = 1):
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
        self.shares, self.batch = counts / period, batch

    def before(self, step: int) -> np.ndarray:
        """int64 array (sources,): how many slots each source has in the steps before ``step``."""
        periods, rest = divmod(step * self.batch, len(self._before) - 1)
        return periods * self._before[-1] + self._before[rest]

    def steps(self, target_slots: float) -> float:
        """Steps in which the first source gets so many slots."""
        return float(target_slots / (self.batch * self.shares[0]))

    def scheduled(self, step: int) -> float:
        """The step whose learning rate holds in ``step``."""
        return step


class Batches(Weighted):
    """Steps with a fixed number of slots of each source."""

    def __init__(self, batches: Sequence[int]):
        self._batches = np.array(batches, np.int64)
        self.batch = int(self._batches.sum())
        self.shares = self._batches / self.batch

    def before(self, step: int) -> np.ndarray:
        return step * self._batches

    def steps(self, target_slots: float) -> float:
        return target_slots / int(self._batches[0])


class Alternating(Weighted):
    """Steps with one source's batch each, in the order of the reference's runner
    (omnisource_runner.py).

    With ``ratio`` [2, 1, 1]: a batch of the target, one of each other source, and a second one of
    the target; from there again. Only the target's batches count for the schedule: the others take
    the learning rate of the target's batch before them.

    >>> steps = Alternating([12, 64, 6], [2, 1, 1])
    >>> [steps.before(step).tolist() for step in range(5)]
    [[0, 0, 0], [12, 0, 0], [12, 64, 0], [12, 64, 6], [24, 64, 6]]
    """

    def __init__(self, batches: Sequence[int], ratio: Sequence[int]):
        order = (
            [0]
            + [source for source in range(1, len(ratio)) for _ in range(ratio[source])]
            + [0] * (ratio[0] - 1)
        )
        self._turns = np.zeros((len(order) + 1, len(batches)), np.int64)
        np.cumsum(np.array(order)[:, None] == np.arange(len(batches)), axis=0, out=self._turns[1:])
        self._batches, self._target_turns = np.array(batches, np.int64), ratio[0]
        slots = self._turns[-1] * self._batches
        self.shares, self.batch = slots / slots.sum(), float(slots.sum() / len(order))

    def before(self, step: int) -> np.ndarray:
        return self._count(step) * self._batches

    def steps(self, target_slots: float) -> float:
        return float(target_slots / self._batches[0] * (len(self._turns) - 1) / self._target_turns)

    def scheduled(self, step: int) -> float:
        return float((self._count(step + 1)[0] - 1) * (len(self._turns) - 1) / self._target_turns)

    def _count(self, step: int) -> np.ndarray:
        """Batches of each source before ``step``."""
        periods, rest = divmod(step, len(self._turns) - 1)
        return periods * self._turns[-1] + self._turns[rest]
