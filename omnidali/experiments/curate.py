"""The whole road from a crawl to a student: teacher, duplicates, filter, student, and what it was
worth.

OmniSource (Sec. 3): a teacher learns from the labelled target alone; its opinion decides which
crawled items stay; the student learns from the target and from those. It may be the teacher of
another round, alone or together with all networks before it, as the paper's best teacher is an
ensemble (Fig. 6); or students like it, each of which held a part of the crawl out and judges that
(cross-fitting, as in confident learning, Northcutt et al., 2021). Beside it stand the first
teacher, which sees as many clips as a student, and a student that was given everything.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from omnidali.config.load import dump_config, load_config
from omnidali.config.schema import Config
from omnidali.curation.windows import FRAME_SECONDS, takes_windows
from omnidali.demo.truth import judge_lists
from omnidali.demo.world import TRUTH
from omnidali.errors import UserError
from omnidali.experiments.ablate import (
    check_numbers,
    check_trainings,
    make_variant,
    train_and_score,
)
from omnidali.loading.data import make_plan, open_data
from omnidali.models.checkpoint_file import LAST
from omnidali.planning.resampling import without_part
from omnidali.processes.launch import run_program
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import for_markdown, say

TARGET, EVERYTHING = "target alone", "everything that was crawled"
CURATED = "config.yaml"  # what dedup and filter write into their folders


@dataclass
class Row:
    """One line of the table: a training set, and the students that had it.

    Attributes:
        samples: of the web sources, by seed. top1, mean_class: percent by seed.
        truth: for a demo world, by seed: {what: (precision, recall)}.
    """

    name: str
    samples: list[int] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    mean_class: list[float] = field(default_factory=list)
    truth: list[dict[str, tuple[float, float]]] = field(default_factory=list)


def curate(
    config_path: str,
    overrides: Sequence[str],
    out: str | Path,
    seeds: Sequence[int],
    rounds: int,
    ranks: int,
    filtering: Sequence[str] = (),
    deduplicating: Sequence[str] = (),
    together: bool = False,
    folds: int = 1,
    take: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Go the whole road once a seed; what is finished in ``out`` is kept.

    Writes ``table.md`` and ``results.json`` into ``out``.

    Args:
        rounds: of filter and student, each with the student of the round before as its teacher.
        filtering, deduplicating: more options of those commands, checked.
        together: whether all networks that were trained before a filter are its teacher, as an
            ensemble.
        folds: students that judge in the next round instead of the one that held out none, each
            what it held out of the crawl; 1: that one.
        take: called before anything but the catalog is written, once everything was checked that
            can be.

    Raises:
        UserError: if a program failed, there is nothing to filter or to compare on, or an option
            would do nothing.
    """
    out, config = Path(os.path.abspath(out)), load_config(config_path, overrides)
    check_road(config, seeds, rounds, ranks, folds)
    target = next(iter(config.sources))
    crawl, unique = out / "crawl.yaml", out / "dedup" / CURATED
    config = replace(config, run_dir=str(out / "crawl"), catalog=str(out / "catalog.sqlite"))
    data = open_data(config)
    say(*data.summary)
    epochs = config.train.epochs or config.train.steps / make_plan(config, data).steps_per_epoch
    check_trainings(
        config,
        [_alone(config, target, epochs, ranks), _student(config, epochs, ranks)],
        data.class_names,
        ranks,
    )
    take()
    with writing_to(out):
        write_whole(crawl, dump_config(in_windows(config)))
    run_program(
        "dedup", "--config", str(crawl), "--out", str(unique.parent), *deduplicating, ranks=ranks
    )
    rows = _go(config, unique, out, seeds, rounds, ranks, epochs, filtering, together, folds)
    removed = _judge(config, load_config(str(unique)), "removed copies")
    for what, (precision, recall) in removed.items():
        say(f"{what}: {precision:.3f} right, {recall:.3f} found")
    write_record(
        out,
        {
            "curation": str(config_path),
            "overrides": list(overrides),
            "target_epochs": epochs,
            "seeds": list(seeds),
            "filter": list(filtering),
            "dedup": list(deduplicating),
            "together": together,
            "folds": folds,
            "removed copies": removed,
            "rows": [vars(row) for row in rows],
        },
    )
    say(
        "",
        *(out / "table.md").read_text(encoding="utf-8").split("\n"),
        f"also in {out / 'results.json'}",
    )
    return rows


