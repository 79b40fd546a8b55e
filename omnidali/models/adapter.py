"""External networks in the place of ours: over frames with TSN's consensus, or over whole clips.

The loader's clips have ImageNet's mean and std. A network that was made for others gets them by one
affine change per channel.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from omnidali.config.convert import config_to_dict
from omnidali.config.libraries import OUR_MEAN, OUR_STD, InputFormat
from omnidali.config.model_settings import ModelConfig
from omnidali.errors import UserError
from omnidali.models.dry_pass import first_tensor, run_dry
from omnidali.models.library_networks import MadeNetwork, find_classifier
from omnidali.models.network_stages import find_stages
from omnidali.models.recognizers import TSN, Clips, Head, Recognizer, Stage, fixed_statistics
from omnidali.utils.named_function import describe_error

# Side of the frames for networks that do not say one.
_USUAL_SIZE = 224
_TRIED = 2  # frames or clips of a dry pass
CLIP_SIZE = "clip.size"  # the setting


class InputChange(nn.Module):
    """From the loader's mean and std to a network's, per channel; nothing if they are the same.

    Args:
        wanted: the network's.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, wanted: InputFormat):
        super().__init__()
        scale = [ours / theirs for ours, theirs in zip(OUR_STD, wanted.std, strict=True)]
        shift = [
            (ours - theirs) / std
            for ours, theirs, std in zip(OUR_MEAN, wanted.mean, wanted.std, strict=True)
        ]
        self.is_needed = not all(
            math.isclose(one, other, abs_tol=1e-6)
            for one, other in zip((*scale, *shift), (1.0,) * 3 + (0.0,) * 3, strict=True)
        )
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Change pixels (N, 3, ...)."""
        if not self.is_needed:
            return pixels
        shape = (3,) + (1,) * (pixels.ndim - 2)
        scale = self.scale.to(pixels.dtype).view(shape)
        return torch.addcmul(self.shift.to(pixels.dtype).view(shape), pixels, scale)


class ExternalNetwork(Recognizer):
    """What networks over frames and over clips share.

    Args:
        made: the network.
        config: of the network.
        classes: outputs.
    """

    def __init__(self, made: MadeNetwork, config: ModelConfig, classes: int):
        Recognizer.__init__(self)  # and not TSN's, which would make a ResNet
        self.input = made.input
        self.change = InputChange(made.input)
        self._classes = classes
        self._description = _describe(made, config, classes)
        self.network_name = str(made.network)

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return self._classes

    @property
    def description(self) -> dict[str, object]:
        """What makes the network again."""
        return self._description


class FrameNetwork(ExternalNetwork, TSN):
    """TSN over an external network, which gives features, feature maps or logits of a frame.

    Our dropout and linear classifier follow. A function that was asked for one output for each
    class has a classifier of its own, whose logits are averaged over the frames.

    Args:
        made: the network.
        config: of the network.
        classes: outputs.
        size: side of the frames that the network is tried with; None: its own.
        size_key: the setting of the size, for errors.

    Raises:
        UserError: if the network does not take frames, or gives something else.
    """

    external_prefix = "backbone."

    def __init__(
        self,
        made: MadeNetwork,
        config: ModelConfig,
        classes: int,
        *,
        size: int | None = None,
        size_key: str = CLIP_SIZE,
    ):
        super().__init__(made, config, classes)
        self.backbone = made.module

        channels = self.output_of(size or made.input.size or _USUAL_SIZE, size_key)
        self.has_own_head = made.gives_logits and channels == classes
        self.cls_head = nn.Identity()
        if not self.has_own_head:
            self.cls_head = Head(channels, classes, config.dropout)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the network, and the classifier."""
        own = find_classifier(self.backbone, self.classes) if self.has_own_head else None
        head = "cls_head" if own is None else f"backbone.{own}"
        return (*find_stages(self.backbone, "backbone", own), Stage("classifier", (head,)))

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """One row (N, C) for each of the frames (N, 3, H, W); feature maps are averaged."""
        rows = first_tensor(self.backbone(self.change(frames)))
        return rows.mean(dim=(2, 3)) if rows.ndim == 4 else rows

    def output_of(self, size: int, where: str = CLIP_SIZE) -> int:
        """The number of features of a frame, by a dry pass.

        Args:
            size: side of the frame, pixels.
            where: the setting of the size, for errors.

        Raises:
            UserError: if the network does not take frames of this size, or gives no features.
        """
        shape = self._try(size, where)
        is_channels_first = len(shape) != 4 or not self._moves_with_size(size, shape[1], where)
        if len(shape) not in (2, 4) or shape[0] != _TRIED or not is_channels_first:
            raise UserError(
                "model.backbone",
                "features (N, C), feature maps (N, C, H, W) or logits of frames (N, 3, H, W)",
                f"{self.network_name}, which gives {shape} for ({_TRIED}, 3, {size}, {size})",
                "Use a function that returns one of these.",
            )
        return shape[1]

    def _try(self, size: int, where: str) -> tuple[int, ...]:
        shape = (_TRIED, 3, size, size)
        return _shape_of_output(self, self.backbone, shape, frames=None, where=where)

    def _moves_with_size(self, size: int, channels: int, where: str) -> bool:
        """Whether the second dimension of feature maps is one of the image, as in (N, H, W, C)."""
        try:
            return self._try(2 * size, where)[1] != channels
        except UserError:  # a network of one size, which timm says more of
            features = getattr(self.backbone, "num_features", channels)
            return bool(features != channels)


