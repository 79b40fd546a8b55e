"""Which source is worth what: the same training with the target alone, with each group of sources,
and with all.

OmniSource's tables (Sec. 4, and the reference's mini-Kinetics table) on anyone's data: equal epochs
of the target, several seeds, mean and spread.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from omnidali.config.load import dump_config, load_config
from omnidali.config.schema import Config
from omnidali.config.validate import find_mistakes
from omnidali.errors import UserError
from omnidali.loading.data import check_shares, make_plan, open_data
from omnidali.models.recognizers import build_model
from omnidali.models.weights import load_pretrained
from omnidali.processes.launch import run_program
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.plots import bar_chart, write_picture
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import for_markdown, say

BASELINE, ALL = "baseline", "all"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        fraction: share of the target's labels. top1, mean_class: percent by seed.
        gain: of the mean top-1 over the baseline's, points. spread: standard deviation over seeds,
            points.
    """

    variant: str
    fraction: float
    top1: tuple[float, ...]
    mean_class: tuple[float, ...]
    gain: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.top1)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0


def variants_of(config: Config) -> dict[str, tuple[str, ...]]:
    """Names of the sources of each variant: the target alone, with each group, with all.

    Raises:
        UserError: if there is no source besides the target.
    """
    target, *others = config.sources
    groups: dict[str, list[str]] = {}
    for name in others:
        groups.setdefault(config.sources[name].group or name, []).append(name)
    if not groups:
        raise UserError(
            "sources",
            "the target and at least one other source",
            target,
            "Add a source to compare.",
        )
    variants = {BASELINE: (target,)} | {
        f"+ {group}": (target, *names) for group, names in groups.items()
    }
    return variants | ({ALL: (target, *others)} if len(groups) > 1 else {})


def make_variant(
    config: Config, names: Sequence[str], epochs: float, fraction: float, ranks: int
) -> Config:
    """The config with these sources alone: as many slots of each in a step as before, equal target
    epochs.

    Where steps sum the sources, the learning rate follows the slots linearly, as large batches want
    it (Goyal et al., 2017); where they alternate, a step of a source is what it was.
    """
    target = next(iter(config.sources))
    sources = {name: config.sources[name] for name in names}
    sources[target] = replace(sources[target], fraction=fraction * sources[target].fraction)
    train = replace(config.train, epochs=epochs, steps=None)
    if config.batches is None:
        share = sum(source.weight for source in sources.values()) / sum(
            source.weight for source in config.sources.values()
        )
        unit = ranks * (1 if train.mixup == "none" else 2)
        train = replace(train, batch=max(1, round(config.batch * share / unit)) * unit)
    elif train.ratio is not None:
        order = list(config.sources)
        ratio = tuple(train.ratio[order.index(name)] for name in names)
        train = replace(train, ratio=(1,) if len(ratio) == 1 else ratio)
    made = replace(config, sources=MappingProxyType(sources), train=train)
    if train.step_mode == "summed":
        lr = config.optimizer.lr * made.batch / config.batch
        made = replace(made, optimizer=replace(config.optimizer, lr=lr))
    return made


