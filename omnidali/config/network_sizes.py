"""Sizes of clips and views that follow the network, where a config does not set them.

External networks say which frames they take. Ours take any, and have the schema's defaults.
"""

from collections.abc import Mapping
from dataclasses import replace

from omnidali.config.libraries import read_input
from omnidali.config.schema import Config, ViewsConfig
from omnidali.config.validate_network import find_network_mistakes
from omnidali.errors import UserError

_CLIP_SIZE = "clip.size"
_VIEWS = ("evaluation.validation", "evaluation.test")
# The keys that follow the network; null is the same as nothing.
_FOLLOWING = (
    _CLIP_SIZE,
    *(f"{views}.{name}" for views in _VIEWS for name in ("size", "short_side")),
)
# Frames are scaled to this much more than what is cut out of them.
_SHORT_SIDE = 256 / 224


def drop_null_sizes(values: dict) -> None:
    """Remove sizes that are null from plain values of a config."""
    for key in _FOLLOWING:
        place, name = _find(values, key)
        if name in place and place[name] is None:
            del place[name]


def with_network_sizes(config: Config, values: Mapping, errors: list[UserError]) -> Config:
    """A config with the sizes of its network, where that is external and says its size.

    Args:
        config: of these values, with the schema's defaults.
        values: plain values; what is absent follows the network.
        errors: gets the mistake, if the library does not import or does not know the network.
    """
    unset = {key for key in _FOLLOWING if key.rpartition(".")[2] not in _find(values, key)[0]}
    network = config.model.external
    if network is None or not unset or any(find_network_mistakes(config.model)):
        return config
    try:
        size = read_input(network, config.model.options, config.model.external_key).size
    except UserError as error:
        errors.append(error)
        return config
    if size is None:
        return config

    evaluation = replace(
        config.evaluation,
        validation=_with_size(config.evaluation.validation, _VIEWS[0], size, unset),
        test=_with_size(config.evaluation.test, _VIEWS[1], size, unset),
    )
    clip = replace(config.clip, size=size) if _CLIP_SIZE in unset else config.clip
    return replace(config, clip=clip, evaluation=evaluation)


def _with_size(views: ViewsConfig, key: str, size: int, unset: set[str]) -> ViewsConfig:
    if f"{key}.size" in unset:
        views = replace(views, size=size)
    if f"{key}.short_side" in unset:
        views = replace(views, short_side=max(views.size, round(size * _SHORT_SIDE)))
    return views


def _find(values: Mapping, key: str) -> tuple[dict, str]:
    """The mapping that holds a key, empty if there is none, and the key's last part."""
    *above, name = key.split(".")
    place: object = values
    for part in above:
        place = place.get(part) if isinstance(place, Mapping) else None
    return (place if isinstance(place, dict) else {}), name
