"""What a model that is taken away says of itself: classes, input, and how it is tested."""

import json

from omnidali.config.convert import config_to_dict
from omnidali.config.schema import Config
from omnidali.models.model_folder import CLASSES, HOLD_OUT, INPUT, NETWORK, RECIPE
from omnidali.models.trained_model import TrainedModel
from omnidali.utils.constants import MEAN, STD

# Clips of networks whose file does not say them: frames and side, as `omnidali predict` shows them.
_CLIP_2D = (1, 224)
_CLIP_3D = (8, 256)


def describe_model(trained: TrainedModel) -> dict[str, object]:
    """The facts about a model as plain values, which are written beside its weights.

    Returns:
        ``CLASSES``, ``model`` (the network), ``input``, and where they are known ``omnidali`` (the
        settings that a prediction needs) and ``hold_out``.
    """
    facts: dict[str, object] = {
        CLASSES: list(trained.classes),
        NETWORK: dict(trained.network.description),
        INPUT: describe_input(trained),
    }
    if trained.config is not None:
        facts[RECIPE] = recipe_of(trained.config)
    held_out = as_plain(trained.hold_out)
    if held_out:  # `filter` has to know it
        facts[HOLD_OUT] = held_out
    return facts


def as_plain(value: object) -> object:
    """A value of a file, if JSON can hold it; else None.

    >>> as_plain({"web": [1, 3]}), as_plain({"web": {1, 3}})
    ({'web': [1, 3]}, None)
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None
    return value


def describe_input(trained: TrainedModel) -> dict[str, object]:
    """What the network takes: clips as the loader gives them, whatever the network is.

    ``frames``, ``frame_interval`` and ``size`` are those of the tests; TSN and SlowOnly take others
    as well.
    """
    frames, size = clip_shape(trained)
    config = trained.config
    return {
        "layout": "NCTHW",
        "colours": "RGB",
        "range": [0, 255],
        "mean": list(MEAN),
        "std": list(STD),
        "frames": frames,
        "frame_interval": None if config is None else config.clip.frame_interval,
        "size": size,
    }


def clip_shape(trained: TrainedModel) -> tuple[int, int]:
    """Frames and side of a clip, as a test shows it to the network."""
    network, config = trained.network, trained.config
    if config is None:
        frames, size = _CLIP_3D if network.is_3d else _CLIP_2D
        return network.clip_len or frames, size
    # a frame-wise network takes any number: those of a training clip are a sensible one
    frames = network.clip_len or config.clip.num_clips * config.clip.clip_len
    return frames, config.evaluation.test.size


def recipe_of(config: Config) -> dict[str, object]:
    """The settings of a training that a prediction needs, without paths of the machine."""
    values = config_to_dict(config)
    model = values["model"]
    evaluation = values["evaluation"]
    assert isinstance(model, dict) and isinstance(evaluation, dict)
    kept = {name: evaluation[name] for name in ("batch", "validation", "test")}
    source = config.shown_source
    if source is not None and source.pixel_aspect != "ignore":
        kept["source"] = {"kind": source.kind, "pixel_aspect": source.pixel_aspect}
    return {
        "model": {**model, "pretrained": None},
        "clip": values["clip"],
        "evaluation": kept,
        "train": {"precision": config.train.precision},
        "multi_label": config.multi_label,
    }
