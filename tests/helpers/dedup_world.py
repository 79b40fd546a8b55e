"""Media with planted duplicates, and the results of a search for them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np

from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.testing.numbered_media import add_stream, numbered_image, write_image, write_video

CONFIG = """
device: cpu
classes: classes.txt
sources:
  target: {kind: video, root: target, list: target.txt}
  images: {kind: image, root: images, list: images.txt}
  clips: {kind: video, root: clips, list: clips.txt}
  long: {kind: untrimmed, root: long, list: long.json}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 4, steps: 2}
evaluation:
  source: {kind: video, root: val, list: val.txt}
  batch: 2
  test: {num_clips: 1, size: 48, short_side: 48}
"""
QUICK = {"options": {"preset": "ultrafast"}, "gop": 8}


def frame_of(path: Path, number: int) -> np.ndarray:
    """A decoded frame, RGB."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))[number].to_ndarray(format="rgb24")


def write_scaled(source: Path, target: Path, width: int, height: int) -> None:
    """A video again, in another size."""
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        stream = add_stream(
            copy, "libx264", (width, height), rate=12, gop=8, options=QUICK["options"]
        )
        for frame in original.decode(video=0):
            larger = cv2.resize(frame.to_ndarray(format="rgb24"), (width, height))
            copy.mux(stream.encode(av.VideoFrame.from_ndarray(larger, format="rgb24")))
        copy.mux(stream.encode(None))


def write_jpeg(path: Path, rgb: np.ndarray, quality: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode(
            ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )[1].tobytes()
    )


def make_dedup_world(root: Path) -> Path:
    """Three validation videos; images, videos and parts of long videos, of which some show them."""
    for n in range(3):
        write_video(root / f"val/{n}.mp4", n, frames=24, width=160, height=120, rate=12, **QUICK)
        write_video(
            root / f"target/{n}.mp4", 40 + n, frames=12, width=120, height=96, rate=12, **QUICK
        )
    shown = frame_of(root / "val/0.mp4", 10)
    write_jpeg(
        root / "images/larger.jpg",
        cv2.resize(shown, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
        70,
    )
    write_jpeg(
        root / "images/smaller.jpg",
        cv2.resize(shown, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    )
    write_jpeg(root / "images/pressed.jpg", frame_of(root / "val/1.mp4", 3), 25)
    write_jpeg(root / "images/cut a little.jpg", shown[2:-2, 3:-3])
    write_jpeg(root / "images/black.jpg", np.zeros((120, 160, 3), np.uint8))
    for n in range(6):
        write_image(root / f"images/other {n}.jpg", 100 + n, 160, 120)
    write_jpeg(
        root / "images/twin small.jpg", cv2.resize(numbered_image(103, 0, 160, 120), (120, 90))
    )
    shutil.copy(root / "images/other 4.jpg", root / "images/twin same.jpg")
    shutil.copy(root / "val/2.mp4", root / "val/../copy.mp4")
    (root / "clips").mkdir()
    shutil.move(root / "copy.mp4", root / "clips/copy.mp4")
    write_scaled(root / "val/1.mp4", root / "clips/scaled.mp4", 240, 180)
    write_video(root / "clips/other.mp4", 60, frames=24, width=160, height=120, rate=12, **QUICK)
    for video, files in (("a", (70, 0, 71)), ("b", (1, 72, 1)), ("c", (73, 74))):
        for part, file in enumerate(files):
            path = root / f"long/{video}/part_{part}.mp4"
            write_video(path, file, frames=24, width=160, height=120, rate=12, **QUICK)
            if file == 0:
                write_scaled(root / "val/0.mp4", path, 160, 120)
    (root / "long.json").write_text(
        json.dumps(
            [
                {"video_dir": "a", "label": 0, "num_clips": 3, "positive_clip_inds": [0, 1]},
                {"video_dir": "b", "label": 1, "num_clips": 3, "positive_clip_inds": [0, 2]},
                {"video_dir": "c", "label": 1, "num_clips": 2, "positive_clip_inds": [1]},
            ]
        )
    )
    for name in ("target", "images", "clips", "val"):
        files = sorted(path.name for path in (root / name).iterdir())
        (root / f"{name}.txt").write_text(
            "".join(f"{file} {n % 2}\n" for n, file in enumerate(files))
        )
    (root / "classes.txt").write_text("first\nsecond\n")
    (root / "config.yaml").write_text(f"data_root: {root}\n{CONFIG}")
    return root


def config_of(world: Path, run: Path, *overrides: str) -> Config:
    return load_config(world / "config.yaml", [f"run_dir={run}", *overrides])


def rows_of(out: Path, source: str) -> dict[str, dict]:
    with open(out / f"{source}_duplicates.csv", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def left_of(out: Path, source: str) -> set[str]:
    return {
        line.rpartition(" ")[0] for line in (out / f"lists/{source}.txt").read_text().splitlines()
    }
