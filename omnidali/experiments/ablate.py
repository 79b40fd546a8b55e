"""The worth of each source: trainings on the target alone, with each group of sources, with all.

OmniSource's tables (Sec. 4, and the reference's mini-Kinetics table) on any data: equal epochs of
the target, several seeds, mean and spread.
"""

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.experiments.results_table import (
    MEAN_PRECISION,
    TOP1,
    SeedScores,
    figure_of,
    markdown_table,
    score_columns,
)
from omnidali.experiments.training_runs import (
    TrainingRuns,
    check_experiment,
    check_trainings,
    plan_runs,
)
from omnidali.experiments.variants import make_variant, target_epochs
from omnidali.loading.data import open_data
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.plots import bar_chart, write_png
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import for_markdown, say

BASELINE = "baseline"
ALL = "all"


@dataclass(frozen=True)
class AblationRow(SeedScores):
    """One line of the table.

    Attributes:
        variant: name of the sources that were trained on.
        fraction: share of the target's labels.
        top1: percent, by seed.
        mean_class: percent, by seed.
        gain: mean top-1 minus that of the baseline, points.
    """

    variant: str
    fraction: float
    top1: tuple[float, ...]
    mean_class: tuple[float, ...]
    gain: float


def variants_of(config: Config) -> dict[str, tuple[str, ...]]:
    """Names of the sources of each variant: the target alone, with each group, with all.

    Raises:
        UserError: if there is no source besides the target.
    """
    target, *others = config.sources
    if not others:
        raise UserError(
            "sources",
            "the target and at least one other source",
            target,
            "Add a source to compare.",
        )
    groups: dict[str, list[str]] = {}
    for name in others:
        groups.setdefault(config.sources[name].group or name, []).append(name)

    variants: dict[str, tuple[str, ...]] = {BASELINE: (target,)}
    variants |= {f"+ {group}": (target, *names) for group, names in groups.items()}
    if len(groups) > 1:
        variants[ALL] = (target, *others)
    return variants


def ablate(
    config_path: str,
    overrides: Sequence[str],
    out: str | Path,
    *,
    seeds: Sequence[int],
    fractions: Sequence[float],
    ranks: int,
    take: Callable[[], None] = lambda: None,
) -> list[AblationRow]:
    """Train and evaluate every variant with every seed; finished runs in ``out`` are kept.

    Args:
        config_path: of the config, whose first source is the target.
        overrides: settings of it, as ``key.path=value``.
        out: folder for everything: the runs, ``table.md``, ``results.json`` and ``table.png``.
        seeds: of the trainings.
        fractions: shares of the target's labels to compare at.
        ranks: processes of a training.
        take: called after all checks, before anything but the catalog is written.

    Raises:
        UserError: if there is nothing to compare, or a program refused its config.
        ProgramFailedError: if a program failed.
    """
    out = Path(out)
    config = replace(load_config(config_path, overrides), catalog=str(out / "catalog.sqlite"))
    check_experiment(config, ranks, seeds)
    data = open_data(config)
    say(*data.summary)

    # with fewer labels a step has as many slots of the target: more epochs of the remaining ones
    epochs = target_epochs(config, data)
    variants = variants_of(config)
    trainings = {
        (fraction, variant): make_variant(config, sources, epochs, ranks=ranks, fraction=fraction)
        for fraction, (variant, sources) in itertools.product(fractions, variants.items())
    }
    check_trainings(config, trainings.values(), data.class_names, ranks)

    names = {
        (fraction, variant): f"{variant.replace('+ ', 'with-').replace(' ', '-')}-{fraction:g}"
        for fraction, variant in trainings
    }
    planned = [(names[key], seed, trainings[key]) for seed in seeds for key in trainings]
    runs = TrainingRuns(out, ranks, plan_runs(planned, data, out))
    take()
    what = f"variants: {len(variants)}, shares of the labels: {len(fractions)}, seeds: {len(seeds)}"
    runs.times.announce(out, ranks, what)

    results: dict[tuple[float, str], list[dict]] = {}
    for seed in seeds:
        for key, training in trainings.items():
            result, _ = runs.train_and_score(training, names[key], seed)
            results.setdefault(key, []).append(result)
            rows = _write_results(out, results)

    _report(out, config_path, overrides, epochs=epochs, seeds=seeds, rows=rows)
    return rows


def _report(
    out: Path,
    config_path: str,
    overrides: Sequence[str],
    *,
    epochs: float,
    seeds: Sequence[int],
    rows: list[AblationRow],
) -> None:
    """Write the record, and print the table."""
    record = {
        "ablation": str(config_path),
        "overrides": list(overrides),
        "target_epochs": epochs,
        "seeds": list(seeds),
        "rows": [vars(row) for row in rows],
    }
    write_record(out, record)
    table = (out / "table.md").read_text().split("\n")
    say("", *table, f"also in {out / 'results.json'} and {out / 'table.png'}")


def _write_results(
    out: Path, results: Mapping[tuple[float, str], Sequence[Mapping]]
) -> list[AblationRow]:
    """Write the files with the results so far; returns the rows of the table.

    Args:
        out: folder for the files.
        results: of the seeds so far, by fraction and variant.
    """
    rows = []
    for (fraction, variant), found in results.items():
        top1 = tuple(map(figure_of, found))
        baseline = statistics.mean(map(figure_of, results[fraction, BASELINE]))
        rows.append(
            AblationRow(
                variant=variant,
                fraction=fraction,
                top1=top1,
                mean_class=tuple(
                    result["mean_class"] for result in found if "mean_class" in result
                ),
                gain=statistics.mean(top1) - baseline,
            )
        )

    values = [vars(row) | {"mean": row.mean, "spread": row.spread} for row in rows]
    is_precision = any(MEAN_PRECISION in result for found in results.values() for result in found)
    figure = MEAN_PRECISION if is_precision else TOP1
    bars = {f"{row.variant}, {100 * row.fraction:g} %": (row.mean, row.top1) for row in rows}
    with writing_to(out):
        write_whole(out / "results.json", json.dumps(values, indent=1) + "\n")
        write_whole(out / "table.md", ablation_table(rows, figure))
        write_png(out / "table.png", bar_chart(bars, f"{figure}, %"))
    return rows


def ablation_table(rows: Sequence[AblationRow], figure: str = TOP1) -> str:
    """The rows as a Markdown table.

    Args:
        rows: of the table.
        figure: that the scores are.

    >>> print(ablation_table([AblationRow("baseline", 1.0, (50.0, 52.0), (49.0, 50.0), 0.0)]))
    | sources | labels | top-1, mean | spread | gain | by seed | mean class |
    |---|---|---|---|---|---|---|
    | baseline | 100 % | 51.0 | 1.4 | +0.0 | 50.0, 52.0 | 49.5 |
    <BLANKLINE>
    """
    return markdown_table(
        ("sources", "labels", *score_columns(figure)),
        [
            [for_markdown(row.variant), f"{100 * row.fraction:g} %", *row.cells(row.gain)]
            for row in rows
        ],
    )
