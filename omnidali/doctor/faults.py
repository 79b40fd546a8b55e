"""Odd, damaged and edited files through the whole loader: both roads must give the same clips."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.pictures import NEAR, difference
from omnidali.doctor.world import CENTRED, Road, World, clips_of, shown_numbers
from omnidali.loading.loader_options import LoaderOptions

Damage = Callable[[list[Path]], None]

_STEPS = 6
_BATCH = 8
_SIZES = 104  # DALI keeps 100 decoders at most
_LENIENT: LoaderOptions = {"max_bad_ratio": 1.0, "max_bad_in_a_row": 1000}


@dataclass(frozen=True)
class Comparison:
    """What both roads made of a world.

    Attributes:
        routes: the loader's lines of what goes where.
        differing: clips that show other numbers on DALI's road, a line each.
        difference: mean difference of the pixels on the scale 0..255.
        left_to_cpu: files that DALI did not decode.
        bad_files: that failed, on the CPU's road and on DALI's.
        by_dali: clips that DALI decoded.
    """

    routes: list[str]
    differing: list[str]
    difference: float
    left_to_cpu: int
    bad_files: tuple[int, int]
    by_dali: int


def compare_roads(world: World, device: Device, steps: int) -> Comparison:
    """Load the same steps on both roads; the catalog is built.

    Args:
        world: the media.
        device: of DALI's road.
        steps: how many.
    """
    options: LoaderOptions = {"end": steps, "threads": device.cores, **_LENIENT}
    differing: list[str] = []
    differences: list[float] = []
    with (
        world.loader(Road(device, is_dali=False), CENTRED, _BATCH, **options) as by_cpu,
        world.loader(Road(device, is_dali=True), CENTRED, _BATCH, **options) as by_dali,
    ):
        for one, other in zip(by_cpu, by_dali, strict=True):
            for (slot, right), (_, clip) in zip(clips_of(one), clips_of(other), strict=True):
                wanted, shown = shown_numbers(right), shown_numbers(clip)
                if wanted != shown:
                    differing.append(f"slot {slot}: {wanted} on the CPU, {shown} by DALI")
                differences.append(difference(right, clip))
        rows = by_dali.stats().values()
        return Comparison(
            routes=list(by_dali.routes),
            differing=differing,
            difference=round(float(np.mean(differences)), 2),
            left_to_cpu=sum(row.left_to_cpu for row in rows),
            bad_files=(
                sum(row.bad_files for row in by_cpu.stats().values()),
                sum(row.bad_files for row in rows),
            ),
            by_dali=sum(row.by_dali for row in rows),
        )


@dataclass(frozen=True)
class FaultCase:
    """Media and what befalls them after the probe.

    Attributes:
        videos: to be made.
        damage: applied to copies of the files; None: nothing.
        allowed: files that DALI need not decode although they were given to it.
        steps: of both loaders, if they shall be more than usual; a step shows 8 files.
    """

    videos: list[Video]
    damage: Damage | None = None
    allowed: int = 0
    steps: int = 0


def look_at_faults(findings: Findings) -> None:
    """Compare the roads on files that are odd, edited, damaged, or of many sizes."""
    device = Device(findings.context.device_id)
    files = MediaFolder(findings.context.scratch)
    cases = fault_cases(device, findings.context.quick)
    for name in findings.cases(cases, reserve=5.0):
        try:
            world = make_case_world(files, name, cases[name])
            memory = device.free_memory()
            found = compare_roads(world, device, max(cases[name].steps, _STEPS))
            taken = memory - device.free_memory()
        except Exception as error:
            findings.error(name, error)
            continue
        findings.fact(name, {**vars(found), "bytes of the GPU taken": taken})
        judge(findings, name, found, cases[name].allowed)


def fault_cases(device: Device, quick: bool = False) -> dict[str, FaultCase]:
    """By name; ``quick``: fewer sizes."""
    codec = device.main_codec
    plain = [Video(codec, 340, 256, file=number) for number in range(1, 9)]
    hidden = [Video(codec, 340, 256, file=n, begin=-5, ending="mp4") for n in range(1, 5)]
    odd = [Video("vp9", 341 + 2 * number, 257, file=number) for number in range(1, 5)]
    many = [
        Video(codec, 160 + 2 * number, 144, frames=4, gop=4, file=number)
        for number in range(1, (12 if quick else _SIZES) + 1)
    ]
    return {
        "ordinary files": FaultCase(plain),
        "files damaged after the probe": FaultCase(plain, _damage, allowed=3),
        "edit lists": FaultCase([*plain[4:], *hidden]),
        "odd sizes": FaultCase([*plain[4:], *odd]),
        f"{len(many)} sizes": FaultCase(many, steps=-(-len(many) // _BATCH)),
    }


def make_case_world(files: MediaFolder, name: str, case: FaultCase) -> World:
    """A world of copies of the videos, damaged after the probe."""
    folder = files.folder / name.replace(" ", "-")
    return make_damaged_world(folder, files.videos(case.videos), "video", case.damage)


def make_damaged_world(
    folder: Path, files: Sequence[Path], kind: str, damage: Damage | None
) -> World:
    """A world of copies of files, damaged after the probe.

    Args:
        folder: for the copies; it is made anew.
        files: to copy; their names count their places in the list.
        kind: of media.
        damage: applied to the copies; None: nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copies = [folder / f"{number}{path.suffix}" for number, path in enumerate(files)]
    for path, copy in zip(files, copies, strict=True):
        shutil.copyfile(path, copy)
    world = World(folder, {"files": copies}, {"files": {"kind": kind}})
    world.build()
    if damage is not None:
        damage(copies)
    return world


def _damage(files: list[Path]) -> None:
    """Cut one file off, remove one, and overwrite the middle of one as a bad disk does."""
    os.truncate(files[1], files[1].stat().st_size // 3)
    files[2].unlink()
    status = files[3].stat()
    with open(files[3], "r+b") as file:
        file.seek(status.st_size // 3)
        file.write(bytes(status.st_size // 3))
    os.utime(files[3], ns=(status.st_atime_ns, status.st_mtime_ns))


def judge(findings: Findings, name: str, found: Comparison, allowed: int = 0) -> None:
    """Say what a comparison shows.

    Args:
        findings: of the check.
        name: of the case.
        found: what both roads made of it.
        allowed: files that DALI need not decode although they were given to it.
    """
    by_cpu, by_dali = found.bad_files
    reason = ""
    if found.differing:
        reason = f"{len(found.differing)} clips differ, {found.differing[0]}"
    elif by_cpu != by_dali:
        reason = f"{by_cpu} files fail on the CPU's road, {by_dali} on DALI's"
    elif found.difference > NEAR:
        reason = f"{found.difference} of 255 between the roads"
    elif not found.by_dali:
        reason = f"DALI decoded nothing ({'; '.join(found.routes)})"
    elif found.left_to_cpu > allowed:
        reason = f"DALI did not decode {found.left_to_cpu} files that were given to it"

    if reason:
        findings.bad(f"{name}: {reason}")
        return
    findings.good(
        f"{name}: the same frames and substitutes on both roads, {found.difference} of 255 apart;"
        f" {found.by_dali} clips by DALI, {found.left_to_cpu} files left to the CPU"
    )
