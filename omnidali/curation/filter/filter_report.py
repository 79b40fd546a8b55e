"""What a filter kept and dropped, for people: a report, a line an item, histograms and images."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from omnidali.catalog.database.listed_items import ListedItem, read_items
from omnidali.config.schema import ClipConfig, Config, ViewsConfig
from omnidali.curation.filter.rules import RuleOutcome, Rules, TeacherScores
from omnidali.curation.filter.scoring import ScoringTask
from omnidali.curation.filter.set_rules import changed_rows
from omnidali.curation.filter.teacher_check import TeacherCheck, find_favourite, predictions
from omnidali.curation.table_sample import evenly_spread
from omnidali.distributed.ranks import Ranks
from omnidali.loading.clip_images import clip_grid, tile
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import rank_options
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.plots import bar_chart, write_png
from omnidali.utils.untrusted_text import for_image, for_markdown

_BINS = 10  # of a histogram
_SHOWN = 24  # items in a grid
_ACROSS = 6
_SIDE = 160  # of an image in a grid, pixels
_NAMED = 20  # unreadable files in the report; all are in the table of what was dropped
_COLUMNS = ("path", "piece", "label", "probability", "rank", "best", "best_probability", "reason")


@dataclass(frozen=True, repr=False)
class FilteredSource:
    """A source with its scores and what the rules make of them; rows as those of ``task.table``."""

    task: ScoringTask
    scores: TeacherScores
    outcome: RuleOutcome

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.task.scorer.classes

    @property
    def relabelled(self) -> np.ndarray:
        """bool (n,)."""
        sets = self.outcome.label_sets
        if sets is not None and self.task.table.label_sets is not None:
            return self.outcome.kept & changed_rows(self.task.table.label_sets, sets)
        return self.outcome.labels != self.task.table.labels

    def listed_names(self, row: int) -> str:
        """The classes that the list gives an item."""
        return "; ".join(self.class_names[label] for label in self.task.table.labels_at(row))

    def new_names(self, row: int) -> str:
        """The classes that an item is found with."""
        sets = self.outcome.label_sets
        labels = [int(self.outcome.labels[row])] if sets is None else sets.at(row)
        return "; ".join(self.class_names[label] for label in labels)

    def classes(self) -> Iterator[tuple[int, int, int]]:
        """Yield (class, items of the list, items that are kept with it)."""
        count = len(self.class_names)
        listed = self.task.table.class_items(count)
        labels = self.outcome.labels[self.outcome.kept]
        if self.outcome.label_sets is not None:
            labels = self.outcome.label_sets.take(np.flatnonzero(self.outcome.kept)).values
        kept = np.bincount(labels, minlength=count)
        yield from zip(range(count), listed.tolist(), kept.tolist(), strict=True)

    def best(self, label: int) -> float:
        """The best probability of a class among the items that are listed with it.

        It is NaN if none decodes.
        """
        own = self.scores.probability[(self.task.table.labels == label) & self.scores.decoded]
        return float(own.max()) if len(own) else float("nan")

    def favourite(self) -> str:
        """The class that the teacher gives to most items of other queries, in words; or nothing."""
        labels = self.task.table.labels[self.scores.decoded]
        favourite = find_favourite(predictions(self.scores, labels), labels, len(self.class_names))
        return favourite.describe(self.class_names) if favourite else ""

    def reason(self, row: int, rules: Rules) -> str:
        """Why an item is dropped, or with which label it was found; empty for others."""
        if not self.scores.decoded[row]:
            return "does not decode"
        texts = {
            "threshold": f"probability below {rules.threshold:g}",
            "topk": f"not among the best {rules.top}",
            "quantile": f"not in the best {100 * rules.keep:g} % of its class",
        }
        failed = "; ".join(texts[name] for name, rows in self.outcome.failed.items() if rows[row])
        if self.relabelled[row]:
            return f"relabelled from {self.listed_names(row)} ({failed})"
        return failed


def write_filter_report(
    out: Path,
    sources: Mapping[str, FilteredSource],
    counts: Mapping[str, dict],
    *,
    rules: Rules,
    check: TeacherCheck,
    config: Config,
) -> None:
    """Write report.md, two tables a source, and plots.

    Args:
        out: folder for them.
        sources: by name.
        counts: by source, how many items were kept, dropped and so on.
        rules: that were applied.
        check: of the teacher.
        config: that was scored with; its catalog knows the items.

    Raises:
        OSError: if something cannot be written.
    """
    teacher = next(iter(sources.values())).task.scorer.name
    lines = [
        "# What the filter kept",
        "",
        f"Rule: {rules}. Teacher: {for_markdown(teacher, None)}.",
        "",
        f"{for_markdown(check, None).capitalize()}.",
        "",
        *(f"**Warning**: {for_markdown(warning, None)}.\n" for warning in check.warnings()),
        "| source | items | kept | share | dropped | relabelled | do not decode | samples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {for_markdown(name)} | {row['items']:,} | {row['kept']:,} |"
        f" {100 * row['kept'] / row['items']:.1f} % | {row['dropped']:,} | {row['relabelled']:,} |"
        f" {row['unreadable']:,} | {row['samples']:,} |"
        for name, row in counts.items()
    ]

    for name, source in sources.items():
        items = list(read_items(config.catalog_path, name))
        for kept, which in ((True, "kept"), (False, "dropped")):
            write_whole(out / f"{name}_{which}.csv", table_lines(_rows(items, source, kept, rules)))
        lines += _section(name, items, source, _draw(out / "pictures", name, source, config))
    write_whole(out / "report.md", (f"{line}\n" for line in lines))


def _section(
    name: str,
    items: Sequence[ListedItem],
    source: FilteredSource,
    plots: Sequence[Path],
) -> Iterator[str]:
    """The lines of the report about one source."""
    yield from ("", f"## {for_markdown(name)}", "")
    if favourite := source.favourite():
        yield from (f"**Warning**: the teacher predicts {for_markdown(favourite)}.", "")
    yield from ("| class | items | kept | share | best probability |", "|---|---|---|---|---|")
    for label, listed, kept in source.classes():
        share = f" {100 * kept / listed:.1f} % | {source.best(label):.3f} |" if listed else " | |"
        yield f"| {for_markdown(source.class_names[label])} | {listed:,} | {kept:,} |{share}"
    yield ""
    for path in plots:
        yield f"![{for_markdown(path.stem)}](pictures/{quote(path.name)})"

    unreadable = list(itertools.compress(items, ~source.scores.decoded))
    if unreadable:
        shown = ", ".join(
            for_markdown(item.path) + (f" piece {item.number}" if item.video else "")
            for item in unreadable[:_NAMED]
        )
        yield from ("", f"Do not decode (all in {for_markdown(name)}_dropped.csv): {shown}")


def _rows(
    items: Sequence[ListedItem], source: FilteredSource, kept: bool, rules: Rules
) -> Iterator[Sequence[object]]:
    """The lines of a table of what was kept, or dropped."""
    yield _COLUMNS
    scores = source.scores
    for row in np.flatnonzero(source.outcome.kept == kept).tolist():
        values: list[object] = ["", "", "", ""]
        if scores.decoded[row]:
            best, best_probability = scores.other[row], scores.other_probability[row]
            if scores.rank[row] == 0:
                best, best_probability = source.task.table.labels[row], scores.probability[row]
            values = [
                f"{scores.probability[row]:.4f}",
                int(scores.rank[row]) + 1,
                source.class_names[best],
                f"{best_probability:.4f}",
            ]

        yield [
            items[row].path,
            items[row].number if items[row].video else "",
            source.new_names(row),
            *values,
            source.reason(row, rules),
        ]


def _draw(folder: Path, name: str, source: FilteredSource, config: Config) -> list[Path]:
    """Write a histogram of the query's probabilities, and grids of kept and dropped items."""
    probability = source.scores.probability
    counts, edges = np.histogram(probability[source.scores.decoded], _BINS, (0, 1))
    shares = 100 * counts / max(1, counts.sum())
    bars = {
        f"{low:.1f} to {high:.1f}": (share, ())
        for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True)
    }
    title = f"{name}: probability of the query, % of items"
    written = [folder / f"{name}_probabilities.png"]
    write_png(written[0], bar_chart(bars, title, max(shares.max(), 1)))

    for kept, which in ((True, "kept"), (False, "dropped")):
        rows = np.flatnonzero((source.outcome.kept == kept) & source.scores.decoded)
        if len(rows):
            rows = rows[np.argsort(-probability[rows], kind="stable")]
            rows = rows[evenly_spread(len(rows), _SHOWN)]
            written.append(folder / f"{name}_{which}.png")
            write_png(written[-1], _grid(source, rows, config))
    return written


def _grid(source: FilteredSource, rows: np.ndarray, config: Config) -> np.ndarray:
    """The middle frames of items under their label and its probability: uint8 (H, W, 3), RGB."""
    plan = EvaluationPlan(
        source.task.table.take(rows, "shown"),
        ClipConfig(),
        ViewsConfig(num_clips=1, size=_SIDE, short_side=_SIDE),
        _ACROSS,
    )
    media = replace(source.task.source, decode="cpu")
    tiles = []
    with FusionIterator(plan, [media], **rank_options(config, Ranks())) as batches:
        for group in itertools.chain.from_iterable(batch.groups for batch in batches):
            for slot, clip in zip(group.slot.tolist(), group.clips, strict=True):
                if slot < len(rows):  # the others only fill up the last step
                    tiles.append(clip_grid(clip[None], [_caption(source, rows[slot])]))
    return tile(tiles, _ACROSS)


def _caption(source: FilteredSource, row: int) -> str:
    listed = for_image(source.listed_names(row), 40)
    text = f"{source.scores.probability[row]:.2f} {listed}"
    if source.relabelled[row]:
        text += f" > {for_image(source.new_names(row), 40)}"
    return text
