"""The demo world: a small synthetic OmniSource with the release's layout and list formats.

``DEMO`` is the whole definition; :func:`make_world` writes it to a folder, bit for bit the same for
the same seed and library versions. What is planted (wrong labels, copies of validation frames,
the spans of long videos that show the class) stands in ``truth.json``.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from omnidali.demo.scene import ACTIONS, Scene
from omnidali.errors import UserError
from omnidali.utils.x264 import repeatable

_SIZES = ((160, 120), (192, 108), (144, 144), (112, 168), (176, 132), (208, 118), (120, 160))
_RATES = (12, 15, 24, 25, 30)
_X264 = ("libx264", ".mp4", {"preset": "veryfast", "crf": "23", "g": "16", "bf": "0"})
_X264_LONG_GOP = ("libx264", ".mp4", {"preset": "veryfast", "crf": "23", "g": "250"})
_X265 = (
    "libx265",
    ".mp4",
    {
        "preset": "ultrafast",
        "crf": "26",
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
)
_VP9 = ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"})


@dataclass(frozen=True)
class Collection:
    """One source of the world: how much of it there is and how dirty it is.

    Attributes:
        name: the folder; ``{n}`` is the number of classes. form: ``clip``, ``photo`` or
            ``untrimmed``.
        folder: of one item below the source's, with ``{label}``, ``{tag}``, ``{shard}`` and
            ``{id}``.
        per_class: items. codecs: taken in turn. noise: share with another class's or no actor.
        duplicates: share that are copies of validation frames.
    """

    name: str
    form: str
    folder: str
    per_class: int
    codecs: tuple = (_X264,)
    noise: float = 0.0
    duplicates: float = 0.0


DEMO = (
    Collection("kinetics_{n}_train", "clip", "", 20, (_X264, _X264_LONG_GOP)),
    Collection("kinetics_{n}_val", "clip", "", 12, (_X264, _X264_LONG_GOP)),
    Collection(
        "googleimage_{n}", "photo", "{label:03d}/{shard:02d}", 100, noise=0.3, duplicates=0.04
    ),
    Collection("insimage_{n}", "photo", "{label:03d}/{tag}", 50, noise=0.4),
    Collection("insvideo_{n}", "clip", "{label:03d}/{tag}", 8, (_X264, _VP9, _X265), noise=0.25),
    Collection("kinetics_raw_{n}_train", "untrimmed", "pref{first}/{id}", 2),
)
LONG_VIDEOS = DEMO[-1].name.format(n=len(ACTIONS))  # the folder of the long videos
PARTS, PART_SECONDS = 6, 4  # a long video is 24 s; the release cuts at 10 s
WHOLE, TRUTH = "whole.mp4", "truth.json"  # a long video, beside its parts; what is planted
_TEACHER_ERROR = 0.1  # share of the planted noise that the released, filtered lists still hold


@dataclass(frozen=True)
class Item:
    """One file to make. ``shown`` is the class in the picture, None for none; ``label`` the crawled
    one.
    """

    path: str
    form: str
    label: int
    shown: int | None
    seed: tuple[int, ...]
    codec: tuple | None = None
    copy_of: tuple[int, ...] | None = None


def make_world(folder: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Write the demo world.

    Args:
        folder: made if missing; a complete world of the same seed in it is kept, and gets the lists
            that it lacks.

    Raises:
        UserError: if the folder holds something else or cannot be written.
    """
    folder = Path(folder)
    stamp = {"seed": seed, "definition": repr((DEMO, ACTIONS, PARTS, PART_SECONDS, _TEACHER_ERROR))}
    done = folder / "world.json"
    try:
        if done.exists() and json.loads(done.read_text()) == stamp:
            _write_lists(folder, plan_items(seed), missing_only=True)
            return folder
        if folder.exists() and any(folder.iterdir()) and not (folder / "annotations").is_dir():
            raise UserError(
                str(folder),
                "an empty folder or a demo world",
                "other files",
                "Choose another folder.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        items = plan_items(seed)
        _write_lists(folder, items)
        done.unlink(missing_ok=True)
        # spawn: a fork of a process that runs threads may hang
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
            jobs = [(str(folder), item) for group in items.values() for item in group]
            for _ in tqdm(
                pool.map(_make, jobs, chunksize=4),
                total=len(jobs),
                desc="demo world",
                unit="file",
                disable=None if progress else True,
                file=sys.stderr,
            ):
                pass
        done.write_text(json.dumps(stamp))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            str(folder), "a folder that can be written", str(error), "Choose another folder."
        ) from None
    return folder


