"""Which slots are blended with which, and how much.

Mixup is of Zhang et al., ICLR 2018; cross-dataset mixup of OmniSource. Pairs are part of the plan:
both slots of a pair go to the same rank, so that blending needs no communication and the pairs do
not depend on the number of ranks.
"""

from dataclasses import dataclass

import numpy as np

from omnidali.planning.philox import Purpose, Stream

_POINTS = 4097


@dataclass(frozen=True)
class Blends:
    """How the slots of one step are blended.

    Attributes:
        pairs: int64 (p, 2), places of the step, no place twice.
        partners: int64 (count,), by place, the partner's place; its own for none.
        own_weights: float32 (count,), weight of the place's own clip.
        partner_frames: float32 (count,) in [0, 1), which frame of a longer partner a single image
            is blended with.
    """

    pairs: np.ndarray
    partners: np.ndarray
    own_weights: np.ndarray
    partner_frames: np.ndarray


class Mixup:
    """Planned blends.

    Args:
        alpha: of Beta(alpha, alpha), from which a pair's mixing weight comes.
        stream: of the whole plan, not of a source.
    """

    def __init__(self, alpha: float, stream: Stream):
        self.alpha = alpha
        self._stream = stream

        # Quantiles of Beta(alpha, alpha) over the logit, in which its density is smooth for every
        # alpha.
        self._logit = np.linspace(-1, 1, _POINTS) * (40 / alpha + 10)
        log_density = -alpha * (np.logaddexp(0, -self._logit) + np.logaddexp(0, self._logit))
        density = np.exp(log_density - log_density.max())
        total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        self._share = total / total[-1]

    def blends(self, step: int, count: int, eligible: int) -> Blends:
        """Random pairs among the first ``eligible`` of the ``count`` slots of a step."""
        drawn = self._stream.uniform(Purpose.MIXUP, np.array([step]), 4 * eligible)
        keys, shares, *frames = drawn[0].reshape(4, -1)
        half = eligible // 2
        pairs = np.argsort(keys, kind="stable")[: 2 * half].reshape(half, 2)
        logits = np.interp(shares[:half], self._share, self._logit)
        weights = 1 / (1 + np.exp(-logits))

        partners = np.arange(count)
        partners[pairs] = pairs[:, ::-1]
        own_weights = np.ones(count, np.float32)
        own_weights[pairs] = weights[:, None]
        partner_frames = np.zeros(count, np.float32)
        partner_frames[pairs] = np.stack(frames, axis=1)[:half]
        return Blends(pairs, partners, own_weights, partner_frames)


def assign_ranks(count: int, pairs: np.ndarray, step: int, world: int) -> np.ndarray:
    """The rank of every slot of a step: pairs stay together, and all ranks get the same number.

    Args:
        count: slots; with pairs, a multiple of 2 * world.
        pairs: of :class:`Blends`; none without mixup.
        step: number of the step.
        world: number of ranks.

    Returns:
        int64 (count,).
    """
    if not len(pairs):
        return (np.arange(count) + step) % world
    ranks = np.full(count, -1)
    owners = (np.arange(len(pairs)) + step) % world
    ranks[pairs] = owners[:, None]

    # The slots that are left lie source by source. The ranks get them in turn, so that none gets
    # more of a source.
    room = count // world - 2 * np.bincount(owners, minlength=world)
    order = (np.arange(world) + step) % world
    turns = np.tile(order, (room.max(initial=0), 1))
    ranks[ranks < 0] = turns[np.arange(len(turns))[:, None] < room[order]]
    return ranks
