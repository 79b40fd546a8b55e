"""The configs of an experiment's trainings, made of the one that it is about."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from omnidali.config.schema import Config
from omnidali.loading.data import Data, open_data
from omnidali.loading.open_loader import batch_unit, make_plan
from omnidali.planning.resampling import without_part


def target_epochs(config: Config, data: Data) -> float:
    """The epochs of the target in a training with the config."""
    if config.train.epochs:
        return config.train.epochs
    assert config.train.steps is not None
    return config.train.steps / make_plan(config, data).steps_per_epoch


def make_variant(
    config: Config, names: Sequence[str], epochs: float, *, ranks: int, fraction: float = 1.0
) -> Config:
    """The config with some of its sources, and as many slots of each in a step as before.

    Where steps sum the sources, the learning rate follows the slots linearly, as large batches want
    it (Goyal et al., 2017). Where steps alternate, a step of a source stays as it is.

    Args:
        config: whose first source is the target.
        names: of the sources to train on, the target first.
        epochs: of the whole target.
        ranks: processes that share a batch.
        fraction: share of the target's items that are used, in so many more epochs of them.
    """
    target = next(iter(config.sources))
    sources = {name: config.sources[name] for name in names}
    sources[target] = replace(sources[target], fraction=fraction * sources[target].fraction)
    train = replace(config.train, epochs=epochs, steps=None)

    if config.batches is None:
        weight = sum(source.weight for source in sources.values())
        share = weight / sum(source.weight for source in config.sources.values())
        unit = batch_unit(train.mixup, ranks)
        train = replace(train, batch=max(1, round(config.batch * share / unit)) * unit)
    elif train.ratio is not None:
        turns = dict(zip(config.sources, train.ratio, strict=True))
        ratio = tuple(turns[name] for name in names)
        train = replace(train, ratio=(1,) if len(ratio) == 1 else ratio)

    made = replace(config, sources=MappingProxyType(sources), train=train)
    if train.step_mode == "summed":
        lr = config.optimizer.lr * made.batch / config.batch
        made = replace(made, optimizer=replace(config.optimizer, lr=lr))
    return lengthen(made, 1 / fraction)


def teacher_variant(config: Config, epochs: float, *, ranks: int) -> Config:
    """The config of a first teacher: the target alone, and as many clips as a student sees.

    Where steps sum the sources, it has as many clips in a step, too.

    Args:
        config: of the target and the crawl.
        epochs: of the target, in the training of a student.
        ranks: processes that share a batch.
    """
    target = next(iter(config.sources))
    made = make_variant(config, (target,), epochs, ranks=ranks)
    factor = config.batch / made.batch
    if config.train.step_mode == "summed":
        source = replace(made.sources[target], batch=None)
        made = replace(
            made,
            sources=MappingProxyType({target: source}),
            optimizer=config.optimizer,
            train=replace(made.train, batch=config.batch),
        )
    return lengthen(made, factor)


def lengthen(config: Config, factor: float) -> Config:
    """A training of ``factor`` times the epochs; its rate falls at the same shares of them."""
    assert config.train.epochs is not None
    milestones = tuple(factor * milestone for milestone in config.optimizer.milestones)
    return replace(
        config,
        optimizer=replace(config.optimizer, milestones=milestones),
        train=replace(config.train, epochs=factor * config.train.epochs),
    )


def hold_out_part(config: Config, part: int, parts: int) -> Config:
    """The config with a part of every source but the target held out.

    A source of which nothing is left is removed: a network that has seen nothing of it may score
    all of it.

    Args:
        config: of a student.
        part: number of the part, from 1.
        parts: how many there are.
    """
    target, *web = open_data(config).tables
    held = {
        table.name: replace(config.sources[table.name], hold_out=(part, parts))
        for table in web
        if len(without_part(table, (part, parts)))
    }
    sources = {target.name: config.sources[target.name], **held}
    return replace(config, sources=MappingProxyType(sources))
