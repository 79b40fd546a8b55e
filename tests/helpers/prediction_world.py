"""A trained run, and files for it to predict."""

import json
import os

from conftest import SMALL
from omnidali.cli import main as cli
from omnidali.testing.numbered_media import write_image, write_video

CLASSES = ("run", "high jump", "swim", "=ski")
_CONFIG = (
    SMALL
    + """
classes: names.txt
train: {batch: 6, steps: 2}
evaluation:
  source: {kind: video, root: clips, list: clips.txt}
  test: {num_clips: 2, crops: three, size: 32, short_side: 40}
"""
)
FAST = {"width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}


def train_run(media_root, folder, *settings):
    """Train two steps, and evaluate; returns the run folder."""
    config = folder / "c.yaml"
    (media_root / "names.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    config.write_text(_CONFIG)
    given = [f"data_root={media_root}", f"run_dir={folder}/run", "loader.threads=2", *settings]
    assert cli.main(["train", "--config", str(config), *given]) == 0
    assert cli.main(["evaluate", "--config", str(config), *given]) == 0
    return folder / "run"


def evaluated(run):
    """By path, what an evaluation has written: labels and probabilities of the best classes."""
    lines = (run / "evaluation-test" / "predictions.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return {row["path"]: (row["predicted"], row["scores"]) for row in rows}


def make_files(root):
    """A photo, a clip, a long video, a folder of frames, and files that cannot be predicted."""
    write_image(root / "photo.jpg", 1, 64, 48)
    write_video(root / "clip.mp4", 2, frames=20, **FAST)
    write_video(root / "long.mp4", 3, frames=104, **FAST)  # 3.5 s
    for number in range(6):
        write_image(root / f"frames/img_{number + 1:05}.jpg", number, 64, 48)
    (root / "broken.mp4").write_bytes((root / "clip.mp4").read_bytes()[:900])
    (root / "notes.md").write_text("nothing to see\n")
    os.symlink(root / "gone.mp4", root / "link.mp4")
    return root
