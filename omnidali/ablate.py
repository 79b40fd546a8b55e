"""Which source is worth what: the same training with the target alone, with each group of sources, and with all.

OmniSource's tables (Sec. 4, and the reference's mini-Kinetics table) on anyone's data: equal epochs of the
target, several seeds, mean and spread.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from omnidali.config import Config
from omnidali.environment import write_record
from omnidali.errors import UserError
from omnidali.loading.data import make_plan, open_data
from omnidali.programs import run_program
from omnidali.settings import dump_config, load_config

BASELINE, ALL = "baseline", "all"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        fraction: share of the target's labels. top1, mean_class: percent by seed.
        gain: of the mean top-1 over the baseline's, points. spread: standard deviation over seeds, points.
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
        raise UserError("sources", "the target and at least one other source", target, "Add a source to compare.")
    variants = {BASELINE: (target,)} | {f"+ {group}": (target, *names) for group, names in groups.items()}
    return variants | ({ALL: (target, *others)} if len(groups) > 1 else {})


def make_variant(config: Config, names: Sequence[str], epochs: float, fraction: float, ranks: int) -> Config:
    """The config with these sources alone: as many slots of each in a step as before, equal target epochs.

    Where steps sum the sources, the learning rate follows the slots linearly, as large batches want it
    (Goyal et al., 2017); where they alternate, a step of a source is what it was.
    """
    target = next(iter(config.sources))
    sources = {name: config.sources[name] for name in names}
    sources[target] = replace(sources[target], fraction=fraction * sources[target].fraction)
    train = replace(config.train, epochs=epochs, steps=None)
    if config.batches is None:
        share = sum(source.weight for source in sources.values()) / sum(
            source.weight for source in config.sources.values())
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


def ablate(config_path: str, overrides: Sequence[str], out: str | Path, seeds: Sequence[int],
           fractions: Sequence[float], ranks: int) -> list[Row]:
    """Train and evaluate every variant with every seed; finished runs in ``out`` are kept.

    Writes ``table.md``, ``results.json`` and ``table.png`` into ``out``.

    Raises:
        UserError: if a run failed, or there is nothing to compare.
    """
    out, config = Path(out), load_config(config_path, overrides)
    config = replace(config, catalog=str(out / "catalog.sqlite"))
    variants, scores = variants_of(config), {}
    data = open_data(config)
    print(*data.summary, sep="\n", flush=True)
    epochs = config.train.epochs or config.train.steps / make_plan(config, data).steps_per_epoch
    for seed in seeds:
        for fraction in fractions:
            for variant, names in variants.items():
                # fewer labels: as many slots of the target all the same, so more epochs of what is left
                made = make_variant(config, names, epochs / fraction, fraction, ranks)
                scores[fraction, variant, seed] = _run(made, out, variant, fraction, seed, ranks)
                _report(out, scores, variants, seeds, fractions)
    rows = _report(out, scores, variants, seeds, fractions)
    write_record(out, {"ablation": str(config_path), "overrides": list(overrides), "target_epochs": epochs,
                       "seeds": list(seeds), "rows": [vars(row) for row in rows]})
    print(f"\n{(out / 'table.md').read_text()}\nalso in {out / 'results.json'} and {out / 'table.png'}")
    return rows


def _run(config: Config, out: Path, variant: str, fraction: float, seed: int, ranks: int) -> dict:
    """One run, or its result where it is known."""
    name = f"{variant.replace('+ ', 'with-').replace(' ', '-')}-{fraction:g}-seed{seed}"
    run = out / "runs" / name
    config = replace(config, seed=seed, run_dir=str(run))
    path, done = out / "runs" / f"{name}.yaml", run / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = dump_config(config)
    if done.exists() and path.exists() and path.read_text() == text:
        return json.loads(done.read_text())
    path.write_text(text)
    run_program("train.py", "--config", str(path), "--resume", "auto", ranks=ranks)
    row = run_program("evaluate.py", "--config", str(path), "--checkpoint", str(run / "checkpoints" / "last.pt"),
                      ranks=ranks)
    done.write_text(json.dumps(row))
    return row


def _report(out: Path, scores: dict, variants, seeds, fractions) -> list[Row]:
    """Write what is known so far."""
    rows = []
    for fraction in fractions:
        baseline = None
        for variant in variants:
            known = [scores[fraction, variant, seed] for seed in seeds if (fraction, variant, seed) in scores]
            if not known:
                continue
            top1 = tuple(row["top1"] for row in known)
            baseline = statistics.mean(top1) if baseline is None else baseline
            rows.append(Row(variant, fraction, top1, tuple(row["mean_class"] for row in known),
                            statistics.mean(top1) - baseline))
    (out / "results.json").write_text(json.dumps([vars(row) | {"mean": row.mean, "spread": row.spread}
                                                  for row in rows], indent=1) + "\n")
    (out / "table.md").write_text(make_table(rows))
    picture = draw_chart(rows)
    (out / "table.png").write_bytes(cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
    return rows


def make_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table.

    >>> print(make_table([Row("baseline", 1.0, (50.0, 52.0), (49.0, 50.0), 0.0)]))
    | sources | labels | top-1, mean | spread | gain | by seed | mean class |
    |---|---|---|---|---|---|---|
    | baseline | 100 % | 51.0 | 1.4 | +0.0 | 50.0, 52.0 | 49.5 |
    <BLANKLINE>
    """
    lines = ["| sources | labels | top-1, mean | spread | gain | by seed | mean class |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        by_seed = ", ".join(f"{value:.1f}" for value in row.top1)
        lines.append(f"| {row.variant} | {100 * row.fraction:g} % | {row.mean:.1f} | {row.spread:.1f} | {row.gain:+.1f}"
                     f" | {by_seed} | {statistics.mean(row.mean_class):.1f} |")
    return "\n".join(lines) + "\n"


def draw_chart(rows: Sequence[Row]) -> np.ndarray:
    """Bars of the means with a dot for every seed: uint8 (H, W, 3), RGB."""
    height, left, wide = 34, 240, 560
    chart = np.full((height * len(rows) + 30, left + wide + 90, 3), 255, np.uint8)

    def write(text: str, x: int, y: int) -> None:
        cv2.putText(chart, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)

    for number, row in enumerate(rows):
        top = 10 + number * height
        end = left + round(wide * row.mean / 100)
        cv2.rectangle(chart, (left, top + 5), (end, top + height - 8), (120, 170, 220), -1)
        for value in row.top1:
            dot = (left + round(wide * value / 100), top + height // 2 - 1)
            cv2.circle(chart, dot, 4, (200, 70, 40), -1, cv2.LINE_AA)
        write(f"{row.variant}, {100 * row.fraction:g} %", 8, top + 21)
        write(f"{row.mean:.1f}", max(end, left + round(wide * max(row.top1) / 100)) + 10, top + 21)
    cv2.line(chart, (left, 8), (left, len(chart) - 22), (30, 30, 30), 1)
    write("top-1, %", left, len(chart) - 6)
    return chart
