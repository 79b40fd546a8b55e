"""Loaders side by side: the same files, frames and boxes for all, a process for each, in turn and
in fresh order.

Before a loader's first measurement of a workload, painted numbers prove that it returns the frames
it is asked for (moving photos: standing still). What fails becomes a row that says why; the others
go on.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.measure_loader import CODEC, OURS, TWO_RANKS, WARM_UP
from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS, Workload, job_of, make_media, open_tables, plan_of
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.curation.copies.encode import RECIPES
from omnidali.errors import UserError
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import for_markdown, say

_SECONDS_A_CHILD = 240
_STEPS = (10, 200)  # least and most of a measurement


@dataclass
class _Row:
    """One loader on one workload."""

    load: Workload
    loader: str
    settings: dict = field(default_factory=dict)
    results: list[dict] = field(default_factory=list)
    error: str | None = None


def compare(
    out: str | Path, only: list[str] | None, loaders: list[str] | None, repeats: int, seconds: float
) -> list[dict]:
    """Measure workloads with loaders; writes one record a row and prints each workload's table.

    Args:
        only: beginnings of workload names, none for all. loaders: names, none for all.
        seconds: about how long one measurement takes of ours.

    Raises:
        UserError: for unknown names.
    """
    out = Path(out)
    chosen = [
        load
        for load in WORKLOADS
        if only is None or any(load.name.startswith(name) for name in only)
    ]
    if not chosen:
        raise UserError(
            "--workloads",
            f"beginnings of: {', '.join(load.name for load in WORKLOADS)}",
            " ".join(only),
            "Correct the name.",
        )
    known = (OURS, TWO_RANKS, CODEC, *PEERS)
    if unknown := [name for name in loaders or () if name not in known]:
        raise UserError(
            "--loaders", f"some of: {', '.join(known)}", ", ".join(unknown), "Correct the name."
        )
    make_media(out / "media", chosen)
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _Workbench(load, out / "media", Path(folder, str(number)), seconds)
            for number, load in enumerate(chosen)
        ]
        rows = [
            [
                _Row(load, name)
                for name in known
                if (loaders is None or name in loaders) and _can(load, name)
            ]
            for load in chosen
        ]
        rng = random.Random(0)
        with tqdm(
            total=repeats * sum(map(len, rows)), desc="measure", unit="run", disable=None
        ) as bar:
            for run in runs:
                run.prepare()
            for turn in range(repeats):
                for run, members in zip(runs, rows):
                    for row in rng.sample(members, len(members)):
                        bar.set_postfix_str(f"{row.load.name}, {row.loader}")
                        if turn == 0:
                            run.choose(row)
                        if row.error is None:
                            run.once(row, turn, check=turn == 0)
                        bar.update()
        records = [
            _record(run, row, repeats, out) for run, members in zip(runs, rows) for row in members
        ]
    say(*"\n\n".join(table(records, load.name) for load in chosen).split("\n"))
    return records


def table(records: list[dict], workload: str) -> str:
    """The rows of one workload in Markdown, fastest first."""
    rows = sorted(
        (record for record in records if record["workload"] == workload),
        key=lambda record: -record.get("clips_per_second", 0),
    )
    lines = [
        f"**{for_markdown(workload)}**",
        "",
        "| loader | clips/s, median (lowest to highest) | ratio | CPU ms | first batch | memory | setting |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = next(
        (record.get("clips_per_second") for record in rows if record["loader"] == OURS), None
    )
    for record in rows:
        if "error" in record:
            lines.append(
                f"| {for_markdown(record['loader'])} | {for_markdown(record['error'])} | | | | | |"
            )
            continue
        rate, setting = record["clips_per_second"], record["settings"]
        ratio = f"{ours / rate:.2f}" if ours and record["loader"] != OURS else ""
        spread = f"{record['lowest']:.1f} to {record['highest']:.1f}"
        settings = for_markdown(", ".join(f"{key}={value}" for key, value in setting.items()))
        lines.append(
            f"| {for_markdown(record['loader'])} | {rate:.1f} ({spread}) | {ratio} |"
            f" {record['cpu_ms_per_clip']:.1f} | {record['seconds_to_first_batch']:.2f} s |"
            f" {record['resident_mb']:.0f} MB | {settings} |"
        )
    return "\n".join(lines)


class _Workbench:
    """What the children of one workload need."""

    def __init__(self, load: Workload, media: Path, folder: Path, seconds: float):
        self.load, self.media, self.folder, self.seconds = load, media, folder, seconds
        self.steps, self.facts = _STEPS[0], {}
        folder.mkdir()
        self.tables = open_tables(media, load)
        if load.compare:
            job_of(plan_of(self.tables, load, 99, check=True), 2).write(folder / "check.json")

    def prepare(self) -> None:
        """Find how many steps ours does in the time that was asked for."""
        rate = self._child(_Row(self.load, OURS), 0, False, 8).get("clips_per_second", 0)
        self.steps = int(np.clip(rate * self.seconds / self.load.batch, *_STEPS)) + WARM_UP
        self.facts = self._facts()

    def choose(self, row: _Row) -> None:
        """Take the best of a loader's settings for this workload."""
        if row.loader in (OURS, TWO_RANKS, CODEC):
            return
        peer = PEERS[row.loader]
        if find_spec(peer.package) is None:
            row.error = (
                f"not installed ({peer.package}): pip install -c constraints.txt -e '.[bench]'"
            )
        else:
            trials = []
            for settings in peer.settings:
                row.settings = settings
                trials.append((self._child(row, 0, False, max(8, self.steps // 2)), settings))
            rates = [trial[0].get("clips_per_second", 0) for trial in trials]
            row.settings = trials[int(np.argmax(rates))][1]

    def once(self, row: _Row, turn: int, check: bool) -> None:
        """One measurement, behind a proof of the frames where ``check`` says so."""
        result = self._child(row, turn, check, self.steps)
        row.error = result.get("error")
        row.results.append(result)

    def _child(self, row: _Row, seed: int, check: bool, steps: int) -> dict:
        job = self.folder / f"job-{seed}-{steps}.json"
        if self.load.compare and not job.exists():
            job_of(plan_of(self.tables, self.load, seed), steps).write(job)
        spec = {
            "loader": row.loader,
            "settings": row.settings,
            "workload": self.load.name,
            "media": str(self.media),
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
                [sys.executable, "-m", "benchmarks.measure_loader", str(path)],
                text=True,
                capture_output=True,
                timeout=_SECONDS_A_CHILD,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {_SECONDS_A_CHILD} s"}
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return {
                "error": (lines or [f"ended with code {done.returncode}"])[-1].replace("|", "/")[
                    :300
                ]
            }
        return json.loads(done.stdout.splitlines()[-1])

    def _facts(self) -> dict:
        """Files, batch, and for videos the packets that lie between the wanted frames and their
        keyframes.
        """
        table = self.tables[0]
        files = [table.media(record).span.path for record in np.unique(table.records).tolist()]
        facts = {
            "files": len(files),
            "mb": round(sum(map(os.path.getsize, files)) / 1e6, 2),
            "batch": self.load.batch,
        }
        if (
            len(self.tables) > 1
            or table.kind == "image"
            or not table.media(table.records[0]).packets
        ):
            return facts
        plan, decoded, returned, clips = plan_of(self.tables, self.load, 0), 0, 0, 0
        for step in range(8):
            (samples,) = plan(step)
            for record, frames in zip(table.records[samples.pieces[:, 0]].tolist(), samples.frames):
                index = PacketIndex.unpack(table.media(record).packets)
                decoded += sum(
                    last - first + 1 for first, last, _ in index.runs(sorted(set(frames.tolist())))
                )
                returned, clips = returned + len(frames), clips + 1
        return {
            **facts,
            "packets_per_clip": round(decoded / clips, 1),
            "frames_per_clip": returned / clips,
        }


def _can(load: Workload, loader: str) -> bool:
    if loader in (OURS, TWO_RANKS):
        return True
    kind = load.sources[0].kind
    if not load.compare or loader == CODEC:
        return load.compare and kind != "image"
    peer = PEERS[loader]
    if kind == "image":
        return "image" in peer.kinds
    media = load.sources[0].root.partition("-")[0]
    codec = "h264" if media in RECIPES else media
    return "video" in peer.kinds and (peer.codecs is None or codec in peer.codecs)


def _record(run: _Workbench, row: _Row, repeats: int, out: Path) -> dict:
    record = {
        "bench": "loader",
        "workload": row.load.name,
        "loader": row.loader,
        "settings": row.settings,
        **run.facts,
    }
    if row.error is not None:
        record["error"] = row.error
    else:
        rates = [result["clips_per_second"] for result in row.results]
        record |= {
            "repeats": repeats,
            "clips": row.results[0]["clips"],
            "lowest": round(min(rates), 1),
            "highest": round(max(rates), 1),
            "page_cache": "warm",
        }
        for name, digits in (
            ("clips_per_second", 1),
            ("cpu_ms_per_clip", 2),
            ("seconds_to_first_batch", 2),
            ("resident_mb", 0),
        ):
            record[name] = round(statistics.median(result[name] for result in row.results), digits)
    return write_record(out, record)
