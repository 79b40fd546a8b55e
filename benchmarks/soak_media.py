"""The media of a soak: four small sources, partly bad from the start, and more goes bad while the
loader runs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

from omnidali.config.schema import ClipConfig, Config, LoaderConfig, SourceConfig, TrainConfig
from omnidali.testing import odd_media as odd
from omnidali.testing.damaged_media import (
    BASES,
    FAILS,
    FAULTS,
    UNSURE,
    cut,
    delete,
    flip_bits,
    hang,
    let_go,
    replaced_by,
    zeros,
)
from omnidali.testing.numbered_media import BITS, write_photo

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
    "hevc.mp4": odd.video(codec="libx265"),
    "mpeg4.avi": odd.video("avi", "mpeg4"),
    "mjpeg.avi": odd.video("avi", "mjpeg", pixels="yuvj420p"),
}
# files; of the shorts so many of each codec
_PHOTOS, _EACH_SHORT, _LONG, _FOLDERS = 800, 32, 32, 96
_LONG_FRAMES, _FOLDER_FRAMES = 120, 10
_BAD = 0.25  # share of a source's good files that go bad, of each class the same
_EARLY = 0.3  # of the time, in which files begin to hang
_HANGING = 2  # files of those that go bad while the loader runs
_LOG = "meddled.jsonl"


@dataclass(frozen=True)
class Damage:
    """Something that was done to a file.

    Attributes:
        source, path: of the catalog. fault: its name.
        outcome: what comes of it, see :mod:`omnidali.testing.damaged_media`.
        begun, done: when, seconds since 1970; 0 for what is there before the loader begins.
    """

    source: str
    path: str
    fault: str
    outcome: str
    begun: float = 0.0
    done: float = 0.0


def soak_config(out: str | Path, seed: int, batch: int) -> Config:
    """The config of a soak in the folder ``out``."""
    # most of what goes bad in months goes bad here in minutes: the limits on bad files are not what
    # is tried
    loader = LoaderConfig(max_bad_ratio=1.0, max_bad_in_a_row=1 << 30, hang_seconds=HANG_SECONDS)
    return Config(
        data_root=str(Path(out, "media")),
        run_dir=str(Path(out, "run")),
        sources=SOURCES,
        seed=seed,
        clip=ClipConfig(num_clips=3, size=56),
        train=TrainConfig(batch=batch, steps=1 << 40),
        loader=loader,
    )


def make_media(root: Path, scale: float = 1.0) -> list[Damage]:
    """Write the sources below ``root``, with one file of every fault among them.

    Args:
        scale: of the number of good files.

    Returns:
        What is odd or bad from the start.
    """
    lists: dict[str, list[str]] = {name: [] for name in SOURCES}
    jobs: list[tuple] = []

    def file(source: str, name: str, make: odd.Make, entry: str = "{name} {label}") -> Path:
        number = len(lists[source])
        lists[source].append(entry.format(name=name, label=number % CLASSES))
        path = root / source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((make, path, number % 2**BITS))
        return path

    for number in range(_whole(_PHOTOS, scale)):
        file("photos", f"{number}.jpg", BASES["jpg"])
    for ending, make in _SHORTS.items():
        for number in range(_whole(_EACH_SHORT, scale)):
            file("shorts", f"{number}.{ending}", make)
    for number in range(_whole(_LONG, scale)):
        file(
            "long",
            f"{number}.mp4",
            odd.video(frames=_LONG_FRAMES, gop=30),
            "{name} 0 2 {label}\n{name} 2 4 {label}",
        )
    for number in range(_whole(_FOLDERS, scale)):
        file("folders", f"{number}", _folder, f"{{name}} {_FOLDER_FRAMES} {{label}}")
    damages = []
    for number, (name, fault) in enumerate(FAULTS.items()):
        source = "photos" if fault.kind == "image" else "shorts"
        path = file(
            source, f"odd-{number}.{fault.base[:4].strip()}", _both(BASES[fault.base], fault.apply)
        )
        damages.append(Damage(source, str(path), name, fault.before))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(make, path, number) for make, path, number in jobs]:
            done.result()
    for source, lines in lists.items():
        (root / f"{source}.txt").write_text("".join(f"{line}\n" for line in lines))
    return damages


def choose_damages(root: Path, seed: int) -> tuple[list[Damage], list[Damage]]:
    """What goes bad between the probe and the loader's start, and what while it runs; of each class
    the same share.
    """
    chance, early, late = random.Random(seed), [], []
    for source in SOURCES:
        names = [line.split()[0] for line in (root / f"{source}.txt").read_text().splitlines()]
        names = [name for name in dict.fromkeys(names) if not name.startswith("odd-")]
        for label in range(CLASSES):
            mine = names[label::CLASSES]
            for number, name in enumerate(chance.sample(mine, int(_BAD * len(mine)))):
                applicable = _applicable(source, name)
                fault = chance.choice(sorted(applicable.keys() - {"hanging"}))
                (late if number % 2 else early).append(
                    Damage(source, str(root / source / name), fault, applicable[fault][1])
                )
    chance.shuffle(late)
    for place in [place for place, what in enumerate(late) if what.source in ("photos", "shorts")][
        :_HANGING
    ]:
        late[place] = replace(late[place], fault="hanging", outcome=FAILS)
    return early, late


def damage(what: Damage) -> Damage:
    """Do it now; returns it with its times."""
    begun, path = time.time(), Path(what.path)
    apply, _ = _applicable(what.source, path.name)[what.fault]
    apply(path, 0)
    return replace(what, begun=begun, done=time.time())


def meddle(out: Path, planned: list[Damage], seconds: float, seed: int, begun: Barrier) -> None:
    """Do the damages at random moments within ``seconds``, with a line of a log each; runs in a
    process of its own.

    Args:
        begun: where all ranks meet once they have opened their loaders.
    """
    begun.wait()
    chance, start = random.Random(seed + 1), time.time()
    # a thread that hangs is one more thread: it must be over by the time when threads are counted
    # again
    events = [
        (chance.uniform(0, seconds * (_EARLY if what.fault == "hanging" else 1)), what, False)
        for what in planned
    ]
    events += [
        (moment + 3 * HANG_SECONDS, what, True)
        for moment, what, _ in events
        if what.fault == "hanging"
    ]
    with open(out / _LOG, "a", encoding="utf-8") as log:
        for moment, what, is_end in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, start + moment - time.time()))
            if is_end:
                let_go(Path(what.path))
            else:
                log.write(json.dumps(asdict(damage(what))) + "\n")
                log.flush()


def meddled(out: Path) -> list[Damage]:
    """What was done while the loader ran."""
    path = out / _LOG
    return (
        [Damage(**json.loads(line)) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def _applicable(source: str, name: str) -> dict[str, tuple[odd.Make, str]]:
    """What can befall a file behind the probe: {fault: (what does it, what comes of it)}."""
    if source == "folders":
        return _TO_FOLDERS
    base = "" if source == "long" else name.rpartition(".")[2]
    return {
        **_TO_ANY,
        **{
            name: (fault.apply, fault.behind)
            for name, fault in FAULTS.items()
            if fault.base == base and fault.apply is not hang
        },
    }


def _to_a_frame(apply: odd.Make) -> odd.Make:
    return lambda folder, file: apply(folder / "img_00004.jpg", file)


_TO_ANY = {
    "deleted": (delete, FAILS),
    "zero bytes": (cut(0), FAILS),
    "zeros alone": (zeros(0, 1), FAILS),
    "a web page": (replaced_by(odd.HTML), FAILS),
    "half of it": (cut(0.5), UNSURE),
    "many bits flipped in silence": (flip_bits(50, keep_time=True), UNSURE),
    "hanging": (hang, FAILS),
}
_TO_FOLDERS = {
    "deleted": (lambda folder, file: shutil.rmtree(folder), FAILS),
    "a frame deleted": (_to_a_frame(delete), UNSURE),
    "a frame cut off": (_to_a_frame(cut(0.5)), UNSURE),
}


def _folder(path: Path, file: int) -> None:
    for frame in range(_FOLDER_FRAMES):
        write_photo(
            path / f"img_{frame + 1:05}.jpg", file, odd.PHOTO_WIDTH, odd.PHOTO_HEIGHT, frame=frame
        )


def _both(first: odd.Make, then: odd.Make) -> odd.Make:
    def make(path: Path, file: int) -> None:
        first(path, file)
        then(path, file)

    return make


def _whole(count: int, scale: float) -> int:
    """A count in proportion, with four files of each class at the least."""
    return CLASSES * max(4, round(count * scale / CLASSES))
