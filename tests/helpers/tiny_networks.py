"""Networks of a user: functions that a config names as ``helpers.tiny_networks:NAME``."""

import threading

import torch
from torch import nn

TINY = __name__  # as configs name this module
VIDEOMAE = {
    "image_size": 32,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
NO_FUNCTION = 3


def maps(width=8):
    """A backbone with norms and dropout that gives feature maps."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1)
    )


def features(width=8):
    return nn.Sequential(maps(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def frame_logits(num_classes):
    return nn.Sequential(*features(), nn.Linear(8, num_classes))


def clip_logits(num_classes, pretrained=False):
    """A network over clips in the form of published ones: arguments, then logits."""
    network = nn.Sequential(
        nn.Conv3d(3, 8, (1, 3, 3), 2, 1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )
    if pretrained:
        nn.init.constant_(network[0].weight, 0.5)
    return network


def create_csn(*, model_depth=50, model_num_class=400, dropout_rate=0.5):
    """As pytorchvideo has it: keyword arguments, and a name of its own for the classes."""
    assert model_depth in (50, 101, 152)
    return clip_logits(model_num_class)


class Tokens(nn.Module):
    """Gives (N, L, C), which is neither features nor maps."""

    def forward(self, frames):
        return torch.zeros(len(frames), 4, 8, device=frames.device)


class EightFrames(nn.Module):
    """Takes clips of 8 frames of 32 x 32 alone."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 32 * 32, num_classes)

    def forward(self, clips):
        return self.fc(clips.flatten(1))


class FramesOfClips(nn.Module):
    """Looks at the frames of a clip with kernels of two dimensions."""

    def __init__(self, num_classes):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, clips):
        frames = clips.transpose(1, 2)
        maps = self.patches(frames.flatten(0, 1)).mean(dim=(2, 3))
        return self.fc(maps.view(*frames.shape[:2], -1).mean(dim=1))


class ChannelsLast(nn.Module):
    """Gives maps (N, H, W, C)."""

    def forward(self, frames):
        return frames[..., ::2, ::2].permute(0, 2, 3, 1)


class Pyramid(nn.Module):
    """Gives several maps."""

    def forward(self, frames):
        return [frames, frames[..., ::2, ::2]]


class OneRow(nn.Module):
    """Gives one row for all frames."""

    def forward(self, frames):
        return frames.mean(dim=(0, 2, 3))[None]


class WholeNumbers(nn.Module):
    def forward(self, frames):
        return frames.mean(dim=(2, 3)).long()


class Caching(nn.Module):
    """Keeps a tensor that it makes in its first pass."""

    kept = None

    def forward(self, frames):
        if self.kept is None:
            self.kept = torch.ones(3, device=frames.device)
        return frames.mean(dim=(2, 3)) * self.kept


class SharedLayers(nn.Module):
    """Uses one layer twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = self.first

    def forward(self, frames):
        return self.second(self.first(frames))


class CannotBeCopied(SharedLayers):
    """Holds what Python does not copy."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class HeadFirst(nn.Module):
    """Has its classifier registered before its body."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(8, num_classes)
        self.body = nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8))

    def forward(self, clips):
        return self.fc(self.body(clips).mean(dim=(2, 3, 4)))


def fails():
    raise KeyError("no such thing")


def exits():
    raise SystemExit("bye")


def gives_no_module():
    return "a network"


class SkippingWeights(nn.Module):
    """Logits of frames, with a layer for another purpose, which a forward pass leaves out."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        self.pretext = nn.Linear(8, 5)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, frames):
        return self.fc(self.body(frames).relu().mean(dim=(2, 3)))