class ClipNetwork(ExternalNetwork):
    """A whole external network over clips, with its classifier.

    Each group of clips has a forward pass, and so batch statistics, of its own.

    Args:
        made: the network.
        config: of the network.
        classes: outputs.
        clip_len: frames that make one clip in an evaluation.
        size: side of the frames that the network is tried with; None: it is not tried.
        size_key: the setting of the size, for errors.

    Raises:
        UserError: if the network does not take such clips, or its outputs are not the classes.
    """

    is_3d = True
    external_prefix = "network."

    def __init__(
        self,
        made: MadeNetwork,
        config: ModelConfig,
        classes: int,
        *,
        clip_len: int,
        size: int | None = None,
        size_key: str = CLIP_SIZE,
    ):
        super().__init__(made, config, classes)
        self.clip_len = clip_len
        self.network = made.module
        self._frames_first = made.frames_first
        if size is not None:
            self._check_outputs(size, size_key)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the network; its last layer is the classifier."""
        own = find_classifier(self.network, self.classes)
        return (
            *find_stages(self.network, "network", own),
            Stage("classifier", (f"network.{own}",)),
        )

    def forward(self, clips: Clips, auxiliary: Sequence[bool] = ()) -> torch.Tensor:
        """Logits of clips; see :meth:`Recognizer.forward`."""
        groups = [clips] if isinstance(clips, torch.Tensor) else clips
        logits = []
        for group, fixed in zip(groups, auxiliary or (False,) * len(groups), strict=True):
            with fixed_statistics(self.network, fixed):
                pixels = self.change(group)
                pixels = pixels.transpose(1, 2) if self._frames_first else pixels
                logits.append(first_tensor(self.network(pixels)))
        return torch.cat(logits)

    def output_of(self, frames: int, size: int, where: str = CLIP_SIZE) -> int:
        """The number of outputs for a clip, by a dry pass.

        Args:
            frames: of the clip.
            size: side of the frames, pixels.
            where: the setting of the size, for errors.

        Raises:
            UserError: if the network does not take such clips, or gives something else.
        """
        clip = (frames, 3) if self._frames_first else (3, frames)
        shape = _shape_of_output(
            self, self.network, (_TRIED, *clip, size, size), frames=frames, where=where
        )
        if len(shape) != 2 or shape[0] != _TRIED:
            raise UserError(
                "model.name",
                "logits (N, classes) of clips (N, 3, T, H, W)",
                f"{self.network_name}, which gives {shape} for {(_TRIED, *clip, size, size)}",
                "Use a function that returns logits.",
            )
        return shape[1]

    def _check_outputs(self, size: int, size_key: str) -> None:
        """Refuse a network whose outputs are not the classes."""
        outputs = self.output_of(self.clip_len or 1, size, size_key)
        if outputs != self._classes:
            raise UserError(
                "model.name",
                f"{self._classes} outputs, one for each class",
                f"{self.network_name}, which gives {outputs}",
                "Use a function that takes num_classes, or set its argument in model.options.",
            )


def _describe(made: MadeNetwork, config: ModelConfig, classes: int) -> dict[str, object]:
    """What a checkpoint says of an external network."""
    values = config_to_dict(
        replace(config, options=made.options, mean=made.input.mean, std=made.input.std)
    )
    values["backbone" if config.is_frame_wise else "name"] = str(made.network)
    names = ("name", "backbone", "options", "mean", "std")
    return {**{name: values[name] for name in names}, "classes": classes}


def _shape_of_output(
    model: FrameNetwork | ClipNetwork,
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    frames: int | None,
    where: str,
) -> tuple[int, ...]:
    """The shape of what a network gives for zeros.

    Args:
        model: around the network.
        module: the network.
        shape: of the zeros.
        frames: of the clip; None for a network over frames.
        where: the setting of the frames' size.

    Raises:
        UserError: if it does not take them.
    """
    try:
        return tuple(run_dry(module, *shape).shape)
    except (Exception, SystemExit) as error:
        got = f"{shape}: {describe_error(error)}"
        name, own, size = model.network_name, model.input, shape[-1]
        if frames is not None and own.frames not in (None, frames):
            raise UserError(
                "clip.clip_len",
                f"{own.frames}, the frames of a clip that {name} takes",
                f"{frames}",
                f"Set clip.clip_len={own.frames}.",
            ) from error
        if own.size not in (None, size):
            raise UserError(
                where,
                f"a size that {name} takes, such as its own, {own.size}",
                got,
                f"Set {where}={own.size}, or null, which is the same.",
            ) from error
        raise UserError(
            "model.backbone" if frames is None else "model.name",
            f"a network that takes {'frames' if frames is None else 'clips'} of this size",
            f"{name} for {got}",
            f"Correct the network or model.options, or set {where} to what it was made for.",
        ) from error
