"""Tables of what trainings scored: Markdown, with one line for each training set."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

SCORE_COLUMNS = ("top-1, mean", "spread", "gain", "by seed", "mean class")


class SeedScores:
    """The base of a table's rows: the scores of one training set, one of each seed.

    Attributes:
        top1: accuracy, percent.
        mean_class: mean of the classes' accuracies, percent.
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
        """The cells under ``SCORE_COLUMNS``; the gain is in points."""
        return [
            f"{self.mean:.1f}",
            f"{self.spread:.1f}",
            f"{gain:+.1f}",
            ", ".join(f"{value:.1f}" for value in self.top1),
            f"{statistics.mean(self.mean_class):.1f}",
        ]


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
