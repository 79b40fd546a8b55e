"""TSN and SlowOnly: clips of any source in, one row of logits a clip out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from omnidali.config.schema import ModelConfig
from omnidali.models.resnet import ResNet

Clips = torch.Tensor | Sequence[torch.Tensor]


class Head(nn.Module):
    """Dropout and the linear classifier, as ``cls_head.fc_cls``."""

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(channels, classes)
        nn.init.normal_(self.fc_cls.weight, 0, 0.01)
        nn.init.zeros_(self.fc_cls.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc_cls(self.dropout(features))


class TSN(nn.Module):
    """Temporal segment network (Wang et al., ECCV 2016): a 2D ResNet on every frame, features
    averaged.

    Photos are clips with one frame. Groups of clips with different lengths share one forward pass
    of the backbone, and so the batch statistics of its norms.

    Args:
        depth: of the ResNet. classes: outputs. dropout: in front of the classifier.
    """

    clip_len = None  # any number of frames makes one clip

    def __init__(self, depth: int, classes: int, dropout: float):
        super().__init__()
        self.backbone = ResNet(depth, dims=2)
        self.cls_head = Head(self.backbone.channels, classes, dropout)

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """(N, 3, T, H, W), or several of them, to logits (sum of N, classes) in their order.

        Args:
            auxiliary: of every group, whether it must not move the running statistics; those groups
                have a forward pass, and so batch statistics, of their own. Empty: all move them.
        """
        groups = [clips] if isinstance(clips, torch.Tensor) else list(clips)
        if any(auxiliary) and not all(auxiliary):
            target = [group for group, other in zip(groups, auxiliary) if not other]
            rest = [group for group, other in zip(groups, auxiliary) if other]
            return _in_order(self(target), self(rest, (True,) * len(rest)), groups, auxiliary)
        # (N * T, 3, H, W), no copy
        frames = [group.transpose(1, 2).flatten(0, 1) for group in groups]
        with fixed_statistics(self.backbone, any(auxiliary)):
            maps = self.backbone(torch.cat(frames) if len(frames) > 1 else frames[0])
        features = maps.mean(dim=(2, 3)).split([len(part) for part in frames])
        return self.cls_head(
            torch.cat(
                [
                    part.view(len(group), -1, part.shape[1]).mean(dim=1)
                    for part, group in zip(features, groups)
                ]
            )
        )


class SlowOnly(nn.Module):
    """The slow pathway of SlowFast alone (Feichtenhofer et al., ICCV 2019), inflated 3x1x1.

    Each group of clips has a forward pass, and so batch statistics, of its own.

    Args: as :class:`TSN`.
    """

    def __init__(self, depth: int, classes: int, dropout: float, clip_len: int):
        super().__init__()
        self.clip_len = clip_len
        self.backbone = ResNet(depth, dims=3)
        self.cls_head = Head(self.backbone.channels, classes, dropout)

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """(N, 3, T, H, W), or several of them, to logits (sum of N, classes) in order; see
        :meth:`TSN.forward`.
        """
        groups = [clips] if isinstance(clips, torch.Tensor) else clips
        logits = []
        for group, fixed in zip(groups, auxiliary or (False,) * len(groups)):
            with fixed_statistics(self.backbone, fixed):
                logits.append(self.cls_head(self.backbone(group).mean(dim=(2, 3, 4))))
        return torch.cat(logits)


@contextlib.contextmanager
def fixed_statistics(module: nn.Module, fixed: bool = True) -> Iterator[None]:
    """Batch norms in training use their batch's statistics without moving the running ones
    (mmaction2 1.x, images).
    """
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    fixed = fixed and module.training
    for norm in norms if fixed else ():
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms if fixed else ():
            norm.track_running_stats = True


def _in_order(
    target: torch.Tensor,
    rest: torch.Tensor,
    groups: Sequence[torch.Tensor],
    auxiliary: Sequence[bool],
) -> torch.Tensor:
    """Rows of two outputs in the order of their groups."""
    rows = {False: target, True: rest}
    parts = {
        kind: iter(
            rows[kind].split(
                [len(group) for group, other in zip(groups, auxiliary) if other == kind]
            )
        )
        for kind in rows
    }
    return torch.cat([next(parts[other]) for other in auxiliary])


def build_model(config: ModelConfig, classes: int, clip_len: int) -> TSN | SlowOnly:
    """The network that ``config`` describes, freshly initialised."""
    if config.name == "tsn":
        return TSN(config.depth, classes, config.dropout)
    return SlowOnly(config.depth, classes, config.dropout, clip_len)
