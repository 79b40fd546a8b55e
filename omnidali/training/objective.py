"""The loss that a training minimises."""

import torch
import torch.nn.functional as F

from omnidali.config.schema import Config


class Objective:
    """Cross-entropy of each clip with its label, or with each of its labels.

    Where clips may have several, each class is a decision of its own: the loss of a clip is the
    mean over the classes of the binary cross-entropy of its logits. So the mean over a batch is
    that of PyTorch's BCEWithLogitsLoss and mmaction2's BCELossWithLogits, and weights of sources
    keep their meaning for any number of classes.

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
        smoothing = self._config.train.label_smoothing
        if self._config.multi_label:
            # each decision has two outcomes, which share what is smoothed
            labels = labels * (1 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            return losses.mean(dim=1)
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
