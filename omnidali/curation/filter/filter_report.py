"""What a filter kept and dropped, for people: tables, a line an item, histograms, and pictures to
judge it by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from omnidali.catalog.database.listed_items import Item, read_items
from omnidali.config.schema import ClipConfig, Config, ViewsConfig
from omnidali.curation.filter.rules import Opinion, Rules, Verdict
from omnidali.curation.filter.scoring import Task
from omnidali.distributed.ranks import Ranks
from omnidali.loading.clip_images import clip_grid, tile
from omnidali.loading.data import rank_options
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import EvaluationPlan
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.plots import bar_chart, write_picture
from omnidali.utils.untrusted_text import for_markdown, for_picture

_BINS = 10  # of a histogram
_SHOWN = 24  # items in a grid
_ACROSS = 6
_SIDE = 160  # of a picture in a grid, pixels
_NAMED = 20  # unreadable files in the report; all are in the table of what was dropped
_COLUMNS = ("path", "piece", "label", "probability", "rank", "best", "best_probability", "reason")


@dataclass(frozen=True, repr=False)
class Part:
    """A source with its opinion and verdict; rows as those of ``task.table``."""

    task: Task
    opinion: Opinion
    verdict: Verdict

    @property
    def relabelled(self) -> np.ndarray:
        """bool (n,)."""
        return self.verdict.labels != self.task.table.labels

    def classes(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (class, items of the list, items that are kept with it)."""
        listed = np.bincount(self.task.table.labels, minlength=count)
        kept = np.bincount(self.verdict.labels[self.verdict.kept], minlength=count)
        yield from zip(range(count), listed.tolist(), kept.tolist())

    def best(self, label: int) -> float:
        """The best probability of a class among the items that are listed with it; NaN where none
        decodes.
        """
        own = self.opinion.probability[(self.task.table.labels == label) & self.opinion.decoded]
        return float(own.max()) if len(own) else float("nan")

    def reason(self, row: int, names: Sequence[str], rules: Rules) -> str:
        """Why an item is dropped, or with which label it was found; empty where there is nothing to
        say.
        """
        if not self.opinion.decoded[row]:
            return "does not decode"
        told = {
            "threshold": f"probability below {rules.threshold:g}",
            "topk": f"not among the best {rules.top}",
            "quantile": f"not in the best {100 * rules.keep:g} % of its class",
        }
        failed = "; ".join(told[name] for name, rows in self.verdict.failed.items() if rows[row])
        if self.relabelled[row]:
            return f"relabelled from {names[self.task.table.labels[row]]} ({failed})"
        return failed


def write_reports(
    out: Path,
    parts: Mapping[str, Part],
    names: Sequence[str],
    rules: Rules,
    config: Config,
    rows: Mapping[str, dict],
) -> None:
    """Write report.md, two tables a source, and pictures.

    Raises:
        OSError: if something cannot be written.
    """
    teacher = next(iter(parts.values())).task.scorer.name
    lines = [
        "# What the filter kept",
        "",
        f"Rule: {rules}. Teacher: {for_markdown(teacher, None)}.",
        "",
        "| source | items | kept | share | dropped | relabelled | do not decode | samples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {for_markdown(name)} | {row['items']:,} | {row['kept']:,} |"
        f" {100 * row['kept'] / row['items']:.1f} % | {row['dropped']:,} | {row['relabelled']:,} |"
        f" {row['unreadable']:,} | {row['samples']:,} |"
        for name, row in rows.items()
    ]
    for name, part in parts.items():
        for kept, which in ((True, "kept"), (False, "dropped")):
            table = _rows(config.catalog_path, name, part, kept, names, rules)
            write_whole(out / f"{name}_{which}.csv", table_lines(table))
        pictures = _draw(out / "pictures", name, part, names, config)
        lines += [
            "",
            f"## {for_markdown(name)}",
            "",
            "| class | items | kept | share | best probability |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {for_markdown(names[label])} | {listed:,} | {kept:,} |"
            + (f" {100 * kept / listed:.1f} % | {part.best(label):.3f} |" if listed else " | |")
            for label, listed, kept in part.classes(len(names))
        ]
        lines += [
            "",
            *(f"![{for_markdown(path.stem)}](pictures/{quote(path.name)})" for path in pictures),
        ]
        bad = itertools.compress(read_items(config.catalog_path, name), ~part.opinion.decoded)
        unreadable = [_shown(item) for item in itertools.islice(bad, _NAMED)]
        if unreadable:
            lines += [
                "",
                f"Do not decode (all in {for_markdown(name)}_dropped.csv): {', '.join(unreadable)}",
            ]
    write_whole(out / "report.md", (f"{line}\n" for line in lines))


