"""The loss that a training minimises."""

import torch
import torch.nn.functional as F

from omnidali.config.schema import Config


class Objective:
    """Cross-entropy of each clip with its label.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config):
        self._config = config

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The losses (N,) float32 of logits (N, classes).

        Args:
            logits: of any floating-point type.
            labels: as in :class:`~omnidali.loading.batch.ClipBatch`.
        """
        return F.cross_entropy(logits.float(), labels, reduction="none")
