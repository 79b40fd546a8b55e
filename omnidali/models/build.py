"""The network that a config describes."""

from collections.abc import Mapping

import torch

from omnidali.config.model_settings import ModelConfig
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.models.adapter import CLIP_SIZE, ClipNetwork, FrameNetwork
from omnidali.models.library_networks import make_network
from omnidali.models.recognizers import TSN, Recognizer, SlowOnly

_VALIDATION_SIZE = "evaluation.validation.size"


def build_model(
    config: ModelConfig,
    classes: int,
    clip_len: int,
    *,
    size: int | None = None,
    size_key: str = CLIP_SIZE,
    pretrained: bool = False,
) -> Recognizer:
    """The network that ``config`` describes, freshly initialised.

    Args:
        config: of the network.
        classes: outputs.
        clip_len: frames that make one clip in an evaluation, for networks over clips.
        size: side of the frames that an external network is tried with; None: its own.
        size_key: the setting of the size, for errors.
        pretrained: whether an external network has its library's own weights, but for the
            classifier.

    Raises:
        UserError: if an external network cannot be made, or takes or gives something else.
    """
    if config.external is not None:
        made = make_network(config, classes, pretrained=pretrained)
        if config.is_frame_wise:
            return FrameNetwork(made, config, classes, size=size, size_key=size_key)
        return ClipNetwork(made, config, classes, clip_len=clip_len, size=size, size_key=size_key)
    if config.is_frame_wise:
        return TSN(config.depth, classes, config.dropout)
    return SlowOnly(config.depth, classes, config.dropout, clip_len)


def check_network(config: Config) -> Recognizer | None:
    """Refuse an external network that cannot train as a config has it, which needs no data.

    Its own weights are downloaded, if they are asked for. Random numbers stay as they are.

    Returns:
        The network; None for one of ours.

    Raises:
        UserError: naming the setting.
    """
    if config.model.external is None:
        return None
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            config.model,
            classes=2,  # the data have not been read yet
            clip_len=config.clip.clip_len,
            size=config.clip.size if config.model.is_frame_wise else None,
            pretrained=config.model.pretrained is True,
        )
    sizes = {CLIP_SIZE: config.clip.size}
    if config.evaluation.source is not None:
        sizes[_VALIDATION_SIZE] = config.evaluation.validation.size
    _check_sizes(model, sizes)

    single = [name for name, source in config.sources.items() if source.shows_single_frames]
    if isinstance(model, ClipNetwork) and single:
        try:
            model.output_of(1, config.clip.size)
        except UserError as error:
            raise UserError(
                f"sources.{single[0]}.inflate",
                f"clips of several frames, as {model.network_name} takes",
                f"single frames ({error.got})",
                "Set it to still, warp or another kind that makes clips.",
            ) from None
    return model


def _check_sizes(model: Recognizer, sizes: Mapping[str, int]) -> None:
    """Refuse frames and clips that an external network does not take.

    Args:
        model: of any kind; ours takes all.
        sizes: of the frames, by the key of the setting.

    Raises:
        UserError: naming the setting.
    """
    for where, size in sizes.items():
        if isinstance(model, FrameNetwork):
            model.output_of(size, where)
        elif isinstance(model, ClipNetwork):
            model.output_of(model.clip_len or 1, size, where)
