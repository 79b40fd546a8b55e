"""What a config shows to go wrong before its training begins.

Mistakes are refused. Other trainings run, but hardly as their owner means it: lines say so.
"""

from collections.abc import Iterator

from omnidali.config.load import with_settings
from omnidali.config.schema import Config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.open_loader import batch_unit, check_motions
from omnidali.models.build import check_network
from omnidali.models.pretrained import check_pretrained
from omnidali.models.recognizers import Recognizer
from omnidali.training.console import format_seconds
from omnidali.training.model_setup import check_stages
from omnidali.training.step_cost import frames_of_step, measure_step, operations_of_step

# Seconds of a step from which on a CPU is the wrong machine: a thousand steps, which is a short
# training, take three hours then.
_SLOW_STEP = 10.0
# Seconds of a step that the advised settings aim at: a thousand steps take a quarter of an hour.
_GOOD_STEP = 1.0
# More operations a second than a core does. What is quick at this speed, such as a demo, is not
# measured; a core would have to be ten times as slow for a step of _SLOW_STEP to be missed.
_FAST_CORE = 1e11
# What a small training has: enough to learn a little, and to see that everything works.
_SMALL_DEPTH = 18
_SMALL_SIZE = 112
_SMALL_SHORT_SIDE = 128
_SMALL_BATCH = 8
_SMALL_CLIPS = {"tsn": 3, "slowonly": 1}
_SMALL_CLIP_LEN = 4
# Share of the first weights in the averaged ones at which these are no result of the training.
_MUCH_OF_START = 0.1

Settings = dict[str, object]  # by their keys, as in train.batch


def check_and_warn(config: Config, ranks: Ranks) -> list[str]:
    """Refuse what can be refused without the data, which may take hours to read.

    Args:
        config: of the run.
        ranks: this process and its peers. On a CPU a forward pass may be measured, for a second.

    Returns:
        Warnings that need no data either; none on other ranks than the main one.

    Raises:
        UserError: naming the setting.
    """
    if config.model.sync_norm and ranks.device.type != "cuda":
        raise UserError("model.sync_norm", "GPUs", "the CPU", "Switch it off.")
    check_pretrained(config.model)
    external = check_network(config)
    check_stages(config, external)
    check_motions(config)
    if not ranks.is_main:
        return []
    epochs = config.train.epochs
    lines = [] if epochs is None else list(_warn_of_schedule(config, epochs))
    return [*lines, *_warn_of_cpu(config, ranks, external)]


def warn_of_length(config: Config, *, steps: int, steps_per_epoch: float) -> list[str]:
    """The warnings that need the length of the training in steps.

    Args:
        config: of the run.
        steps: of the whole training.
        steps_per_epoch: steps in which the target is seen once.
    """
    lines = list(_warn_of_average(config, steps))
    if config.train.epochs is None:
        lines += _warn_of_schedule(config, steps / steps_per_epoch)
    return lines


def _warn_of_schedule(config: Config, epochs: float) -> Iterator[str]:
    """Warn of milestones and a warm-up that a training of so many epochs does not get to."""
    optimizer = config.optimizer
    late = [milestone for milestone in optimizer.milestones if milestone >= epochs]
    if optimizer.schedule == "step" and late:
        falls = len(optimizer.milestones) - len(late)
        end = f"falls no further than {optimizer.lr * 0.1**falls:.3g}" if falls else "never falls"
        yield (
            f"WARNING: optimizer.milestones: the training ends after {epochs:.4g} epochs, before"
            f" {' and '.join(f'{milestone:g}' for milestone in late)}, so that its learning rate"
            f" {end}. Choose earlier ones, or optimizer.schedule=cosine."
        )

    if optimizer.warmup_epochs >= epochs:
        yield (
            f"WARNING: optimizer.warmup_epochs: the training ends after {epochs:.4g} epochs, within"
            f" its warm-up of {optimizer.warmup_epochs:g}, so that its learning rate never gets to"
            f" {optimizer.lr:g}. Choose a shorter one."
        )


