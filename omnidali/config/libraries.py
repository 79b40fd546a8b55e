"""What libraries of networks say of theirs before one is made: names, input size, mean and std.

A library is imported when a config names one of its networks, and not before.
"""

import difflib
import importlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from omnidali.config.network_names import Library, NetworkName
from omnidali.errors import UserError
from omnidali.utils.constants import MEAN, STD
from omnidali.utils.named_function import describe_error

INSTALL = "pip install 'omnidali[backbones]'"
Colour = tuple[float, float, float]

# ImageNet's, which the loader's clips are normalised with, on the scale 0..1
OUR_MEAN: Colour = (MEAN[0] / 255, MEAN[1] / 255, MEAN[2] / 255)
OUR_STD: Colour = (STD[0] / 255, STD[1] / 255, STD[2] / 255)
# The sources of timm's names that are no names of its own: folders, and models of a hub.
TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class InputFormat:
    """The clips that a network takes.

    Attributes:
        mean: of red, green and blue on the scale 0..1, which is subtracted.
        std: by which the difference is divided.
        size: side of the frames, pixels; None where the network does not say.
        frames: of a clip; None where the network does not say.
    """

    mean: Colour = OUR_MEAN
    std: Colour = OUR_STD
    size: int | None = None
    frames: int | None = None