def ablate(
    config_path: str,
    overrides: Sequence[str],
    out: str | Path,
    seeds: Sequence[int],
    fractions: Sequence[float],
    ranks: int,
    take: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Train and evaluate every variant with every seed; finished runs in ``out`` are kept.

    Writes ``table.md``, ``results.json`` and ``table.png`` into ``out``.

    Args:
        take: called before anything but the catalog is written, once everything was checked that
            can be.

    Raises:
        UserError: if a run failed, or there is nothing to compare.
    """
    out, config = Path(out), load_config(config_path, overrides)
    check_numbers(ranks, seeds)
    if not all(0 < fraction <= 1 for fraction in fractions) or len(set(fractions)) < len(fractions):
        raise UserError(
            "--fractions",
            "shares above 0 and at most 1, each once",
            str(list(fractions)),
            "Correct them.",
        )
    if config.evaluation.source is None:
        raise UserError(
            "evaluation.source", "labelled data to compare on", "nothing", "Add it to the config."
        )
    config = replace(config, catalog=str(out / "catalog.sqlite"))
    variants, scores = variants_of(config), {}
    data = open_data(config)
    say(*data.summary)
    epochs = config.train.epochs or config.train.steps / make_plan(config, data).steps_per_epoch
    # fewer labels: as many slots of the target all the same, so more epochs of what is left
    made = {
        (fraction, variant): make_variant(config, names, epochs / fraction, fraction, ranks)
        for fraction in fractions
        for variant, names in variants.items()
    }
    check_trainings(config, made.values(), data.class_names, ranks)
    take()
    for seed in seeds:
        for fraction in fractions:
            for variant in variants:
                name = f"{variant.replace('+ ', 'with-').replace(' ', '-')}-{fraction:g}"
                scores[fraction, variant, seed], _ = train_and_score(
                    made[fraction, variant], out, name, seed, ranks
                )
                rows = _report(out, scores, variants, seeds, fractions)
    write_record(
        out,
        {
            "ablation": str(config_path),
            "overrides": list(overrides),
            "target_epochs": epochs,
            "seeds": list(seeds),
            "rows": [vars(row) for row in rows],
        },
    )
    table = (out / "table.md").read_text(encoding="utf-8")
    say("", *table.split("\n"), f"also in {out / 'results.json'} and {out / 'table.png'}")
    return rows


def check_numbers(ranks: int, seeds: Sequence[int]) -> None:
    """Refuse numbers of ranks and seeds that no training can have, or that would count a run twice.

    Raises:
        UserError: naming the option.
    """
    if ranks < 1:
        raise UserError("--ranks", "1 or more", str(ranks), "Correct the number.")
    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        raise UserError(
            "--ranks",
            f"at most {torch.cuda.device_count()}, the number of GPUs",
            str(ranks),
            "Correct the number.",
        )
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            "--seeds", "numbers of 0 or more, each once", str(list(seeds)), "Correct them."
        )


def check_trainings(
    config: Config, variants: Iterable[Config], class_names: Sequence[str], ranks: int
) -> None:
    """Refuse what train.py would refuse hours later: settings, shares of a batch, and weights to
    start from.

    Args:
        variants: of the config, as they are trained; their networks are those of the config.

    Raises:
        UserError: for the first of them.
    """
    if config.model.sync_norm and not torch.cuda.is_available():
        raise UserError("model.sync_norm", "GPUs", "the CPU", "Switch it off.")
    if config.model.pretrained:
        model = build_model(config.model, len(class_names), config.clip.clip_len)
        load_pretrained(model, config.model.pretrained, config.model.pretrained_head, class_names)
    for variant in variants:
        for mistake in find_mistakes(variant):
            raise mistake
        check_shares(variant, ranks)


def train_and_score(
    config: Config, out: Path, name: str, seed: int, ranks: int
) -> tuple[dict, Path]:
    """One run below ``out / "runs"``, or its result where it is known: another config, or other
    lists, have another folder.

    Returns:
        The row of evaluate.py, and the run folder.

    Raises:
        UserError: if a program failed.
    """
    config = replace(config, seed=seed, run_dir="")
    data = open_data(config)
    told = dump_config(config) + "".join(
        table.fingerprint for table in (*data.tables, data.evaluation)
    )
    run = out / "runs" / f"{name}-seed{seed}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    path, done = run.parent / f"{run.name}.yaml", run / "result.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8")), run
    with writing_to(out):
        write_whole(path, dump_config(replace(config, run_dir=str(run))))
    run_program("train.py", "--config", str(path), "--resume", "auto", ranks=ranks)
    row = run_program(
        "evaluate.py",
        "--config",
        str(path),
        "--checkpoint",
        str(run / "checkpoints" / "last.pt"),
        ranks=ranks,
    )
    with writing_to(out):
        write_whole(done, json.dumps(row))
    return row, run


def _report(out: Path, scores: dict, variants, seeds, fractions) -> list[Row]:
    """Write what is known so far."""
    rows = []
    for fraction in fractions:
        baseline = None
        for variant in variants:
            known = [
                scores[fraction, variant, seed]
                for seed in seeds
                if (fraction, variant, seed) in scores
            ]
            if not known:
                continue
            top1 = tuple(row["top1"] for row in known)
            baseline = statistics.mean(top1) if baseline is None else baseline
            rows.append(
                Row(
                    variant,
                    fraction,
                    top1,
                    tuple(row["mean_class"] for row in known),
                    statistics.mean(top1) - baseline,
                )
            )
    results = json.dumps(
        [vars(row) | {"mean": row.mean, "spread": row.spread} for row in rows], indent=1
    )
    bars = {f"{row.variant}, {100 * row.fraction:g} %": (row.mean, row.top1) for row in rows}
    with writing_to(out):
        write_whole(out / "results.json", results + "\n")
        write_whole(out / "table.md", make_table(rows))
        write_picture(out / "table.png", bar_chart(bars, "top-1, %"))
    return rows


def make_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table.

    >>> print(make_table([Row("baseline", 1.0, (50.0, 52.0), (49.0, 50.0), 0.0)]))
    | sources | labels | top-1, mean | spread | gain | by seed | mean class |
    |---|---|---|---|---|---|---|
    | baseline | 100 % | 51.0 | 1.4 | +0.0 | 50.0, 52.0 | 49.5 |
    <BLANKLINE>
    """
    lines = [
        "| sources | labels | top-1, mean | spread | gain | by seed | mean class |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        by_seed = ", ".join(f"{value:.1f}" for value in row.top1)
        lines.append(
            f"| {for_markdown(row.variant)} | {100 * row.fraction:g} % | {row.mean:.1f} | {row.spread:.1f} |"
            f" {row.gain:+.1f} | {by_seed} | {statistics.mean(row.mean_class):.1f} |"
        )
    return "\n".join(lines) + "\n"
