"""Clips a second of the whole loader, files to normalised batches, behind a proof that frames are as planned."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from omnidali.bench.media import BITS, read_numbers, write_photo, write_video
from omnidali.catalog.build import build_catalog
from omnidali.catalog.store import CatalogReader, SourceTable
from omnidali.config import ClipConfig, SourceConfig
from omnidali.environment import write_record
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.motion import load_motion
from omnidali.planning.plan import TrainPlan
from pipelines.feeds import MEAN, STD

_PHOTOS, _VIDEOS, _FRAMES, _LONG = 400, 24, 300, 30  # frames of ten seconds; tens of seconds in a long video


@dataclass(frozen=True)
class Workload:
    """What is loaded: a source of generated media, a sampler, the batch."""

    name: str
    source: SourceConfig
    clip: ClipConfig
    batch: int


def _videos(gop: int) -> SourceConfig:
    return SourceConfig(kind="video", root=f"h264-gop{gop}", list=f"h264-gop{gop}.txt")


def _photos(**settings) -> SourceConfig:
    return SourceConfig(kind="image", root="jpeg", list="jpeg.txt", **settings)


def _pieces(gop: int) -> tuple[SourceConfig, SourceConfig]:
    """Ten seconds as pieces of one video of five minutes, and as files of their own."""
    return (SourceConfig(kind="untrimmed", root=f"h264-long-gop{gop}", list=f"h264-long-gop{gop}.txt",
                         format="pieces"),
            SourceConfig(kind="video", root=f"h264-own-gop{gop}", list=f"h264-own-gop{gop}.txt"))


_TSN, _SLOWONLY = ClipConfig(num_clips=8), ClipConfig(num_clips=1, clip_len=8, frame_interval=8)
WORKLOADS = (
    Workload("W1 jpeg", _photos(), ClipConfig(num_clips=1), 64),
    *(Workload(f"W2 tsn-8 gop {gop}", _videos(gop), _TSN, 16) for gop in (250, 16)),
    *(Workload(f"W4 tsn-8 {where} gop {gop}", source, _TSN, 16) for gop in (250, 30)
      for where, source in zip(("piece of 5 min", "10 s of its own"), _pieces(gop))),
    *(Workload(f"inflate {inflate} {decode}", _photos(inflate=inflate, decode=decode), _SLOWONLY, 16)
      for decode in ("cpu", "dali") for inflate in ("still", "translate_constant", "warp")),
    *(Workload(f"W3 slowonly-8x8 gop {gop}", _videos(gop), _SLOWONLY, 16) for gop in (250, 16)),
)


def bench_loader(out: str | Path, only: list[str] | None, repeats: int, seconds: float) -> list[dict]:
    """Measure every workload ``repeats`` times in turn; writes and prints one record a workload.

    Args:
        only: beginnings of workload names, none for all.
        seconds: length of one measurement.

    Raises:
        UserError: for unknown workloads.
        RuntimeError: if a returned frame is not the planned one.
    """
    chosen = [load for load in WORKLOADS if only is None or any(load.name.startswith(name) for name in only)]
    if not chosen:
        raise UserError("--workloads", f"beginnings of: {', '.join(load.name for load in WORKLOADS)}", str(only),
                        "Correct the name.")
    media, device = Path(out) / "media", torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _make_media(media, {load.source.root for load in chosen})
    sources = {load.source.root: load.source for load in chosen}
    build_catalog(media / "catalog.sqlite", sources, media)
    reader, results = CatalogReader(media / "catalog.sqlite"), {load.name: [] for load in chosen}
    for load in chosen:
        _check_frames(reader.table(load.source.root), load, device)
    for turn in range(repeats):
        for load in chosen:
            results[load.name].append(_measure(reader.table(load.source.root), load, device, seconds, seed=turn))
    records = []
    for load in chosen:
        rates = [row["clips_per_second"] for row in results[load.name]]
        cpu = statistics.median(row["cpu_ms_per_clip"] for row in results[load.name])
        first = statistics.median(row["seconds_to_first_batch"] for row in results[load.name])
        record = {"bench": "loader", "workload": load.name, "device": str(device), "repeats": repeats,
                  "files": len(reader.table(load.source.root)), "clips_per_second": round(statistics.median(rates), 1),
                  "lowest": round(min(rates), 1), "highest": round(max(rates), 1), "cpu_ms_per_clip": round(cpu, 2),
                  "seconds_to_first_batch": round(first, 2), "page_cache": "warm"}
        records.append(write_record(out, record))
        print(f"{load.name:<26} {record['clips_per_second']:>8.1f} clips/s ({record['lowest']:.1f} to"
              f" {record['highest']:.1f}), {cpu:.2f} CPU ms a clip", flush=True)
    return records


def _measure(table: SourceTable, load: Workload, device: torch.device, seconds: float, seed: int) -> dict[str, float]:
    plan = _plan(table, load, seed)
    asked = time.perf_counter()
    with FusionIterator(plan, [load.source], device=device) as batches:
        next(batches)
        first = time.perf_counter() - asked
        for _ in range(batches.prefetch):  # what was made ready while the first batch was waited for
            next(batches)
        start, cpu, clips = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            clips += len(next(batches))
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"clips_per_second": clips / elapsed, "cpu_ms_per_clip": 1000 * cpu / clips,
            "seconds_to_first_batch": first}


def _check_frames(table: SourceTable, load: Workload, device: torch.device) -> None:
    """Compare the numbers painted into all frames of three steps with the plan."""
    plan = _plan(table, load, 99, clip=replace(load.clip, crop="center", flip=0.0), source=replace(
        load.source, inflate="single" if load.source.inflate == "single" else "still"))
    with FusionIterator(plan, [load.source], device=device, end=3) as batches:
        for batch in batches:
            samples, = plan(batch.step)
            clips = batch.groups[0].clips.float().cpu().permute(0, 2, 3, 4, 1)
            pictures = (clips * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
            for pieces, frames, clip in zip(samples.pieces, samples.frames, pictures):
                file, first = int(Path(table.media(table.records[pieces[0]]).path).stem), 0
                if load.source.root.startswith("h264-own"):
                    file, first = 0, file * _FRAMES
                for wanted, shown in zip(frames.tolist(), clip):
                    if read_numbers(shown) != (file, (first + wanted) % 2**BITS):
                        raise RuntimeError(f"{load.name}: expected frame {first + wanted} of file {file}, the picture"
                                           f" shows (file, frame) {read_numbers(shown)}")


def _plan(table: SourceTable, load: Workload, seed: int, **changes) -> TrainPlan:
    load = replace(load, **changes)
    return TrainPlan([table], [load.source], load.clip, load.batch, seed, motions={0: load_motion(None, False)})


def _make_media(folder: Path, roots: set[str]) -> None:
    """Generate what is missing; kept for the next run."""
    jobs = []
    for root in sorted(roots):
        form, _, gop = root.partition("-gop")
        count = _PHOTOS if root == "jpeg" else 1 if form == "h264-long" else _VIDEOS
        names = [f"{number}.{'jpg' if root == 'jpeg' else 'mp4'}" for number in range(count)]
        listing = folder / f"{root}.txt"
        if listing.exists():
            continue
        video = {"gop": int(gop or 0), "frames": _FRAMES, "options": {"preset": "fast", "crf": "23"}}
        for number, name in enumerate(names):
            if root == "jpeg":
                jobs.append((write_photo, folder / root / name, number, {}))
            elif form == "h264-own":  # the same frames as in the long video
                jobs.append((write_video, folder / root / name, 0, {**video, "first": number * _FRAMES}))
            else:
                length = {"frames": _LONG * _FRAMES} if form == "h264-long" else {}
                jobs.append((write_video, folder / root / name, number, {**video, **length}))
        if form == "h264-long":
            names = [f"0.mp4 {10 * piece} {10 * piece + 10}" for piece in range(_VIDEOS)]
        jobs.append((_write_list, listing, names, {}))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = [pool.submit(make, *rest, **options) for make, *rest, options in jobs]
        for future in tqdm(pending, desc="media", unit="file", disable=None):
            future.result()


def _write_list(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name} 0\n" for name in names))