def import_library(library: Library, where: str) -> ModuleType:
    """Import a library of networks.

    Args:
        library: other than ``function``.
        where: the setting that names it, for errors.

    Raises:
        UserError: if it is missing, or does not import.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise UserError(
            where, f"the library {library}", f"no module {error.name}", f"Install it: {INSTALL}"
        ) from None
    except Exception as error:
        raise UserError(
            where,
            f"the library {library}",
            f"one whose import ends with {describe_error(error)}",
            "Install builds of torch and torchvision that go together, from the same index, and"
            f" {INSTALL}",
        ) from error


def read_input(network: NetworkName, options: Mapping[str, object], where: str) -> InputFormat:
    """What a library says of a network's input; nothing of functions.

    Args:
        network: by name.
        options: arguments that the network will be made with.
        where: the setting that names it, for errors.

    Raises:
        UserError: if the library does not import, or does not know the network.
    """
    if network.library == "function":
        return InputFormat()
    if network.library == "timm":
        return _input_of_timm(network.name, options, where)
    if network.library == "torchvision":
        return _input_of_torchvision(network.name, options, where)
    return _input_of_transformers(network.name, options, where)


def _unknown_name(where: str, network: object, known: Collection[str]) -> UserError:
    """The error for a network that a library does not have, with the names that are like it."""
    name = str(network).partition("/")[2]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    close = close or [other for other in known if name.lower() in other.lower()][:3]
    library = str(network).partition("/")[0]
    advice = f"Did you mean {' or '.join(f'{library}/{other}' for other in close)}?"
    return UserError(
        where, f"a network of {library}", str(network), advice if close else "Correct the name."
    )


def knows_network(library: Library, name: str, where: str) -> bool:
    """Whether a library has a network of this name; False where it cannot be asked."""
    try:
        read_input(NetworkName(library, name), {}, where)
    except UserError:
        return False
    return True


def _timm_names(where: str) -> list[str]:
    """All networks of timm."""
    return list(import_library("timm", where).list_models())


def _input_of_timm(name: str, options: Mapping[str, object], where: str) -> InputFormat:
    timm = import_library("timm", where)
    if name.startswith(TIMM_SOURCES):
        return InputFormat()
    if not timm.is_model(name):
        raise _unknown_name(where, f"timm/{name}", _timm_names(where))
    try:
        facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # no such weights of a known network
        kind = name.partition(".")[0]
        raise _unknown_name(where, f"timm/{name}", timm.list_pretrained(f"{kind}.*")) from None
    if facts is None:
        return InputFormat(size=_square(options.get("img_size")))
    return InputFormat(
        mean=_colour(facts.mean, OUR_MEAN),
        std=_colour(facts.std, OUR_STD),
        size=_square(options.get("img_size")) or _square(facts.input_size[1:]),
    )


def torchvision_names(where: str, *, over_clips: bool) -> list[str]:
    """The networks of torchvision that classify images or clips."""
    torchvision = import_library("torchvision", where)
    models = torchvision.models
    return list(models.list_models(module=models.video if over_clips else models))


def _input_of_torchvision(name: str, options: Mapping[str, object], where: str) -> InputFormat:
    known = [
        *torchvision_names(where, over_clips=False),
        *torchvision_names(where, over_clips=True),
    ]
    if name not in known:
        raise _unknown_name(where, f"torchvision/{name}", known)
    weights = import_library("torchvision", where).models.get_model_weights(name)
    best = getattr(weights, "DEFAULT", None)
    if best is None:
        return InputFormat(size=_square(options.get("image_size")))
    transforms = best.transforms()
    return InputFormat(
        mean=_colour(transforms.mean, OUR_MEAN),
        std=_colour(transforms.std, OUR_STD),
        size=_square(options.get("image_size")) or _square(transforms.crop_size),
        frames=best.meta.get("min_temporal_size"),
    )


def transformers_classes(where: str) -> dict[str, str]:
    """The classes of transformers that classify clips, by their type of model."""
    import_library("transformers", where)
    names = "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES"
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    return dict(getattr(auto, names))


def transformers_config(name: str, options: Mapping[str, object], where: str) -> Any:
    """The config of a network of transformers, with the options in it.

    Args:
        name: of a class or a type of model, for its defaults; a folder with a config.json; or a
            model of the hub, which may need a network.
        options: settings of the config.
        where: the setting that names it, for errors.

    Raises:
        UserError: if there is no such network, or it has no such options.
    """
    transformers = import_library("transformers", where)
    classes = transformers_classes(where)
    types = {cls: kind for kind, cls in classes.items()}
    kind = types.get(name, name)
    is_folder = os.path.isdir(name)
    if kind not in classes and not is_folder and "/" not in name:
        raise _unknown_name(where, f"transformers/{name}", [*classes, *types])
    try:
        if kind in classes and not is_folder:
            config = transformers.AutoConfig.for_model(kind)
        else:
            config = transformers.AutoConfig.from_pretrained(name)
    except Exception as error:
        raise UserError(
            where,
            "a network of transformers, a folder with config.json, or a model of the hub",
            f"transformers/{name}: {describe_error(error)}",
            "Name a folder that `save_pretrained` has written, or fetch the model where there is a"
            " network, into the same HF_HOME.",
        ) from None
    if config.model_type not in classes:
        raise UserError(
            where,
            f"a network that classifies clips ({', '.join(classes)})",
            f"transformers/{name}, of the type {config.model_type}",
            "Use another one.",
        )
    return _with_options(config, options)


def _with_options(config: Any, options: Mapping[str, object]) -> Any:
    """A config of transformers with some settings changed."""
    values = {key: value for key, value in config.to_dict().items() if value is not ...}
    for key in options:
        if key not in values:
            close = difflib.get_close_matches(key, values, n=1)
            raise UserError(
                f"model.options.{key}",
                f"a setting of {type(config).__name__}",
                "none of that name",
                f"Did you mean {close[0]}?" if close else "Remove it.",
            )
    try:
        return type(config).from_dict({**values, **options})
    except Exception as error:
        raise UserError(
            "model.options",
            f"settings that {type(config).__name__} takes",
            describe_error(error),
            "Correct them.",
        ) from None


def _input_of_transformers(name: str, options: Mapping[str, object], where: str) -> InputFormat:
    config = transformers_config(name, options, where)
    sizes = (getattr(config, key, None) for key in ("image_size", "crop_size"))
    facts = _processor_facts(name)
    # pixels 0..255 are multiplied by this factor before the mean is subtracted
    factor = 255 * float(facts.get("rescale_factor") or 1 / 255)
    if facts.get("do_rescale") is False:
        factor = 255.0
    is_normalised = facts.get("do_normalize") is not False
    mean = _colour(facts.get("image_mean"), OUR_MEAN) if is_normalised else (0.0, 0.0, 0.0)
    std = _colour(facts.get("image_std"), OUR_STD) if is_normalised else (1.0, 1.0, 1.0)
    if "image_mean" not in facts and is_normalised:
        factor = 1.0
    return InputFormat(
        mean=(mean[0] / factor, mean[1] / factor, mean[2] / factor),
        std=(std[0] / factor, std[1] / factor, std[2] / factor),
        size=next((side for size in sizes if (side := _square(size))), None),
        frames=getattr(config, "num_frames", None),
    )


def _processor_facts(name: str) -> Mapping[str, Any]:
    """What a folder or a model of the hub says of its preprocessing; empty if nothing."""
    if "/" not in name and not os.path.isdir(name):
        return {}
    hub = importlib.import_module("transformers.utils")
    for file in ("video_preprocessor_config.json", "preprocessor_config.json"):
        try:
            path = hub.cached_file(name, file)
            with open(path, encoding="utf-8") as text:
                facts = json.load(text)
        except Exception:  # there is none, or the hub is out of reach
            continue
        if isinstance(facts, dict):
            return facts
    return {}


def _square(size: object) -> int | None:
    """The side of a square, given as a number or as height and width; None for anything else."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size if size > 0 else None
    if isinstance(size, (list, tuple)) and size and len(set(size)) == 1:
        return _square(size[0])
    return None


def _colour(values: object, otherwise: Colour) -> Colour:
    """Three numbers for red, green and blue."""
    if isinstance(values, (list, tuple)) and len(values) == 3:
        red, green, blue = map(float, values)
        return (red, green, blue)
    return otherwise