def plan_items(seed: int) -> dict[str, list[Item]]:
    """Every file of the world by collection, before any is made."""
    classes = len(ACTIONS)
    world: dict[str, list[Item]] = {}
    for number, collection in enumerate(DEMO):
        rng = np.random.default_rng([seed, number])
        name = collection.name.format(n=classes)
        world[name] = []
        for label in range(classes):
            for index in range(collection.per_class):
                key = (seed, number, label, index)
                shown, copy_of = label, None
                # half of the noise shows another class, half shows none
                if rng.random() < collection.noise:
                    shown = (
                        int((label + rng.integers(1, classes)) % classes)
                        if rng.random() < 0.5
                        else None
                    )
                elif rng.random() < collection.duplicates:
                    copy_of = (seed, 1, label, int(rng.integers(DEMO[1].per_class)))
                identity = f"{''.join(rng.choice(list('abcdefghkmnpqrstuvwxyz23456789'), 8))}{label}{index:02d}"
                words = ACTIONS[label].name.split()
                below = collection.folder.format(
                    label=label,
                    shard=index % 2,
                    id=identity,
                    first=identity[0],
                    tag=("".join(words), words[1] + words[0])[index % 2],
                )
                codec = collection.codecs[index % len(collection.codecs)]
                ending = {
                    "photo": f"/{index + 1:06d}.jpg",
                    "clip": f"/{identity}{codec[1]}",
                    "untrimmed": "",
                }
                path = f"{name}/{below}{ending[collection.form]}".replace("//", "/")
                world[name].append(Item(path, collection.form, label, shown, key, codec, copy_of))
    return world


def shown_parts(item: Item) -> list[int]:
    """Which parts of a long video show its class: two or three of them."""
    rng = np.random.default_rng([*item.seed, 77])
    parts = rng.permutation(PARTS)[: rng.integers(2, 4)]
    return sorted(parts.tolist())


def _write_lists(folder: Path, world: dict[str, list[Item]], missing_only: bool = False) -> None:
    """The annotation files, as the release names them (counts in names are numbers of classes).

    Beside the release's there is the list of the whole long videos, as they were before a teacher
    saw them.
    """
    classes, notes = len(ACTIONS), folder / "annotations"
    lists: dict[str, list[str]] = {f"k{classes}_actions.txt": [action.name for action in ACTIONS]}
    truth: dict[str, dict] = {"noise": {}, "duplicates": [], "positive_parts": {}}
    union = []
    for name, items in world.items():

        def lines(kept):
            return [f"{item.path.removeprefix(name + '/')} {item.label}" for item in kept]

        if name.startswith("kinetics_raw"):
            rows = []
            for item in items:
                truth["positive_parts"][item.path] = shown_parts(item)
                rows.append(
                    {
                        "video_dir": item.path.removeprefix(name + "/"),
                        "label": item.label,
                        "num_clips": PARTS,
                        "positive_clip_inds": shown_parts(item),
                    }
                )
            short = name.removesuffix("_train")
            lists[f"{short}/slowonly_8x8_{short}.json"] = [json.dumps(rows)]
            lists[f"{short}/{short}.txt"] = [
                f"{row['video_dir']}/{WHOLE} {row['label']}" for row in rows
            ]
            continue
        if name.startswith("kinetics"):
            lists[f"kinetics_{classes}/k{classes}_{name.rsplit('_', 1)[1]}.txt"] = lines(items)
            continue
        teacher = "slowonly_8x8" if "video" in name else "tsn_8seg"
        rng = np.random.default_rng([items[0].seed[0], 991, items[0].seed[1]])
        kept = [item for item in items if item.shown == item.label or rng.random() < _TEACHER_ERROR]
        without = [item for item in kept if item.copy_of is None]
        lists[f"{name}/{name}.txt"] = lines(items)
        lists[f"{name}/{teacher}_{name}.txt"] = lines(kept)
        lists[f"{name}/{teacher}_{name}_duplicate.txt"] = lines(
            item for item in kept if item.copy_of is not None
        )
        lists[f"{name}/{teacher}_{name}_wodup.txt"] = lines(without)
        truth["noise"] |= {item.path: item.shown for item in items if item.shown != item.label}
        truth["duplicates"] += [item.path for item in items if item.copy_of is not None]
        if teacher == "tsn_8seg":
            union += [f"{item.path} {item.label}" for item in without]
    lists[f"webimage_{classes}/tsn_8seg_webimage_{classes}_wodup.txt"] = union
    for path, content in lists.items():
        target = notes / path
        if missing_only and target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(content) + "\n", encoding="utf-8")
    if not (missing_only and (folder / TRUTH).exists()):
        (folder / TRUTH).write_text(json.dumps(truth, indent=1) + "\n")