def _warn_of_average(config: Config, steps: int) -> Iterator[str]:
    """Warn of averaged weights that a short training leaves near those it started from."""
    decay = config.train.ema
    if decay is None:
        return
    updates = -(-steps // config.optimizer.accumulate)
    left = decay**updates
    if left <= _MUCH_OF_START:
        return
    # a hundredth is left of the start with 1 - 4.6 / updates
    shorter = 1 - float(f"{4.6 / updates:.1g}")
    advice = f"Choose a smaller one, such as {shorter:g}" if updates >= 10 else "Choose null"
    yield (
        f"WARNING: train.ema: after all {updates:,} updates, {100 * left:.0f} % of the averaged"
        f" weights, which are evaluated, are those of the start. {advice}."
    )


def _warn_of_cpu(config: Config, ranks: Ranks, external: Recognizer | None) -> Iterator[str]:
    """Warn of a network and batch that this CPU cannot train in reasonable time."""
    if ranks.device.type != "cpu":
        return
    quick = operations_of_step(config, external) / (ranks.world * ranks.threads * _FAST_CORE)
    if quick < _SLOW_STEP / 10:
        return
    seconds = measure_step(config, ranks, external)
    if seconds < _SLOW_STEP:
        return

    steps = config.train.steps
    whole = f", and all {steps:,} steps {format_seconds(steps * seconds)}" if steps else ""
    frames = f"{frames_of_step(config):,.0f} frames of {config.clip.size} x {config.clip.size}"
    network = config.model.external or f"{config.model.name} of depth {config.model.depth}"
    yield (
        f"WARNING: a step takes {_show(seconds)} or more on this CPU{whole}: {frames} pixels are"
        f" much for a {network}. Train on a GPU, or make it smaller."
    )
    if external is not None:  # what it can do without is not known
        return
    settings, small = small_settings(config, ranks.world, seconds)
    words = " ".join(f"{key}={_plain(value)}" for key, value in settings.items())
    yield f"With these settings a step takes about {_show(small)}: {words}"


def small_settings(config: Config, world: int, seconds: float) -> tuple[Settings, float]:
    """The settings that make a step short enough for a CPU, what costs least accuracy first.

    Args:
        config: of the run.
        world: ranks that share its batches.
        seconds: of a step with the config.

    Returns:
        The settings, and the seconds of a step with them.
    """
    settings: Settings = {}
    small = config
    left = seconds
    for shrink in (_fewer_frames, _fewer_pixels, _smaller_batch, _fewer_layers):
        changes = shrink(small, world)
        settings |= changes
        small = with_settings(small, _words(changes))
        left = seconds * operations_of_step(small) / operations_of_step(config)
        if left <= _GOOD_STEP:
            break
    return settings, left


def _fewer_frames(config: Config, world: int) -> Settings:
    clips = _SMALL_CLIPS[config.model.name]
    wanted: dict[str, tuple[int, int]] = {"clip.num_clips": (config.clip.num_clips, clips)}
    if config.model.name == "slowonly":
        wanted["clip.clip_len"] = (config.clip.clip_len, _SMALL_CLIP_LEN)
    if config.evaluation.source is not None:
        views = config.evaluation.validation
        wanted["evaluation.validation.num_clips"] = (views.num_clips, clips)
    return {key: small for key, (value, small) in wanted.items() if value > small}


def _fewer_pixels(config: Config, world: int) -> Settings:
    settings: Settings = {}
    if config.clip.size > _SMALL_SIZE:
        settings["clip.size"] = _SMALL_SIZE
    if config.evaluation.source is not None and config.evaluation.validation.size > _SMALL_SIZE:
        settings["evaluation.validation.size"] = _SMALL_SIZE
        settings["evaluation.validation.short_side"] = _SMALL_SHORT_SIDE
    return settings


def _smaller_batch(config: Config, world: int) -> Settings:
    """A batch of about ``_SMALL_BATCH`` that the ranks can share, and a learning rate for it.

    The rate follows the batch linearly, as large batches want it (Goyal et al., 2017).
    """
    unit = batch_unit(config.train.mixup, world)
    batches = config.batches
    settings: Settings
    if batches is None:
        before = config.batch
        after = unit * -(-max(_SMALL_BATCH, len(config.sources)) // unit)
        settings = {"train.batch": after}
    else:
        before = max(batches) if config.train.step_mode == "alternating" else config.batch
        sizes = [unit * max(1, round(size * _SMALL_BATCH / before / unit)) for size in batches]
        after = max(sizes) if config.train.step_mode == "alternating" else sum(sizes)
        settings = {
            f"sources.{name}.batch": size for name, size in zip(config.sources, sizes, strict=True)
        }

    if after >= before:
        return {}
    return {**settings, "optimizer.lr": float(f"{config.optimizer.lr * after / before:.2g}")}


def _fewer_layers(config: Config, world: int) -> Settings:
    if config.model.depth <= _SMALL_DEPTH:
        return {}
    settings: Settings = {"model.depth": _SMALL_DEPTH}
    if config.model.pretrained:  # it is for the deeper one
        settings["model.pretrained"] = None
    return settings


def _words(settings: Settings) -> list[str]:
    """The settings as they stand on a command line."""
    return [f"{key}={_plain(value)}" for key, value in settings.items()]


def _plain(value: object) -> str:
    """A value as YAML reads it: without an exponent, which it takes for text."""
    if value is None:
        return "null"
    return f"{value:.10f}".rstrip("0") if isinstance(value, float) else str(value)


def _show(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 60 else f"{seconds:.1f} s"
