"""One loader on one workload, in a separate process: its frames, its speed, its cost.

:mod:`benchmarks.compare_loaders` starts ``python -m benchmarks.measure_loader SPEC.json``, which
prints one JSON line.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from benchmarks.child_process import child_environment, module_command
from benchmarks.loader_task import LoaderTask
from benchmarks.workloads import WORKLOADS, Workload, open_tables, workload_plan
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.video import indexed_frames
from omnidali.distributed.devices import count_gpus
from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import BITS, read_numbers
from omnidali.utils.constants import MEAN, STD

OURS = "omnidali"
CODEC = "codec alone"
TWO_RANKS = "omnidali, 2 ranks"
WARM_UP = 4  # batches before the clock starts: as many as any loader has under way

Clips = list[tuple[int, tuple[int, ...]]]  # (file, frames) of each clip


def check_numbers(
    batches: Iterable[torch.Tensor | StepBatch], wanted: Sequence[Sequence[Clips]]
) -> None:
    """Compare the numbers painted into every returned frame with those that were requested.

    Args:
        batches: of each step a tensor (N, 3, T, S, S), or a StepBatch.
        wanted: of each step, for each of its groups.

    Raises:
        ValueError: naming the first frame that is another.
    """
    count = 0
    for step, (batch, groups) in enumerate(zip(batches, wanted, strict=False)):
        count += 1
        tensors = [batch] if isinstance(batch, torch.Tensor) else batch.clips
        sizes = [len(tensor) for tensor in tensors]
        if sizes != [len(clips) for clips in groups]:
            raise ValueError(f"{sizes} clips instead of {[len(clips) for clips in groups]}")

        for tensor, clips in zip(tensors, groups, strict=True):
            images = tensor.float().cpu().permute(0, 2, 3, 4, 1)
            images = images * torch.tensor(STD) + torch.tensor(MEAN)
            for clip, (file, frames) in zip(images.numpy(), clips, strict=True):
                shown = [read_numbers(image) for image in clip]
                if shown != [(file, frame % 2**BITS) for frame in frames]:
                    raise ValueError(
                        f"wrong frames: step {step}, file {file}, frames {list(frames)} were asked"
                        f" for, the images show {shown}"
                    )
    if count != len(wanted):
        raise ValueError(f"{count} batches instead of {len(wanted)}")


def wanted_frames(plan: TrainPlan, steps: int) -> list[list[Clips]]:
    """The frames that a plan asks for, as :func:`check_numbers` takes them."""
    wanted = []
    for step in range(steps):
        groups: dict[int, Clips] = {}
        for table, samples in zip(plan.tables, plan(step), strict=True):
            clips = groups.setdefault(samples.clip_frames, [])
            records = table.records[samples.pieces[:, 0]].tolist()
            for record, frames in zip(records, samples.frames, strict=True):
                file = int(Path(table.media(record).path).stem) % 2**BITS
                clips.append((file, tuple(frames.tolist()) * samples.repeat))
        wanted.append(list(groups.values()))
    return wanted


def measure_batches(batches: Iterator, asked: float, steps: int) -> dict[str, float]:
    """Take the time, the processor time and the memory of a loader.

    Args:
        batches: of the loader.
        asked: when the first one was requested, on the clock of ``time.perf_counter``.
        steps: how many there are.
    """
    marks: list[float] = []
    clips: list[int] = []
    memory = 0.0
    processor: dict[int, float] = {}
    for batch in batches:
        marks.append(time.perf_counter())
        if len(marks) in (WARM_UP, steps):  # workers end after the last batch
            processor[len(marks)] = _sum_over_tree(_processor_seconds)
        clips.append(len(batch))
        if len(marks) == max(WARM_UP, steps // 2):
            memory = _sum_over_tree(_resident_mb)
        del batch
    if len(marks) != steps:
        raise ValueError(f"{len(marks)} batches instead of {steps}")

    count = sum(clips[WARM_UP:])
    return {
        "clips_per_second": count / (marks[-1] - marks[WARM_UP - 1]),
        "cpu_ms_per_clip": 1000 * (processor[steps] - processor[WARM_UP]) / count,
        "seconds_to_first_batch": marks[0] - asked,
        "resident_mb": memory,
        "clips": count,
    }


def _load_ours(
    load: Workload,
    media: Path,
    seed: int,
    steps: int,
    *,
    device: str,
    check: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[StepBatch]:
    with FusionIterator(
        workload_plan(open_tables(media, load), load, seed, check),
        load.sources,
        rank=rank,
        world=world,
        device="cuda" if count_gpus(device) else "cpu",
        end=steps,
        threads=max(1, len(os.sched_getaffinity(0)) // world),
    ) as batches:
        for batch in batches:
            yield batch
            del batch  # or its memory could not be used for the next one


def _decode_alone(load: Workload, media: Path, seed: int, steps: int) -> Iterator[list]:
    """The lower limit of every loader: decode the wanted frames on all cores, and drop them."""
    plan = workload_plan(open_tables(media, load), load, seed)
    table = plan.tables[0]

    def decode(record: int, frames: np.ndarray) -> None:
        video = table.media(record)
        index = PacketIndex.unpack(video.packets)
        for _ in indexed_frames(video, index, sorted(set(frames.tolist()))):
            pass

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def start(step: int) -> list:
            (samples,) = plan(step)
            records = table.records[samples.pieces[:, 0]].tolist()
            return [
                pool.submit(decode, record, frames)
                for record, frames in zip(records, samples.frames, strict=True)
            ]

        running = [start(0), start(1)]
        for step in range(steps):
            running.append(start(step + 2) if step + 2 < steps else [])
            yield [future.result() for future in running.pop(0)]


def _measure_two_ranks(spec: dict) -> dict[str, float]:
    """Two ranks at the same time, as two processes with half of the cores each."""
    folder = Path(spec["job"]).parent
    running = []
    for rank in range(2):
        path = folder / f"rank-{rank}.json"
        path.write_text(json.dumps({**spec, "loader": OURS, "rank": rank, "world": 2}))
        running.append(
            subprocess.Popen(
                module_command("benchmarks.measure_loader", path),
                text=True,
                stdout=subprocess.PIPE,
                env=child_environment(),
            )
        )
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a rank failed, see above")

    rows = [json.loads(text.splitlines()[-1]) for text in printed]
    sums = {
        name: sum(row[name] for row in rows)
        for name in ("clips_per_second", "resident_mb", "clips")
    }
    return {
        **sums,
        "cpu_ms_per_clip": sum(row["cpu_ms_per_clip"] for row in rows) / 2,
        "seconds_to_first_batch": max(row["seconds_to_first_batch"] for row in rows),
    }


def _sum_over_tree(figure: Callable[[Path], float]) -> float:
    """The sum of a figure of /proc/N over this process and its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # the process has ended
            parents[int(folder.name)] = int(_stat_fields(folder)[1])
    total = 0.0
    for number in parents:
        ancestor = number
        while ancestor != os.getpid() and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor == os.getpid():
            with contextlib.suppress(OSError, IndexError):
                total += figure(Path("/proc", str(number)))
    return total


