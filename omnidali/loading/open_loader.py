"""From a config and its tables to the plan and the loader of a training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.files import data_file
from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig, key_of
from omnidali.distributed.ranks import Ranks, joined_ranks
from omnidali.errors import UserError
from omnidali.loading.data import ONE_RANK, Data, open_data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.loader_options import LoaderOptions
from omnidali.loading.trial_outcome import Trial, hold_trial
from omnidali.planning.camera_motion import Motion, load_motion
from omnidali.planning.train_plan import TrainPlan

QUARANTINE = "quarantine.jsonl"  # in the run folder


def open_loader(
    config: Config,
    data: Data | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[LoaderOptions],
) -> FusionIterator:
    """The training loader of a config, as long as the training.

    Args:
        config: of the run.
        data: of the config; None opens it.
        ranks: this process and its peers, all of which call this; None: those of torch's process
            group, or this process alone if it has joined none. Their clips come on the CPU, unless
            ``device`` says otherwise.
        options: replace those of the config; without a ``trial``, one is held.

    Raises:
        UserError: if the batch cannot be shared out over the ranks, a source asks for DALI and it
            does not work here, or the process is one of several that have not joined each other.

    Example::

        with open_loader(load_config("tsn_omni"), device="cuda") as batches:
            for batch in batches:
                loss = F.cross_entropy(model(batch.clips), batch.labels)
    """
    if ("rank" in options) != ("world" in options):
        raise UserError(
            "open_loader",
            "rank and world, or neither",
            "rank alone" if "rank" in options else "world alone",
            "Give both, or leave both out: those of torch's process group count then.",
        )
    if ranks is None:
        ranks = Ranks() if "world" in options else joined_ranks()
    if "device" in options:
        ranks = replace(ranks, device=torch.device(options["device"]))
    if data is None:
        data = open_data(config, ranks)
    check_shares(config, max(1, options.get("world", ranks.world)))
    plan = make_plan(config, data)
    if "trial" not in options:
        options["trial"] = try_decoders(config, data, ranks)
    settings: LoaderOptions = {
        "end": count_steps(config, plan.steps_per_epoch),
        "target_apart": config.model.norm == "target_only",
        **rank_options(config, ranks),
        **options,
    }
    return FusionIterator(plan, list(config.sources.values()), **settings)


def try_decoders(config: Config, data: Data, ranks: Ranks = ONE_RANK, kept: object = None) -> Trial:
    """Try DALI on the main rank, for the training sources and the held-out one.

    Args:
        config: of the run.
        data: of the config.
        ranks: this process and its peers, all of which call this.
        kept: the outcome of an earlier start of the run, as its loader's state has it.

    Raises:
        UserError: if a source asks for DALI and it does not work here.
    """
    sources: list[tuple[SourceTable, MediaConfig]] = list(
        zip(data.tables, config.sources.values(), strict=True)
    )
    if data.evaluation is not None and config.evaluation.source is not None:
        sources.append((data.evaluation, config.evaluation.source))
    return hold_trial(sources, ranks, config.loader, kept)


def count_steps(config: Config, steps_per_epoch: float) -> int:
    """The length of a training in steps.

    Args:
        config: of the run.
        steps_per_epoch: steps in which the target is seen once.
    """
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None
    # what rounding adds is no step
    return math.ceil(config.train.epochs * steps_per_epoch - 1e-9)


def batch_unit(mixup: str, world: int) -> int:
    """What a batch must be a multiple of, so that all ranks get equally many slots of it.

    Args:
        mixup: whose pairs stay on one rank; "none" has no pairs.
        world: number of ranks.
    """
    return world if mixup == "none" else 2 * world


def check_shares(config: Config, world: int) -> None:
    """Refuse batches that cannot be shared out over so many ranks.

    Raises:
        UserError: naming the batch.
    """
    sizes: dict[str, int | None]
    if config.train.step_mode == "alternating":
        sizes = {f"sources.{name}.batch": source.batch for name, source in config.sources.items()}
    elif config.batches is None:
        sizes = {"train.batch": config.batch}
    else:
        sizes = {"sources, sum of their batches": config.batch}

    for place, (where, size) in enumerate(sizes.items()):
        assert size is not None
        # where steps alternate, the target's alone have mixup
        unit = batch_unit(config.train.mixup if place == 0 else "none", world)
        if size % unit:
            raise UserError(
                where,
                f"a multiple of {unit} for {world} ranks{', in pairs' if unit > world else ''}",
                str(size),
                f"Use {max(1, size // unit) * unit}, or another number of ranks.",
            )


def make_plan(config: Config, data: Data) -> TrainPlan:
    """The training plan of a config.

    Raises:
        UserError: if a motion file is wrong.
    """
    sources = list(config.sources.values())
    train = config.train
    motions = {}
    for number, name in enumerate(config.sources):
        motion = load_motion_of(config, name, data.class_names)
        if motion is not None:
            motions[number] = motion

    return TrainPlan(
        data.tables,
        sources,
        config.clip,
        config.batch,
        config.seed,
        ratio=train.ratio_of(len(sources)),
        mixup=train.mixup,
        mixup_alpha=train.mixup_alpha,
        motions=motions,
        classes=len(data.class_names),
    )


def rank_options(config: Config, ranks: Ranks) -> LoaderOptions:
    """What every :class:`FusionIterator` of this process is opened with."""
    loader = config.loader
    return {
        "rank": ranks.rank,
        "world": ranks.world,
        "device": ranks.device,
        "threads": loader.threads or ranks.threads,
        "prefetch": loader.prefetch,
        "cpu_share": loader.cpu_share,
        "max_bad_ratio": loader.max_bad_ratio,
        "max_bad_in_a_row": loader.max_bad_in_a_row,
        "hang_seconds": loader.hang_seconds,
        "stall_seconds": loader.stall_seconds,
        "quarantine": Quarantine(Path(config.run_dir) / QUARANTINE),
    }


def check_motions(config: Config) -> None:
    """Refuse motion files that are missing or wrong before the data are read, which may take hours.

    Raises:
        UserError: naming the setting or the file.
    """
    for name, source in config.sources.items():
        if source.inflate == "warp":
            load_motion(_motion_file(config, name), source.motion_per_class)


def load_motion_of(config: Config, name: str, class_names: Sequence[str]) -> Motion | None:
    """The camera motion over a source's images; None for sources without.

    Args:
        config: of the run.
        name: of the source.
        class_names: in label order.

    Raises:
        UserError: if the motion file is missing or wrong.
    """
    source = config.sources[name]
    if source.inflate != "warp":
        return None
    return load_motion(_motion_file(config, name), source.motion_per_class, list(class_names))


def _motion_file(config: Config, name: str) -> Path | None:
    """The motion file of a source; None for the shipped one."""
    motion = config.sources[name].motion
    what = "a file of `omnidali motion estimate`"
    if not motion:
        return None
    return data_file(config.data_root, motion, f"{key_of(name)}.motion", what)
