"""TSN and SlowOnly: clips of any source in, one row of logits for each clip out."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from omnidali.config.libraries import InputFormat
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


@dataclass(frozen=True)
class Stage:
    """A part of a network that can be frozen, or have a learning rate of its own.

    Attributes:
        name: such as ``layer1``.
        prefixes: dotted names of its modules and of parameters that belong to none of these.
    """

    name: str
    prefixes: tuple[str, ...]

    def holds(self, name: str) -> bool:
        """Whether a parameter or module of this name belongs to the stage.

        >>> Stage("layer1", ("backbone.layer1",)).holds("backbone.layer1.0.conv1.conv.weight")
        True
        """
        return any(f"{name}.".startswith(f"{prefix}.") for prefix in self.prefixes)


class Recognizer(nn.Module, ABC):
    """A network that training, evaluation and curation can use.

    Attributes:
        clip_len: frames that make one clip in an evaluation; None for any number.
        is_3d: whether it looks at several frames at a time; else at each frame alone.
        input: what the network inside takes. The recognizer itself takes the loader's clips.
        external_prefix: before the names of the weights of an external network; empty for ours.
        frozen: stages that stay as they are, in evaluation mode.
        class_names: of its outputs, in their order, where they are known.
    """

    clip_len: int | None
    is_3d: bool
    input: InputFormat = InputFormat()
    external_prefix: str = ""
    frozen: tuple[Stage, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of its outputs."""

    @property
    @abstractmethod
    def description(self) -> dict[str, object]:
        """What a checkpoint says of it: plain values, from which it can be built again."""

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Its stages from the input to the classifier, which is the last one, named ``classifier``.

        Each parameter belongs to exactly one.
        """

    def freeze(self, count: int) -> None:
        """Keep the first ``count`` stages as they are; no optimizer and no clip moves them.

        Their norms use their running statistics, and their dropout lets everything pass.
        """
        self.frozen = self.stages[:count]
        for name, parameter in self.named_parameters():
            if any(stage.holds(name) for stage in self.frozen):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, or out of it; frozen stages stay out of it."""
        super().train(mode)
        for name, module in self.named_modules() if self.frozen else ():
            if any(stage.holds(name) for stage in self.frozen):
                module.training = False
        return self

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
    backbone: nn.Module
    cls_head: nn.Module

    def __init__(self, depth: Depth, classes: int, dropout: float):
        super().__init__()
        self.depth = depth
        backbone = ResNet(depth, dims=2)
        self.backbone = backbone
        self.cls_head = Head(backbone.channels, classes, dropout)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        assert isinstance(self.cls_head, Head)
        return self.cls_head.fc_cls.out_features

    @property
    def description(self) -> dict[str, object]:
        """Name, depth and classes."""
        return {"name": "tsn", "depth": self.depth, "classes": self.classes}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stem, the stages of the ResNet, and the classifier."""
        return _resnet_stages(self.backbone)

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
            rows = self.features(torch.cat(frames) if len(frames) > 1 else frames[0])

        features = rows.split([part.shape[0] for part in frames])
        consensus = [
            part.view(group.shape[0], -1, part.shape[1]).mean(dim=1)
            for group, part in zip(groups, features, strict=True)
        ]
        return self.cls_head(torch.cat(consensus))

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """One row (N, C) for each of the frames (N, 3, H, W)."""
        return self.backbone(frames).mean(dim=(2, 3))


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
        self.depth = depth
        self.clip_len = clip_len
        self.backbone = ResNet(depth, dims=3)
        self.cls_head = Head(self.backbone.channels, classes, dropout)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return self.cls_head.fc_cls.out_features

    @property
    def description(self) -> dict[str, object]:
        """Name, depth and classes."""
        return {"name": "slowonly", "depth": self.depth, "classes": self.classes}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stem, the stages of the ResNet, and the classifier."""
        return _resnet_stages(self.backbone)

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """Logits of clips; see :meth:`Recognizer.forward`."""
        groups = [clips] if isinstance(clips, torch.Tensor) else clips
        logits = []
        for group, fixed in zip(groups, auxiliary or (False,) * len(groups), strict=True):
            with fixed_statistics(self.backbone, fixed):
                logits.append(self.cls_head(self.backbone(group).mean(dim=(2, 3, 4))))
        return torch.cat(logits)


def _resnet_stages(backbone: nn.Module) -> tuple[Stage, ...]:
    """The stages of a recognizer with a ResNet as its ``backbone``."""
    stages = [
        Stage("stem" if name == "conv1" else name, (f"backbone.{name}",))
        for name, child in backbone.named_children()
        if any(True for _ in child.parameters())
    ]
    return (*stages, Stage("classifier", ("cls_head",)))


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
        if fixed
        and module.training
        and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.track_running_stats
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
    """The layout of a network's weights in memory.

    An external network with kernels of both two and three dimensions has the usual one.
    """
    other_kernels = 4 if model.is_3d else 5
    tensors = (*model.parameters(), *model.buffers())
    if not channels_last or any(tensor.ndim == other_kernels for tensor in tensors):
        return torch.contiguous_format
    return torch.channels_last_3d if model.is_3d else torch.channels_last