def _rows(
    catalog: str, name: str, part: Part, kept: bool, names: Sequence[str], rules: Rules
) -> Iterator[Sequence[object]]:
    yield _COLUMNS
    opinion, chosen = part.opinion, part.verdict.kept == kept
    for row, item in enumerate(read_items(catalog, name)):
        if not chosen[row]:
            continue
        values = ["", "", "", ""]
        if opinion.decoded[row]:
            label = int(part.task.table.labels[row])
            query_first = opinion.rank[row] == 0
            best, value = (
                (label, opinion.probability[row])
                if query_first
                else (opinion.other[row], opinion.other_probability[row])
            )
            values = [
                f"{opinion.probability[row]:.4f}",
                int(opinion.rank[row]) + 1,
                names[best],
                f"{value:.4f}",
            ]
        piece = item.number if item.video else ""
        yield [
            item.path,
            piece,
            names[part.verdict.labels[row]],
            *values,
            part.reason(row, names, rules),
        ]


def _shown(item: Item) -> str:
    """An item in Markdown."""
    return for_markdown(item.path) + (f" piece {item.number}" if item.video else "")


def _draw(folder: Path, name: str, part: Part, names: Sequence[str], config: Config) -> list[Path]:
    """A histogram of the query's probabilities, and grids of kept and dropped items."""
    counts, edges = np.histogram(part.opinion.probability[part.opinion.decoded], _BINS, (0, 1))
    shares = 100 * counts / max(1, counts.sum())
    bars = {
        f"{low:.1f} to {high:.1f}": (share, ())
        for low, high, share in zip(edges, edges[1:], shares)
    }
    written = [folder / f"{name}_probabilities.png"]
    write_picture(
        written[0],
        bar_chart(bars, f"{name}: probability of the query, % of items", max(shares.max(), 1)),
    )
    for kept, which in ((True, "kept"), (False, "dropped")):
        rows = np.flatnonzero((part.verdict.kept == kept) & part.opinion.decoded)
        if len(rows):
            written.append(folder / f"{name}_{which}.png")
            rows = rows[np.argsort(-part.opinion.probability[rows], kind="stable")]
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(np.int64))]
            write_picture(written[-1], _grid(part, rows, names, config))
    return written


def _grid(part: Part, rows: np.ndarray, names: Sequence[str], config: Config) -> np.ndarray:
    """The middle frames of items under their label and its probability: uint8 (H, W, 3), RGB."""
    views = ViewsConfig(num_clips=1, size=_SIDE, short_side=_SIDE)
    plan = EvaluationPlan(part.task.table.take(rows, "shown"), ClipConfig(), views, _ACROSS)
    tiles = []
    with FusionIterator(
        plan, [replace(part.task.source, decode="cpu")], **rank_options(config, Ranks())
    ) as batches:
        for batch in batches:
            for group in batch.groups:
                for place, clip in zip(group.slot.tolist(), group.clips):
                    if place < len(rows):
                        tiles.append(clip_grid(clip[None], [_caption(part, rows[place], names)]))
    return tile(tiles, _ACROSS)


def _caption(part: Part, row: int, names: Sequence[str]) -> str:
    """One line."""
    new = f" > {for_picture(names[part.verdict.labels[row]], 40)}" if part.relabelled[row] else ""
    return f"{part.opinion.probability[row]:.2f} {for_picture(names[part.task.table.labels[row]], 40)}{new}"
