"""The network that a checkpoint was made for, inferred from its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from omnidali.config.schema import ModelConfig
from omnidali.errors import UserError
from omnidali.models.pretrained import HEAD, rename_weights
from omnidali.models.resnet import LAYERS, Depth


@dataclass(frozen=True)
class Architecture:
    """The network of a checkpoint.

    Attributes:
        name: kind of network.
        depth: layers of its ResNet.
        classes: outputs of its classifier.
    """

    name: Literal["tsn", "slowonly"]
    depth: Depth
    classes: int

    @property
    def config(self) -> ModelConfig:
        """For :func:`~omnidali.models.recognizers.build_model`."""
        return ModelConfig(name=self.name, depth=self.depth)


def infer_architecture(weights: Mapping[str, torch.Tensor], where: str | Path) -> Architecture:
    """The network that weights belong to: kernels over time make SlowOnly, blocks the depth.

    Args:
        weights: with names of any family.
        where: the file, for errors.

    Raises:
        UserError: if it is none of ours, or has no classifier.
    """
    _, known, _ = rename_weights(weights)
    first = known.get("backbone.conv1.conv.weight")
    last = known.get(f"{HEAD}weight")

    blocks = [
        len({name.split(".")[2] for name in known if name.startswith(f"backbone.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    is_bottleneck = any(".conv3." in name for name in known)
    depth = next(
        (depth for depth, layers in LAYERS.items() if layers == (tuple(blocks), is_bottleneck)),
        None,
    )

    if first is None or first.ndim not in (4, 5) or depth is None:
        kinds = ", ".join(f"-{depth}" for depth in LAYERS)
        raise UserError(
            str(where),
            f"a TSN or SlowOnly on a ResNet{kinds}",
            f"stages of {', '.join(map(str, blocks))} blocks",
            "Use another checkpoint.",
        )
    if last is None or last.ndim != 2:
        raise UserError(
            str(where),
            f"a classifier ({HEAD}weight)",
            "none",
            "Use the checkpoint of a network that was trained on the classes.",
        )
    return Architecture("tsn" if first.ndim == 4 else "slowonly", depth, len(last))
