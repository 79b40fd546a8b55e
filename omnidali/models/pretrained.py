"""Weights of other projects for our networks: names, inflation, and a report of what matched.

The name of the first convolution identifies the family of a file's names:

- ``backbone.conv1.conv.weight``: ours, and mmaction2 0.x and 1.x; the names are kept.
- ``backbone.conv1.weight``: mmaction2 1.x OmniSource; named as in torchvision below ``backbone.``,
  its heads have no counterpart.
- ``conv1.weight``: torchvision and timm; ``layer1.0.conv1.weight`` becomes
  ``backbone.layer1.0.conv1.conv.weight`` and so on.

A 2D kernel becomes a 3D one by repeating it over time and dividing by the length, so that a still
clip gives the 2D response (I3D, Carreira and Zisserman, CVPR 2017).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from omnidali.config.schema import ModelConfig
from omnidali.errors import UserError, start_of
from omnidali.models.resnet import LAYERS
from omnidali.models.weights import best_weights, read_weights

# The names of the classifier begin so.
HEAD = "cls_head.fc_cls."

# Reasons for which a tensor is left out.
UNKNOWN = "unknown to this model"
_OTHER_NORMALISATION = "normalisation of the input, which is ours"
_OTHER_HEAD = "classifier of another kind"
_FRESH_HEAD = "asked for with pretrained_head: fresh"

_FRESH_ADVICE = "Set model.pretrained_head: fresh to train a classifier for other classes."
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass
class WeightsReport:
    """What became of every tensor of a file, by name.

    Attributes:
        family: the project that the names of the file come from.
        matched: taken as they are.
        inflated: from 2D to 3D.
        left_out: of the file, with the reason.
        missing: of the model, which keep their initial values.
        wrong: those of the backbone or the classifier that do not fit, each with the reason.
    """

    family: str
    left_out: dict[str, str]
    matched: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"weights with {self.family}'s names: {len(self.matched)} tensors as they are,"
            f" {len(self.inflated)} inflated to 3D"
        )
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, other in self.left_out.items() if other == reason]
            text += f"; left out, {reason}: {first_few(sorted(names))}"
        if self.missing:
            text += f"; at their initial values: {first_few(self.missing)}"
        return text


def first_few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def rename_weights(
    weights: Mapping[str, torch.Tensor],
) -> tuple[str, dict[str, torch.Tensor], dict[str, str]]:
    """Give weights our names.

    Returns:
        The family of the names, the weights under ours, and the names without a counterpart with
        the reason.
    """
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if "backbone.conv1.conv.weight" in weights:
        left_out = {
            name: _OTHER_NORMALISATION for name in weights if name.startswith("data_preprocessor.")
        }
        known = {name: value for name, value in weights.items() if name not in left_out}
        return "mmaction2", known, left_out

    known = {}
    left_out = {}
    prefix = "backbone." if "backbone.conv1.weight" in weights else ""
    for name, value in weights.items():
        ours = _from_torchvision(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if ours is not None:
            known[ours] = value
        elif name.startswith(("fc.", "head.fc.", "cls_head.")):
            left_out[name] = _OTHER_HEAD
        else:
            left_out[name] = "no counterpart"
    return "mmaction2 1.x OmniSource" if prefix else "torchvision", known, left_out


def _from_torchvision(name: str) -> str | None:
    """Our name of one of torchvision's weights.

    >>> _from_torchvision("layer1.0.bn2.running_mean")
    'backbone.layer1.0.conv2.bn.running_mean'
    >>> _from_torchvision("layer2.0.downsample.0.weight")
    'backbone.layer2.0.downsample.conv.weight'
    """
    match = re.fullmatch(r"(layer[1-4]\.\d+\.)?(conv|bn)([1-3])\.(\w+)", name)
    if match and (match[1] or match[3] == "1"):
        block, kind, number, part = match.groups(default="")
        ours = f"backbone.{block}conv{number}.{kind}.{part}"
    else:
        match = re.fullmatch(r"(layer[1-4]\.0\.)downsample\.([01])\.(\w+)", name)
        if not match:
            return None
        block, number, part = match.groups()
        kind = "conv" if number == "0" else "bn"
        ours = f"backbone.{block}downsample.{kind}.{part}"

    parts = ("weight",) if kind == "conv" else _NORM
    return ours if part in parts else None


def infer_architecture(
    weights: Mapping[str, torch.Tensor], where: str | Path
) -> tuple[ModelConfig, int]:
    """The network that weights belong to: kernels over time make SlowOnly, blocks the depth.

    Args:
        weights: with names of any family.
        where: the file, for errors.

    Returns:
        The network, and the outputs of its classifier.

    Raises:
        UserError: if it is none of ours, or has no classifier.
    """
    _, known, _ = rename_weights(weights)
    blocks = tuple(
        len({name.split(".")[2] for name in known if name.startswith(f"backbone.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    is_bottleneck = any(".conv3." in name for name in known)
    depths = {layers: depth for depth, layers in LAYERS.items()}
    depth = depths.get((blocks, is_bottleneck))

    first = known.get("backbone.conv1.conv.weight")
    if first is None or first.ndim not in (4, 5) or depth is None:
        kinds = ", ".join(f"-{depth}" for depth in LAYERS)
        raise UserError(
            str(where),
            f"a TSN or SlowOnly on a ResNet{kinds}",
            f"stages of {', '.join(map(str, blocks))} blocks",
            "Use another checkpoint.",
        )
    last = known.get(f"{HEAD}weight")
    if last is None or last.ndim != 2:
        raise UserError(
            str(where),
            f"a classifier ({HEAD}weight)",
            "none",
            "Use the checkpoint of a network that was trained on the classes.",
        )
    return ModelConfig(name="tsn" if first.ndim == 4 else "slowonly", depth=depth), len(last)


def inflate(weight: torch.Tensor, length: int) -> torch.Tensor:
    """A 2D kernel (O, I, H, W) as a 3D one (O, I, length, H, W)."""
    return weight[:, :, None].repeat(1, 1, length, 1, 1) / length


def fit_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], takes_head: bool
) -> tuple[dict[str, torch.Tensor], WeightsReport]:
    """The part of a foreign state dict that goes into a model, renamed and inflated.

    Args:
        model: ours.
        weights: with names of any family.
        takes_head: whether the classifier is wanted; else it keeps its initial values.
    """
    own = model.state_dict()
    family, known, left_out = rename_weights(weights)
    report = WeightsReport(family, left_out)
    fitting = {}
    for name, value in known.items():
        wanted = own.get(name)
        if wanted is None and name.startswith("backbone."):
            report.wrong.append(f"{name} is unknown")  # of a deeper network
        elif wanted is None:
            report.left_out[name] = UNKNOWN
        elif name.startswith(HEAD) and not takes_head:
            report.left_out[name] = _FRESH_HEAD
        elif value.shape == wanted.shape:
            fitting[name] = value
            report.matched.append(name)
        elif wanted.ndim == 5 and value.shape == wanted[:, :, 0].shape:
            fitting[name] = inflate(value, wanted.shape[2])
            report.inflated.append(name)
        else:
            report.wrong.append(f"{name} is {tuple(value.shape)} instead of {tuple(wanted.shape)}")

    # Files of old torch versions have no counters of batches.
    wrong = {text.partition(" ")[0] for text in report.wrong}
    report.missing += [
        name
        for name in own
        if name not in fitting and name not in wrong and not name.endswith("num_batches_tracked")
    ]
    return fitting, report


def check_pretrained(config: ModelConfig) -> None:
    """Refuse a file of weights that is not there, which needs no data.

    Raises:
        UserError: naming the file.
    """
    if config.pretrained and not os.path.isfile(config.pretrained):
        raise UserError(
            config.pretrained,
            "a checkpoint",
            f"no such file{start_of(config.pretrained)}",
            "Correct the path, or start from scratch with model.pretrained=null.",
        )


def load_pretrained(
    model: torch.nn.Module, path: str | Path, head: str = "keep", classes: Sequence[str] = ()
) -> WeightsReport:
    """Start a model from a file of any family.

    Args:
        model: ours.
        path: as in :func:`~omnidali.models.weights.read_weights`.
        head: ``keep`` takes the classifier too, ``fresh`` leaves it at its initial values.
            Classifiers of torchvision and timm, which name ImageNet's classes, are never taken.
        classes: names that a kept classifier must have been trained with, where the file has them.

    Raises:
        UserError: if a tensor has another shape, the backbone is incomplete, or the classifier is
            missing though it is wanted.
    """
    state = read_weights(path)
    fitting, report = fit_weights(model, best_weights(state), takes_head=head == "keep")

    lacking = [name for name in report.missing if not name.startswith(HEAD)]
    if report.wrong or lacking:
        only_head = not lacking and all(text.startswith(HEAD) for text in report.wrong)
        raise UserError(
            str(path),
            "the weights of this config's model",
            first_few([*report.wrong, *(f"{name} is missing" for name in lacking)]),
            _FRESH_ADVICE
            if only_head
            else "Set model.name and model.depth to what the file was made for.",
        )
    if not fitting:
        raise UserError(
            str(path), "weights of a ResNet", first_few(list(report.left_out)), "Use another file."
        )

    trained_on = list(state.get("classes") or classes)
    if head == "keep" and classes and trained_on != list(classes):
        raise UserError(
            str(path), f"the classes {first_few(classes)}", first_few(trained_on), _FRESH_ADVICE
        )
    lacks_head = any(name.startswith(HEAD) for name in report.missing)
    if lacks_head and head == "keep" and report.family == "mmaction2":
        raise UserError(str(path), "a classifier", "none", "Set model.pretrained_head: fresh.")

    model.load_state_dict(fitting, strict=False)
    return report
