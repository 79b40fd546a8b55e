"""Settings of a training that exclude each other."""

from collections.abc import Iterator

from omnidali.config.augment_settings import AugmentConfig
from omnidali.config.schema import Config
from omnidali.config.train_settings import OptimizerConfig
from omnidali.errors import UserError


def find_training_mistakes(config: Config) -> Iterator[UserError]:
    """Yield every group of settings of batches, steps and the network that exclude each other."""
    yield from _batch_mistakes(config)
    yield from _step_mode_mistakes(config)
    yield from _training_mistakes(config)
    yield from _optimizer_mistakes(config.optimizer)
    yield from _augment_mistakes(config.train.augment)
    yield from _ending_mistakes(config)


def _batch_mistakes(config: Config) -> Iterator[UserError]:
    """Mistakes in batches and weights, of which a config has one or the other."""
    without = [name for name, source in config.sources.items() if source.batch is None]
    if 0 < len(without) < len(config.sources):
        yield UserError(
            "sources",
            "batch for all sources or for none",
            f"none for {', '.join(without)}",
            "Add the missing ones, or use weights.",
        )

    if without:
        if 0 < config.batch < len(config.sources):
            yield UserError(
                "train.batch",
                f"at least one slot for each of the {len(config.sources)} sources",
                str(config.batch),
                "Raise the batch or remove sources.",
            )
    elif config.sources and config.train.batch is not None:
        yield UserError(
            "train.batch",
            "nothing, as every source has its batch",
            str(config.train.batch),
            "Remove it.",
        )

    if not without and any(source.weight != 1 for source in config.sources.values()):
        yield UserError("sources", "either weights or batches", "both", "Remove the weights.")


def _step_mode_mistakes(config: Config) -> Iterator[UserError]:
    """Mistakes in step mode, ratio, mixup and accumulation, which must fit each other."""
    train = config.train

    if train.step_mode == "alternating":
        if not config.batches:
            yield UserError(
                "train.step_mode",
                "a batch for every source, as each batch is a step",
                "none",
                "Add batch to the sources, or use step_mode: summed.",
            )
        if train.mixup == "cross":
            yield UserError(
                "train.mixup",
                "intra, as an alternating step holds one source",
                "cross",
                "Use step_mode: summed for cross-dataset mixup.",
            )
        if config.optimizer.accumulate > 1:
            yield UserError(
                "optimizer.accumulate",
                "1, as every batch is a step of its own",
                str(config.optimizer.accumulate),
                "Raise the batches instead.",
            )
    elif train.ratio is not None:
        yield UserError(
            "train.ratio", "step_mode: alternating", "summed", "Remove ratio, or change step_mode."
        )

    if train.ratio is not None and len(train.ratio) != len(config.sources):
        yield UserError(
            "train.ratio",
            f"one number for each of the {len(config.sources)} sources",
            str(list(train.ratio)),
            "The target's comes first, as in [2, 1, 1, 1].",
        )


def _training_mistakes(config: Config) -> Iterator[UserError]:
    """Mistakes in the crop, the length of the run, and synchronised norms."""
    if config.clip.area[0] > config.clip.area[1]:
        yield UserError(
            "clip.area",
            "the smallest share first, then the largest",
            str(list(config.clip.area)),
            "The reference uses [0.08, 1.0].",
        )
    if (config.train.epochs is None) == (config.train.steps is None):
        yield UserError(
            "train",
            "exactly one of epochs and steps",
            "neither" if config.train.steps is None else "both",
            "Set one and clear the other, as by train.steps=null.",
        )

    # Norms that wait for each other must run equally often on every rank, also if one rank
    # lacks a source, for which SlowOnly has a forward pass of its own.
    model = config.model
    single = [name for name, source in config.sources.items() if source.shows_single_frames]
    apart = [] if model.is_frame_wise else single
    if model.sync_norm and (model.norm != "shared" or apart):
        got = f", {', '.join(single)} as single frames" if single else ""
        yield UserError(
            "model.sync_norm",
            "norm: shared, and for networks over clips no image as a single frame",
            f"norm: {model.norm}{got}",
            "Switch it off, or inflate the images.",
        )


def _optimizer_mistakes(optimizer: OptimizerConfig) -> Iterator[UserError]:
    """Settings of SGD that exclude each other, and those of AdamW, which it would not see.

    A config that builds on one with SGD keeps the momentum, which means nothing for AdamW.
    """
    if optimizer.name != "sgd":
        return
    for name in ("betas", "eps"):
        if getattr(optimizer, name) != getattr(OptimizerConfig(), name):
            yield UserError(
                f"optimizer.{name}",
                "optimizer.name: adamw, which has it",
                f"{name} with sgd",
                "Remove it, or set optimizer.name=adamw.",
            )
    if optimizer.nesterov and optimizer.momentum == 0:
        yield UserError(
            "optimizer.nesterov", "a momentum above 0", "0", "Raise optimizer.momentum."
        )


def _augment_mistakes(augment: AugmentConfig) -> Iterator[UserError]:
    """Ranges that begin above their end."""
    erasing = augment.erasing
    for name, (low, high) in (("area", erasing.area), ("aspect", erasing.aspect)):
        if low > high:
            yield UserError(
                f"train.augment.erasing.{name}",
                "the smallest number first, then the largest",
                f"[{low:g}, {high:g}]",
                "Exchange the two.",
            )


def _ending_mistakes(config: Config) -> Iterator[UserError]:
    """Settings that need evaluations, of which there are none."""
    train = config.train
    wanting = {"keep_best": train.keep_best > 0, "patience": train.patience is not None}
    for name, is_wanted in wanting.items():
        if is_wanted and config.evaluation.source is None:
            yield UserError(
                f"train.{name}",
                "evaluation.source, as it compares evaluations",
                "none",
                "Add labelled data that training never sees.",
            )
    if train.min_delta > 0 and train.patience is None:
        yield UserError(
            "train.min_delta", "train.patience, which uses it", "none", "Set both or none."
        )
