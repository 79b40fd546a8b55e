"""Worlds of media to copy, and what their copies show."""

import tarfile

import numpy as np

from helpers.exif import exif
from omnidali.catalog.probing.video_container import open_video
from omnidali.testing.numbered_media import read_numbers, write_image, write_video

SHORT = 64
PLAIN = {"options": {"preset": "ultrafast"}, "width": 144, "height": 96}
VFR = [500 + 40 * n + 7 * (n % 3) for n in range(30)]  # milliseconds; does not begin with 0
CONFIG = """
sources:
  clips: {kind: video, root: clips, list: lists/clips.txt}
  pieces:
    {kind: untrimmed, root: long, list: lists/pieces.txt, format: pieces,
     pieces: one_positive_rest_negative}
  windows: {kind: untrimmed, root: long, list: lists/windows.txt, window_seconds: 0.7}
  photos: {kind: image, root: photos}
  folders: {kind: frames, root: frames, list: lists/folders.txt}
  tars: {kind: video, tars: "shard-*.tar"}
classes: lists/names.txt
clip: {num_clips: 3, size: 48}
train: {batch: 24, steps: 5}
evaluation: {source: {kind: video, root: clips, list: lists/val.txt}}
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def settings(world, folder):
    write(folder / "c.yaml", CONFIG)
    return [f"data_root={world}", f"run_dir={folder}/run"]


def frames_of(media):
    with open_video(media.span, media.container) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def numbers(shown, turns=0):
    shown = np.rot90(shown, -turns)
    height, width = shown.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return read_numbers(shown[top : top + short, left : left + short])


def make_world(root):
    """Fill a folder with media of every kind: file n shows n, in every frame its number."""
    write_video(
        root / "clips/0 b.mp4",
        0,
        frames=30,
        gop=250,
        b_frames=3,
        **{**PLAIN, "options": {"preset": "fast"}},
    )
    write_video(
        root / "clips/1.mp4",
        1,
        frames=30,
        times=VFR,
        b_frames=2,
        **{**PLAIN, "options": {"preset": "fast"}},
    )
    write_video(root / "clips/2.mp4", 2, frames=20, rotation=90, **PLAIN)
    write_video(
        root / "clips/sub/3.webm",
        3,
        frames=12,
        width=146,
        height=97,
        codec="libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    )
    write(root / "clips/4.mp4", "no video")
    for n in (10, 11):
        write_video(
            root / f"long/{n}.mp4",
            n,
            frames=60,
            gop=(250, 12)[n % 2],
            times=None if n % 2 else [33 * frame + frame % 4 for frame in range(60)],
            **PLAIN,
        )
    write_image(root / "photos/a/20.png", 20, 150, 100)
    write_image(root / "photos/b/21.jpg", 21, 150, 100)
    data = (root / "photos/b/21.jpg").read_bytes()
    (root / "photos/b/21.jpg").write_bytes(data[:2] + exif(6) + data[2:])
    write_image(root / "photos/b/22.jpg", 22, 80, 60)
    for frame in range(9):
        write_image(root / f"frames/30/img_{frame + 1:05}.jpg", 30, 144, 96, frame=frame)
    with tarfile.open(root / "shard-0.tar", "w") as tar:
        for n in (40, 41):
            write_video(root / f"tmp/{n}.mp4", n, frames=15, **PLAIN)
            tar.add(root / f"tmp/{n}.mp4", f"x/{n}.mp4")
            write(root / "tmp/cls", str(n % 2))
            tar.add(root / "tmp/cls", f"x/{n}.cls")
        tar.add(root / "tmp/cls", "x/broken.mp4")
        tar.add(root / "tmp/cls", "x/broken.cls")
    write(root / "lists/clips.txt", "0 b.mp4 0\n1.mp4 1\n2.mp4 1\nsub/3.webm 0\n4.mp4 0\n")
    write(root / "lists/val.txt", "2.mp4 1\n")
    write(root / "lists/pieces.txt", "10.mp4 0.2 0.9 0\n11.mp4 0 1.1 1\n10.mp4 1.0 1.5 0\n")
    write(root / "lists/windows.txt", "11.mp4 1\n10.mp4 0\n")
    write(root / "lists/folders.txt", "30 4 5 1\n30 0 9 0\n")
    write(root / "lists/names.txt", "a\nb\n")


def small(root, count=4):
    """A world of a few videos, and its config."""
    for n in range(count):
        write_video(root / f"media/v/{n}.mp4", n, frames=10, **PLAIN)
    write(root / "media/list.txt", "".join(f"{n}.mp4 {n % 2}\n" for n in range(count)))
    write(
        root / "c.yaml",
        f"data_root: {root}/media\nrun_dir: {root}/run\nclip: {{num_clips: 2, size: 32}}\n"
        "sources: {v: {kind: video, root: v, list: list.txt}}\ntrain: {steps: 1, batch: 4}\n",
    )
    return [
        "transcode",
        "--config",
        str(root / "c.yaml"),
        "--out",
        str(root / "copy"),
        "--short-side",
        str(SHORT),
        "--workers",
        "1",
    ]


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "v").rglob("*"))
    }
