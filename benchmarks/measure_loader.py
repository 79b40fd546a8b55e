"""One loader over one workload, in a process of its own: the frames it gives, its speed, what it
costs.

``python -m benchmarks.measure_loader SPEC.json`` is started by :mod:`benchmarks.compare_loaders` and
prints one JSON line.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.loader_task import Job
from benchmarks.workloads import WORKLOADS, Workload, open_tables, plan_of
from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import TrainPlan
from omnidali.testing.numbered_media import BITS, read_numbers
from omnidali.utils.constants import MEAN, STD

OURS, CODEC, TWO_RANKS = "omnidali", "codec alone", "omnidali, 2 ranks"
WARM_UP = 4  # batches before the clock starts: as many as any loader has under way


Clips = list[tuple[int, tuple[int, ...]]]  # (file, frames) of each clip


def check_frames(batches: Iterator, wanted: list[list[Clips]]) -> None:
    """Compare the numbers painted into every returned frame with what was asked for.

    Args:
        batches: of each step a tensor (N, 3, T, S, S), or a StepBatch. wanted: of each step, for
            each of its groups.

    Raises:
        ValueError: naming the first frame that is another.
    """
    count = 0
    for step, (batch, groups) in enumerate(zip(batches, wanted)):
        tensors = [batch] if isinstance(batch, torch.Tensor) else batch.clips
        if [len(tensor) for tensor in tensors] != [len(clips) for clips in groups]:
            raise ValueError(
                f"{[len(tensor) for tensor in tensors]} clips instead of {list(map(len, groups))}"
            )
        for tensor, clips in zip(tensors, groups):
            pictures = tensor.float().cpu().permute(0, 2, 3, 4, 1) * torch.tensor(
                STD
            ) + torch.tensor(MEAN)
            for clip, (file, frames) in zip(pictures.numpy(), clips):
                shown = [read_numbers(picture) for picture in clip]
                if shown != [(file, frame % 2**BITS) for frame in frames]:
                    raise ValueError(
                        f"wrong frames: step {step}, file {file}, frames {list(frames)} were asked for,"
                        f" the pictures show {shown}"
                    )
        count += 1
    if count != len(wanted):
        raise ValueError(f"{count} batches instead of {len(wanted)}")


def wanted_frames(plan: TrainPlan, steps: int) -> list[list[Clips]]:
    """What a plan asks for, in the terms of :func:`check_frames`."""
    wanted = []
    for step in range(steps):
        groups: dict[int, Clips] = {}
        for table, samples in zip(plan.tables, plan(step)):
            files = [
                int(Path(table.media(record).path).stem) % 2**BITS
                for record in table.records[samples.pieces[:, 0]].tolist()
            ]
            groups.setdefault(samples.clip_frames, []).extend(
                (file, tuple(frames.tolist()) * samples.repeat)
                for file, frames in zip(files, samples.frames)
            )
        wanted.append(list(groups.values()))
    return wanted


def measure(batches: Iterator, asked: float, steps: int) -> dict[str, float]:
    """Clips a second, processor time of a clip, resident memory, and time to the first batch since
    ``asked``.
    """
    marks, clips, memory, processor = [], [], 0.0, {}
    for batch in batches:
        marks.append(time.perf_counter())
        if len(marks) in (WARM_UP, steps):  # workers end behind the last batch
            processor[len(marks)] = _tree("stat")
        clips.append(len(batch))
        if len(marks) == max(WARM_UP, steps // 2):
            memory = _tree("smaps_rollup")
        del batch
    if len(marks) != steps:
        raise ValueError(f"{len(marks)} batches instead of {steps}")
    processor = processor[steps] - processor[WARM_UP]
    count, seconds = sum(clips[WARM_UP:]), marks[-1] - marks[WARM_UP - 1]
    return {
        "clips_per_second": count / seconds,
        "cpu_ms_per_clip": 1000 * processor / count,
        "seconds_to_first_batch": marks[0] - asked,
        "resident_mb": memory,
        "clips": count,
    }


def _ours(
    load: Workload,
    media: Path,
    seed: int,
    steps: int,
    check: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[StepBatch]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = plan_of(open_tables(media, load), load, seed, check)
    with FusionIterator(
        plan,
        load.sources,
        rank=rank,
        world=world,
        device=device,
        end=steps,
        threads=max(1, len(os.sched_getaffinity(0)) // world),
    ) as batches:
        for batch in batches:
            yield batch
            del batch  # or its memory could not be used for the next one


def _codec(load: Workload, folder: Path, seed: int, steps: int) -> Iterator[list]:
    """What no loader gets below: the wanted frames decoded by the index on all cores, and thrown
    away.
    """
    from omnidali.catalog.probing.packet_index import PacketIndex
    from omnidali.decoding.video import indexed_frames

    plan = plan_of(open_tables(folder, load), load, seed)
    table = plan.tables[0]

    def decode(record: int, frames) -> None:
        media = table.media(record)
        for _ in indexed_frames(
            media, PacketIndex.unpack(media.packets), sorted(set(frames.tolist()))
        ):
            pass

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def start(step: int):
            (samples,) = plan(step)
            return [
                pool.submit(decode, record, frames)
                for record, frames in zip(
                    table.records[samples.pieces[:, 0]].tolist(), samples.frames
                )
            ]

        running = [start(0), start(1)]
        for step in range(steps):
            running.append(start(step + 2) if step + 2 < steps else [])
            done = running.pop(0)
            yield [future.result() for future in done]


def _together(spec: dict) -> dict[str, float]:
    """Two ranks of one job at the same time, as two processes with half of the cores each."""
    folder, running = Path(spec["job"]).parent, []
    for rank in range(2):
        path = folder / f"rank-{rank}.json"
        path.write_text(json.dumps({**spec, "loader": OURS, "rank": rank, "world": 2}))
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.measure_loader", str(path)],
                text=True,
                stdout=subprocess.PIPE,
            )
        )
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a rank failed, see above")
    rows = [json.loads(text.splitlines()[-1]) for text in printed]
    together = {
        name: sum(row[name] for row in rows)
        for name in ("clips_per_second", "resident_mb", "clips")
    }
    return {
        **together,
        "cpu_ms_per_clip": sum(row["cpu_ms_per_clip"] for row in rows) / 2,
        "seconds_to_first_batch": max(row["seconds_to_first_batch"] for row in rows),
    }


def _tree(file: str) -> float:
    """Seconds of processor time (``stat``) or resident MB (``smaps_rollup``) of this process and
    its children.
    """
    parents, total, ticks = {}, 0.0, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / ticks)
        except (OSError, IndexError):
            continue
    for number, (_, seconds) in parents.items():
        ancestor = number
        while ancestor not in (os.getpid(), 0) and ancestor in parents:
            ancestor = parents[ancestor][0]
        if ancestor != os.getpid():
            continue
        if file == "stat":
            total += seconds
            continue
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except OSError:
            continue
    return total


def main(spec: dict) -> dict[str, float]:
    """Check, then measure: what the spec's ``loader`` does with its ``workload``."""
    if spec["loader"] == TWO_RANKS:
        return _together(spec)
    load = next(load for load in WORKLOADS if load.name == spec["workload"])
    media, seed, steps = Path(spec["media"]), spec["seed"], spec["steps"]
    torch.set_num_threads(1)
    ours = spec["loader"] == OURS
    if ours or spec["loader"] == CODEC:
        deliver = None
    else:
        from benchmarks.peers import PEERS

        deliver = PEERS[spec["loader"]].deliver
        # what cannot be imported says so when it is asked to deliver
        with contextlib.suppress(Exception):
            import_module(PEERS[spec["loader"]].package)  # not on anybody's clock
    if spec["check"] and spec["loader"] != CODEC:
        wanted = wanted_frames(plan_of(open_tables(media, load), load, 99, check=True), 2)
        check_frames(
            _ours(load, media, 99, 2, check=True)
            if ours
            else deliver(Job.read(spec["check_job"]), **spec["settings"]),
            wanted,
        )
    gc.collect()
    gc.freeze()
    gc.disable()  # as training loops do
    asked = time.perf_counter()
    if ours:
        batches = _ours(
            load, media, seed, steps, rank=spec.get("rank", 0), world=spec.get("world", 1)
        )
    elif deliver is None:
        batches = _codec(load, media, seed, steps)
    else:
        batches = deliver(Job.read(spec["job"]), **spec["settings"])
    return measure(batches, asked, steps)


if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(result), flush=True)
    os._exit(0)  # some libraries crash while they are taken down; the figures are out
