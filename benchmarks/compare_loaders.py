"""Loaders side by side: the same files, frames and boxes for all, each in a separate process.

The loaders take turns, in a new order each time. Before a loader's first measurement of a workload,
painted numbers prove that it returns the frames it is asked for (images that are inflated to clips
stand still meanwhile). A loader that fails gets a row with the reason; the others continue.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.child_process import child_environment, module_command
from benchmarks.loader_table import loader_table
from benchmarks.measure_loader import CODEC, OURS, TWO_RANKS, WARM_UP
from benchmarks.peers import PEERS
from benchmarks.workloads import (
    WORKLOADS,
    Workload,
    loader_task_of,
    make_workload_media,
    open_tables,
    workload_plan,
)
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.curation.copies.encode import RECIPES
from omnidali.distributed.devices import count_gpus
from omnidali.errors import UserError
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_SECONDS_A_CHILD = 240
_STEPS = (10, 200)  # least and most of a measurement
_KNOWN = (OURS, TWO_RANKS, CODEC, *PEERS)


@dataclass
class _Contender:
    """One loader on one workload.

    Attributes:
        load: the workload.
        loader: its name.
        settings: of a peer.
        results: of the measurements so far.
        error: why there are no more.
    """

    load: Workload
    loader: str
    settings: dict = field(default_factory=dict)
    results: list[dict] = field(default_factory=list)
    error: str | None = None


def compare_loaders(
    out: str | Path,
    *,
    only: Sequence[str] | None,
    loaders: Sequence[str] | None,
    repeats: int,
    seconds: float,
    device: str = "auto",
) -> list[dict]:
    """Measure workloads with loaders; writes a record for each pair and prints the tables.

    Args:
        out: folder for media and records.
        only: beginnings of workload names; None for all.
        loaders: names; None for all.
        repeats: measurements of each loader on each workload.
        seconds: about how long one measurement of our loader takes.
        device: of our loader, as the setting of this name.

    Raises:
        UserError: for unknown names, and for ``cuda`` without a GPU.
    """
    count_gpus(device)  # or every child would refuse it
    out = Path(out)
    chosen = _choose_workloads(only)
    unknown = [name for name in loaders or () if name not in _KNOWN]
    if unknown:
        raise UserError(
            "--loaders", f"some of: {', '.join(_KNOWN)}", ", ".join(unknown), "Correct the name."
        )
    make_workload_media(out / "media", chosen)

    with tempfile.TemporaryDirectory() as folder:
        benches = [
            _Workbench(load, out / "media", Path(folder, str(number)), seconds, device)
            for number, load in enumerate(chosen)
        ]
        fields = [
            [
                _Contender(load, name)
                for name in _KNOWN
                if (loaders is None or name in loaders) and _can_load(load, name)
            ]
            for load in chosen
        ]
        pairs = list(zip(benches, fields, strict=True))
        for bench in benches:
            bench.prepare()
        _take_turns(pairs, repeats)
        records = [
            write_record(out, _row_of(bench, contender, repeats))
            for bench, contenders in pairs
            for contender in contenders
        ]
    say(*"\n\n".join(loader_table(records, load.name) for load in chosen).split("\n"))
    return records


def _choose_workloads(only: Sequence[str] | None) -> list[Workload]:
    chosen = [load for load in WORKLOADS if only is None or load.name.startswith(tuple(only))]
    if not chosen:
        raise UserError(
            "--workloads",
            f"beginnings of: {', '.join(load.name for load in WORKLOADS)}",
            " ".join(only or ()),
            "Correct the name.",
        )
    return chosen


def _take_turns(pairs: Sequence[tuple[_Workbench, Sequence[_Contender]]], repeats: int) -> None:
    """Measure every loader once a turn, in a new order."""
    rng = random.Random(0)
    total = repeats * sum(len(contenders) for _, contenders in pairs)
    with tqdm(total=total, desc="measure", unit="run", disable=None) as bar:
        for turn in range(repeats):
            for bench, contenders in pairs:
                for contender in rng.sample(contenders, len(contenders)):
                    bar.set_postfix_str(f"{contender.load.name}, {contender.loader}")
                    if turn == 0:
                        bench.choose_settings(contender)
                    if contender.error is None:
                        bench.measure(contender, turn, check=turn == 0)
                    bar.update()


class _Workbench:
    """Runs the loaders of one workload, as child processes.

    Args:
        load: the workload.
        media: folder of the media.
        folder: for the tasks of the children.
        seconds: about how long one measurement of our loader takes.
        device: of our loader.
    """

    def __init__(
        self, load: Workload, media: Path, folder: Path, seconds: float, device: str = "auto"
    ):
        self.load = load
        self.media = media
        self.folder = folder
        self.seconds = seconds
        self.device = device
        self.steps = _STEPS[0]
        self.facts: dict[str, float] = {}
        self.tables = open_tables(media, load)
        folder.mkdir()
        if load.compare:
            plan = workload_plan(self.tables, load, 99, check=True)
            loader_task_of(plan, 2).write(folder / "check.json")

    def prepare(self) -> None:
        """Find how many steps our loader does in the time that was requested."""
        result = self.run_child(_Contender(self.load, OURS), 0, False, 8)
        rate = result.get("clips_per_second", 0)
        self.steps = int(np.clip(rate * self.seconds / self.load.batch, *_STEPS)) + WARM_UP
        self.facts = self._describe_workload()

    def choose_settings(self, contender: _Contender) -> None:
        """Take the best of a peer's settings for this workload."""
        if contender.loader not in PEERS:
            return
        peer = PEERS[contender.loader]
        if find_spec(peer.package) is None:
            contender.error = (
                f"not installed ({peer.package}): pip install -c constraints.txt -e '.[bench]'"
            )
            return
        rates = []
        for settings in peer.settings:
            contender.settings = settings
            result = self.run_child(contender, 0, False, max(8, self.steps // 2))
            rates.append(result.get("clips_per_second", 0))
        contender.settings = peer.settings[int(np.argmax(rates))]

    def measure(self, contender: _Contender, turn: int, check: bool) -> None:
        """Measure once; with ``check`` after a proof of the frames."""
        result = self.run_child(contender, turn, check, self.steps)
        contender.error = result.get("error")
        contender.results.append(result)

    def run_child(self, contender: _Contender, seed: int, check: bool, steps: int) -> dict:
        """The result of one measurement in a separate process, or ``error``."""
        job = self.folder / f"job-{seed}-{steps}.json"
        if self.load.compare and not job.exists():
            loader_task_of(workload_plan(self.tables, self.load, seed), steps).write(job)
        spec = {
            "loader": contender.loader,
            "settings": contender.settings,
            "workload": self.load.name,
            "media": str(self.media),
            "device": self.device,
            "seed": seed,
            "steps": steps,
            "job": str(job),
            "check": check,
            "check_job": str(self.folder / "check.json"),
        }

        path = self.folder / "spec.json"
        path.write_text(json.dumps(spec))
        try:
            done = subprocess.run(
                module_command("benchmarks.measure_loader", path),
                text=True,
                capture_output=True,
                env=child_environment(),
                timeout=_SECONDS_A_CHILD,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {_SECONDS_A_CHILD} s"}

        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            said = lines[-1] if lines else f"ended with code {done.returncode}"
            return {"error": said.replace("|", "/")[:300]}
        return json.loads(done.stdout.splitlines()[-1])

    def _describe_workload(self) -> dict[str, float]:
        """Files and batch; for videos the packets that a decoder has to pass for a clip, too."""
        table = self.tables[0]
        files = [table.media(record).span.path for record in np.unique(table.records).tolist()]
        facts = {
            "files": len(files),
            "mb": round(sum(map(os.path.getsize, files)) / 1e6, 2),
            "batch": self.load.batch,
        }
        has_index = not table.kind.is_still and table.media(table.records[0]).packets
        if len(self.tables) > 1 or not has_index:
            return facts

        plan = workload_plan(self.tables, self.load, 0)
        decoded = 0
        returned = 0
        clips = 0
        for step in range(8):
            (samples,) = plan(step)
            records = table.records[samples.pieces[:, 0]].tolist()
            for record, frames in zip(records, samples.frames, strict=True):
                index = PacketIndex.unpack(table.media(record).packets)
                runs = index.runs(sorted(set(frames.tolist())))
                decoded += sum(last - first + 1 for first, last, _ in runs)
                returned += len(frames)
                clips += 1
        return {
            **facts,
            "packets_per_clip": round(decoded / clips, 1),
            "frames_per_clip": returned / clips,
        }


def _can_load(load: Workload, loader: str) -> bool:
    """Whether a loader can do a workload."""
    if loader in (OURS, TWO_RANKS):
        return True
    kind = load.sources[0].media_kind
    if not load.compare or loader == CODEC:
        return load.compare and not kind.is_still
    peer = PEERS[loader]
    if kind.is_still:
        return "image" in peer.kinds
    media = load.sources[0].root.partition("-")[0]
    codec = "h264" if media in RECIPES else media
    return "video" in peer.kinds and (peer.codecs is None or codec in peer.codecs)


def _row_of(bench: _Workbench, contender: _Contender, repeats: int) -> dict:
    """The record of a loader on a workload."""
    row = {
        "bench": "loader",
        "workload": contender.load.name,
        "loader": contender.loader,
        "settings": contender.settings,
        **bench.facts,
    }
    if contender.error is not None:
        return {**row, "error": contender.error}

    rates = [result["clips_per_second"] for result in contender.results]
    medians = {
        name: round(statistics.median(result[name] for result in contender.results), digits)
        for name, digits in (
            ("clips_per_second", 1),
            ("cpu_ms_per_clip", 2),
            ("seconds_to_first_batch", 2),
            ("resident_mb", 0),
        )
    }
    return {
        **row,
        "repeats": repeats,
        "clips": contender.results[0]["clips"],
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "page_cache": "warm",
        **medians,
    }
