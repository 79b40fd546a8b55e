"""The settings of a prediction: those of the training, as the checkpoint has them, and changes."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from omnidali.config.convert import build_config, config_to_dict
from omnidali.config.overrides import apply_override
from omnidali.config.reference import find_settings, suggest_keys
from omnidali.config.schema import (
    ClipConfig,
    Config,
    EvaluationConfig,
    LoaderConfig,
    ViewsConfig,
)
from omnidali.config.train_settings import TrainConfig
from omnidali.config.validate import find_mistakes
from omnidali.errors import ConfigError, UserError
from omnidali.models.trained_model import TrainedModel

# What a prediction reads of a config; the rest is about other things.
KEYS = (
    "clip.clip_len",
    "clip.frame_interval",
    "classes",
    "device",
    "evaluation.batch",
    "evaluation.test",
    "loader",
    "multi_label",
    "train.precision",
)
# Clips and views of networks whose file does not say them, as the reference tests them.
_VIEWS_2D = ViewsConfig(num_clips=25, crops="center", size=224, short_side=256, average="prob")
_VIEWS_3D = ViewsConfig(num_clips=10, crops="three", size=256, short_side=256, average="prob")
_CROPS = {"center": "center crop", "three": "three crops", "ten": "ten crops"}
_CLIP_2D = ClipConfig(clip_len=1, frame_interval=1)
_CLIP_3D = ClipConfig(clip_len=8, frame_interval=8)


def settings_for(trained: TrainedModel, overrides: Sequence[str] = ()) -> Config:
    """The settings with which a checkpoint predicts.

    Clips, views and precision are those of its training; what depends on the machine (device,
    threads) is not.

    Args:
        trained: the checkpoint.
        overrides: ``key.path=value`` texts, of the keys in ``KEYS``.

    Raises:
        ConfigError: with every mistake of the overrides.
    """
    config = trained.config or _default_config(trained)
    config = replace(
        config,
        classes=None,
        device="auto",
        loader=LoaderConfig(),
        sources=MappingProxyType({}),
        model=replace(config.model, pretrained=None),
    )

    errors: list[UserError] = []
    values = config_to_dict(config)
    for text in overrides:
        try:
            _check_key(text)
            apply_override(values, text)
        except UserError as error:
            errors.append(error)
    changed = build_config(Config, values, errors)
    assert changed is not None  # all fields of a Config have defaults

    # of the other keys, a config of an exported file may lack what a training needs
    keys = [text.partition("=")[0].strip() for text in overrides]
    if not errors:
        errors += [error for error in find_mistakes(changed) if _is_about(error.where, keys)]
    if errors:
        raise ConfigError(errors)
    return changed


def _default_config(trained: TrainedModel) -> Config:
    """Settings for a network of another project, whose file has none."""
    is_3d = trained.network.is_3d
    views = _VIEWS_3D if is_3d else _VIEWS_2D
    return Config(
        clip=_CLIP_3D if is_3d else _CLIP_2D,
        evaluation=EvaluationConfig(validation=views, test=views, batch=1 if is_3d else 8),
        train=TrainConfig(precision="fp32"),
    )


def describe_settings(config: Config, trained: TrainedModel) -> str:
    """The views of a prediction in a line, and where they come from."""
    views, clip = config.evaluation.test, config.clip
    text = f"{views.num_clips} frames"
    if clip.clip_len > 1:
        text = f"{views.num_clips} clips of {clip.clip_len} frames, {clip.frame_interval} apart"
    text += f", {_CROPS[views.crops]} of {views.size} pixels"
    if not (trained.classes or config.classes):
        text += "; numbers, as the file has no name for each class (classes=FILE names them)"
    if trained.config is not None:
        return text
    return (
        f"{text}: usual ones, as the file does not say them; clip.clip_len, clip.frame_interval"
        " and evaluation.test.* change them"
    )


def _check_key(text: str) -> None:
    """Refuse a setting that no prediction reads.

    Raises:
        UserError: naming its key.
    """
    key = text.partition("=")[0].strip()
    if any(f"{key}.".startswith(f"{known}.") for known in KEYS):
        return
    close = [name for name in suggest_keys(key) if name.startswith(KEYS)]
    advice = "Leave it out; the network and its training are those of the checkpoint."
    if close and not find_settings(key):
        advice = f"Did you mean {' or '.join(close)}?"
    raise UserError(key, f"a setting that a prediction uses ({', '.join(KEYS)})", text, advice)


def _is_about(where: str, keys: Sequence[str]) -> bool:
    """Whether a mistake is about one of the keys, or about settings beside it."""
    groups = {key.rpartition(".")[0] or key for key in keys}
    return any(f"{where}.".startswith(f"{group}.") for group in groups)
