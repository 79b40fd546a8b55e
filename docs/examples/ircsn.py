"""irCSN-152 (Tran et al., ICCV 2019) as a network of a recipe: `model.name: "ircsn:ircsn_152"`.

A ResNet-152 over clips whose 3x3x3 convolutions look at each channel alone. The folder of this file
has to be the current one, or on PYTHONPATH; it needs torchvision.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.video.resnet import Bottleneck, VideoResNet

# What the authors trained on 65 million videos of Instagram, in torchvision's names.
IG65M = (
    "https://github.com/bjuncek/VMZ/releases/download/test_models/"
    "irCSN_152_ig65m_from_scratch_f125286141.pth"
)
_CLASSIFIER = "fc."


class ChannelConvolution(nn.Conv3d):
    """A 3x3x3 convolution of each channel by itself."""

    def __init__(self, channels: int, _: int, __: int | None = None, stride: int = 1):
        super().__init__(
            channels, channels, kernel_size=3, stride=stride, padding=1, groups=channels, bias=False
        )

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        """What torchvision's ResNet asks its convolutions for: they stride in time, too."""
        return stride, stride, stride


def make_stem() -> nn.Sequential:
    """The first layers: a quarter of the height and width, all frames."""
    return nn.Sequential(
        nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    )


def ircsn_152(
    num_classes: int,
    pretrained: bool = False,
    read: Callable[[str], dict[str, torch.Tensor]] = torch.hub.load_state_dict_from_url,
) -> nn.Module:
    """The network over clips (N, 3, T, H, W), RGB with ImageNet's mean and standard deviation.

    Args:
        num_classes: outputs.
        pretrained: start from the weights for IG-65M, but for the classifier.
        read: reads them from their address.
    """
    network = VideoResNet(
        block=Bottleneck,
        conv_makers=[ChannelConvolution] * 4,
        layers=[3, 8, 36, 3],
        stem=make_stem,
        num_classes=num_classes,
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):  # as the weights were trained
            layer.eps = 1e-3

    if pretrained:
        weights = read(IG65M)
        kept = {name: value for name, value in weights.items() if not name.startswith(_CLASSIFIER)}
        missing, unknown = network.load_state_dict(kept, strict=False)
        if unknown or any(not name.startswith(_CLASSIFIER) for name in missing):
            raise ValueError(f"{IG65M} holds another network: {missing[:3]}, {unknown[:3]}")
    return network
