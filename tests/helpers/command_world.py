"""A small world that every command accepts: media, a config, a network."""

import shutil
from pathlib import Path

import torch

from conftest import SMALL
from omnidali.config.load import load_config
from omnidali.models.build import build_model

_TRAINING = """
evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}
train: {batch: 6, steps: 4}
"""


def make_world(root, media_root, start=None):
    """Copy the media to media/; write c.yaml and a network of their four classes, teacher.pt.

    Args:
        root: folder for all of it.
        media_root: of the small media.
        start: what the config's paths begin with; None: the folder itself.
    """
    shutil.copytree(media_root, root / "media")
    start = Path(root if start is None else start)
    places = f"data_root: {start / 'media'}\nrun_dir: {start / 'run'}\n"
    (root / "c.yaml").write_text(SMALL + _TRAINING + places)
    write_network(root, "teacher.pt", 4)


def write_network(root, name, classes):
    """Write a network of the world's config, with so many classes."""
    network = build_model(load_config(root / "c.yaml").model, classes, 1)
    torch.save({"state_dict": network.state_dict()}, root / name)
