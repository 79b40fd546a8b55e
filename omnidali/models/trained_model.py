"""A checkpoint as a network that is ready to use, and what its file says of the training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidali.config.convert import build_config
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import BEST, load_checkpoint, load_weights
from omnidali.models.pretrained import infer_architecture
from omnidali.models.recognizers import Recognizer, build_model
from omnidali.models.weights import best_weights, class_names, digest_of

# In the `meta` of an exported file: the settings that a prediction needs, as plain values.
RECIPE = "omnidali"


@dataclass(frozen=True)
class TrainedModel:
    """A network with the weights of a checkpoint, the averaged ones if it has them.

    Attributes:
        network: in evaluation mode, on the CPU.
        path: of the file or run folder.
        classes: names in label order; empty if the file has none.
        config: of the training, where the file says it: all of a checkpoint of ours, and what a
            prediction needs of an exported file. None for those of other projects.
        hold_out: as the file has it, unchecked: parts of sources that the training did not see.
        digest: of the weights.
    """

    network: Recognizer
    path: str
    classes: tuple[str, ...]
    config: Config | None
    hold_out: object
    digest: str


def load_trained(checkpoint: str | Path, clip_len: int | None = None) -> TrainedModel:
    """Read a checkpoint of ours or of the reference; the network is inferred from its tensors.

    Args:
        checkpoint: a file, or a run folder for its best.pt.
        clip_len: frames of a clip, for 3D networks; None: those of the training.

    Raises:
        UserError: if it cannot be read, is none of our networks, or ``clip_len`` is neither given
            nor in the file.
    """
    state = load_checkpoint(checkpoint, preferred=BEST)
    weights = best_weights(state)
    network, outputs = infer_architecture(weights, checkpoint)
    meta = state.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    config = _config_of(state, meta)
    if clip_len is None:
        clip_len = config.clip.clip_len if config is not None else 1

    model = build_model(network, outputs, clip_len)
    load_weights(model, {**state, "state_dict": weights}, str(checkpoint))
    return TrainedModel(
        network=model.eval(),
        path=str(checkpoint),
        classes=_names(state, outputs),
        config=config,
        hold_out=state.get("hold_out") or meta.get("hold_out") or {},
        digest=digest_of(weights),
    )


def _config_of(state: Mapping[str, Any], meta: Mapping[str, Any]) -> Config | None:
    """The settings in a checkpoint of ours or in an exported file; settings unknown here are left
    out.
    """
    values = state.get("config") if "loader" in state else meta.get(RECIPE)
    if not isinstance(values, dict):
        return None
    errors: list[UserError] = []
    return build_config(Config, values, errors)


def _names(state: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """The names of the classes, if there is one for each output, and not its number."""
    names = class_names(state)
    if len(names) != outputs or names == list(map(str, range(outputs))):
        return ()
    return tuple(names)
