"""The sources that fill a step, and their slots: weights, fixed batches, or batches in turn."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from omnidali.config.sources import SourceConfig

_LONGEST_PERIOD = 1 << 16


class Mixing(Protocol):
    """How many slots of a step each source has.

    Attributes:
        shares: float64 (sources,), share of all slots in the long run.
        batch: slots of one step on all ranks; the mean if steps differ.
    """

    shares: np.ndarray
    batch: float

    def slots_before(self, step: int) -> np.ndarray:
        """int64 (sources,): how many slots each source has in the steps before ``step``."""

    def steps_until(self, target_slots: float) -> float:
        """Steps in which the first source, the target, gets so many slots."""

    def schedule_step(self, step: int) -> float:
        """The step that the learning rate of ``step`` is computed for."""


def make_mixing(sources: Sequence[SourceConfig], batch: int, ratio: Sequence[int] | None) -> Mixing:
    """The mixing that the settings of the sources ask for.

    Args:
        sources: with weights or batches.
        batch: slots of one step; ignored if the sources have batches.
        ratio: of :class:`AlternatingMixing`; None for steps on all sources at once.
    """
    batches = [source.batch for source in sources if source.batch is not None]
    if ratio is not None:
        return AlternatingMixing(batches, ratio)
    if len(batches) == len(sources):
        return FixedBatchMixing(batches)
    return WeightedMixing([source.weight for source in sources], batch)


class WeightedMixing:
    """Steps of ``batch`` slots that the sources share by their weights, with low discrepancy.

    Webster's divisor method, the fairest sequence for proportional shares, gives one period of
    slots, which repeats. At every moment a source is within a few slots of its weight's share, and
    over a period exactly at it where the weights are simple ratios (else to 1 in 65,536).

    >>> WeightedMixing([2, 1, 1], batch=8).slots_before(1).tolist()
    [4, 2, 2]
    """

    def __init__(self, weights: Sequence[float], batch: int = 1):
        counts = _slots_of_period(weights)
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        sources = np.repeat(np.arange(len(counts)), counts)
        self._cycle = _Cycle(sources[np.lexsort((sources, times))], len(counts))
        self.shares = counts / counts.sum()
        self.batch: float = batch

    def slots_before(self, step: int) -> np.ndarray:
        return self._cycle.counts_before(step * int(self.batch))

    def steps_until(self, target_slots: float) -> float:
        return float(target_slots / (self.batch * self.shares[0]))

    def schedule_step(self, step: int) -> float:
        return step


class FixedBatchMixing:
    """Steps with a fixed number of slots of each source."""

    def __init__(self, batches: Sequence[int]):
        self._batches = np.array(batches, np.int64)
        self.batch: float = int(self._batches.sum())
        self.shares = self._batches / self.batch

    def slots_before(self, step: int) -> np.ndarray:
        return step * self._batches

    def steps_until(self, target_slots: float) -> float:
        return target_slots / int(self._batches[0])

    def schedule_step(self, step: int) -> float:
        return step


class AlternatingMixing:
    """Steps with one source's batch each, in the order of the reference's runner
    (omnisource_runner.py).

    With ``ratio`` [2, 1, 1]: a batch of the target, one of each other source, and a second one of
    the target; from there again. Only the target's batches count for the schedule: the others take
    the learning rate of the target's batch before them.

    >>> steps = AlternatingMixing([12, 64, 6], [2, 1, 1])
    >>> [steps.slots_before(step).tolist() for step in range(5)]
    [[0, 0, 0], [12, 0, 0], [12, 64, 0], [12, 64, 6], [24, 64, 6]]
    """

    def __init__(self, batches: Sequence[int], ratio: Sequence[int]):
        others = np.repeat(np.arange(1, len(ratio)), ratio[1:])
        order = np.concatenate([[0], others, np.zeros(ratio[0] - 1, np.int64)])
        self._cycle = _Cycle(order, len(batches))
        self._batches = np.array(batches, np.int64)
        self._period = len(order)
        self._target_turns = ratio[0]
        slots = np.array(ratio, np.int64) * self._batches
        self.shares = slots / slots.sum()
        self.batch: float = float(slots.sum() / len(order))

    def slots_before(self, step: int) -> np.ndarray:
        return self._cycle.counts_before(step) * self._batches

    def steps_until(self, target_slots: float) -> float:
        return float(target_slots / self._batches[0] * self._period / self._target_turns)

    def schedule_step(self, step: int) -> float:
        target_batches = self._cycle.counts_before(step + 1)[0]
        return float((target_batches - 1) * self._period / self._target_turns)


class _Cycle:
    """An endless sequence of sources that repeats ``order``."""

    def __init__(self, order: np.ndarray, sources: int):
        self._length = len(order)
        self._counts = np.zeros((self._length + 1, sources), np.int64)
        np.cumsum(order[:, None] == np.arange(sources), axis=0, out=self._counts[1:])

    def counts_before(self, place: int) -> np.ndarray:
        """int64 (sources,): how often each source comes before a place of the sequence."""
        periods, rest = divmod(place, self._length)
        return periods * self._counts[-1] + self._counts[rest]


def _slots_of_period(weights: Sequence[float]) -> np.ndarray:
    """int64 (sources,): slots in the shortest period that is exact, or in the longest one."""
    parts = [Fraction(str(weight)) for weight in weights]
    total = sum(parts)
    period = min(math.lcm(*((part / total).denominator for part in parts)), _LONGEST_PERIOD)
    exact = [part / total * period for part in parts]

    # Largest remainders take what rounding down has left; rare sources keep one slot a period.
    counts = np.array([max(1, math.floor(value)) for value in exact])
    order = sorted(range(len(exact)), key=lambda i: (math.floor(exact[i]) - exact[i], i))
    for i in range(int(period - counts.sum())):
        counts[order[i % len(order)]] += 1
    while counts.sum() > period:
        counts[counts.argmax()] -= 1
    return counts
