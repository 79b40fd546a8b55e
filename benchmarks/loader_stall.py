"""The training loop as it is, fed three ways: what the loader costs it, and what it could gain at
most.

``synthetic`` hands over the same random clips again and again, which is the ceiling; ``cached`` a
few real batches; ``real`` what the loader makes. Stall is the share of the ceiling that the real
run misses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.processes.launch import PROJECT
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

FEEDS = ("synthetic", "cached", "real")
_CACHED, _WARM_UP = 4, 3  # batches; steps before the clock starts


class Feed:
    """A loader that repeats itself, and notes when each batch is asked for. Otherwise as the one it
    stands for.
    """

    def __init__(self, loader: FusionIterator, kind: str):
        self._loader, self._kind, self._kept = loader, kind, []
        self.end, self.marks, self.clips = loader.end, [], []
        self._step = loader.next_step

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> StepBatch:
        if self._step >= self.end:
            self.marks.append(time.perf_counter())
            raise StopIteration
        if self._kind != "real" and not self._kept:
            self._kept = (
                [_synthetic(next(self._loader))]
                if self._kind == "synthetic"
                else [next(self._loader) for _ in range(_CACHED)]
            )
            self._loader.close()  # or it would go on decoding beside the steps
        self.marks.append(time.perf_counter())
        batch = self._kept[self._step % len(self._kept)] if self._kept else next(self._loader)
        self.clips.append(len(batch))
        self._step += 1
        return dataclasses.replace(batch, step=self._step - 1)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_) -> None:
        self._loader.close()

    def rate(self) -> float:
        """Clips a second, without the first steps."""
        return sum(self.clips[_WARM_UP:]) / (self.marks[-1] - self.marks[_WARM_UP])


def bench_train(
    out: str | Path,
    config: str,
    overrides: list[str],
    precisions: list[str],
    repeats: int,
    steps: int,
) -> list[dict]:
    """Run ``steps`` steps of a config with every feed and precision, in turn; writes and prints one
    record each.

    Raises:
        UserError: for mistakes in the config, and if there are too few steps to measure.
    """
    if steps <= _WARM_UP:
        raise UserError(
            "--steps", f"more than the {_WARM_UP} of the warm-up", str(steps), "Use 20 or more."
        )
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for precision in precisions:
                for kind in FEEDS[turn % 3 :] + FEEDS[: turn % 3]:
                    spec = [
                        config,
                        kind,
                        str(steps),
                        f"run_dir={folder}",
                        *overrides,
                        f"train.precision={precision}",
                    ]
                    rates.setdefault((precision, kind), []).append(_child(spec))
    records = []
    for (precision, kind), values in rates.items():
        median, ceiling = (
            statistics.median(values),
            statistics.median(rates[precision, "synthetic"]),
        )
        record = {
            "bench": "train",
            "config": Path(config).name,
            "overrides": [text for text in overrides if not text.startswith("data_root=")],
            "precision": precision,
            "feed": kind,
            "steps": steps,
            "repeats": repeats,
            "clips_per_second": round(median, 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "stall": round(1 - median / ceiling, 3),
        }
        records.append(write_record(out, record))
    say(
        "| precision | feed | clips/s, median (lowest to highest) | stall |",
        "|---|---|---|---|",
        *(
            f"| {row['precision']} | {row['feed']} | {row['clips_per_second']} ({row['lowest']} to {row['highest']}) |"
            f" {100 * row['stall']:.1f} % |"
            for row in records
        ),
    )
    return records


def run_feed(train: Callable, config: str, kind: str, steps: int, overrides: list[str]) -> float:
    """Clips a second of ``train`` over one feed, in this process."""
    from omnidali.config.load import load_config
    from omnidali.distributed.ranks import start_ranks

    feeds = []

    def wrap(loader: FusionIterator) -> Feed:
        feeds.append(Feed(loader, kind))
        return feeds[0]

    with contextlib.redirect_stdout(io.StringIO()):
        train(load_config(config, overrides), start_ranks(), dry_run=steps, wrap_loader=wrap)
    return feeds[0].rate()


def _child(spec: list[str]) -> float:
    program = (
        "import json, sys; from benchmarks.loader_stall import run_feed; from omnidali.errors import"
        " run_reporting_errors; from train import train; config, kind, steps, *overrides = sys.argv[1:];"
        " sys.exit(run_reporting_errors(lambda:"
        " print(json.dumps(run_feed(train, config, kind, int(steps), overrides)))))"
    )
    # train.py lies beside the package
    paths = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, *spec],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        said = " / ".join(done.stderr.strip().splitlines())[-800:]
        raise UserError(
            "bench train",
            "a training that runs",
            said or f"code {done.returncode}",
            "Correct what it says.",
        )
    return json.loads(done.stdout.splitlines()[-1])


def _synthetic(batch: StepBatch) -> StepBatch:
    return dataclasses.replace(
        batch,
        groups=tuple(
            dataclasses.replace(group, clips=torch.randn_like(group.clips))
            for group in batch.groups
        ),
    )
