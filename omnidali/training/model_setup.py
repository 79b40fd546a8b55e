"""The network and its optimizer, as a config describes them."""

from collections.abc import Callable, Sequence

import torch

from omnidali.config.schema import Config
from omnidali.config.train_settings import OptimizerConfig
from omnidali.distributed.ranks import Ranks
from omnidali.models.pretrained import load_pretrained
from omnidali.models.recognizers import Recognizer, build_model, memory_format


def make_model(
    config: Config,
    class_names: Sequence[str],
    ranks: Ranks,
    *,
    say: Callable[[object], None],
) -> Recognizer:
    """The network on its device, with the weights that it starts from.

    Args:
        config: of the run.
        class_names: in label order.
        ranks: this process and its device.
        say: prints what the pretrained weights matched.

    Raises:
        UserError: if the pretrained weights do not fit.
    """
    model = build_model(config.model, len(class_names), config.clip.clip_len)
    if config.model.pretrained:
        say(
            load_pretrained(
                model, config.model.pretrained, config.model.pretrained_head, class_names
            )
        )
    if config.model.sync_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model, ranks.group)

    return model.to(  # type: ignore[call-overload]  # torch's hints lack it
        ranks.device, memory_format=memory_format(model, channels_last=config.model.channels_last)
    )


def make_optimizer(
    model: torch.nn.Module, config: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD over all weights of a model."""
    return torch.optim.SGD(
        model.parameters(),
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=device.type == "cuda",
    )
