"""Networks of timm, torchvision, transformers, and of functions that a config names.

Each is made by its library, and is a plain module here. :mod:`~omnidali.models.adapter` puts it to
use.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from omnidali.config.libraries import (
    InputFormat,
    import_library,
    read_input,
    torchvision_names,
    transformers_classes,
    transformers_config,
)
from omnidali.config.model_settings import ModelConfig
from omnidali.config.network_names import FRAME_WISE, NetworkName
from omnidali.errors import UserError
from omnidali.utils.named_function import describe_error, load_function

# What functions call the number of classes.
_CLASSES_ARGUMENTS = ("num_classes", "num_labels", "n_classes", "model_num_class")
# Entries of a config of transformers that say nothing of the network itself.
_NOT_OPTIONS = frozenset(
    [
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "model_type",
        "torch_dtype",
        "transformers_version",
    ]
)


@dataclass(frozen=True)
class MadeNetwork:
    """An external network.

    Attributes:
        module: as its library made it.
        network: its name.
        input: what it takes.
        options: with which the library makes it again; plain values.
        gives_logits: whether it was asked for one output for each class.
        frames_first: whether it takes (N, T, 3, H, W), not (N, 3, T, H, W).
    """

    module: nn.Module
    network: NetworkName
    input: InputFormat
    options: Mapping[str, object]
    gives_logits: bool
    frames_first: bool = False


def make_network(config: ModelConfig, classes: int, *, pretrained: bool = False) -> MadeNetwork:
    """Make the external network that a config names.

    Args:
        config: of the network.
        classes: outputs of a network over clips, and of a function that takes their number.
        pretrained: whether to take the library's own weights.

    Raises:
        UserError: if its library does not import, does not know it or does not make it.
    """
    network, where = config.external, config.external_key
    assert network is not None
    made = _MAKERS[network.library](network, config, classes, pretrained)
    if not isinstance(made.module, nn.Module):
        raise UserError(
            where,
            "a function that returns a torch.nn.Module",
            f"{network}, which returned {type(made.module).__name__}",
            "Correct the function, or name another one.",
        )
    if config.mean is not None and config.std is not None:
        made = replace(made, input=replace(made.input, mean=config.mean, std=config.std))
    return made


def _call(
    make: Callable[..., Any],
    arguments: Mapping[str, object],
    *,
    config: ModelConfig,
    pretrained: bool,
) -> Any:
    """Call what makes a network; its errors become the user's."""
    try:
        return make(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        network = config.external
        if pretrained:
            raise UserError(
                "model.pretrained",
                f"weights from {network}'s own loader",
                describe_error(error),
                "Without a network, fill its cache elsewhere (TORCH_HOME, HF_HOME), or name a file"
                " with model.pretrained=FILE.",
            ) from error
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise UserError(
            config.external_key,
            "a network that can be made",
            f"{network}({given}): {describe_error(error)}",
            "Correct model.options, or the function.",
        ) from error


def _make_timm(
    network: NetworkName, config: ModelConfig, classes: int, pretrained: bool
) -> MadeNetwork:
    """A network of timm without its classifier."""
    _require_kind(network, config, over_clips=False)
    facts = read_input(network, config.options, config.external_key)
    module = _call(
        import_library("timm", config.external_key).create_model,
        {"model_name": network.name, "pretrained": pretrained, "num_classes": 0, **config.options},
        config=config,
        pretrained=pretrained,
    )
    return MadeNetwork(module, network, facts, config.options, gives_logits=False)


def _make_torchvision(
    network: NetworkName, config: ModelConfig, classes: int, pretrained: bool
) -> MadeNetwork:
    """A network of torchvision: over frames without its classifier, over clips with one."""
    where = config.external_key
    over_clips = not config.is_frame_wise
    _require_kind(network, config, over_clips=over_clips)
    facts = read_input(network, config.options, where)
    arguments: dict[str, object] = {"name": network.name, **config.options}
    if pretrained:
        arguments["weights"] = "DEFAULT"
    elif over_clips:
        arguments["num_classes"] = classes
    module = _call(
        import_library("torchvision", where).models.get_model,
        arguments,
        config=config,
        pretrained=pretrained,
    )
    _drop_auxiliary_outputs(module)
    if not over_clips:
        _replace_classifier(module, None)
    elif pretrained:
        _replace_classifier(module, classes)
    return MadeNetwork(module, network, facts, config.options, gives_logits=over_clips)


def _drop_auxiliary_outputs(module: nn.Module) -> None:
    """Remove the classifiers in the middle of GoogLeNet and Inception, as torchvision does."""
    if not getattr(module, "aux_logits", False):
        return
    for name, value in {"aux_logits": False, "aux1": None, "aux2": None, "AuxLogits": None}.items():
        if hasattr(module, name):
            setattr(module, name, value)


def _make_transformers(
    network: NetworkName, config: ModelConfig, classes: int, pretrained: bool
) -> MadeNetwork:
    """A network of transformers that classifies clips."""
    _require_kind(network, config, over_clips=True)
    where = config.external_key
    settings = transformers_config(network.name, config.options, where)
    settings.num_labels = classes
    facts = read_input(network, config.options, where)
    library = import_library("transformers", where)
    kind = transformers_classes(where)[settings.model_type]
    try:
        class_of_network = getattr(library, kind)
    except Exception as error:
        raise UserError(
            where,
            f"{kind} of transformers",
            f"one whose import ends with {describe_error(error)}",
            "Install builds of torch, torchvision and transformers that go together.",
        ) from error

    if pretrained:
        make, arguments = (
            class_of_network.from_pretrained,
            {
                "pretrained_model_name_or_path": network.name,
                "config": settings,
                "ignore_mismatched_sizes": True,
            },
        )
    else:
        make, arguments = class_of_network, {"config": settings}
    module = _call(make, arguments, config=config, pretrained=pretrained)
    options = {
        key: value for key, value in settings.to_diff_dict().items() if key not in _NOT_OPTIONS
    }
    return MadeNetwork(
        module.float(),
        NetworkName("transformers", settings.model_type),
        facts,
        options,
        gives_logits=True,
        frames_first=True,
    )


def _make_by_function(
    network: NetworkName, config: ModelConfig, classes: int, pretrained: bool
) -> MadeNetwork:
    """A network that a function of the user's makes; it gets the number of classes if it can."""
    function = load_function(network.name, config.external_key)
    known = _parameters_of(function)
    arguments: dict[str, object] = dict(config.options)
    counts = [name for name in _CLASSES_ARGUMENTS if name in known]
    is_asked = bool(counts) and not any(name in arguments for name in counts)
    if is_asked:
        arguments[counts[0]] = classes
    if pretrained:
        if "pretrained" not in known:
            raise UserError(
                "model.pretrained",
                "a function with the argument pretrained",
                f"{network}, which has none",
                "Name a file with model.pretrained=FILE, or leave it out.",
            )
        arguments["pretrained"] = True
    module = _call(function, arguments, config=config, pretrained=pretrained)
    return MadeNetwork(
        module,
        network,
        _input_of_module(module),
        config.options,
        gives_logits=is_asked or not config.is_frame_wise,
    )


def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments that a function names; none where Python cannot tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _input_of_module(module: Any) -> InputFormat:
    """What a module says of its input in the form that timm has for it."""
    facts = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    facts = facts if isinstance(facts, Mapping) else {}
    colours = [facts.get("mean"), facts.get("std")]
    if not all(isinstance(colour, (list, tuple)) and len(colour) == 3 for colour in colours):
        return InputFormat()
    mean, std = (tuple(map(float, colour)) for colour in colours)  # type: ignore[arg-type]
    if not all(0 < value < math.inf for value in std):
        return InputFormat()
    return InputFormat(mean=mean, std=std)  # type: ignore[arg-type]


# By library; each takes the network's name, its config, the classes, and whether to load weights.
_MAKERS = {
    "timm": _make_timm,
    "torchvision": _make_torchvision,
    "transformers": _make_transformers,
    "function": _make_by_function,
}


def _require_kind(network: NetworkName, config: ModelConfig, *, over_clips: bool) -> None:
    """Refuse a network of another kind than the setting takes that names it.

    Raises:
        UserError: if torchvision has it for the other kind.
    """
    if network.library != "torchvision":
        return
    if network.name in torchvision_names(config.external_key, over_clips=not over_clips):
        kinds = ("frames", f"model.name={FRAME_WISE} model.backbone={network}")
        if not over_clips:
            kinds = ("clips", f"model.name={network} model.backbone=null")
        raise UserError(
            config.external_key,
            f"a network over {'clips' if over_clips else 'frames'}",
            f"{network}, which is one over {kinds[0]}",
            f"Write {kinds[1]}.",
        )


def find_classifier(module: nn.Module, classes: int | None = None) -> str | None:
    """The name of a network's last layer with weights; None if there is none.

    Args:
        module: the network.
        classes: outputs of the layer, if one has so many; None: of any number.
    """
    layers = {
        name: inner
        for name, inner in module.named_modules()
        if name and any(True for _ in inner.parameters(recurse=False))
    }
    fitting = [
        name
        for name, inner in layers.items()
        if isinstance(weight := getattr(inner, "weight", None), torch.Tensor)
        and weight.ndim > 1
        and len(weight) == classes
    ]
    names = fitting or list(layers)
    return names[-1] if names else None


def _replace_classifier(module: nn.Module, classes: int | None) -> None:
    """Give a network a fresh classifier, or none.

    Args:
        module: whose last layer is a linear one, or a convolution in its place.
        classes: outputs of the fresh one; None: its inputs come out instead.
    """
    name = find_classifier(module)
    assert name is not None
    last = module.get_submodule(name)
    fresh: nn.Module = nn.Identity()
    if classes is not None and isinstance(last, nn.Linear):
        fresh = nn.Linear(last.in_features, classes)
    elif classes is not None:
        assert isinstance(last, nn.Conv3d)
        fresh = nn.Conv3d(last.in_channels, classes, kernel_size=1)
    above, _, child = name.rpartition(".")
    setattr(module.get_submodule(above), child, fresh)
