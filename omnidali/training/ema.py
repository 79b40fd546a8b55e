"""An exponentially averaged copy of the weights."""

import copy

import torch


class Ema:
    """Keeps ``average``, a copy of the model that follows it slowly; buffers are copied.

    Args:
        model: the one to follow.
        decay: 0..1, what remains of the average at every update.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.average = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Move the average towards the model's present weights."""
        torch._foreach_lerp_(
            list(self.average.parameters()), list(model.parameters()), 1 - self.decay
        )
        for average, current in zip(self.average.buffers(), model.buffers(), strict=True):
            average.copy_(current)
