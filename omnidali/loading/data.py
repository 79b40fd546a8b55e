"""From a config to tables: the catalog brought up to date once, then opened by every rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.changes import would_change
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.trial_copy import accept_trial, begin_trial
from omnidali.catalog.listing.class_files import ClassNames
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig, key_of
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.class_names import check_first_labels, find_names, no_labels
from omnidali.planning.resampling import fraction_of, without_part

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
    labelled: bool = True,
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
        labelled: whether each item must have a label. Else those without one have the label -1.

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
    path, names, summary = ranks.on_main(
        lambda: _build(config, sources, classes, as_begun=as_begun, labelled=labelled)
    )

    reader = CatalogReader(path)
    tables = {}
    highest = {}
    for name, source in sources.items():
        table = reader.table(name)
        if labelled:
            require_labels(table)
        tables[name] = drawn_part(table, source, config.seed)
        # of what is held out, too: networks of other parts have the same outputs
        highest[name] = table.highest_label
    evaluation = tables.pop(EVALUATION, None)

    count = len(names) if names else 1 + max(highest[name] for name in tables or highest)
    _check_highest(highest, count)
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


def _check_highest(highest: Mapping[str, int], classes: int) -> None:
    """Refuse labels that are no class, given the highest one of each source."""
    for name, label in highest.items():
        if label >= classes:
            raise UserError(
                key_of(name),
                f"labels below {classes}, the number of classes of the training sources",
                str(label),
                "Correct the list.",
            )


def _build(
    config: Config,
    sources: Mapping[str, MediaConfig],
    classes: Sequence[str] | None,
    *,
    as_begun: bool,
    labelled: bool,
) -> tuple[Path, ClassNames | None, list[str]]:
    """Build the catalog; returns where it lies, the class names, and a line a source."""
    root = Path(config.data_root)
    path = Path(config.catalog_path)
    names = find_names(config, trained=classes)
    if not as_begun:
        check_first_labels(sources, names, root, config.multi_label, labelled=labelled)
    changes = None
    if as_begun:
        changes = would_change(path, sources, root, names, multi_label=config.multi_label)
    if changes:
        path = begin_trial(path)
    summaries = build_catalog(
        path,
        sources,
        root,
        names,
        as_begun=as_begun,
        is_current=changes is False,
        multi_label=config.multi_label,
    )
    notes = [names.note] if names and names.note else []
    return path, names, [*notes, *map(str, summaries)]


def require_labels(table: SourceTable) -> None:
    """Refuse a source with items that have no label.

    Raises:
        UserError: naming the source.
    """
    unlabelled = int((table.labels < 0).sum())
    if unlabelled:
        raise no_labels(table.name, f"{unlabelled:,} of {len(table):,} without one")


def drawn_part(table: SourceTable, source: MediaConfig, seed: int) -> SourceTable:
    """The rows that a training draws from: a fraction, without the held-out part.

    Args:
        table: of a whole source.
        source: its settings; an evaluation uses all rows.
        seed: of the training.

    Raises:
        UserError: if no row is left.
    """
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
