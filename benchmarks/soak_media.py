"""The media of a soak: four small sources, partly bad from the start; more of them go bad later."""

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

from omnidali.config.schema import ClipConfig, Config, LoaderConfig
from omnidali.config.sources import SourceConfig
from omnidali.config.train_settings import TrainConfig
from omnidali.testing.damaged_media import (
    BASES,
    FAILS,
    FAULTS,
    UNSURE,
    delete_file,
    end_hang,
    flip_bits,
    make_hang,
    replace_by,
    truncate_file,
    write_zeros,
)
from omnidali.testing.numbered_media import BITS, write_image
from omnidali.testing.odd_media import HTML, IMAGE_HEIGHT, IMAGE_WIDTH, MediaMaker, odd_video

CLASSES = 8
HANG_SECONDS = 5.0
SOURCES = {
    "photos": SourceConfig(kind="image", root="photos", list="photos.txt", weight=4),
    "shorts": SourceConfig(kind="video", root="shorts", list="shorts.txt", weight=2),
    "long": SourceConfig(kind="untrimmed", root="long", list="long.txt", weight=1, format="pieces"),
    "folders": SourceConfig(kind="frames", root="folders", list="folders.txt", weight=1),
}
_SHORTS = {
    "mp4": BASES["mp4"],
    "webm": BASES["webm"],
    "hevc.mp4": odd_video(codec="libx265"),
    "mpeg4.avi": odd_video("avi", "mpeg4"),
    "mjpeg.avi": odd_video("avi", "mjpeg", pixels="yuvj420p"),
}
_BATCH = 64
_IMAGES = 800
_EACH_SHORT = 32  # of each codec
_LONG = 32
_LONG_FRAMES = 120
_FOLDERS = 96
_FOLDER_FRAMES = 10
_BAD = 0.25  # share of a source's good files that go bad, of each class the same
_EARLY = 0.3  # of the time, in which files begin to hang
_HANGING = 2  # files of those that go bad while the loader runs
_LOG = "meddled.jsonl"


@dataclass(frozen=True)
class AppliedFault:
    """A fault that was applied to a file.

    Attributes:
        source: of the catalog.
        path: of the catalog.
        fault: its name.
        outcome: see :mod:`omnidali.testing.damaged_media`.
        begun: seconds since 1970; 0 for what is there before the loader begins.
        done: seconds since 1970.
    """

    source: str
    path: str
    fault: str
    outcome: str
    begun: float = 0.0
    done: float = 0.0


def soak_config(out: str | Path, seed: int) -> Config:
    """The config of a soak in the folder ``out``."""
    # The faults of months come in minutes here: limits on bad files would end the soak.
    loader = LoaderConfig(max_bad_ratio=1.0, max_bad_in_a_row=1 << 30, hang_seconds=HANG_SECONDS)
    return Config(
        data_root=str(Path(out, "media")),
        run_dir=str(Path(out, "run")),
        sources=SOURCES,
        seed=seed,
        clip=ClipConfig(num_clips=3, size=56),
        train=TrainConfig(batch=_BATCH, steps=1 << 40),
        loader=loader,
    )


class _MediaPlan:
    """The files to make below a folder, and the lines of their lists."""

    def __init__(self, root: Path):
        self.root = root
        self.lists: dict[str, list[str]] = {name: [] for name in SOURCES}
        self.jobs: list[tuple[MediaMaker, Path, int]] = []

    def add(self, source: str, name: str, make: MediaMaker, entry: str = "{name} {label}") -> Path:
        """Plan one more file of a source; returns its path."""
        number = len(self.lists[source])
        self.lists[source].append(entry.format(name=name, label=number % CLASSES))
        path = self.root / source / name
        self.jobs.append((make, path, number % 2**BITS))
        return path

    def write(self) -> None:
        """Make the files on all cores, and write the lists."""
        for _, path, _ in self.jobs:
            path.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(make, path, number) for make, path, number in self.jobs]:
                done.result()
        for source, lines in self.lists.items():
            (self.root / f"{source}.txt").write_text("".join(f"{line}\n" for line in lines))


def make_soak_media(root: Path, scale: float = 1.0) -> list[AppliedFault]:
    """Write the sources below a folder, with one file of every fault among them.

    Args:
        root: the folder.
        scale: of the number of good files.

    Returns:
        The files that are odd or bad from the start.
    """
    plan = _MediaPlan(root)
    long_video = odd_video(frames=_LONG_FRAMES, gop=30)
    for number in range(_scaled(_IMAGES, scale)):
        plan.add("photos", f"{number}.jpg", BASES["jpg"])
    for ending, make in _SHORTS.items():
        for number in range(_scaled(_EACH_SHORT, scale)):
            plan.add("shorts", f"{number}.{ending}", make)
    for number in range(_scaled(_LONG, scale)):
        pieces = "{name} 0 2 {label}\n{name} 2 4 {label}"
        plan.add("long", f"{number}.mp4", long_video, pieces)
    for number in range(_scaled(_FOLDERS, scale)):
        plan.add("folders", f"{number}", _write_folder, f"{{name}} {_FOLDER_FRAMES} {{label}}")

    applied = []
    for number, (name, fault) in enumerate(FAULTS.items()):
        source = "photos" if fault.kind.is_still else "shorts"
        file = f"odd-{number}.{fault.base[:4].strip()}"
        path = plan.add(source, file, _one_after_other(BASES[fault.base], fault.apply))
        applied.append(AppliedFault(source, str(path), name, fault.at_probe))
    plan.write()
    return applied


