"""The optimizer of a network: which weights it moves, how fast, and its state in checkpoints."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from omnidali.config.train_settings import OptimizerConfig
from omnidali.errors import ConfigError, UserError
from omnidali.models.recognizers import Recognizer, Stage

_BACKBONE = "backbone"  # in lr_factors: all stages but the last one
_HEAD = "head"  # in lr_factors: the last stage
# what each kind of optimizer keeps of a weight once it has moved it
_KEEPS = {"sgd": "momentum_buffer", "adamw": "exp_avg"}


def freeze_stages(model: Recognizer, config: OptimizerConfig) -> None:
    """Freeze the stages that a config wants to stay as they are.

    Raises:
        ConfigError: with each setting that names a stage that the network lacks.
    """
    mistakes = list(find_stage_mistakes(model.stages, config))
    if mistakes:
        raise ConfigError(mistakes)
    if config.frozen_stages:
        model.freeze(config.frozen_stages)


def find_stage_mistakes(stages: Sequence[Stage], config: OptimizerConfig) -> Iterator[UserError]:
    """Yield each setting that does not fit the stages of a network.

    Args:
        stages: of the network, the classifier as the last one.
        config: whose ``frozen_stages`` and ``lr_factors`` are compared.
    """
    names = [stage.name for stage in stages]
    if config.frozen_stages >= len(stages):
        yield UserError(
            "optimizer.frozen_stages",
            f"at most {len(stages) - 1}, as the classifier has to learn",
            str(config.frozen_stages),
            f"The stages are {', '.join(names)}.",
        )

    known = [_BACKBONE, _HEAD, *names]
    for name in config.lr_factors:
        close = difflib.get_close_matches(name, known, n=1)
        if name not in known:
            yield UserError(
                f"optimizer.lr_factors.{name}",
                f"a stage of the network ({', '.join(names)}), backbone or head",
                name,
                f"Did you mean {close[0]}?" if close else "Correct the name.",
            )
        elif name in names[: min(config.frozen_stages, len(names) - 1)]:
            yield UserError(
                f"optimizer.lr_factors.{name}",
                "a stage that is trained",
                f"one of the {config.frozen_stages} that optimizer.frozen_stages freezes",
                "Remove one of the two.",
            )
    if _HEAD in config.lr_factors and names[-1] in config.lr_factors:
        yield UserError(
            f"optimizer.lr_factors.{_HEAD}",
            f"{_HEAD} or {names[-1]}",
            "both",
            "Remove one of them.",
        )


def lr_factors_of(stages: Sequence[Stage], config: OptimizerConfig) -> list[float]:
    """The factor of the learning rate in each stage.

    ``layer_decay`` counts from the classifier, whose factor is 1, as in BEiT (Bao et al., ICLR
    2022); a stage's own factor wins over that of the backbone.

    >>> stages = [Stage(name, ()) for name in ("stem", "layer1", "classifier")]
    >>> lr_factors_of(stages, OptimizerConfig(layer_decay=0.5, lr_factors={"head": 10.0}))
    [0.25, 0.5, 10.0]
    """
    last = len(stages) - 1
    factors = []
    for place, stage in enumerate(stages):
        group = _HEAD if place == last else _BACKBONE
        # a norm that a network calls head is no head
        name = group if stage.name in (_BACKBONE, _HEAD) else stage.name
        own = config.lr_factors.get(name, config.lr_factors.get(group, 1.0))
        factors.append(config.layer_decay ** (last - place) * own)
    return factors


def make_optimizer(
    model: Recognizer, config: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of all weights that are not frozen.

    Each group has ``lr_factor``, by which the schedule's learning rate is multiplied, and
    ``names``, those of its weights.

    Args:
        model: on its device, with its stages frozen.
        config: kind and settings of the optimizer.
        device: of the model.
    """
    groups = group_weights(model, config)
    is_fused = device.type == "cuda"
    if config.name == "adamw":
        return torch.optim.AdamW(
            groups,
            config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=is_fused,
        )
    return torch.optim.SGD(
        groups,
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=is_fused,
    )


def group_weights(model: Recognizer, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The weights that are trained, in a group for each learning rate and weight decay.

    With ``decay_norms`` off, weights of one dimension have no decay, and neither have those that
    the network itself names by ``no_weight_decay()``, as timm's do.
    """
    factors = lr_factors_of(model.stages, config)
    undecayed = _never_decayed(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        place = next(place for place, stage in enumerate(model.stages) if stage.holds(name))
        has_decay = config.decay_norms or (weight.ndim > 1 and name not in undecayed)
        decay = config.weight_decay if has_decay else 0.0
        group = groups.setdefault(
            (factors[place], decay),
            {"params": [], "names": [], "lr_factor": factors[place], "weight_decay": decay},
        )
        group["params"].append(weight)
        group["names"].append(name)
    return list(groups.values())


def _never_decayed(model: torch.nn.Module) -> set[str]:
    """The weights that modules name by ``no_weight_decay()``."""
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its part of the schedule's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], model: Recognizer, kind: str
) -> str | None:
    """Take over the averages of a checkpoint, by the names of the weights.

    Learning rates, momentum and the like stay those of the config. A weight that the checkpoint has
    no averages for, as it was frozen, begins without.

    Args:
        optimizer: as the config describes it.
        saved: its state in the checkpoint; one from before 0.2 has all weights in one group.
        model: the network.
        kind: name of the optimizer.

    Returns:
        A line if the checkpoint has the averages of another kind of optimizer, which are dropped.
    """
    all_names = [name for name, _ in model.named_parameters()]
    saved_names = {
        number: name
        for group in saved["param_groups"]
        for number, name in zip(group["params"], group.get("names", all_names), strict=True)
    }
    by_name = {
        saved_names[number]: row for number, row in saved["state"].items() if _KEEPS[kind] in row
    }

    present = optimizer.state_dict()
    present["state"] = {
        number: by_name[name]
        for group in present["param_groups"]
        for number, name in zip(group["params"], group["names"], strict=True)
        if name in by_name
    }
    optimizer.load_state_dict(present)
    if saved["state"] and not by_name:
        return f"the checkpoint is of another optimizer: the averages of {kind} begin anew"
    return None
