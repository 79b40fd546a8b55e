"""From a config to tables: the catalog brought up to date once, then opened by every rank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from omnidali.catalog.build import build_catalog
from omnidali.catalog.changes import would_change
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.trial_copy import accept_trial, begin_trial
from omnidali.catalog.listing.class_files import ClassNames
from omnidali.config.files import data_file
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig, key_of
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.class_names import check_first_labels, find_names
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator, LoaderOptions
from omnidali.loading.trial_outcome import Trial, hold_trial
from omnidali.planning.camera_motion import load_motion
from omnidali.planning.resampling import fraction_of, without_part
from omnidali.planning.train_plan import TrainPlan

QUARANTINE = "quarantine.jsonl"  # in the run folder

ONE_RANK = Ranks()


@dataclass(frozen=True)
class Data:
    """Everything a run reads.

    Attributes:
        tables: one a training source, in the config's order.
        evaluation: table of the held-out source.
        class_names: in label order; the numbers as text if the classes have no names.
        named: whether the classes have names.
        summary: lines that say what was found and what was left out, and why.
        reader: of the catalog.
        catalog: where the catalog belongs; the reader's is elsewhere if it was built for a trial.
        first_label: the number of the first class in lists of numbers.
        listed_names: what lists call the classes, where numbers in them are names; else None.
    """

    tables: tuple[SourceTable, ...]
    evaluation: SourceTable | None
    class_names: tuple[str, ...]
    named: bool
    summary: tuple[str, ...]
    reader: CatalogReader | None = None
    catalog: Path | None = None
    first_label: int = 0
    listed_names: tuple[str, ...] | None = None

    def keep_catalog(self, ranks: Ranks = ONE_RANK) -> None:
        """Replace the old catalog by one that was built for a trial; every rank calls this.

        If that is not possible, the run reads the one of the trial to its end.
        """
        catalog = self.catalog
        if self.reader is None or catalog is None or self.reader.path == catalog:
            return
        if ranks.on_main(lambda: accept_trial(catalog)):
            self.reader.path = catalog


def open_data(
    config: Config,
    ranks: Ranks = ONE_RANK,
    training: bool = True,
    classes: Sequence[str] | None = None,
    as_begun: bool = False,
) -> Data:
    """Probe new files on the main rank, and open the tables on every rank.

    Args:
        config: of the run.
        ranks: all of them call this.
        training: False opens the evaluation source alone.
        classes: names to use if the config names no file of them; none: those of the target.
        as_begun: for a resumed run; see :func:`~omnidali.catalog.build.build_catalog`. Where
            its lists have changed, the catalog is built for a trial: call :meth:`Data.keep_catalog`
            once the run is not refused.

    Raises:
        UserError: for missing or wrong lists, roots and labels.
    """
    sources: dict[str, MediaConfig] = dict(config.sources) if training else {}
    if config.evaluation.source is not None:
        sources[EVALUATION] = config.evaluation.source
    elif not training:
        raise UserError(
            "evaluation.source", "labelled data to evaluate on", "nothing", "Add it to the config."
        )
    path, names, summary = ranks.on_main(lambda: _build(config, sources, classes, as_begun))

    reader = CatalogReader(path)
    tables = {}
    highest = {}
    for name, source in sources.items():
        table = reader.table(name)
        tables[name] = drawn_part(table, source, config.seed)
        # of what is held out, too: networks of other parts have the same outputs
        highest[name] = int(table.labels.max())
    evaluation = tables.pop(EVALUATION, None)

    count = len(names) if names else 1 + max(highest[name] for name in tables or highest)
    for name, label in highest.items():
        if label >= count:
            raise UserError(
                key_of(name),
                f"labels below {count}, the number of classes of the training sources",
                str(label),
                "Correct the list.",
            )
    return Data(
        tables=tuple(tables.values()),
        evaluation=evaluation,
        class_names=tuple(names or map(str, range(count))),
        named=bool(names),
        first_label=names.first if names else 0,
        listed_names=tuple(names) if names and names.are_numbers else None,
        summary=tuple(summary),
        reader=reader,
        catalog=Path(config.catalog_path),
    )


def _build(
    config: Config,
    sources: Mapping[str, MediaConfig],
    classes: Sequence[str] | None,
    as_begun: bool,
) -> tuple[Path, ClassNames | None, list[str]]:
    """Build the catalog; returns where it lies, the class names, and a line a source."""
    root = Path(config.data_root)
    path = Path(config.catalog_path)
    names = find_names(config, trained=classes)
    if not as_begun:
        check_first_labels(sources, names, root)
    changes = would_change(path, sources, root, names) if as_begun else None
    if changes:
        path = begin_trial(path)
    summaries = build_catalog(
        path, sources, root, names, as_begun=as_begun, is_current=changes is False
    )
    notes = [names.note] if names and names.note else []
    return path, names, [*notes, *map(str, summaries)]


def drawn_part(table: SourceTable, source: MediaConfig, seed: int) -> SourceTable:
    """The rows that a training draws from: a fraction, without the held-out part.

    Args:
        table: of a whole source.
        source: its settings; an evaluation uses all rows.
        seed: of the training.

    Raises:
        UserError: if a row has no label, or no row is left.
    """
    if (table.labels < 0).any():
        raise UserError(
            key_of(table.name),
            "a label for every file",
            "files without label",
            "Use class folders or a list.",
        )
    if not isinstance(source, SourceConfig):
        return table
    part = fraction_of(table, source.fraction, seed)
    rest = without_part(part, source.hold_out)
    if not len(rest):
        raise UserError(
            f"{key_of(table.name)}.hold_out",
            "samples outside of that part",
            f"none of {len(part):,}",
            "Hold out a smaller part.",
        )
    return rest


def open_loader(
    config: Config, data: Data, ranks: Ranks = ONE_RANK, **options: Unpack[LoaderOptions]
) -> FusionIterator:
    """The training loader of a config, as long as the training.

    Args:
        config: of the run.
        data: of the config.
        ranks: this process and its peers, all of which call this.
        options: replace those of the config; without a ``trial``, one is held.

    Raises:
        UserError: if the batch cannot be shared out over the ranks, or a source asks for DALI and
            it does not work here.
    """
    check_shares(config, ranks.world)
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
    motions = {
        number: load_motion(
            _motion_file(config, name), source.motion_per_class, list(data.class_names)
        )
        for number, (name, source) in enumerate(config.sources.items())
        if source.inflate == "warp"
    }

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


def _motion_file(config: Config, name: str) -> Path | None:
    """The motion file of a source; None for the shipped one."""
    motion = config.sources[name].motion
    what = "a file of `omnidali motion estimate`"
    if not motion:
        return None
    return data_file(config.data_root, motion, f"{key_of(name)}.motion", what)
