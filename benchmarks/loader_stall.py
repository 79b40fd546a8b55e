"""The training loop fed three ways: what the loader costs it, and what it could gain at most.

``synthetic`` delivers the same random clips again and again, which is the ceiling; ``cached`` a few
real batches; ``real`` the batches of the loader. The stall is the share of the ceiling that a feed
misses. Each run is a separate process, ``python -m benchmarks.loader_stall``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.child_process import child_environment, module_command
from omnidali.cli.error_report import run_reporting_errors
from omnidali.config.load import load_config
from omnidali.distributed.devices import take_device
from omnidali.distributed.ranks import start_process_group
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.training.hooks import Hooks
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

FEEDS = ("synthetic", "cached", "real")
_CACHED = 4  # batches
_WARM_UP = 3  # steps before the clock starts


class Feed:
    """Batches of a loader, which may repeat the first ones; records when each one is requested.

    Args:
        loader: makes the batches.
        kind: one of ``FEEDS``; ``real`` repeats none.
    """

    def __init__(self, loader: FusionIterator, kind: str):
        self.marks: list[float] = []
        self.clips: list[int] = []
        self._loader = loader
        self._kind = kind
        self._kept: list[StepBatch] = []
        self._step = loader.next_step
        assert loader.end is not None  # a training has an end
        self._end = loader.end

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> StepBatch:
        if self._step >= self._end:
            self.marks.append(time.perf_counter())
            raise StopIteration
        if self._kind != "real" and not self._kept:
            if self._kind == "synthetic":
                self._kept = [_synthetic(next(self._loader))]
            else:
                self._kept = [next(self._loader) for _ in range(_CACHED)]
            self._loader.close()  # or it would continue decoding beside the steps

        self.marks.append(time.perf_counter())
        batch = self._kept[self._step % len(self._kept)] if self._kept else next(self._loader)
        self.clips.append(len(batch))
        self._step += 1
        return dataclasses.replace(batch, step=self._step - 1)

    def rate(self) -> float:
        """Clips a second, without the first steps."""
        return sum(self.clips[_WARM_UP:]) / (self.marks[-1] - self.marks[_WARM_UP])


def bench_train(
    out: str | Path,
    config: str,
    overrides: Sequence[str],
    *,
    precisions: Sequence[str],
    repeats: int,
    steps: int,
) -> list[dict]:
    """Train with every feed and precision, in turns; writes and prints one record each.

    Args:
        out: folder for the records.
        config: path of the config.
        overrides: settings of it, as ``key.path=value``.
        precisions: values of ``train.precision``.
        repeats: runs of each feed and precision; the median counts.
        steps: of a run.

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
                    settings = [f"run_dir={folder}", *overrides, f"train.precision={precision}"]
                    rate = _run_child(config, kind, steps, settings)
                    rates.setdefault((precision, kind), []).append(rate)

    records = []
    for (precision, kind), values in rates.items():
        median = statistics.median(values)
        ceiling = statistics.median(rates[precision, "synthetic"])
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
    say(*_table(records))
    return records


def _table(records: Sequence[dict]) -> list[str]:
    return [
        "| precision | feed | clips/s, median (lowest to highest) | stall |",
        "|---|---|---|---|",
        *(
            f"| {row['precision']} | {row['feed']} | {row['clips_per_second']}"
            f" ({row['lowest']} to {row['highest']}) | {100 * row['stall']:.1f} % |"
            for row in records
        ),
    ]


def _run_child(config: str, kind: str, steps: int, settings: Sequence[str]) -> float:
    """Clips a second of a training in a separate process."""
    done = subprocess.run(
        module_command("benchmarks.loader_stall", config, kind, steps, *settings),
        text=True,
        capture_output=True,
        env=child_environment(),
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


def run_feed(
    train: Callable, config: str, kind: str, steps: int, overrides: Sequence[str]
) -> float:
    """Clips a second of a training over one feed, in this process.

    Args:
        train: :func:`~omnidali.training.train.train`.
        config: path of the config.
        kind: of ``FEEDS``.
        steps: of the run.
        overrides: settings of the config.
    """
    feeds = []

    def feed(loader: FusionIterator) -> Feed:
        feeds.append(Feed(loader, kind))
        return feeds[0]

    hooks = Hooks(wrap_loader=feed)
    with contextlib.redirect_stdout(io.StringIO()):
        run = load_config(config, overrides)
        ranks = take_device(start_process_group(), run.device)
        train(run, ranks, dry_run=steps, hooks=hooks)
    return feeds[0].rate()


def _synthetic(batch: StepBatch) -> StepBatch:
    groups = tuple(
        dataclasses.replace(group, clips=torch.randn_like(group.clips)) for group in batch.groups
    )
    return dataclasses.replace(batch, groups=groups)


def main(arguments: Sequence[str]) -> None:
    """Print the clips a second of one run; the arguments are those of :func:`run_feed`."""
    from omnidali.training.train import train

    config, kind, steps, *overrides = arguments
    print(json.dumps(run_feed(train, config, kind, int(steps), overrides)))


if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:])))
