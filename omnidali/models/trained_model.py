"""A checkpoint as a network that is ready to use, and what its file says of the training."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidali.config.convert import build_config
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.models.build import build_model
from omnidali.models.checkpoint_file import BEST, load_checkpoint, load_weights
from omnidali.models.described_network import find_description
from omnidali.models.model_folder import settings_of
from omnidali.models.pretrained import infer_architecture
from omnidali.models.recognizers import Recognizer
from omnidali.models.weights import best_weights, class_names, digest_of

# What a test may ask for: far more than any does.
_MOST_FRAMES = 20_000  # of one item, and items at once
_MOST_PIXELS = 4096  # of a side


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

    @property
    def multi_label(self) -> bool:
        """Whether it was trained on several labels an item; False where the file does not say."""
        return self.config is not None and self.config.multi_label


def load_trained(
    checkpoint: str | Path, clip_len: int | None = None, trusted: Collection[str] = ()
) -> TrainedModel:
    """Read a checkpoint of ours or of the reference as a network that is ready to use.

    Args:
        checkpoint: a file, or a run folder for its best.pt.
        clip_len: as in :func:`build_trained`.
        trusted: as in :func:`build_trained`.

    Raises:
        UserError: if it cannot be read, or as :func:`build_trained`.
    """
    state = load_checkpoint(checkpoint, preferred=BEST)
    return build_trained(state, checkpoint, clip_len, trusted)


def build_trained(
    state: Mapping[str, Any],
    checkpoint: str | Path,
    clip_len: int | None = None,
    trusted: Collection[str] = (),
) -> TrainedModel:
    """The network of a checkpoint that was read.

    A checkpoint of ours says how an external network is made again. One of our networks is inferred
    from the tensors, also in files of other projects.

    Args:
        state: as :func:`~omnidali.models.checkpoint_file.load_checkpoint` gives it.
        checkpoint: where it comes from, for errors.
        clip_len: frames of a clip, for 3D networks; None: those of the training.
        trusted: functions, as ``package.module:function``, that a checkpoint may have called.

    Raises:
        UserError: if it is none of our networks and does not say what makes it, or it wants a
            function called that is not trusted.
    """
    weights = best_weights(state)
    meta = state.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    config = _config_of(state, str(checkpoint))
    if clip_len is None:
        clip_len = config.clip.clip_len if config is not None else 1

    described = find_description(state, str(checkpoint))
    if described is None:
        settings, outputs = infer_architecture(weights, checkpoint)
        model = build_model(settings, outputs, clip_len)
    else:
        model = described.build(weights, clip_len, trusted)
    load_weights(model, {**state, "state_dict": weights}, str(checkpoint))
    return TrainedModel(
        network=model.eval(),
        path=str(checkpoint),
        classes=_names(state, model.classes),
        config=config,
        hold_out=state.get("hold_out") or meta.get("hold_out") or {},
        digest=digest_of(weights),
    )


def _config_of(state: Mapping[str, Any], where: str) -> Config | None:
    """The settings in a checkpoint of ours or in an exported file; settings unknown here are left
    out.
    """
    values = settings_of(state)
    if values is None:
        return None
    errors: list[UserError] = []
    config = build_config(Config, values, errors)
    if config is not None:
        _check_size(config, where)
    return config


def _check_size(config: Config, where: str) -> None:
    """Refuse settings of a test that would take all memory, as a stranger's file may have them.

    Raises:
        UserError: naming the file.
    """
    clip, views = config.clip, config.evaluation.test
    frames = clip.clip_len * max(clip.num_clips, views.num_clips)
    side = max(views.size, views.short_side)
    if frames > _MOST_FRAMES or side > _MOST_PIXELS or config.evaluation.batch > _MOST_FRAMES:
        raise UserError(
            where,
            f"a test with at most {_MOST_FRAMES:,} frames of an item, and {_MOST_PIXELS:,} pixels"
            " a side",
            f"{frames:,} frames, {side:,} pixels, {config.evaluation.batch:,} items at once",
            "Use another file.",
        )


def _names(state: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """The names of the classes, if there is one for each output, and not its number."""
    names = class_names(state)
    if len(names) != outputs or names == list(map(str, range(outputs))):
        return ()
    return tuple(names)
