"""The settings of a training: its optimizer, its length, its steps, and what it saves."""

from dataclasses import dataclass
from typing import Literal

from omnidali.config.setting import Count, NotNegative, Positive, Share, setting


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD and its schedule."""

    lr: Positive = setting(0.01, "learning rate after the warm-up, for the whole global batch")
    momentum: NotNegative = setting(0.9, "momentum of SGD")
    weight_decay: NotNegative = setting(1e-4, "L2 penalty on all weights")
    nesterov: bool = setting(False, "Nesterov momentum")
    clip_grad_norm: Positive | None = setting(40.0, "largest gradient norm; null: no clipping")
    schedule: Literal["step", "cosine"] = setting("step", "how the learning rate falls")
    milestones: tuple[float, ...] = setting(
        (40.0, 80.0), "step: when the learning rate is multiplied by 0.1", unit="epochs"
    )
    warmup_epochs: NotNegative = setting(0.0, "linear rise from a tenth of lr", unit="epochs")
    accumulate: Count = setting(1, "batches whose gradients make one optimizer step")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of a run, its steps, and what it saves."""

    batch: Count | None = setting(
        None,
        "slots of one step on all ranks together; null: 96, or the sum of the sources' batches",
    )
    step_mode: Literal["summed", "alternating"] = setting(
        "summed", "one step on all sources, or one on each source's batch"
    )
    ratio: tuple[Count, ...] | None = setting(
        None, "alternating: [2, 1, 1]: for two target batches one of each other source"
    )
    mixup: Literal["none", "intra", "cross"] = setting(
        "none", "partners: none, both of the target, or of any source"
    )
    mixup_alpha: Positive = setting(0.2, "alpha of mixup's Beta(alpha, alpha)")
    epochs: Positive | None = setting(
        None, "length in passes over the target source (exactly one of epochs and steps)"
    )
    steps: Count | None = setting(None, "length in steps")
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "autocast dtype")
    compile: bool = setting(False, "torch.compile the model")
    ema: Share | None = setting(
        None, "decay of an averaged copy of the weights, which is evaluated instead"
    )
    log_every: Count = setting(20, "distance of console lines", unit="steps")
    checkpoint_every: Count = setting(
        1000, "distance of saves of last.pt; each evaluation also saves before", unit="steps"
    )
    checkpoint_minutes: NotNegative = setting(
        15.0, "longest time between saves of last.pt; 0: by steps alone", unit="minutes"
    )
    final_save_minutes: NotNegative = setting(
        10.0, "how long the last save is tried again if it fails, as on a full disk", unit="minutes"
    )
    keep_every: Count | None = setting(
        None, "distance of checkpoints that are kept as step-N.pt", unit="steps"
    )

    def ratio_of(self, sources: int) -> tuple[int, ...] | None:
        """How many steps in turn each of so many sources has; None unless steps alternate."""
        return (self.ratio or (1,) * sources) if self.step_mode == "alternating" else None
