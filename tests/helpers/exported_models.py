"""Run folders with a checkpoint, as a training leaves them, in no time."""

import torch

from omnidali.config.convert import config_to_dict
from omnidali.config.model_settings import ModelConfig
from omnidali.config.schema import ClipConfig, Config, EvaluationConfig, ViewsConfig
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.models.build import build_model
from omnidali.models.checkpoint_file import save_checkpoint

CLASSES = ["long jump", "<b>run", "=walk"]


TINY = f"{__name__}:tiny_network"


def tiny_network(num_classes):
    """A network of a function, over clips."""
    pool = torch.nn.AdaptiveAvgPool3d(1)
    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(3, num_classes))


def network_config(kind, **changes):
    """A small training; what differs from the defaults has to come back from an export."""
    frames = {"tsn": 1}.get(kind, 4)
    model = {"name": kind, "depth": 18, "pretrained": "/home/me/secret.pth"}
    return Config(
        **{
            "model": ModelConfig(**{**model, **changes.pop("model", {})}),
            "clip": ClipConfig(clip_len=frames, frame_interval=3, num_clips=3 // frames or 1),
            "sources": {"target": SourceConfig(kind="video", root="/home/me/videos", weight=1.0)},
            "evaluation": EvaluationConfig(
                source=MediaConfig(kind="video", root="/home/me", list="held_out.txt"),
                test=ViewsConfig(num_clips=5, crops="three", size=48, short_side=48),
            ),
            **changes,
        }
    )


def save_run(folder, kind, **changes):
    """A run folder; returns the network of its best.pt, in evaluation mode."""
    config = network_config(kind, **changes)
    torch.manual_seed(3)
    network = build_model(config.model, len(CLASSES), config.clip.clip_len)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "bn.bias")):
                value.uniform_(-0.2, 0.2)
            elif name.endswith("last_norm.weight") or "conv2.bn.weight" in name:
                value.uniform_(0.5, 1.0)
    state = {
        "state_dict": network.state_dict(),
        "ema": None,
        "loader": {"step": 7},
        "classes": CLASSES,
        "hold_out": {"target": [1, 3]},
        "model": network.description,
        "config": config_to_dict(config),
    }
    save_checkpoint(folder / "checkpoints/best.pt", state)
    return network.eval()
