"""One rank of a soak: its loop over the loader, and the comparison of every batch with the plan."""

from __future__ import annotations

import gc
import json
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch

from benchmarks.soak_limits import ProcessSample
from benchmarks.soak_media import CLASSES, soak_config
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.distributed.ranks import Ranks
from omnidali.loading.batch import StepBatch
from omnidali.loading.data import Data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import open_loader
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.untrusted_text import say

_SAMPLES = 200  # of a run, but not more than one a second
_LINES = 10  # printed in a run
# of a loader that is opened and closed before, so that libraries have started their threads
_FIRST_STEPS = 8
_SETTLE_SECONDS = 10  # for threads that are ending


def run_rank(
    out: Path, ranks: Ranks, seconds: float, clips: int, *, seed: int, begun: Barrier
) -> None:
    """Loop as a training does, but without a network; writes what was seen to ``rank-N.json``.

    Args:
        out: folder of the soak.
        ranks: this process and its peers.
        seconds: length at the least; twice as long at the most.
        clips: of all ranks together at the least.
        seed: of the plan.
        begun: where all ranks meet once they have opened their loaders.
    """
    config = soak_config(out, seed)
    reader = CatalogReader(config.catalog_path)
    tables = tuple(map(reader.table, config.sources))
    data = Data(
        tables=tables,
        evaluation=None,
        class_names=tuple(map(str, range(CLASSES))),
        named=False,
        summary=(),
    )
    with open_loader(config, data, ranks, quarantine=Quarantine(), end=_FIRST_STEPS) as batches:
        for batch in batches:
            del batch
    del batches
    gc.collect()
    before = count_handles()

    with open_loader(config, data, ranks) as batches:
        begun.wait()
        seen = _watch(batches, Ledger(tables, config.loader.prefetch), ranks, seconds, clips)
    del batches
    seen |= {"before": before, "closed": _wait_for_handles(before)}
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(seen))


def _watch(
    batches: FusionIterator, ledger: Ledger, ranks: Ranks, seconds: float, clips: int
) -> dict:
    """Take batches until all ranks have had enough; returns what was seen."""
    plan = batches.plan
    assert isinstance(plan, TrainPlan)
    start = time.monotonic()
    samples: list[ProcessSample] = []
    counts = torch.zeros(len(plan.tables), dtype=torch.int64)
    next_sample = 0.0
    next_line = 0.0
    over = False
    while not over:
        ledger.ask()
        batch = next(batches)
        ledger.compare(plan(batch.step, ranks.rank, ranks.world), batch, plan)

        passed = time.monotonic() - start
        mine = torch.tensor([passed >= seconds, passed >= 2 * seconds, *map(len, batch.samples)])
        enough, late, *more = ranks.sum(mine)
        counts += torch.stack(more)
        total = int(counts.sum())
        ledger.note_shares(counts.numpy(), plan.mixing.shares)
        over = bool(late or (enough and total >= clips))

        if passed >= next_sample:
            samples.append(_take_sample(passed, total))
            next_sample = passed + max(1.0, seconds / _SAMPLES)
        if ranks.is_main and passed >= next_line:
            say(_line(samples[-1], passed, total))
            next_line = passed + seconds / _LINES

    stats = {name: asdict(figures) for name, figures in batches.stats().items()}
    return {
        "steps": batches.next_step,
        "clips": sum(figures["clips"] for figures in stats.values()),
        "seconds": passed,
        "samples": [list(vars(sample).values()) for sample in samples],
        "asked": ledger.asked_paths(),
        "wrong": ledger.wrong,
        "uneven": ledger.uneven,
        "away": ledger.away,
        "longest_step_seconds": round(ledger.longest, 2),
        "stats": stats,
    }


class Ledger:
    """Compares the batches with the plan, and notes when a file was requested last.

    Its size does not grow.

    Args:
        tables: of the sources.
        prefetch: batches that the loader decodes ahead.
    """

    def __init__(self, tables: Sequence[SourceTable], prefetch: int):
        self.wrong = 0  # clips that are neither the planned ones nor their substitutes
        self.uneven = 0  # steps with another number of clips than planned
        self.away = 0.0  # slots of a source, from the planned share
        self.longest = 0.0  # seconds from one step to the next
        self._tables = tables
        self._asked = [np.zeros(int(table.records.max()) + 1) for table in tables]
        self._begun: deque[float] = deque(maxlen=prefetch + 1)

    def ask(self) -> None:
        """Note that the next batch is requested now."""
        now = time.time()
        if self._begun:
            self.longest = max(self.longest, now - self._begun[-1])
        self._begun.append(now)

    def compare(self, planned: Sequence[Samples], batch: StepBatch, plan: TrainPlan) -> None:
        """Compare a batch with its plan."""
        is_whole = len(batch) == sum(map(len, planned))
        self.uneven += not (is_whole and all(group.valid.all() for group in batch.groups))
        for source, (wanted, came) in enumerate(zip(planned, batch.samples, strict=True)):
            # nothing of this step was decoded before the step that made room for it was taken
            self._asked[source][self._tables[source].records[wanted.pieces]] = self._begun[0]
            self.wrong += not np.array_equal(wanted.slots, came.slots)
            for index, attempt in enumerate(came.attempts.tolist()):
                if attempt == 0:
                    expected, place = wanted, index
                else:
                    expected, place = plan.substitute(wanted, index, attempt), 0
                self.wrong += any(
                    (getattr(came, name)[index] != getattr(expected, name)[place]).any()
                    for name in ("rows", "frames", "boxes", "flips")
                )

    def note_shares(self, counts: np.ndarray, shares: np.ndarray) -> None:
        """Note how far the clips so far, int64 (sources,), are from the planned shares."""
        self.away = max(self.away, float(np.abs(counts - shares * counts.sum()).max()))

    def asked_paths(self) -> dict[str, float]:
        """When each file was requested last, seconds since 1970."""
        return {
            table.media(record).path: float(asked[record])
            for table, asked in zip(self._tables, self._asked, strict=True)
            for record in np.flatnonzero(asked).tolist()
        }


def count_handles() -> dict[str, int]:
    """Open descriptors and threads of this process."""
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def _wait_for_handles(before: dict[str, int]) -> dict[str, int]:
    """Descriptors and threads, once those that are ending have ended."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        gc.collect()
        now = count_handles()
        is_settled = all(now[name] <= before[name] for name in before)
        if is_settled or time.monotonic() > until:
            return now
        time.sleep(0.1)


def _take_sample(seconds: float, clips: int) -> ProcessSample:
    with open("/proc/self/smaps_rollup") as file:
        pairs = (line.partition(":") for line in file)
        sizes = {
            name: int(size.split()[0]) << 10
            for name, _, size in pairs
            if name in ("Rss", "Pss", "Anonymous")
        }
    return ProcessSample(
        seconds=seconds,
        rss=sizes["Rss"],
        own=sizes["Anonymous"],
        pss=sizes["Pss"],
        clips=clips,
        **count_handles(),
    )


def _line(sample: ProcessSample, seconds: float, clips: int) -> str:
    return (
        f"{seconds / 60:6.1f} min | {clips:,} clips | {clips / max(seconds, 1):,.0f} clips/s |"
        f" {sample.rss / 2**20:.1f} MiB | {sample.files} files | {sample.threads} threads"
    )
