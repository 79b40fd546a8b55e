"""The network of a training, as a config describes it."""

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch.nn.parallel import DistributedDataParallel

from omnidali.config.schema import Config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import ConfigError
from omnidali.models.build import build_model
from omnidali.models.pretrained import load_pretrained
from omnidali.models.recognizers import Recognizer, memory_format
from omnidali.training.optimizer import find_stage_mistakes, freeze_stages


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
        UserError: if the pretrained weights do not fit, or the network lacks a stage.
    """
    model, report = start_model(config, class_names)
    if report is not None:
        say(report)
    freeze_stages(model, config.optimizer)
    if config.model.sync_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model, ranks.group)

    return model.to(  # type: ignore[call-overload]  # torch's hints lack it
        ranks.device, memory_format=memory_format(model, channels_last=config.model.channels_last)
    )


def start_model(config: Config, class_names: Sequence[str]) -> tuple[Recognizer, object]:
    """The network of a training with the weights that it starts from.

    Args:
        config: of the run.
        class_names: in label order.

    Returns:
        The network, and a report of the weights; None without any.

    Raises:
        UserError: if it cannot be made, or the weights cannot be had or do not fit.
    """
    settings = config.model
    from_library = settings.pretrained is True
    model = build_model(
        settings,
        len(class_names),
        config.clip.clip_len,
        size=config.clip.size,
        pretrained=from_library,
    )
    if from_library:
        return model, f"weights of {settings.external} from its own loader; the classifier is fresh"
    if isinstance(settings.pretrained, str):
        report = load_pretrained(model, settings.pretrained, settings.pretrained_head, class_names)
        return model, report
    return model, None


def check_stages(config: Config, external: Recognizer | None) -> None:
    """Refuse settings of stages that the network lacks, before the data are read.

    Args:
        config: of the run.
        external: the network, if it is none of ours.

    Raises:
        ConfigError: with each of them.
    """
    if not config.optimizer.frozen_stages and not config.optimizer.lr_factors:
        return
    with torch.device("meta"):  # where ours takes no memory and no random number
        model = external or build_model(config.model, 1, config.clip.clip_len)
    mistakes = list(find_stage_mistakes(model.stages, config.optimizer))
    if mistakes:
        raise ConfigError(mistakes)


def make_network(model: Recognizer, config: Config, ranks: Ranks) -> torch.nn.Module:
    """What the forward pass calls: the model compiled, and averaged over the ranks."""
    compiled = torch.compile(model) if config.train.compile else model
    assert isinstance(compiled, torch.nn.Module)
    # ours use all weights; external ones may have layers for another purpose, or skip some
    return ranks.wrap(compiled, skips_weights=config.model.external is not None)


def summing_gradients(
    network: torch.nn.Module, updates: bool
) -> contextlib.AbstractContextManager[None]:
    """Sum gradients over the ranks once an optimizer step: that of eq. 1 is a mean of all.

    Args:
        network: of :func:`make_network`.
        updates: whether the batch ends an optimizer step.
    """
    if isinstance(network, DistributedDataParallel) and not updates:
        return network.no_sync()
    return contextlib.nullcontext()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that a resumed run repeats it."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)
