"""A long run of the loader over media that go bad: what it costs, and whether it holds what is
promised.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections import deque
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks import soak_limits as verdicts
from benchmarks.soak_limits import Sample, Verdict
from benchmarks.soak_media import (
    CLASSES,
    Damage,
    choose_damages,
    damage,
    make_media,
    meddle,
    meddled,
    soak_config,
)
from omnidali.catalog.database.store import CatalogReader
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.batch import StepBatch
from omnidali.loading.data import QUARANTINE, Data, open_data, open_loader
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.planning.plan import Samples, TrainPlan
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

WARM_UP_SECONDS = 300.0  # or a third of the run, if that is less
_BATCH = 64
_POINTS = 48  # of the memory curve in the record
_SAMPLES = 200  # of a run, but not more than one a second
_DAMAGED = "damaged.json"
# of a loader that is opened and closed before, so that libraries have started their threads
_FIRST_STEPS = 8
_PATIENCE = 900.0  # seconds until all have opened their loaders, or one of them never will
_MEDDLED = 0.85  # of the time; later a bad file might not be asked for any more


def soak(
    out: str | Path,
    minutes: float,
    clips: int | None = None,
    seed: int = 0,
    ranks: int = 1,
    scale: float = 1.0,
) -> dict:
    """Soak the loader in the empty folder ``out``; prints the verdicts and appends a record to
    ``out``.

    Args:
        minutes: how long at the least; at the most twice as long, where the clips take it.
        clips: how many of all ranks together at the least; none: what 200,000 in half an hour are.
        ranks: processes, none of them this one: what it did before is no part of the memory and the
            descriptors.
        scale: of the media.

    Returns:
        The record's entry; ``passed`` says whether every verdict did.

    Raises:
        UserError: if the folder is not empty.
    """
    out, clips = Path(out).resolve(), int(200_000 * minutes / 30) if clips is None else clips
    if out.exists() and any(out.iterdir()):
        raise UserError(
            "--out",
            "a new or empty folder, as files in it are damaged",
            str(out),
            "Name another one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    processes = get_context("spawn")
    making = processes.Process(target=_prepare, args=(out, seed, scale))
    making.start()
    making.join()
    if making.exitcode:
        raise RuntimeError(f"making the media ended with exit code {making.exitcode}")
    _, late = choose_damages(out / "media", seed)
    # a rank that opens its loader late would rightly forget what a quick one has just named, if
    # that changes meanwhile
    begun = processes.Barrier(ranks + 1, timeout=_PATIENCE)
    meddling = processes.Process(
        target=meddle, args=(out, late, _MEDDLED * 60 * minutes, seed, begun)
    )
    meddling.start()
    try:
        _run_ranks(processes, out, ranks, 60 * minutes, clips, seed, begun)
    finally:
        meddling.terminate()
        meddling.join()
    seen = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    found = judge(out, seen, clips)
    say(*found)
    row = {
        "minutes": minutes,
        "ranks": ranks,
        "seed": seed,
        "steps": seen[0]["steps"],
        "clips": sum(one["clips"] for one in seen),
        "clips_per_second": round(sum(one["clips"] for one in seen) / seen[0]["seconds"], 1),
        "longest_step_seconds": max(one["longest_step_seconds"] for one in seen),
        "stats": seen[0]["stats"],
        "passed": all(verdict.passed for verdict in found),
        "verdicts": [asdict(verdict) for verdict in found],
        "memory_mib": [
            [round(sample[0]), *(round(sample[place] / 2**20, 1) for place in (1, 2, 3))]
            for sample in _thin(seen[0]["samples"])
        ],
    }
    write_record(out, {"soak": row})
    return row


def judge(out: Path, seen: list[dict], clips: int) -> list[Verdict]:
    """The verdicts of a soak; ``seen`` holds what :func:`run_rank` wrote, by rank. One rank that
    fails is enough.
    """
    done, quarantine = json.loads((out / _DAMAGED).read_text()), out / "run" / QUARANTINE
    named = (
        [json.loads(line) for line in quarantine.read_text().splitlines()]
        if quarantine.exists()
        else []
    )
    asked: dict[str, float] = {}
    for one in seen:
        for path, moment in one["asked"].items():
            asked[path] = max(moment, asked.get(path, 0.0))
    steps, delivered = {one["steps"] for one in seen}, sum(one["clips"] for one in seen)
    wrong, uneven = (sum(one[name] for one in seen) for name in ("wrong", "uneven"))
    sources, away = len(seen[0]["stats"]), seen[0]["away"]
    by_rank = []
    for one in seen:
        samples, warm_up = (
            [Sample(*row) for row in one["samples"]],
            min(WARM_UP_SECONDS, one["seconds"] / 3),
        )
        try:
            by_rank.append(
                [
                    verdicts.memory(samples, warm_up),
                    *verdicts.handles(samples, warm_up, one["before"], one["closed"]),
                ]
            )
        except ValueError as few:  # a soak of seconds says nothing of leaks
            by_rank.append([Verdict("resident memory", str(few), "a longer soak", False)])
    return [
        Verdict("clips delivered", f"{delivered:,}", f"{clips:,} or more", delivered >= clips),
        *(min(same, key=lambda verdict: verdict.passed) for same in zip(*by_rank)),
        Verdict(
            "shares at any step", f"{away:.1f} slots from the plan's", f"{sources}", away <= sources
        ),
        Verdict(
            "steps",
            f"{', '.join(map(str, sorted(steps)))}",
            "the same on all ranks",
            len(steps) == 1,
        ),
        Verdict("steps with another number of clips than planned", f"{uneven}", "0", uneven == 0),
        Verdict(
            "clips that are neither the planned ones nor their substitutes",
            f"{wrong}",
            "0",
            wrong == 0,
        ),
        *verdicts.naming([*(Damage(**row) for row in done), *meddled(out)], named, asked),
    ]


def run_rank(
    out: Path, ranks: Ranks, seconds: float, clips: int, seed: int, begun: Barrier
) -> None:
    """One rank's loop, as a training's but without a network; writes what was seen to
    ``rank-N.json``.
    """
    config = soak_config(out, seed, _BATCH)
    reader = CatalogReader(config.catalog_path)
    data = Data(
        tuple(map(reader.table, config.sources)), None, tuple(map(str, range(CLASSES))), False, ()
    )
    with open_loader(config, data, ranks, quarantine=Quarantine(), end=_FIRST_STEPS) as batches:
        for _ in batches:
            pass
    del batches
    gc.collect()
    before, samples, ledger = _handles(), [], _Ledger(data.tables, config.loader.prefetch)
    every = max(1.0, seconds / _SAMPLES)
    with open_loader(config, data, ranks) as batches:
        begun.wait()
        start = time.monotonic()
        plan, counts, next_sample, next_line = (
            batches.plan,
            torch.zeros(len(data.tables), dtype=torch.int64),
            0.0,
            0.0,
        )
        while True:
            ledger.asks()
            batch = next(batches)
            ledger.enter(plan(batch.step, ranks.rank, ranks.world), batch, plan)
            passed = time.monotonic() - start
            mine = torch.tensor(
                [passed >= seconds, passed >= 2 * seconds, *map(len, batch.samples)]
            )
            over, late, *more = ranks.sum(mine)
            counts += torch.stack(more)
            total = int(counts.sum())
            ledger.away = max(
                ledger.away, float(np.abs(counts.numpy() - plan.mixing.shares * total).max())
            )
            if passed >= next_sample:
                samples.append(_sample(passed, total))
                next_sample = passed + every
            if ranks.is_main and passed >= next_line:
                say(
                    f"{passed / 60:6.1f} min | {total:,} clips | {total / max(passed, 1):,.0f} clips/s | "
                    f"{samples[-1].rss / 2**20:.1f} MiB | {samples[-1].files} files | {samples[-1].threads} threads"
                )
                next_line = passed + seconds / 10
            if late or (over and total >= clips):
                break
        stats = {name: asdict(figures) for name, figures in batches.stats().items()}
    steps, delivered = batches.next_step, sum(figures["clips"] for figures in stats.values())
    del batches, batch
    seen = {
        "steps": steps,
        "clips": delivered,
        "seconds": passed,
        "samples": [list(vars(one).values()) for one in samples],
        "before": before,
        "closed": _settled(before),
        "asked": ledger.paths(),
        "wrong": ledger.wrong,
        "uneven": ledger.uneven,
        "away": ledger.away,
        "longest_step_seconds": round(ledger.longest, 2),
        "stats": stats,
    }
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(seen))


class _Ledger:
    """Compares what comes with the plan, and notes when a file was asked for last; its size does
    not grow.
    """

    def __init__(self, tables, prefetch: int):
        self._tables, self.wrong, self.uneven, self.away, self.longest = tables, 0, 0, 0.0, 0.0
        self._asked = [np.zeros(int(table.records.max()) + 1) for table in tables]
        self._begun: deque = deque(maxlen=prefetch + 1)

    def asks(self) -> None:
        """The next batch is asked for now."""
        now = time.time()
        if self._begun:
            self.longest = max(self.longest, now - self._begun[-1])
        self._begun.append(now)

    def enter(self, planned: tuple[Samples, ...], batch: StepBatch, plan: TrainPlan) -> None:
        """A batch has come."""
        self.uneven += len(batch) != sum(map(len, planned)) or not all(
            group.valid.all() for group in batch.groups
        )
        for source, (wanted, came) in enumerate(zip(planned, batch.samples)):
            # nothing of this step was decoded before the step that made room for it was taken
            self._asked[source][self._tables[source].records[wanted.pieces]] = self._begun[0]
            self.wrong += not np.array_equal(wanted.slots, came.slots)
            for index, attempt in enumerate(came.attempts.tolist()):
                place, other = (
                    (index, wanted)
                    if attempt == 0
                    else (0, plan.substitute(wanted, index, attempt))
                )
                self.wrong += any(
                    (getattr(came, name)[index] != getattr(other, name)[place]).any()
                    for name in ("rows", "frames", "boxes", "flips")
                )

    def paths(self) -> dict[str, float]:
        """When each file was asked for last, seconds since 1970."""
        return {
            table.media(record).path: float(asked[record])
            for table, asked in zip(self._tables, self._asked)
            for record in np.flatnonzero(asked).tolist()
        }


def _prepare(out: Path, seed: int, scale: float) -> None:
    """The media, their catalog, and what goes bad before the loader begins."""
    damages = make_media(out / "media", scale)
    say(*open_data(soak_config(out, seed, _BATCH)).summary)
    damages += map(damage, choose_damages(out / "media", seed)[0])
    (out / _DAMAGED).write_text(json.dumps([asdict(one) for one in damages]))


def _run_ranks(
    processes, out: Path, world: int, seconds: float, clips: int, seed: int, begun: Barrier
) -> None:
    """One process a rank; ends them all if one fails."""
    running = [
        processes.Process(target=_join, args=(out, rank, world, seconds, clips, seed, begun))
        for rank in range(world)
    ]
    for process in running:
        process.start()
    try:
        while any(process.is_alive() for process in running):
            failed = [rank for rank, process in enumerate(running) if process.exitcode]
            if failed:
                raise RuntimeError(
                    f"rank {failed[0]} ended with exit code {running[failed[0]].exitcode}"
                )
            time.sleep(0.1)
    finally:
        for process in running:
            process.kill()
            process.join()


def _join(
    out: Path, rank: int, world: int, seconds: float, clips: int, seed: int, begun: Barrier
) -> None:
    if world == 1:
        return run_rank(out, Ranks(), seconds, clips, seed, begun)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world
    )
    run_rank(out, Ranks(rank, world, world), seconds, clips, seed, begun)
    dist.destroy_process_group()


def _sample(seconds: float, clips: int) -> Sample:
    with open("/proc/self/smaps_rollup") as file:
        sizes = {
            name: int(size.split()[0]) << 10
            for name, _, size in (line.partition(":") for line in file)
            if name in ("Rss", "Pss", "Anonymous")
        }
    return Sample(
        seconds, sizes["Rss"], sizes["Anonymous"], sizes["Pss"], **_handles(), clips=clips
    )


def _handles() -> dict[str, int]:
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def _settled(before: dict[str, int]) -> dict[str, int]:
    """Descriptors and threads, once those that are ending have ended."""
    until = time.monotonic() + 10
    while True:
        gc.collect()
        now = _handles()
        if (
            now["threads"] <= before["threads"]
            and now["files"] <= before["files"]
            or time.monotonic() > until
        ):
            return now
        time.sleep(0.1)


def _thin(samples: list) -> list:
    return [
        samples[place] for place in np.unique(np.linspace(0, len(samples) - 1, _POINTS).astype(int))
    ]
