"""Weights of other projects for our networks: inflation, and a report of what matched.

Their names are those of :mod:`~omnidali.models.weight_names`. A 2D kernel becomes a 3D one by
repeating it over time and dividing by the length, so that a still clip gives the 2D response (I3D,
Carreira and Zisserman, CVPR 2017).
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from omnidali.config.model_settings import ModelConfig
from omnidali.errors import UserError, start_of
from omnidali.models.download import find_released, locate_weights
from omnidali.models.library_weights import fit_library_weights, is_external
from omnidali.models.recognizers import Recognizer
from omnidali.models.released_weights import ReleasedWeights
from omnidali.models.weight_names import (
    FRESH_HEAD,
    HEAD,
    OUR_RESNETS,
    UNKNOWN,
    depth_of,
    find_other_network,
    first_few,
    rename_weights,
)
from omnidali.models.weights import are_same_classes, best_weights, class_names, read_weights
from omnidali.models.weights_report import WeightsReport

_FRESH_ADVICE = "Set model.pretrained_head: fresh to train a classifier for other classes."
# The second convolutions of the late blocks of SlowOnly-18 and -34.
_LATE_CONV2 = re.compile(r"(.*\.)?layer[34]\.\d+\.conv2\.conv\.weight")


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
    known = rename_weights(weights)[1]
    depth = depth_of(known)
    other = find_other_network(weights)
    if other is not None or depth is None:
        got, advice = other or ("weights of another network", "Use another checkpoint.")
        raise UserError(str(where), f"a TSN or SlowOnly on a {OUR_RESNETS}", got, advice)

    last = known.get(f"{HEAD}weight")
    if last is None or last.ndim != 2:
        raise UserError(
            str(where),
            f"a classifier ({HEAD}weight)",
            "none",
            "Use the checkpoint of a network that was trained on the classes.",
        )
    is_2d = known["backbone.conv1.conv.weight"].ndim == 4
    return ModelConfig(name="tsn" if is_2d else "slowonly", depth=depth), len(last)


def inflate(weight: torch.Tensor, length: int) -> torch.Tensor:
    """A 2D kernel (O, I, H, W) as a 3D one (O, I, length, H, W)."""
    return weight[:, :, None].repeat(1, 1, length, 1, 1) / length


def lengthen_kernels(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights of SlowOnly-18 and -34 from before 0.2, as those networks are now.

    Both convolutions of a late block look at three frames, as in mmaction2; before 0.2 the second
    one looked at one. With zeros around that frame's kernel it computes the same.

    Args:
        weights: with mmaction2's names, and anything before them.

    Returns:
        All weights, and the names of those that were lengthened: none for other networks.
    """
    short = [
        name
        for name, value in weights.items()
        if _LATE_CONV2.fullmatch(name) and value.ndim == 5 and tuple(value.shape[2:]) == (1, 3, 3)
    ]
    # the first convolution of a bottleneck is 3x1x1
    first = [weights.get(name.replace(".conv2.", ".conv1.")) for name in short]
    if not all(value is not None and tuple(value.shape[2:]) == (3, 3, 3) for value in first):
        short = []
    longer = {name: torch.nn.functional.pad(weights[name], (0, 0, 0, 0, 1, 1)) for name in short}
    return {**weights, **longer}, short


def fit_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], takes_head: bool
) -> tuple[dict[str, torch.Tensor], WeightsReport]:
    """The part of a foreign state dict that goes into a model, renamed and inflated.

    Args:
        model: ours.
        weights: with names of any family.
        takes_head: whether the classifier is wanted; else it keeps its initial values.
    """
    if is_external(model):
        return fit_library_weights(model, weights, takes_head)
    own = model.state_dict()
    family, known, left_out = rename_weights(weights)
    known, lengthened = lengthen_kernels(known)
    report = WeightsReport(family, left_out, lengthened=lengthened)
    fitting = {}
    for name, value in known.items():
        wanted = own.get(name)
        if wanted is None and name.startswith("backbone."):
            report.wrong.append(f"{name} is unknown")  # of a deeper network
        elif wanted is None:
            report.left_out[name] = UNKNOWN
        elif name.startswith(HEAD) and not takes_head:
            report.left_out[name] = FRESH_HEAD
        elif value.shape == wanted.shape:
            fitting[name] = value
            report.matched.append(name)
        elif wanted.ndim == 5 and value.shape == wanted[:, :, 0].shape:
            fitting[name] = inflate(value, wanted.shape[2])
            report.inflated.append(name)
        else:
            report.wrong.append(f"{name} is {tuple(value.shape)} instead of {tuple(wanted.shape)}")

    report.note_missing(own, fitting)
    return fitting, report


