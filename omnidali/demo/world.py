"""The files of the demo world: a small synthetic OmniSource with the release's layout and lists.

:func:`make_world` writes it bit for bit the same for the same seed and library versions. What is
planted (wrong labels, copies of validation frames, the parts of long videos that show the class) is
written to ``truth.json``.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from omnidali.demo.scene import ACTIONS, Action, Scene
from omnidali.demo.world_plan import (
    DEMO,
    PART_SECONDS,
    PARTS,
    TEACHER_ERROR,
    TRUTH,
    WHOLE,
    X264_LONG_GOP,
    Codec,
    PlannedItem,
    World,
    annotation_lists,
    plan_items,
    shown_parts,
    truth_of,
)
from omnidali.errors import UserError, start_of
from omnidali.processes.child_imports import sharing_imports
from omnidali.utils.x264 import repeatable

_SIZES = ((160, 120), (192, 108), (144, 144), (112, 168), (176, 132), (208, 118), (120, 160))
_RATES = (12, 15, 24, 25, 30)


def make_world(folder: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Write the demo world.

    Args:
        folder: made if missing; a complete world of the same seed in it is kept, and gets the lists
            that it lacks.
        seed: of everything that is drawn.
        progress: whether to show a bar.

    Raises:
        UserError: if the folder holds something else or cannot be written.
    """
    folder = Path(folder)
    try:
        _write_world(folder, seed, progress)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            str(folder),
            "a folder that can be written",
            f"{getattr(error, 'strerror', None) or error}{start_of(folder)}",
            "Choose another folder.",
        ) from None
    return folder


def _write_world(folder: Path, seed: int, progress: bool) -> None:
    definition = repr((DEMO, ACTIONS, PARTS, PART_SECONDS, TEACHER_ERROR))
    identity = {"seed": seed, "definition": definition}
    finished = folder / "world.json"
    world = plan_items(seed)
    if finished.exists() and json.loads(finished.read_text()) == identity:
        _write_lists(folder, world, missing_only=True)
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / "annotations").is_dir():
        raise UserError(
            str(folder),
            "an empty folder or a demo world",
            f"other files{start_of(folder)}",
            "Choose another folder.",
        )

    folder.mkdir(parents=True, exist_ok=True)
    _write_lists(folder, world)
    finished.unlink(missing_ok=True)
    jobs = [(str(folder), item) for items in world.values() for item in items]
    bar = tqdm(
        total=len(jobs),
        desc="demo world",
        unit="file",
        disable=None if progress else True,
        file=sys.stderr,
    )
    # spawn: a fork of a process that runs threads may hang
    cores = len(os.sched_getaffinity(0))
    with (
        bar,
        sharing_imports(),
        ProcessPoolExecutor(cores, get_context("spawn")) as workers,
    ):
        for _ in workers.map(_write_item, jobs, chunksize=4):
            bar.update()
    finished.write_text(json.dumps(identity))


def _write_lists(folder: Path, world: World, missing_only: bool = False) -> None:
    """Write the annotation files and the truth."""
    texts = {
        f"annotations/{path}": "\n".join(lines) for path, lines in annotation_lists(world).items()
    }
    texts[TRUTH] = json.dumps(truth_of(world), indent=1)
    for path, text in texts.items():
        target = folder / path
        if not (missing_only and target.exists()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text + "\n", encoding="utf-8")


def _write_item(job: tuple[str, PlannedItem]) -> None:
    """Write one item below the world's folder; runs in a worker process."""
    folder, item = job
    cv2.setNumThreads(1)
    target = Path(folder, item.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    action = None if item.shown is None else ACTIONS[item.shown]
    write = {"photo": _write_image, "clip": _write_clip, "untrimmed": _write_long_video}[item.form]
    write(target, item, action, np.random.default_rng(item.seed))


def _write_clip(
    target: Path, item: PlannedItem, action: Action | None, rng: np.random.Generator
) -> None:
    rate = int(rng.choice(_RATES))
    scene, seconds = _clip_scene(action, rng)
    frames = (scene.frame(k / rate, 0.5 / rate) for k in range(round(seconds * rate)))
    _write_video(target, frames, rate, item.codec)


def _write_long_video(
    target: Path, item: PlannedItem, action: Action | None, rng: np.random.Generator
) -> None:
    """Write the parts of a long video and the whole, into a folder."""
    target.mkdir(exist_ok=True)
    rate = int(rng.choice(_RATES))
    width, height = _SIZES[rng.integers(len(_SIZES))]
    scene = Scene(action, width, height, rng)
    shown = shown_parts(item)

    whole = []
    for part in range(PARTS):
        first = part * PART_SECONDS * rate
        frames = [
            scene.frame(k / rate, 0.5 / rate, part in shown)
            for k in range(first, first + PART_SECONDS * rate)
        ]
        _write_video(target / f"part_{part}.mp4", frames, rate, item.codec)
        whole += frames
    _write_video(target / WHOLE, whole, rate, X264_LONG_GOP)


def _clip_scene(action: Action | None, rng: np.random.Generator) -> tuple[Scene, float]:
    """The scene of a short clip, and its length in seconds."""
    width, height = _SIZES[rng.integers(len(_SIZES))]
    seconds = float(rng.uniform(1.5, 3.5))
    return Scene(action, width, height, rng), seconds


def _write_image(
    target: Path, item: PlannedItem, action: Action | None, rng: np.random.Generator
) -> None:
    """Write a single exposure as JPEG; for a planted copy, a frame of a validation clip."""
    if item.copy_of is not None:
        source = np.random.default_rng(item.copy_of)
        rate = int(source.choice(_RATES))
        scene, seconds = _clip_scene(ACTIONS[item.label], source)
        image = scene.frame(float(rng.uniform(0, seconds)), 0.5 / rate)
        image = cv2.resize(image, None, fx=1.5, fy=1.5)
    else:
        size = _SIZES[rng.integers(len(_SIZES))]
        width, height = (int(side * rng.uniform(1.0, 2.0)) for side in size)
        scene = Scene(action, width, height, rng)
        image = scene.frame(float(rng.uniform(0, 10)), float(rng.uniform(0.005, 0.03)))
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    target.write_bytes(data.tobytes())


def _write_video(target: Path, frames: Iterable[np.ndarray], rate: int, codec: Codec) -> None:
    """Encode RGB frames of one size, uint8 (height, width, 3); the muxer writes no random ids."""
    name, _, options = codec
    frames = iter(frames)
    first = next(frames)
    height, width = (side // 2 * 2 for side in first.shape[:2])  # 4:2:0 needs even sides

    with av.open(str(target), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            name,
            rate=Fraction(rate),
            options=repeatable(options) if name == "libx264" else dict(options),
        )
        assert isinstance(stream, av.VideoStream)
        stream.height = height
        stream.width = width
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1

        for image in itertools.chain([first], frames):
            image = np.ascontiguousarray(image[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
