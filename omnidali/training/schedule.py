"""The learning rate as a function of the step, and the time of the next save."""

import math
import time

from omnidali.config.schema import OptimizerConfig


def learning_rate(
    step: float, steps: int, steps_per_epoch: float, config: OptimizerConfig
) -> float:
    """Learning rate of a step, 0 <= step < steps.

    ``step`` multiplies by 0.1 at each milestone; ``cosine`` falls to 0 at the end (Loshchilov and
    Hutter, ICLR 2017). The warm-up rises linearly from a tenth and multiplies either.

    >>> learning_rate(50, 100, 1.0, OptimizerConfig(lr=1.0, milestones=(40.0, 80.0)))
    0.1
    """
    epoch = step / steps_per_epoch
    if config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / steps))
    else:
        factor = 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    if epoch < config.warmup_epochs:
        factor *= 0.1 + 0.9 * epoch / config.warmup_epochs
    return config.lr * factor


class SaveClock:
    """Decides by a monotonic clock when the last checkpoint is old enough for another one.

    Args:
        minutes: between two checkpoints; 0: never.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Count from now, when a checkpoint was written."""
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._seconds
