"""From a config to tables: the catalog brought up to date once, then opened by every rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.build import build_catalog, would_change
from omnidali.catalog.database.store import CatalogReader, SourceTable
from omnidali.catalog.database.trial_copy import accept_trial, begin_trial
from omnidali.catalog.listing.labels import read_class_names
from omnidali.catalog.listing.scan import source_class_names
from omnidali.config.schema import EVALUATION, Config, key_of
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import Limits
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.camera_motion import load_motion
from omnidali.planning.plan import TrainPlan
from omnidali.planning.resampling import fraction_of, without_part
from omnidali.utils.text_files import require_utf8_names

QUARANTINE = "quarantine.jsonl"  # in the run folder


@dataclass(frozen=True)
class Data:
    """Everything a run reads.

    Attributes:
        tables: one a training source, in the config's order. evaluation: table of the held-out
            source.
        class_names: in label order; the numbers as text where nobody gave names. named: whether
            somebody did.
        summary: lines that say what was found and what was left out, and why.
        reader: of the catalog. catalog: where it belongs, which is elsewhere if it was built for a
            trial.
    """

    tables: tuple[SourceTable, ...]
    evaluation: SourceTable | None
    class_names: tuple[str, ...]
    named: bool
    summary: tuple[str, ...]
    reader: CatalogReader | None = None
    catalog: Path | None = None

    def keep_catalog(self, ranks: Ranks = Ranks()) -> None:
        """Let a catalog that was built for a trial take the place of the old one; every rank calls
        this.

        Where that is not possible, the run reads the one of the trial to its end.
        """
        if self.reader is not None and self.reader.path != self.catalog:
            if ranks.on_main(lambda: accept_trial(self.catalog)):
                self.reader.path = self.catalog


def open_data(
    config: Config,
    ranks: Ranks = Ranks(),
    training: bool = True,
    classes: Sequence[str] | None = None,
    as_begun: bool = False,
) -> Data:
    """Probe what is new, on the main rank, and open the tables on every rank.

    Args:
        training: False opens the evaluation source alone.
        classes: names to use where the config names no file of them; none: those of the target.
        as_begun: for a run that goes on; see :func:`~omnidali.catalog.build.build_catalog`. Where
            its lists have changed, the catalog is built for a trial: call :meth:`Data.keep_catalog`
            once the run is not refused.

    Raises:
        UserError: for missing or wrong lists, roots and labels.
    """
    root = Path(config.data_root)
    sources = dict(config.sources) if training else {}
    if config.evaluation.source is not None:
        sources[EVALUATION] = config.evaluation.source
    elif not training:
        raise UserError(
            "evaluation.source", "labelled data to evaluate on", "nothing", "Add it to the config."
        )

    def build():
        names = list(classes) if classes and not config.classes else find_names(config)
        path = Path(config.catalog_path)
        changes = would_change(path, sources, root, names) if as_begun else None
        if changes:
            path = begin_trial(path)
        summaries = build_catalog(
            path, sources, root, names, as_begun=as_begun, is_current=changes is False
        )
        return path, names, [str(summary) for summary in summaries]

    path, names, summary = ranks.on_main(build)
    reader = CatalogReader(path)
    tables, highest = {}, {}
    for name, source in sources.items():
        table = reader.table(name)
        if (table.labels < 0).any():
            raise UserError(
                key_of(name),
                "a label for every file",
                "files without label",
                "Use class folders or a list.",
            )
        # of what is held out, too: networks of other parts have the same outputs
        highest[name] = int(table.labels.max())
        part = fraction_of(table, getattr(source, "fraction", 1.0), config.seed)
        tables[name] = without_part(part, getattr(source, "hold_out", None))
        if not len(tables[name]):
            raise UserError(
                f"{key_of(name)}.hold_out",
                "samples outside of that part",
                f"none of {len(part):,}",
                "Hold out a smaller part.",
            )
    evaluation = tables.pop(EVALUATION, None)
    classes = len(names) if names else 1 + max(highest[name] for name in tables or highest)
    for name, label in highest.items():
        if label >= classes:
            expected = f"labels below {classes}, the number of classes of the training sources"
            raise UserError(key_of(name), expected, str(label), "Correct the list.")
    return Data(
        tuple(tables.values()),
        evaluation,
        tuple(names or map(str, range(classes))),
        bool(names),
        tuple(summary),
        reader,
        Path(config.catalog_path),
    )


def open_loader(config: Config, data: Data, ranks: Ranks = Ranks(), **options) -> FusionIterator:
    """The training loader of a config, as long as the training; ``options`` go to
    :class:`FusionIterator`.

    Raises:
        UserError: if the batch cannot be shared out over the ranks.
    """
    check_shares(config, ranks.world)
    plan = make_plan(config, data)
    # what rounding adds is no step
    end = config.train.steps or math.ceil(config.train.epochs * plan.steps_per_epoch - 1e-9)
    return FusionIterator(
        plan,
        list(config.sources.values()),
        **{
            "end": end,
            "target_apart": config.model.norm == "target_only",
            **rank_options(config, ranks),
            **options,
        },
    )


def check_shares(config: Config, world: int) -> None:
    """Refuse batches that cannot be shared out over so many ranks.

    Raises:
        UserError: naming the batch.
    """
    train = config.train
    alternating = train.step_mode == "alternating"
    if alternating:
        sizes = {f"sources.{name}.batch": source.batch for name, source in config.sources.items()}
    else:
        sizes = {
            "train.batch"
            if config.batches is None
            else "sources, sum of their batches": config.batch
        }
    for place, (where, size) in enumerate(sizes.items()):
        unit = 1 if train.mixup == "none" or place > 0 else 2  # pairs of mixup stay on one rank
        if size % (unit * world):
            step = unit * world
            raise UserError(
                where,
                f"a multiple of {step} for {world} ranks{', in pairs' if unit == 2 else ''}",
                str(size),
                f"Use {max(1, size // step) * step}, or another number of ranks.",
            )


def make_plan(config: Config, data: Data) -> TrainPlan:
    """The training plan of a config.

    Raises:
        UserError: if a motion file is wrong.
    """
    sources, train = list(config.sources.values()), config.train
    ratio = (train.ratio or (1,) * len(sources)) if train.step_mode == "alternating" else None
    motions = {
        number: load_motion(
            Path(config.data_root, source.motion) if source.motion else None,
            source.motion_per_class,
            list(data.class_names),
        )
        for number, source in enumerate(sources)
        if source.inflate == "warp"
    }
    return TrainPlan(
        data.tables,
        sources,
        config.clip,
        config.batch,
        config.seed,
        ratio=ratio,
        mixup=train.mixup,
        mixup_alpha=train.mixup_alpha,
        motions=motions,
        classes=len(data.class_names),
    )


def rank_options(config: Config, ranks: Ranks) -> dict[str, object]:
    """What every :class:`FusionIterator` of this process is opened with."""
    loader = config.loader
    return {
        "threads": loader.threads or ranks.threads,
        "prefetch": loader.prefetch,
        "cpu_share": loader.cpu_share,
        "quarantine": Quarantine(Path(config.run_dir) / QUARANTINE),
        "limits": Limits(
            loader.max_bad_ratio, loader.max_bad_in_a_row, loader.hang_seconds, loader.stall_seconds
        ),
        "device": ranks.device,
        "rank": ranks.rank,
        "world": ranks.world,
    }


def find_names(config: Config) -> list[str] | None:
    """Class names of the config's file, or that the target itself gives, as folders or in its list;
    None where its labels are numbers.

    Raises:
        UserError: for a wrong file, and if another source is class folders then, whose numbers
            nobody can tell.
    """
    require_utf8_names()
    root = Path(config.data_root)
    if config.classes:
        return read_class_names(root / config.classes)
    (target, source), *others = config.sources.items()
    names = source_class_names(target, source, root)
    for name, other in others if names is None else ():
        if not (other.list or other.tars) and source_class_names(name, other, root):
            raise UserError(
                "classes",
                f"a file that names the classes, as sources.{name} is class folders and"
                f" sources.{target} is not",
                "nothing",
                "Add it: one name a line, in label order.",
            )
    return names
