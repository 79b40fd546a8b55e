"""Mistakes in the settings of an external network."""

import difflib
from collections.abc import Iterator

from omnidali.config.libraries import knows_network
from omnidali.config.model_settings import ModelConfig
from omnidali.config.network_names import (
    CLIP_LIBRARIES,
    FRAME_LIBRARIES,
    FRAME_WISE,
    OUR_NETWORKS,
    Library,
    parse_network_name,
)
from omnidali.errors import UserError

# Arguments by which a library reads weights; model.pretrained is the setting for it.
_WEIGHTS_OPTIONS = (
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "trust_remote_code",
    "weights",
    "weights_backbone",
)


def find_network_mistakes(model: ModelConfig) -> Iterator[UserError]:
    """Yield every mistake in the name of a network, its options and its weights."""
    if model.name not in OUR_NETWORKS:
        yield from _name_mistakes("model.name", model.name, CLIP_LIBRARIES, OUR_NETWORKS)
    if model.backbone is not None:
        if not model.is_frame_wise:
            yield UserError(
                "model.backbone",
                f"model.name: {FRAME_WISE}, which has one",
                f"model.name: {model.name}",
                "Remove it, or change model.name.",
            )
        yield from _name_mistakes("model.backbone", model.backbone, FRAME_LIBRARIES, ())
    yield from _option_mistakes(model)


def _name_mistakes(
    key: str, text: str, libraries: tuple[Library, ...], ours: tuple[str, ...]
) -> Iterator[UserError]:
    """Compare the form of a name with what a setting takes."""
    network = parse_network_name(text)
    if network is not None and network.library in ("function", *libraries):
        return
    forms = [*ours, *(f"{library}/NAME" for library in libraries), "package.module:function"]
    close = difflib.get_close_matches(text.lower(), ours, n=1) or _like_names(key, text, libraries)
    advice = f"Did you mean '{close[0]}'?" if close else "Write one of these."
    if network is not None and network.library in FRAME_LIBRARIES:
        advice = f"For a network over frames write model.name={FRAME_WISE} model.backbone={text}."
    elif network is not None:
        advice = f"For a network over clips write model.name={text}, without a backbone."
    yield UserError(key, f"one of {', '.join(forms)}", repr(text), advice)


def _like_names(key: str, text: str, libraries: tuple[Library, ...]) -> list[str]:
    """What a name without its library, or with a misspelt one, may mean."""
    before, slash, name = text.partition("/")
    if slash:
        close = difflib.get_close_matches(before.lower(), libraries, n=1)
        return [f"{library}/{name}" for library in close]
    return [f"{library}/{text}" for library in libraries if knows_network(library, text, key)]


def _option_mistakes(model: ModelConfig) -> Iterator[UserError]:
    """Mistakes in what only external networks have."""
    is_ours = model.external is None and model.name in OUR_NETWORKS and model.backbone is None
    if is_ours:
        given = {"options": model.options, "mean": model.mean, "std": model.std}
        for name in (name for name, value in given.items() if value):
            yield UserError(
                f"model.{name}", "an external network", f"our {model.name}", "Remove it."
            )
        if model.pretrained is True:
            yield UserError(
                "model.pretrained",
                "a file, or a name of `omnidali help weights`, as this network is ours",
                "true",
                "Write, for example, model.pretrained=torchvision/resnet50.",
            )

    for name in model.options:
        if name in _WEIGHTS_OPTIONS:
            yield UserError(
                f"model.options.{name}",
                "arguments for the network itself",
                f"{name}, which is about its weights",
                "Use model.pretrained: true, or the path of a file.",
            )
    if (model.mean is None) != (model.std is None):
        yield UserError("model.mean", "mean and std, or neither", "one of them", "Set both.")
