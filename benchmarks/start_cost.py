"""The first and the warm start of a run over as many images as a crawl has: time, memory, catalog.

Each start is a separate process: ``python -m benchmarks.start_cost CONFIG`` does what a training
does up to the first batch, and prints one JSON line. The network is left out, as its first step
would hide the cost of the images.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.child_process import child_environment, module_command
from omnidali.config.load import load_config
from omnidali.distributed.devices import take_device
from omnidali.distributed.ranks import start_process_group
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.open_loader import open_loader
from omnidali.processes.isolated_process import end_idle_processes
from omnidali.testing.numbered_media import write_image
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

FOLDERS = "class folders"
LIST = "list"
STARTS = ("first", "warm")
_ORIGINALS = 256  # generated photos, at the least
_LINKS = 60_000  # to one of them at the most: ext4 allows 65,000
_CLASSES = 400
_FOLDER = 1000  # photos of the list in one folder
_SAMPLE_SECONDS = 0.2  # between two looks at the memory of the probe's processes
_CONFIG = """
data_root: {folder}
run_dir: {folder}/run
sources:
  photos: {source}
clip: {{num_clips: 1}}
train: {{batch: 64, epochs: 1}}
"""
_PROBED = re.compile(r"([\d,]+) files probed now")  # in the summary that a start prints


def bench_start(out: str | Path, tree: int, lines: int, *, keep: bool = False) -> list[dict]:
    """Measure both starts over class folders and over a list; writes and prints one record each.

    Args:
        out: folder for media and records.
        tree: images in class folders; 0 for none.
        lines: of the list, each another path; 0 for none.
        keep: whether the media stay when all is measured, for a profile.

    Raises:
        UserError: if a file cannot have many names there, or a start fails.
    """
    media = Path(out).absolute() / "media" / "start"
    shutil.rmtree(media, ignore_errors=True)  # left by a killed run, or kept
    records = []
    try:
        originals = _write_originals(media / "originals", tree + lines)

        for source, count in ((FOLDERS, tree), (LIST, lines)):
            if not count:
                continue
            config = _make_source(media / source.replace(" ", "-"), source, count, originals)
            for start in STARTS:
                row = {
                    "bench": "start",
                    "source": source,
                    "photos": count,
                    "start": start,
                    **_start(config),
                }
                records.append(write_record(out, row))
                say(_line(row))
    finally:
        if keep:
            say(f"the media and configs stay in {media}")
        else:
            shutil.rmtree(media, ignore_errors=True)

    say("", *start_table(records).split("\n"))
    return records


def start_table(records: Sequence[dict]) -> str:
    """The records of starts in Markdown, the last one of each kind."""
    newest = {(row["source"], row["photos"], row["start"]): row for row in records}
    lines = [
        "| photos | start | whole | catalog and tables | then the first batch | processor time |"
        " of it the probe's processes | memory | largest process of the probe | catalog |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for source, photos, start in sorted(newest, key=lambda key: (*key[:2], STARTS.index(key[2]))):
        row = newest[source, photos, start]
        place = "a list" if source == LIST else source
        child = f"{row['child_peak_mb']:.0f} MB" if row["child_peak_mb"] else ""
        lines.append(
            f"| {photos:,} in {place} | {start} | {row['wall_seconds']:.1f} s |"
            f" {row['data_seconds']:.2f} s | {row['batch_seconds']:.2f} s |"
            f" {row['cpu_seconds']:.1f} s | {row['child_cpu_seconds']:.1f} s |"
            f" {row['peak_mb']:,.0f} MB | {child} | {row['catalog_mb']:,.1f} MB |"
        )
    return "\n".join(lines)


def _line(row: dict) -> str:
    return (
        f"{row['photos']:,} images in {row['source']}, {row['start']} start:"
        f" {row['wall_seconds']} s, {row['data_seconds']} s of it for catalog and tables with"
        f" {row['probed']:,} files probed, {row['cpu_seconds']} s of processor time,"
        f" {row['peak_mb']:,.0f} MB, catalog {row['catalog_mb']} MB"
    )


def _write_originals(folder: Path, names: int) -> list[Path]:
    """Write as many images as can have so many names together."""
    count = min(names, max(_ORIGINALS, -(-names // _LINKS)))
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(tqdm(paths, desc="images", unit="file", disable=None)):
        write_image(path, number)
    return paths


def _make_source(folder: Path, source: str, count: int, originals: Sequence[Path]) -> Path:
    """Give the originals names in class folders or in a list; returns the config of a run."""
    classes = min(_CLASSES, count)
    if source == FOLDERS:
        paths = [f"class-{number % classes:03}/{number:07}.jpg" for number in range(count)]
        settings = "{kind: image, root: photos}"
    else:
        paths = [f"{number // _FOLDER:05}/{number:07}.jpg" for number in range(count)]
        settings = "{kind: image, root: photos, list: list.txt}"
    _link(folder / "photos", paths, originals)
    if source == LIST:
        with open(folder / "list.txt", "w", encoding="utf-8") as file:
            file.writelines(f"{path} {number % classes}\n" for number, path in enumerate(paths))

    config = folder / "config.yaml"
    config.write_text(
        _CONFIG.format(folder=json.dumps(str(folder))[1:-1], source=settings), encoding="utf-8"
    )
    return config


def _link(root: Path, paths: Sequence[str], originals: Sequence[Path]) -> None:
    """Make hard links: millions of files then take no more room than their names.

    Raises:
        UserError: if the file system has none.
    """
    made: set[Path] = set()
    try:
        for number, name in enumerate(tqdm(paths, desc="links", unit="file", disable=None)):
            path = root / name
            if path.parent not in made:
                path.parent.mkdir(parents=True)
                made.add(path.parent)
            os.link(originals[number % len(originals)], path)
    except OSError as error:
        raise UserError(
            str(root),
            "a disk on which one file can have many names (hard links)",
            str(error.strerror),
            "Choose a folder on a local disk with --out.",
        ) from None


def _start(config: Path) -> dict:
    """The cost of a start in a new process."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        module_command("benchmarks.start_cost", config),
        text=True,
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    largest = 0.0
    printed = None
    try:
        while printed is None:
            # getrusage gives another figure: a child begins with the memory of its parent
            largest = max(largest, _largest_child(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                printed, _ = process.communicate(timeout=_SAMPLE_SECONDS)
    finally:
        process.kill()
    wall = time.perf_counter() - begun
    if process.returncode:
        raise UserError(
            str(config),
            "a start that gives a batch",
            f"exit code {process.returncode}",
            "See the messages above.",
        )

    catalog = sum(path.stat().st_size for path in (config.parent / "run").glob("catalog.sqlite*"))
    return {
        "wall_seconds": round(wall, 2),
        **json.loads(printed.splitlines()[-1]),
        "child_peak_mb": round(largest, 1),
        "catalog_mb": round(catalog / 1e6, 1),
    }


def _largest_child(parent: int) -> float:
    """The highest peak of memory among the children that a process has now, MB."""
    largest = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                largest = max(largest, _peak_mb(path.with_name("status")))
        except (OSError, IndexError):  # it has ended
            continue
    return largest


def _peak_mb(status: Path) -> float:
    """The most memory that a process held since its program began, MB; 0 of one that has ended."""
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main(config_path: str) -> dict:
    """Start a run as a training does, up to its first batch; returns cost and what was probed."""
    config = load_config(config_path, [])
    ranks = take_device(start_process_group(), config.device)

    begun = time.perf_counter()
    data = open_data(config, ranks)
    opened = time.perf_counter()
    with open_loader(config, data, ranks, quarantine=Quarantine()) as loader:
        next(loader)
        first_batch = time.perf_counter()

    end_idle_processes()  # the processor time of children counts when they have ended
    found = _PROBED.search(data.summary[0])
    own = _processor_seconds(resource.RUSAGE_SELF)
    children = _processor_seconds(resource.RUSAGE_CHILDREN)
    return {
        "data_seconds": round(opened - begun, 2),
        "batch_seconds": round(first_batch - opened, 2),
        "cpu_seconds": round(own + children, 2),
        "child_cpu_seconds": round(children, 2),
        "peak_mb": round(_peak_mb(Path("/proc/self/status")), 1),
        "probed": int(found[1].replace(",", "")) if found else 0,
        "samples": len(data.tables[0]),
    }


def _processor_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    say(json.dumps(main(sys.argv[1])))
