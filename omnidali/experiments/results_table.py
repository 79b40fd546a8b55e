"""Tables of what trainings scored, and of the quality of their training sets, as Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omnidali.config.schema import Config
from omnidali.demo.truth import judge_lists
from omnidali.demo.world_plan import TRUTH
from omnidali.utils.untrusted_text import for_markdown

TOP1 = "top-1"
MEAN_PRECISION = "mAP"  # the figure of items with several labels


def score_columns(figure: str) -> tuple[str, ...]:
    """The columns of :meth:`SeedScores.cells`, of ``TOP1`` or ``MEAN_PRECISION``."""
    columns = (f"{figure}, mean", "spread", "gain", "by seed")
    return columns if figure == MEAN_PRECISION else (*columns, "mean class")


def figure_of(result: Mapping[str, float]) -> float:
    """What tables compare of an evaluation, percent.

    It is the mean average precision where items may have several labels, else top-1.
    """
    return result[MEAN_PRECISION] if MEAN_PRECISION in result else result["top1"]


class SeedScores:
    """The base of a table's rows: the scores of one training set, one of each seed.

    Attributes:
        top1: accuracy, or mean average precision where items may have several labels, percent.
        mean_class: the accuracy as a mean over classes, percent; empty beside mean average
            precision, which is one.
    """

    top1: Sequence[float]
    mean_class: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean top-1, percent."""
        return statistics.mean(self.top1)

    @property
    def spread(self) -> float:
        """Standard deviation of top-1 over the seeds, points; 0 for one seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    def cells(self, gain: float) -> list[str]:
        """The cells under :func:`score_columns`; the gain is in points."""
        cells = [
            f"{self.mean:.1f}",
            f"{self.spread:.1f}",
            f"{gain:+.1f}",
            ", ".join(f"{value:.1f}" for value in self.top1),
        ]
        if self.mean_class:
            cells.append(f"{statistics.mean(self.mean_class):.1f}")
        return cells


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already.

    >>> print(markdown_table(["sources", "top-1"], [["all", "51.0"]]), end="")
    | sources | top-1 |
    |---|---|
    | all | 51.0 |
    """
    lines = [f"| {' | '.join(cells)} |\n" for cells in (columns, *rows)]
    lines.insert(1, "|---" * len(columns) + "|\n")
    return "".join(lines)


@dataclass
class CurationRow(SeedScores):
    """One line of the table: a training set, and what its students scored.

    Attributes:
        name: of the training set.
        samples: of the web sources, by seed.
        top1: percent, by seed.
        mean_class: percent, by seed.
        truth: for a demo world, by seed: {what: (precision, recall)}.
    """

    name: str
    samples: list[int] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    mean_class: list[float] = field(default_factory=list)
    truth: list[dict[str, tuple[float, float]]] = field(default_factory=list)


def precision_and_recall(crawl: Config, kept: Config, what: str) -> dict[str, tuple[float, float]]:
    """Precision and recall by source; empty if the data are no demo world."""
    if not Path(crawl.data_root, TRUTH).exists():
        return {}
    _, *web = crawl.sources
    found = judge_lists(crawl.data_root, crawl, kept)
    return {
        f"{source}, {what}": (round(quality.precision, 4), round(quality.recall, 4))
        for source in web
        if (quality := found[source].get(what)) and quality.wanted
    }


def curation_table(rows: Sequence[CurationRow], figure: str = TOP1) -> str:
    """The rows as Markdown: the scores, then what a demo world knows of the training sets.

    Args:
        rows: of the table.
        figure: that the scores are.

    >>> target = CurationRow("target alone", [0], [50.0], [49.0])
    >>> everything = CurationRow("everything", [90], [60.0], [59.0], [{"images, labels": (0.9, 1)}])
    >>> print(curation_table([target, everything]))
    | training set | web samples | top-1, mean | spread | gain | by seed | mean class |
    |---|---|---|---|---|---|---|
    | target alone | 0 | 50.0 | 0.0 | +0.0 | 50.0 | 49.0 |
    | everything | 90 | 60.0 | 0.0 | +10.0 | 60.0 | 59.0 |
    <BLANKLINE>
    | training set | images, labels |
    |---|---|
    | everything | 0.900 right, 1.000 found |
    <BLANKLINE>
    """
    table = markdown_table(
        ("training set", "web samples", *score_columns(figure)),
        [
            [
                row.name,
                f"{statistics.mean(row.samples):,.0f}",
                *row.cells(row.mean - rows[0].mean),
            ]
            for row in rows
        ],
    )

    judged = [row for row in rows if any(row.truth)]
    if not judged:
        return table
    whats = list(judged[0].truth[0])
    truth = markdown_table(
        ("training set", *map(for_markdown, whats)),
        [[row.name, *(_truth_cell(row, what) for what in whats)] for row in judged],
    )
    return f"{table}\n{truth}"


def _truth_cell(row: CurationRow, what: str) -> str:
    precision = statistics.mean(truth[what][0] for truth in row.truth)
    recall = statistics.mean(truth[what][1] for truth in row.truth)
    return f"{precision:.3f} right, {recall:.3f} found"
