"""An external network that a checkpoint describes, made again without trust in the file.

Networks of timm, torchvision and transformers are made by their names there, without weights or
code of a hub. A function of another module runs that module's code, so it is called only if the
user has named it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from omnidali.config.convert import build_config
from omnidali.config.libraries import TIMM_SOURCES, transformers_classes
from omnidali.config.model_settings import ModelConfig
from omnidali.config.network_names import OUR_NETWORKS, NetworkName
from omnidali.config.validate import range_mistakes
from omnidali.config.validate_network import find_network_mistakes
from omnidali.errors import UserError
from omnidali.models.build import build_model
from omnidali.models.model_folder import RECIPE
from omnidali.models.recognizers import Recognizer

_SETTINGS = ("name", "backbone", "options", "mean", "std")
# A network may have so much more weights than its checkpoint, as some are not saved.
_MORE_WEIGHTS = 1.5


@dataclass(frozen=True)
class DescribedNetwork:
    """What a checkpoint says of its network.

    Attributes:
        settings: that make the network again.
        classes: outputs.
        where: the file, for errors.
    """

    settings: ModelConfig
    classes: int
    where: str

    def build(
        self, weights: Mapping[str, torch.Tensor], clip_len: int, trusted: Collection[str]
    ) -> Recognizer:
        """The network with weights of its own making.

        Args:
            weights: that it will get.
            clip_len: frames of a clip, for networks over clips.
            trusted: functions that may be called.

        Raises:
            UserError: if it must not or cannot be made, or is larger than its weights.
        """
        network = self.settings.external
        assert network is not None
        self._check_trust(network, trusted)
        self._check_amount(weights, clip_len)
        with torch.random.fork_rng(devices=[]):
            return build_model(self.settings, self.classes, clip_len)

    def _check_trust(self, network: NetworkName, trusted: Collection[str]) -> None:
        """Refuse code that the user has not named, and names of a hub."""
        if network.library == "function" and network.name not in trusted:
            raise UserError(
                self.where,
                "a network of a library, or of a function that you have named as trusted",
                f"{network}, whose code would run",
                f"If you know it, name it: --trust {network} for predict and export,"
                f' trusted=["{network}"] in Python; filter and evaluate take what their config'
                " names.",
            )
        if _is_of_hub(network, self.where):
            raise UserError(
                self.where, "a network that its library knows", str(network), "Use another file."
            )

    def _check_amount(self, weights: Mapping[str, torch.Tensor], clip_len: int) -> None:
        """Refuse a network that needs far more memory than its weights, before it takes it."""
        try:
            with torch.device("meta"):
                model = build_model(self.settings, self.classes, clip_len)
        except UserError:
            raise
        except Exception:  # a network that cannot be made there
            return
        needed = sum(value.numel() for value in model.state_dict().values())
        given = sum(value.numel() for value in weights.values())
        if needed > _MORE_WEIGHTS * given:
            raise UserError(
                self.where,
                f"the weights of {self.settings.external}, {needed:,} numbers",
                f"{given:,}",
                "Use another file.",
            )


def _is_of_hub(network: NetworkName, where: str) -> bool:
    """Whether a name leads its library to a hub or a folder."""
    if network.library == "transformers":
        return network.name not in transformers_classes(where)
    return network.library == "timm" and network.name.startswith(TIMM_SOURCES)


def find_description(state: Mapping[str, Any], where: str) -> DescribedNetwork | None:
    """What a checkpoint of ours, or an exported file, says of an external network.

    Args:
        state: its entries.
        where: the file, for errors.

    Returns:
        None if it says nothing, or the network is ours.

    Raises:
        UserError: if what it says cannot be.
    """
    meta = state.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    recipe = meta.get(RECIPE)
    places = [state.get("model"), meta.get("model")]
    places += [recipe.get("model")] if isinstance(recipe, Mapping) else []
    for values in places:
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            continue
        given = {key: values[key] for key in _SETTINGS if values.get(key) is not None}
        errors: list[UserError] = []
        settings = build_config(ModelConfig, given, errors)
        if settings is None or settings.name in OUR_NETWORKS and not given.get("backbone"):
            continue
        errors += [*range_mistakes(settings, "model."), *find_network_mistakes(settings)]
        if errors:
            raise UserError(
                where, "a network that can be made", str(errors[0]), "Use another file."
            )
        return DescribedNetwork(settings, _classes_of(state, values, where), where)
    return None


def _classes_of(state: Mapping[str, Any], values: Mapping[str, Any], where: str) -> int:
    """The number of classes: as the description has it, else that of the names."""
    classes = values.get("classes")
    if classes is None and isinstance(state.get("classes"), list):
        classes = len(state["classes"])
    if type(classes) is not int:  # a truth value is no number
        raise UserError(
            where,
            "the number of outputs as `classes`, where `model` describes the network",
            f"{classes!r:.50}",
            "Correct the config.json of an exported folder, or use another file.",
        )
    weights = state["state_dict"].values()
    has_rows = any(value.ndim and len(value) == classes for value in weights)
    if not has_rows:
        raise UserError(
            where, "weights for each class", f"{classes} as their number", "Use another file."
        )
    return classes
