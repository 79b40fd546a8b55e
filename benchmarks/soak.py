"""A long run of the loader over media that go bad: its cost, and whether it holds its promises."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.context import SpawnContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.soak_limits import (
    LimitCheck,
    ProcessSample,
    check_handles,
    check_memory,
    check_naming,
)
from benchmarks.soak_media import (
    AppliedFault,
    apply_fault,
    apply_faults_over_time,
    choose_faults,
    faults_applied_so_far,
    make_soak_media,
    soak_config,
)
from benchmarks.soak_rank import run_rank
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import QUARANTINE
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

WARM_UP_SECONDS = 300.0  # or a third of the run, if that is less
_POINTS = 48  # of the memory curve in the record
_DAMAGED = "damaged.json"
_PATIENCE = 900.0  # seconds until all have opened their loaders, or one of them never will
_FAULTY_SHARE = 0.85  # of the time; later a bad file might not be asked for any more


def soak(
    out: str | Path,
    minutes: float,
    clips: int | None = None,
    *,
    seed: int = 0,
    ranks: int = 1,
    scale: float = 1.0,
) -> dict:
    """Soak the loader in an empty folder; prints the checks and writes a record.

    Args:
        out: folder for the media and the record.
        minutes: length at the least; at the most twice as long, where the clips take it.
        clips: of all ranks together at the least; none: in proportion to 200,000 in half an hour.
        seed: of what goes bad, and when.
        ranks: processes. None of them is this one, as its memory and descriptors have a history.
        scale: of the number of media.

    Returns:
        The record's entry; ``passed`` says whether every check did.

    Raises:
        UserError: if the folder is not empty.
    """
    out = Path(out).resolve()
    if clips is None:
        clips = int(200_000 * minutes / 30)
    if out.exists() and any(out.iterdir()):
        raise UserError(
            "--out",
            "a new or empty folder, as files in it are damaged",
            str(out),
            "Name another one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    _run_soak(out, minutes, clips, seed=seed, ranks=ranks, scale=scale)

    seen = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    checks = check_limits(out, seen, clips)
    say(*checks)
    delivered = sum(one["clips"] for one in seen)
    row = {
        "minutes": minutes,
        "ranks": ranks,
        "seed": seed,
        "steps": seen[0]["steps"],
        "clips": delivered,
        "clips_per_second": round(delivered / seen[0]["seconds"], 1),
        "longest_step_seconds": max(one["longest_step_seconds"] for one in seen),
        "stats": seen[0]["stats"],
        "passed": all(check.passed for check in checks),
        "verdicts": [asdict(check) for check in checks],
        "memory_mib": _memory_curve(seen[0]["samples"]),
    }
    write_record(out, {"soak": row})
    return row


def _run_soak(
    out: Path, minutes: float, clips: int, *, seed: int, ranks: int, scale: float
) -> None:
    """Make the media, and run the ranks while media go bad, all in separate processes."""
    spawn = get_context("spawn")
    making = spawn.Process(target=_prepare, args=(out, seed, scale))
    making.start()
    making.join()
    if making.exitcode:
        raise RuntimeError(f"making the media ended with exit code {making.exitcode}")

    # a rank that opens its loader late would rightly forget what a quick one has just named, if
    # that changes meanwhile
    begun = spawn.Barrier(ranks + 1, timeout=_PATIENCE)
    _, late = choose_faults(out / "media", seed)
    seconds = 60 * minutes
    faults = spawn.Process(
        target=apply_faults_over_time, args=(out, late, _FAULTY_SHARE * seconds, seed, begun)
    )
    faults.start()
    try:
        _run_ranks(spawn, ranks, (out, seconds, clips, seed, begun))
    finally:
        faults.terminate()
        faults.join()


def _prepare(out: Path, seed: int, scale: float) -> None:
    """Make the media and their catalog, and apply the faults from before the loader begins."""
    faults = make_soak_media(out / "media", scale)
    say(*open_data(soak_config(out, seed)).summary)
    early, _ = choose_faults(out / "media", seed)
    faults += map(apply_fault, early)
    (out / _DAMAGED).write_text(json.dumps([asdict(fault) for fault in faults]))


def _run_ranks(spawn: SpawnContext, world: int, arguments: tuple) -> None:
    """Run one process a rank; ends them all if one fails."""
    running = [
        spawn.Process(target=_join_ranks, args=(rank, world, *arguments)) for rank in range(world)
    ]
    for process in running:
        process.start()

    try:
        while any(process.is_alive() for process in running):
            for rank, process in enumerate(running):
                if process.exitcode:
                    raise RuntimeError(f"rank {rank} ended with exit code {process.exitcode}")
            time.sleep(0.1)
    finally:
        for process in running:
            process.kill()
            process.join()


def _join_ranks(
    rank: int, world: int, out: Path, seconds: float, clips: int, seed: int, begun: Barrier
) -> None:
    if world == 1:
        run_rank(out, Ranks(), seconds, clips, seed=seed, begun=begun)
        return
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world
    )
    run_rank(out, Ranks(rank, world, core_sharers=world), seconds, clips, seed=seed, begun=begun)
    dist.destroy_process_group()


def check_limits(out: Path, seen: Sequence[dict], clips: int) -> list[LimitCheck]:
    """The checks of a soak, which fail if one rank fails.

    Args:
        out: folder of the soak.
        seen: what :func:`run_rank` has written, by rank.
        clips: that had to be delivered.
    """
    quarantine = out / "run" / QUARANTINE
    named = []
    if quarantine.exists():
        named = [json.loads(line) for line in quarantine.read_text().splitlines()]
    faults = [AppliedFault(**row) for row in json.loads((out / _DAMAGED).read_text())]
    asked: dict[str, float] = {}
    for one in seen:
        for path, moment in one["asked"].items():
            asked[path] = max(moment, asked.get(path, 0.0))

    steps = {one["steps"] for one in seen}
    delivered, wrong, uneven = (
        sum(one[name] for one in seen) for name in ("clips", "wrong", "uneven")
    )
    sources = len(seen[0]["stats"])
    away = seen[0]["away"]
    by_rank = zip(*map(_check_process, seen), strict=False)  # a short run has fewer checks
    return [
        LimitCheck("clips delivered", f"{delivered:,}", f"{clips:,} or more", delivered >= clips),
        *(min(same, key=lambda check: check.passed) for same in by_rank),
        LimitCheck(
            "shares at any step", f"{away:.1f} slots from the plan's", f"{sources}", away <= sources
        ),
        LimitCheck(
            "steps", ", ".join(map(str, sorted(steps))), "the same on all ranks", len(steps) == 1
        ),
        LimitCheck(
            "steps with another number of clips than planned", f"{uneven}", "0", uneven == 0
        ),
        LimitCheck(
            "clips that are neither the planned ones nor their substitutes",
            f"{wrong}",
            "0",
            wrong == 0,
        ),
        *check_naming([*faults, *faults_applied_so_far(out)], named, asked),
    ]


def _check_process(one: dict) -> list[LimitCheck]:
    """The checks of one rank's process."""
    samples = [ProcessSample(*row) for row in one["samples"]]
    warm_up = min(WARM_UP_SECONDS, one["seconds"] / 3)
    try:
        return [
            check_memory(samples, warm_up),
            *check_handles(samples, warm_up, one["before"], one["closed"]),
        ]
    except ValueError as few:  # a soak of seconds says nothing of leaks
        return [LimitCheck("resident memory", str(few), "a longer soak", False)]


def _memory_curve(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """(seconds, resident, own, shared MiB) of some samples, evenly spread."""
    places = np.unique(np.linspace(0, len(samples) - 1, _POINTS).astype(int))
    return [
        [round(samples[place][0]), *(round(size / 2**20, 1) for size in samples[place][1:4])]
        for place in places
    ]
