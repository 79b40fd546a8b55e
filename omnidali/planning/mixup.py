"""Which slots are blended with which, and how much (mixup, Zhang et al., ICLR 2018; OmniSource,
cross-dataset mixup).

Pairs are part of the plan: both slots of a pair go to the same rank, so that blending needs no
communication and the pairs do not depend on the number of ranks.
"""

from __future__ import annotations

import numpy as np

from omnidali.planning.philox import Purpose, Stream

_POINTS = 4097


class Mixup:
    """Planned pairs.

    Args:
        alpha: of Beta(alpha, alpha), from which a pair's mixing weight comes.
        stream: of the whole plan, not of a source.
    """

    def __init__(self, alpha: float, stream: Stream):
        self.alpha, self._stream = alpha, stream
        # quantiles of Beta(alpha, alpha) over the logit, in which its density is smooth for every
        # alpha
        logit = np.linspace(-1, 1, _POINTS) * (40 / alpha + 10)
        log_density = -alpha * (np.logaddexp(0, -logit) + np.logaddexp(0, logit))
        density = np.exp(log_density - log_density.max())
        total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        self._share, self._logit = total / total[-1], logit

    def pairs(self, step: int, eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random pairs among the slots of a step.

        Args:
            eligible: int (n,), places within the step.

        Returns:
            int64 (n // 2, 2) places, no place twice; float64 (n // 2,) weights of a slot's own
                clip; float64
            (n // 2, 2) in [0, 1), which frame of a longer partner a single picture is blended with.
        """
        words = self._stream.uniform(Purpose.MIXUP, np.array([step]), 4 * len(eligible))[0].reshape(
            4, -1
        )
        order = eligible[np.argsort(words[0], kind="stable")]
        count = len(eligible) // 2
        pairs = order[: 2 * count].reshape(count, 2)
        weight = 1 / (1 + np.exp(-np.interp(words[1, :count], self._share, self._logit)))
        return pairs, weight, words[2:, :count].T


def deal(count: int, pairs: np.ndarray, step: int, world: int) -> np.ndarray:
    """The rank of every slot of a step: pairs stay together, and all ranks get the same number of
    slots.

    Args:
        count: slots, a multiple of 2 * world. pairs: of :meth:`Mixup.pairs`.

    Returns:
        int64 (count,).
    """
    ranks = np.full(count, -1)
    owners = (np.arange(len(pairs)) + step) % world
    ranks[pairs] = owners[:, None]
    # what is left lies source by source: it goes round the ranks, so that none gets more of a
    # source
    room = count // world - 2 * np.bincount(owners, minlength=world)
    order = (np.arange(world) + step) % world
    turns = np.tile(order, (room.max(initial=0), 1))
    ranks[ranks < 0] = turns[np.arange(len(turns))[:, None] < room[order]]
    return ranks