def check_pretrained(config: ModelConfig) -> None:
    """Refuse weights that are not there, or of another network, which needs no data.

    Released weights are downloaded, unless the cache has them.

    Raises:
        UserError: naming the file or the released weights.
    """
    name = config.pretrained
    if not isinstance(name, str) or os.path.isfile(name):
        return
    released = find_released(name)
    if released is not None and config.external is None:
        _check_network(config, released)
    if not locate_weights(name).is_file():
        raise UserError(
            name,
            "a checkpoint",
            f"no such file{start_of(name)}",
            "Correct the path, or start from scratch with model.pretrained=null.",
        )


def _check_network(config: ModelConfig, released: ReleasedWeights) -> None:
    """Refuse released weights of another depth, and 3D kernels for a 2D network.

    Raises:
        UserError: naming the setting.
    """
    is_wrong_kind = released.network == "slowonly" and config.name == "tsn"
    if is_wrong_kind or released.depth != config.depth:
        raise UserError(
            "model.pretrained",
            f"weights for model.name={config.name} model.depth={config.depth}",
            f"{released.name}, a {released}",
            "Name others (`omnidali help weights`), or set model.name and model.depth to what they"
            " are for.",
        )


def load_pretrained(
    model: Recognizer, path: str | Path, head: str = "keep", classes: Sequence[str] = ()
) -> WeightsReport:
    """Start a model from a file of any family.

    Args:
        model: ours, or one around an external network, whose names the file has.
        path: as in :func:`~omnidali.models.weights.read_weights`, or the name of released weights.
        head: ``keep`` takes the classifier too, ``fresh`` leaves it at its initial values.
            Classifiers of torchvision and timm, which name ImageNet's classes, are never taken.
        classes: names that a kept classifier must have been trained with, where the file has them.

    Raises:
        UserError: if a tensor has another shape, the backbone is incomplete, or the classifier is
            missing though it is wanted.
    """
    state = read_weights(locate_weights(path))
    weights = best_weights(state)
    fitting, report = fit_weights(model, weights, takes_head=head == "keep")
    classifier = model.stages[-1]
    _check_fit(model, weights, report, str(path))
    if not fitting:
        expected = f"weights of {report.family if is_external(model) else 'a ResNet'}"
        raise UserError(str(path), expected, first_few(list(report.left_out)), "Use another file.")

    trained_on = class_names(state) or list(classes)
    takes_head = any(classifier.holds(name) for name in fitting)
    if takes_head and classes and not are_same_classes(trained_on, classes):
        raise UserError(
            str(path), f"the classes {first_few(classes)}", first_few(trained_on), _FRESH_ADVICE
        )
    lacks_head = any(classifier.holds(name) for name in report.missing)
    if lacks_head and head == "keep" and report.family == "mmaction2":
        raise UserError(str(path), "a classifier", "none", "Set model.pretrained_head: fresh.")

    model.load_state_dict(fitting, strict=False)
    return report


def _check_fit(
    model: Recognizer, weights: Mapping[str, torch.Tensor], report: WeightsReport, where: str
) -> None:
    """Refuse weights of another shape, and those that lack any but the classifier's.

    Args:
        model: that they are for.
        weights: of the file.
        report: of :func:`fit_weights`.
        where: the file, for errors.

    Raises:
        UserError: naming up to five of them.
    """
    classifier = model.stages[-1]
    lacking = [name for name in report.missing if not classifier.holds(name)]
    if not report.wrong and not lacking:
        return
    got = first_few([*report.wrong, *(f"{name} is missing" for name in lacking)])
    if not lacking and all(classifier.holds(text.partition(" ")[0]) for text in report.wrong):
        advice = _FRESH_ADVICE
    elif is_external(model):
        advice = "Set model.name, model.backbone and model.options to what the file was made for."
    else:
        advice = "Set model.name and model.depth to what the file was made for."
        got, advice = find_other_network(weights) or (got, advice)
    raise UserError(where, "the weights of this config's model", got, advice)
