"""Media and lists of a small config that `omnidali lint` looks at."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.testing.numbered_media import write_image, write_video

ID = "dQw4w9WgXcQ"
CONFIG = """
classes: classes.txt
sources:
  videos: {kind: video, root: train, list: train.txt}
  images: {kind: image, root: images, list: images.txt}
clip: {num_clips: 4, size: 32}
train: {batch: 4, steps: 2}
evaluation:
  source: {kind: video, root: val, list: val.txt}
  validation: {num_clips: 4}
"""
CLEAN = {
    "classes": "run\njump\n",
    "train": "clip_0.mp4 0\nclip_1.mp4 1\n",
    "images": "0.jpg 0\n1.jpg 1\n",
    "val": "clip_8.mp4 0\nclip_9.mp4 1\n",
}


def make_lint_world(root: Path) -> Path:
    """Good media, and other files that lists may name by mistake."""
    fast = {"width": 96, "height": 64, "gop": 8, "options": {"preset": "ultrafast"}}
    for n, name in enumerate(
        (
            "train/clip_0",
            "train/clip_1",
            "val/clip_8",
            "val/clip_9",
            f"train/{ID}_000010_000020",
            f"val/{ID}",
            "train/park interview",
            "val/park interview",
        )
    ):
        write_video(root / f"{name}.mp4", n, frames=20 + n, **fast)
    write_video(root / "train/short.mp4", 20, frames=3, **fast)
    write_video(root / "train/rare.mp4", 21, frames=120, **{**fast, "gop": 250})
    shutil.copy(root / "val/clip_8.mp4", root / "train/leak.mp4")
    for n in range(30):
        write_image(root / f"images/{n}.jpg", n, 80, 60)
    write_image(root / "images/small.jpg", 30, 30, 20)
    shutil.copy(root / "images/0.jpg", root / "images/copy.jpg")
    (root / "images/page.jpg").write_text("<html>not found</html>")
    (root / "c.yaml").write_text(CONFIG)
    for name in ("train", "val", "images"):  # everything is probed once
        (root / f"{name}.txt").write_text(
            "".join(f"{path.name} 0\n" for path in (root / name).iterdir())
        )
    config = load_config(root / "c.yaml")
    build_catalog(root / "catalog.sqlite", config.all_sources, root, progress=False)
    for name in ("train", "val", "images"):
        (root / f"{name}.txt").unlink()
    return root


def lint_lists(
    world: Path, run_dir: Path, *arguments: str, sets: tuple[str, ...] = (), **lists: str | None
) -> tuple[int, list[tuple[str, str, str]]]:
    """Lint lists, each as in CLEAN unless it is given; None for a missing one.

    Returns:
        The exit code, and the source, path and problem of every issue.
    """
    files = {name: run_dir.parent / f"{name}.txt" for name in CLEAN}
    for name, text in {**CLEAN, **lists}.items():
        files[name].unlink(missing_ok=True)
        if text is not None:
            files[name].write_text(text)
    run_dir.mkdir(exist_ok=True)
    if not (run_dir / "catalog.sqlite").exists():
        shutil.copy(world / "catalog.sqlite", run_dir)

    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    settings = (
        f"data_root={world}",
        f"run_dir={run_dir}",
        f"classes={files['classes']}",
        f"sources.videos.list={files['train']}",
        f"sources.images.list={files['images']}",
        f"evaluation.source.list={files['val']}",
    )
    code = cli.main(["lint", "--config", str(world / "c.yaml"), *arguments, *settings, *sets])
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before

    issues = run_dir / "lint/issues.csv"
    if not issues.exists():
        return code, []
    with issues.open() as file:
        return code, [(row["source"], row["path"], row["problem"]) for row in csv.DictReader(file)]
