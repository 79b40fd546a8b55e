"""A world to filter, teachers for it, and their scores."""

import csv
import json

import cv2
import numpy as np
import torch

from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.score import score_items
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import TSN
from omnidali.testing.numbered_media import write_image, write_video
from omnidali.utils.constants import MEAN, STD

NAMES = ["run", "high jump", "swim", "ski"]
PHOTOS, BROKEN = 40, 39  # how many, and the one that is cut off
FAST = {"width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}
CONFIG = """
device: cpu
classes: names.txt
sources:
  clips: {kind: video, root: clips, list: clips.txt}
  photos: {kind: image, root: crawl, list: photos.txt, fraction: 0.5}
  whole: {kind: untrimmed, root: long, list: whole.txt, pieces: one_positive_rest_negative}
  parts: {kind: untrimmed, root: long, list: parts.json}
  pieces: {kind: untrimmed, root: long, list: pieces.txt, format: pieces}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 10, steps: 2}
evaluation: {batch: 4, test: {num_clips: 2, size: 32, short_side: 32}}
"""


def make_world(root):
    """Fill a folder with images that no label fits well, clips, and long videos.

    These are whole, in parts of which one is missing, and in pieces.
    """
    for n in range(4):
        write_video(root / f"clips/{n}.mp4", n, frames=12, **FAST)
    for n in range(PHOTOS):
        write_image(root / f"crawl/some photos/{n}.jpg", n, 64, 48)
    broken = root / f"crawl/some photos/{BROKEN}.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    for n in (50, 51):
        # 3.5 s: three windows, the last one longer
        write_video(root / f"long/{n}.mp4", n, frames=104, **FAST)
    for video, part in (("a", 0), ("a", 1), ("a", 3), ("b", 0), ("b", 1)):
        write_video(
            root / f"long/{video}/part_{part}.mp4",
            60 + part + 8 * (video == "b"),
            frames=20,
            **FAST,
        )
    texts = {
        "names": NAMES,
        "clips": [f"{n}.mp4 {n}" for n in range(4)],
        "photos": [f"some photos/{n}.jpg {n % 4}" for n in range(PHOTOS)],
        "whole": ["50.mp4 1", "51.mp4 2"],
        "pieces": ["50.mp4 0.5 1.25 3", "50.mp4 2 3 3", "51.mp4 0 1 0", "51.mp4 1.5 2.5 1"],
    }
    for name, lines in texts.items():
        (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "parts.json").write_text(
        json.dumps(
            [
                {"video_dir": "a", "label": 1, "num_clips": 5, "positive_clip_inds": [0]},
                {"video_dir": "b", "label": 0, "num_clips": 2, "positive_clip_inds": [0]},
            ]
        )
    )
    return root


def sharpen(model, world):
    """Make a random network decisive: its classifier spreads its own features of the images."""
    pictures = [
        cv2.resize(cv2.imread(str(world / f"crawl/some photos/{n}.jpg"))[:, 8:56, ::-1], (32, 32))
        for n in range(BROKEN)
    ]
    clips = (
        torch.from_numpy((np.stack(pictures) - np.array(MEAN)) / np.array(STD))
        .float()
        .permute(0, 3, 1, 2)[:, :, None]
    )
    seen = []
    model.cls_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(clips)
        features = seen[0] - seen[0].mean(0)
        weight = torch.randn(4, features.shape[1], generator=torch.Generator().manual_seed(1))
        weight *= 2 / (features @ weight.T).std(0)[:, None]
        model.cls_head.fc_cls.weight.copy_(weight)
        model.cls_head.fc_cls.bias.copy_(-weight @ seen[0].mean(0))
    return model


def make_network(world):
    """A 2D network that is decisive about the images."""
    torch.manual_seed(0)
    return sharpen(TSN(18, 4, 0.0), world)


def save_teacher(network, folder):
    """Save a network as a training does; returns the run folder."""
    path = folder / "checkpoints" / "best.pt"
    path.parent.mkdir()
    torch.save({"state_dict": network.state_dict(), "classes": NAMES}, path)
    return folder


def command(world, folder, teacher, *more, out="out", sets=()):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(CONFIG)
    return [
        "filter",
        "--config",
        str(folder / "c.yaml"),
        "--checkpoint",
        str(teacher),
        "--out",
        str(folder / out),
        *more,
        f"data_root={world}",
        f"run_dir={folder}/run",
        "loader.threads=2",
        *sets,
    ]


def settings(world, folder, *more):
    return load_config(
        folder / "c.yaml",
        [f"data_root={world}", f"run_dir={folder}/run", "loader.threads=2", *more],
    )


def plain_scores(model, table, source, config):
    """Probabilities by the program's evaluation, rounded as in the catalog.

    The catalog keeps float16 logarithms.
    """
    scores = score_items(
        model,
        table,
        source,
        config.evaluation.test,
        config,
        Ranks(),
        make_autocast("fp32", torch.device("cpu")),
    )
    logs = torch.from_numpy(scores).log_softmax(1).numpy().astype(np.float16)
    return np.exp(logs.astype(np.float32))


def filter_images(world, folder, teacher):
    """Filter the images by the default rule at 0.4 on one rank."""
    assert (
        cli.main(command(world, folder, teacher, "--sources", "photos", "--threshold", "0.4")) == 0
    )
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
