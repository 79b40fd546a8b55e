"""TSN and SlowOnly: clips of any source in, one row of logits for each clip out."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from omnidali.config.model_settings import ModelConfig
from omnidali.models.resnet import Depth, ResNet

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


class Recognizer(nn.Module, ABC):
    """A network that training, evaluation and curation can use.

    Attributes:
        clip_len: frames that make one clip in an evaluation; None for any number.
        is_3d: whether it looks at several frames at a time; else at each frame alone.
    """

    clip_len: int | None
    is_3d: bool

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of its outputs."""

    @abstractmethod
    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """Logits of clips.

        Args:
            clips: (N, 3, T, H, W), or several groups of them.
            auxiliary: of every group, whether it must not move the running statistics; those groups
                have a forward pass, and so batch statistics, of their own. Empty: all move them.

        Returns:
            (sum of N, classes), in the order of the groups.
        """


class TSN(Recognizer):
    """Temporal segment network: a 2D ResNet on every frame, features averaged.

    Source: Wang et al., ECCV 2016. Images are clips with one frame. Groups of clips with different
    lengths share one forward pass of the backbone, and so the batch statistics of its norms.

    Args:
        depth: of the ResNet.
        classes: outputs.
        dropout: before the classifier.
    """

    clip_len = None
    is_3d = False

    def __init__(self, depth: Depth, classes: int, dropout: float):
        super().__init__()
        self.backbone = ResNet(depth, dims=2)
        self.cls_head = Head(self.backbone.channels, classes, dropout)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return self.cls_head.fc_cls.out_features

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """Logits of clips; see :meth:`Recognizer.forward`."""
        groups = [clips] if isinstance(clips, torch.Tensor) else list(clips)
        if any(auxiliary) and not all(auxiliary):
            target = [
                g for g, is_auxiliary in zip(groups, auxiliary, strict=True) if not is_auxiliary
            ]
            rest = [g for g, is_auxiliary in zip(groups, auxiliary, strict=True) if is_auxiliary]
            logits = {False: self(target), True: self(rest, (True,) * len(rest))}
            return _in_order(logits, groups, auxiliary)

        # (N * T, 3, H, W), no copy
        frames = [group.transpose(1, 2).flatten(0, 1) for group in groups]
        with fixed_statistics(self.backbone, any(auxiliary)):
            maps = self.backbone(torch.cat(frames) if len(frames) > 1 else frames[0])

        features = maps.mean(dim=(2, 3)).split([len(part) for part in frames])
        consensus = [
            part.view(len(group), -1, part.shape[1]).mean(dim=1)
            for group, part in zip(groups, features, strict=True)
        ]
        return self.cls_head(torch.cat(consensus))


class SlowOnly(Recognizer):
    """The slow pathway of SlowFast alone, as mmaction2's ResNet3dSlowOnly has it.

    Source: Feichtenhofer et al., ICCV 2019. Each group of clips has a forward pass, and so batch
    statistics, of its own.

    Args:
        depth: of the ResNet.
        classes: outputs.
        dropout: before the classifier.
        clip_len: frames that make one clip in an evaluation.
    """

    is_3d = True

    def __init__(self, depth: Depth, classes: int, dropout: float, clip_len: int):
        super().__init__()
        self.clip_len = clip_len
        self.backbone = ResNet(depth, dims=3)
        self.cls_head = Head(self.backbone.channels, classes, dropout)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return self.cls_head.fc_cls.out_features

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """Logits of clips; see :meth:`Recognizer.forward`."""
        groups = [clips] if isinstance(clips, torch.Tensor) else clips
        logits = []
        for group, fixed in zip(groups, auxiliary or (False,) * len(groups), strict=True):
            with fixed_statistics(self.backbone, fixed):
                logits.append(self.cls_head(self.backbone(group).mean(dim=(2, 3, 4))))
        return torch.cat(logits)


@contextlib.contextmanager
def fixed_statistics(module: nn.Module, fixed: bool = True) -> Iterator[None]:
    """Let batch norms in training use their batch's statistics without moving the running ones.

    mmaction2 1.x does so for images.

    Args:
        module: with the norms.
        fixed: whether to do so; else nothing changes.
    """
    changed = [
        norm
        for norm in module.modules()
        if fixed and module.training and isinstance(norm, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in changed:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in changed:
            norm.track_running_stats = True


def _in_order(
    logits: Mapping[bool, torch.Tensor], groups: Sequence[torch.Tensor], auxiliary: Sequence[bool]
) -> torch.Tensor:
    """The rows of two outputs, of target and auxiliary groups, in the order of all groups."""
    parts = {
        kind: iter(
            rows.split(
                [len(g) for g, other in zip(groups, auxiliary, strict=True) if other == kind]
            )
        )
        for kind, rows in logits.items()
    }
    return torch.cat([next(parts[kind]) for kind in auxiliary])


def memory_format(model: Recognizer, *, channels_last: bool = True) -> torch.memory_format:
    """The layout of a network's weights in memory."""
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if model.is_3d else torch.channels_last


def build_model(config: ModelConfig, classes: int, clip_len: int) -> Recognizer:
    """The network that ``config`` describes, freshly initialised."""
    if config.name == "tsn":
        return TSN(config.depth, classes, config.dropout)
    return SlowOnly(config.depth, classes, config.dropout, clip_len)