def _stat_fields(folder: Path) -> list[str]:
    """The fields of /proc/N/stat after the program's name, which may hold anything."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _processor_seconds(folder: Path) -> float:
    """Processor time of a process and of its children that have ended."""
    return sum(map(int, _stat_fields(folder)[11:15])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(folder: Path) -> float:
    """Resident memory of a process, with its share of what several processes use."""
    lines = (folder / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main(spec: dict) -> dict[str, float]:
    """Check a loader, then measure it; ``spec`` is that of :mod:`benchmarks.compare_loaders`."""
    loader = spec["loader"]
    if loader == TWO_RANKS:
        return _measure_two_ranks(spec)
    load = next(load for load in WORKLOADS if load.name == spec["workload"])
    media = Path(spec["media"])
    steps = spec["steps"]
    device = spec.get("device", "auto")
    torch.set_num_threads(1)
    deliver: Callable[..., Iterator] | None = None
    if loader not in (OURS, CODEC):
        from benchmarks.peers import PEERS

        deliver = PEERS[loader].deliver
        # its import is not on the clock; a peer that cannot be imported says so when it delivers
        with contextlib.suppress(Exception):
            import_module(PEERS[loader].package)

    if spec["check"] and loader != CODEC:
        plan = workload_plan(open_tables(media, load), load, 99, check=True)
        if deliver is None:
            proof: Iterator = _load_ours(load, media, 99, 2, device=device, check=True)
        else:
            proof = deliver(LoaderTask.read(spec["check_job"]), **spec["settings"])
        check_numbers(proof, wanted_frames(plan, 2))
    gc.collect()
    gc.freeze()
    gc.disable()  # as training loops do

    asked = time.perf_counter()
    batches: Iterator
    if deliver is not None:
        batches = deliver(LoaderTask.read(spec["job"]), **spec["settings"])
    elif loader == OURS:
        rank = spec.get("rank", 0)
        world = spec.get("world", 1)
        batches = _load_ours(
            load, media, spec["seed"], steps, device=device, rank=rank, world=world
        )
    else:
        batches = _decode_alone(load, media, spec["seed"], steps)
    return measure_batches(batches, asked, steps)


if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(result), flush=True)
    os._exit(0)  # some libraries crash while they are taken down; the figures are out