def _make(job: tuple[str, Item]) -> None:
    """Render one item; runs in a worker process."""
    folder, item = job
    cv2.setNumThreads(1)
    rng = np.random.default_rng(item.seed)
    target = Path(folder, item.path)
    (target if item.form == "untrimmed" else target.parent).mkdir(parents=True, exist_ok=True)
    action = None if item.shown is None else ACTIONS[item.shown]
    if item.form == "photo":
        _write_photo(target, item, action, rng)
        return
    rate = int(rng.choice(_RATES))
    if item.form == "clip":
        scene, seconds = _clip_scene(action, rng)
        _write_video(
            target,
            (scene.frame(k / rate, 0.5 / rate) for k in range(round(seconds * rate))),
            rate,
            item.codec,
        )
        return
    width, height = _SIZES[rng.integers(len(_SIZES))]
    scene, shown = Scene(action, width, height, rng), set(shown_parts(item))
    whole = []
    for part in range(PARTS):
        first = part * PART_SECONDS * rate
        frames = [
            scene.frame(k / rate, 0.5 / rate, part in shown)
            for k in range(first, first + PART_SECONDS * rate)
        ]
        _write_video(target / f"part_{part}.mp4", frames, rate, item.codec)
        whole += frames
    _write_video(target / WHOLE, whole, rate, _X264_LONG_GOP)


def _clip_scene(action, rng: np.random.Generator) -> tuple[Scene, float]:
    width, height = _SIZES[rng.integers(len(_SIZES))]
    seconds = float(rng.uniform(1.5, 3.5))
    return Scene(action, width, height, rng), seconds


def _write_photo(target: Path, item: Item, action, rng: np.random.Generator) -> None:
    """A single exposure in JPEG, or a re-encoded frame of a validation clip where that is planted."""
    if item.copy_of is not None:
        source = np.random.default_rng(item.copy_of)
        rate = int(source.choice(_RATES))
        scene, seconds = _clip_scene(ACTIONS[item.label], source)
        picture = scene.frame(float(rng.uniform(0, seconds)), 0.5 / rate)
        picture = cv2.resize(picture, None, fx=1.5, fy=1.5)
    else:
        width, height = (
            int(side * rng.uniform(1.0, 2.0)) for side in _SIZES[rng.integers(len(_SIZES))]
        )
        picture = Scene(action, width, height, rng).frame(
            float(rng.uniform(0, 10)), float(rng.uniform(0.005, 0.03))
        )
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    target.write_bytes(
        cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
    )


def _write_video(target: Path, frames, rate: int, codec: tuple) -> None:
    """Encode RGB frames; the muxer is told to write no random ids."""
    name, _, options = codec
    options = repeatable(options) if name == "libx264" else dict(options)

    with av.open(str(target), "w", options={"fflags": "+bitexact"}) as container:
        stream = None
        for picture in frames:
            if stream is None:
                stream = container.add_stream(name, rate=Fraction(rate), options=options)
                stream.height, stream.width = (side // 2 * 2 for side in picture.shape[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
            picture = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