def check_road(config: Config, seeds: Sequence[int], rounds: int, ranks: int, folds: int) -> None:
    """Refuse what can be told from the config and the numbers alone.

    Raises:
        UserError: for the first of it.
    """
    if rounds < 1:
        raise UserError("--rounds", "1 or more", str(rounds), "Correct the number.")
    check_numbers(ranks, seeds)
    if folds < 1 or folds > 1 == rounds:
        raise UserError(
            "--folds",
            "1 or more, and --rounds of 2 or more, as the first teacher is the target's network",
            f"--folds {folds} --rounds {rounds}",
            "Correct the numbers.",
        )
    held = next((name for name, source in config.sources.items() if source.hold_out), None)
    if held:
        raise UserError(
            f"sources.{held}.hold_out",
            "none, as networks of the road see and judge the whole crawl",
            str(list(config.sources[held].hold_out)),
            "Remove it; --folds holds parts out.",
        )
    if config.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to compare on", "nothing", "Add it to the config."
        )
    target, *web = config.sources
    if not web:
        raise UserError(
            "sources", "the target and at least one crawled source", target, "Add what was crawled."
        )


def _go(
    config: Config,
    unique: Path,
    out: Path,
    seeds: Sequence[int],
    rounds: int,
    ranks: int,
    epochs: float,
    filtering: Sequence[str],
    together: bool,
    folds: int,
) -> list[Row]:
    """What comes after dedup, whose config is ``unique``; the other arguments are those of
    :func:`curate`.
    """
    target = next(iter(config.sources))
    rows = {
        name: Row(name)
        for name in (TARGET, EVERYTHING, *(f"filtered, round {n + 1}" for n in range(rounds)))
    }
    for seed in seeds:
        teachers = [
            _train(_alone(config, target, epochs, ranks), rows[TARGET], out, "target", seed, ranks)
        ]
        trained = _train(
            _student(config, epochs, ranks),
            rows[EVERYTHING],
            out,
            "everything",
            seed,
            ranks,
            config,
        )
        if together:
            teachers.append(trained)
        for number in range(rounds):
            folder = out / f"filter-seed{seed}-round{number + 1}"
            checkpoints = [str(teacher / "checkpoints" / LAST) for teacher in teachers]
            run_program(
                "filter",
                "--config",
                str(unique),
                "--checkpoint",
                *checkpoints,
                "--out",
                str(folder),
                *filtering,
                ranks=ranks,
            )
            student = _student(load_config(str(folder / CURATED)), epochs, ranks)
            name = f"filtered-{number + 1}"
            judges = [
                _train(
                    student, rows[f"filtered, round {number + 1}"], out, name, seed, ranks, config
                )
            ]
            if folds > 1 and number + 1 < rounds:
                judges = [
                    _train(
                        _without(student, part, folds),
                        Row(""),
                        out,
                        f"{name}-without-{part}",
                        seed,
                        ranks,
                    )
                    for part in range(1, folds + 1)
                ]
            teachers = [*teachers, *judges] if together else judges
        _write(out, rows.values())
    return list(rows.values())


def in_windows(config: Config) -> Config:
    """The config for dedup, which cuts whole long videos: a 2D teacher looks at a frame a second."""
    if config.model.name != "tsn":
        return config
    _, *web = config.sources
    short = {
        name: replace(config.sources[name], window_seconds=FRAME_SECONDS)
        for name in web
        if takes_windows(config.sources[name], config.data_root)
    }
    return replace(config, sources=MappingProxyType({**config.sources, **short}))


def _alone(config: Config, target: str, epochs: float, ranks: int) -> Config:
    """The config of the first teacher, which sees as many clips as a student, where steps sum
    sources in as many.
    """
    made = make_variant(config, (target,), epochs, 1.0, ranks)
    made = replace(made, train=replace(made.train, epochs=epochs * config.batch / made.batch))
    if config.train.step_mode == "summed":
        source = replace(made.sources[target], batch=None)
        made = replace(
            made,
            sources=MappingProxyType({target: source}),
            optimizer=config.optimizer,
            train=replace(made.train, batch=config.batch),
        )
    return made