def choose_faults(root: Path, seed: int) -> tuple[list[AppliedFault], list[AppliedFault]]:
    """Choose the faults to apply before the loader's start, and while it runs.

    Each class gets the same share of them.
    """
    chance = random.Random(seed)
    early: list[AppliedFault] = []
    late: list[AppliedFault] = []
    for source in SOURCES:
        names = [line.split()[0] for line in (root / f"{source}.txt").read_text().splitlines()]
        names = [name for name in dict.fromkeys(names) if not name.startswith("odd-")]
        for label in range(CLASSES):
            members = names[label::CLASSES]
            for number, name in enumerate(chance.sample(members, int(_BAD * len(members)))):
                applicable = _applicable(source, name)
                fault = chance.choice(sorted(applicable.keys() - {"hanging"}))
                _, outcome = applicable[fault]
                chosen = AppliedFault(source, str(root / source / name), fault, outcome)
                (late if number % 2 else early).append(chosen)

    chance.shuffle(late)
    may_hang = [place for place, fault in enumerate(late) if fault.source in ("photos", "shorts")]
    for place in may_hang[:_HANGING]:
        late[place] = replace(late[place], fault="hanging", outcome=FAILS)
    return early, late


def apply_fault(planned: AppliedFault) -> AppliedFault:
    """Apply a fault now; returns it with its times."""
    begun = time.time()
    path = Path(planned.path)
    apply, _ = _applicable(planned.source, path.name)[planned.fault]
    apply(path, 0)
    return replace(planned, begun=begun, done=time.time())


def apply_faults_over_time(
    out: Path, planned: Sequence[AppliedFault], seconds: float, seed: int, begun: Barrier
) -> None:
    """Apply faults at random moments, with a line of a log each; runs in a separate process.

    Args:
        out: folder of the soak.
        planned: the faults.
        seconds: in which they are applied.
        seed: of the moments.
        begun: where all ranks meet once they have opened their loaders.
    """
    begun.wait()
    chance = random.Random(seed + 1)
    start = time.time()
    events = []
    for fault in planned:
        hangs = fault.fault == "hanging"
        # a thread that hangs is one more thread: it must end before threads are counted again
        moment = chance.uniform(0, seconds * (_EARLY if hangs else 1))
        events.append((moment, fault, False))
        if hangs:
            events.append((moment + 3 * HANG_SECONDS, fault, True))

    with open(out / _LOG, "a", encoding="utf-8") as log:
        for moment, fault, is_end in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, start + moment - time.time()))
            if is_end:
                end_hang(Path(fault.path))
            else:
                log.write(json.dumps(asdict(apply_fault(fault))) + "\n")
                log.flush()


def faults_applied_so_far(out: Path) -> list[AppliedFault]:
    """The faults that were applied while the loader ran."""
    path = out / _LOG
    if not path.exists():
        return []
    return [AppliedFault(**json.loads(line)) for line in path.read_text().splitlines()]


def _applicable(source: str, name: str) -> dict[str, tuple[MediaMaker, str]]:
    """The faults for a file after the probe: {name: (function, outcome)}."""
    if source == "folders":
        return _FOLDER_FAULTS
    if source == "long":
        return _GENERAL_FAULTS
    base = name.rpartition(".")[2]
    return _GENERAL_FAULTS | {
        name: (fault.apply, fault.after_probe)
        for name, fault in FAULTS.items()
        if fault.base == base and fault.apply is not make_hang
    }


def _delete_folder(path: Path, file: int) -> None:
    shutil.rmtree(path)


def _on_a_frame(apply: MediaMaker) -> MediaMaker:
    def apply_to_frame(path: Path, file: int) -> None:
        apply(path / "img_00004.jpg", file)

    return apply_to_frame


_GENERAL_FAULTS: dict[str, tuple[MediaMaker, str]] = {
    "deleted": (delete_file, FAILS),
    "zero bytes": (truncate_file(0), FAILS),
    "zeros alone": (write_zeros(0, 1), FAILS),
    "a web page": (replace_by(HTML), FAILS),
    "half of it": (truncate_file(0.5), UNSURE),
    "many bits flipped in silence": (flip_bits(50, keep_time=True), UNSURE),
    "hanging": (make_hang, FAILS),
}
_FOLDER_FAULTS: dict[str, tuple[MediaMaker, str]] = {
    "deleted": (_delete_folder, FAILS),
    "a frame deleted": (_on_a_frame(delete_file), UNSURE),
    "a frame cut off": (_on_a_frame(truncate_file(0.5)), UNSURE),
}


def _write_folder(path: Path, file: int) -> None:
    for frame in range(_FOLDER_FRAMES):
        write_image(path / f"img_{frame + 1:05}.jpg", file, IMAGE_WIDTH, IMAGE_HEIGHT, frame=frame)


def _one_after_other(first: MediaMaker, second: MediaMaker) -> MediaMaker:
    def make(path: Path, file: int) -> None:
        first(path, file)
        second(path, file)

    return make


def _scaled(count: int, scale: float) -> int:
    """A count in proportion, with at least four files of each class."""
    return CLASSES * max(4, round(count * scale / CLASSES))
