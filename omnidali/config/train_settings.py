"""The settings of a training: its optimizer, its length, its steps, and what it saves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from omnidali.config.augment_settings import AugmentConfig
from omnidali.config.setting import (
    Count,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, what it moves, and its schedule."""

    name: Literal["sgd", "adamw"] = setting("sgd", "kind of optimizer")
    lr: Positive = setting(0.01, "learning rate after the warm-up, for the whole global batch")
    momentum: NotNegative = setting(0.9, "sgd: momentum")
    weight_decay: NotNegative = setting(
        1e-4, "sgd: L2 penalty; adamw: share of lr by which a step shrinks the weights"
    )
    nesterov: bool = setting(False, "sgd: Nesterov momentum")
    betas: tuple[ShareBelowOne, ShareBelowOne] = setting(
        (0.9, 0.999), "adamw: decay of the averages of gradients and of their squares"
    )
    eps: Positive = setting(1e-8, "adamw: added to the root of the averaged squares")
    decay_norms: bool = setting(
        True, "weight_decay on biases and norms, too; false: only on weights of two dimensions"
    )
    layer_decay: PositiveShare = setting(
        1.0, "factor of lr from each stage of the network to the one before it"
    )
    lr_factors: Mapping[str, Positive] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata={
            "meaning": "factors of lr by stage (stem, layer1, ..., classifier), or for backbone and"
            " head",
            "unit": "",
        },
    )
    frozen_stages: Natural = setting(
        0, "first stages of the network that stay as they are, norms included; the stem is one"
    )
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
    label_smoothing: ShareBelowOne = setting(
        0.0, "share of each label that is spread over all classes"
    )
    augment: AugmentConfig = setting(AugmentConfig(), "changes of the training clips' pixels")
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
    keep_best: Natural = setting(
        0, "checkpoints that are kept as best-STEP-RESULT.pt, of the best evaluations"
    )
    patience: Count | None = setting(
        None, "evaluations without a better one after which the run ends; null: it goes on"
    )
    min_delta: NotNegative = setting(
        0.0, "patience: an evaluation is better if it gains more than this", unit="percent"
    )
    max_hours: Positive | None = setting(
        None, "time after which this start saves and ends; --resume auto goes on", unit="hours"
    )

    def ratio_of(self, sources: int) -> tuple[int, ...] | None:
        """How many steps in turn each of so many sources has; None unless steps alternate."""
        return (self.ratio or (1,) * sources) if self.step_mode == "alternating" else None