def _student(config: Config, epochs: float, ranks: int) -> Config:
    """The config of a student of all of its sources."""
    return make_variant(config, tuple(config.sources), epochs, 1.0, ranks)


def _without(config: Config, part: int, parts: int) -> Config:
    """The config with a part of every source but the target held out.

    A source of which nothing is left is not there: a network that has seen nothing of it may judge
    all of it.
    """
    target, *web = open_data(config).tables
    held = {
        table.name: replace(config.sources[table.name], hold_out=(part, parts))
        for table in web
        if len(without_part(table, (part, parts)))
    }
    return replace(
        config, sources=MappingProxyType({target.name: config.sources[target.name], **held})
    )


def _train(
    config: Config,
    row: Row,
    out: Path,
    name: str,
    seed: int,
    ranks: int,
    crawl: Config | None = None,
) -> Path:
    """Train and evaluate, add the figures to the row, and return the run folder.

    Args:
        crawl: the config that this one was made of, where a demo world knows what became better.
    """
    result, run = train_and_score(config, out, name, seed, ranks)
    target, *web = open_data(config).tables
    row.samples.append(sum(map(len, web)))
    row.top1.append(result["top1"])
    row.mean_class.append(result["mean_class"])
    if crawl is not None:
        row.truth.append(_judge(crawl, config, "labels") | _judge(crawl, config, "pieces"))
    return run


def _judge(crawl: Config, kept: Config, what: str) -> dict[str, tuple[float, float]]:
    """Precision and recall by source, where the data are a demo world and something is known of the
    source.
    """
    if not Path(crawl.data_root, TRUTH).exists():
        return {}
    found = judge_lists(crawl.data_root, crawl, kept)
    return {
        f"{source}, {what}": (
            round(found[source][what].precision, 4),
            round(found[source][what].recall, 4),
        )
        for source in list(crawl.sources)[1:]
        if what in found[source] and found[source][what].wanted
    }


def _write(out: Path, rows: Iterable[Row]) -> None:
    rows = [row for row in rows if row.top1]
    with writing_to(out):
        write_whole(out / "results.json", json.dumps([vars(row) for row in rows], indent=1) + "\n")
        write_whole(out / "table.md", make_table(rows))


def make_table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: students first, then what a demo world knows of their training sets.

    >>> print(
    ...     make_table(
    ...         [
    ...             Row("target alone", [0], [50.0], [49.0]),
    ...             Row("everything", [90], [60.0], [59.0], [{"photos, labels": (0.9, 1.0)}]),
    ...         ]
    ...     )
    ... )
    | training set | web samples | top-1, mean | spread | gain | by seed | mean class |
    |---|---|---|---|---|---|---|
    | target alone | 0 | 50.0 | 0.0 | +0.0 | 50.0 | 49.0 |
    | everything | 90 | 60.0 | 0.0 | +10.0 | 60.0 | 59.0 |
    <BLANKLINE>
    | training set | photos, labels |
    |---|---|
    | everything | 0.900 right, 1.000 found |
    <BLANKLINE>
    """
    lines = [
        "| training set | web samples | top-1, mean | spread | gain | by seed | mean class |",
        "|---|---|---|---|---|---|---|",
    ]
    first = statistics.mean(rows[0].top1)
    for row in rows:
        spread = statistics.stdev(row.top1) if len(row.top1) > 1 else 0.0
        mean = statistics.mean(row.top1)
        by_seed = ", ".join(f"{value:.1f}" for value in row.top1)
        lines.append(
            f"| {row.name} | {statistics.mean(row.samples):,.0f} | {mean:.1f} | {spread:.1f} | "
            f"{mean - first:+.1f} | {by_seed} | {statistics.mean(row.mean_class):.1f} |"
        )
    judged = [row for row in rows if any(row.truth)]  # else nothing is known of the data
    if judged:
        whats = list(judged[0].truth[0])
        lines += [
            "",
            f"| training set | {' | '.join(map(for_markdown, whats))} |",
            "|---" * (len(whats) + 1) + "|",
        ]
    for row in judged:
        cells = [
            " right, ".join(
                f"{statistics.mean(one[what][place] for one in row.truth):.3f}" for place in (0, 1)
            )
            + " found"
            for what in whats
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
