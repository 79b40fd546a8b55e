"""ResNet backbones, 2D for TSN and 3D for SlowOnly, with mmaction2's parameter names.

One definition serves both: SlowOnly is the 2D network whose kernels got a time axis
(He et al., CVPR 2016; Feichtenhofer et al., ICCV 2019; mmaction2 0.x resnet.py and resnet3d.py).
"""

from functools import partial
from typing import Literal

import torch
from torch import nn

Depth = Literal[18, 34, 50, 101]

# Blocks of the four stages, and whether a block is a bottleneck.
LAYERS: dict[Depth, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, and ReLU if requested.

    The parameters are ``conv.*`` and ``bn.*``.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        kernel: side of the kernel.
        stride: over height and width.
        dims: 2 for images, 3 for clips.
        time: length of the kernel over time.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int,
        stride: int = 1,
        *,
        dims: int,
        time: int = 1,
        relu: bool = True,
    ):
        super().__init__()
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

        pad = kernel // 2
        self.conv: nn.Conv2d | nn.Conv3d
        self.bn: nn.BatchNorm2d | nn.BatchNorm3d
        if dims == 2:
            self.conv = nn.Conv2d(inside, outside, kernel, stride, pad, bias=False)
            self.bn = nn.BatchNorm2d(outside)
        else:
            self.conv = nn.Conv3d(
                inside,
                outside,
                kernel_size=(time, kernel, kernel),
                stride=(1, stride, stride),
                padding=(time // 2, pad, pad),
                bias=False,
            )
            self.bn = nn.BatchNorm3d(outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the bottleneck of 1x1, 3x3 and 1x1.

    The bottleneck has its stride in the 3x3.

    Args:
        inside: channels of the input.
        width: channels of the inner convolutions.
        stride: over height and width.
        bottleneck: whether it is one, with four times ``width`` channels in its output.
        dims: 2 for images, 3 for clips.
        time: length over time of the first convolution's kernel (inflate style 3x1x1), and of the
            second one's in a block without bottleneck.
    """

    def __init__(
        self, inside: int, width: int, stride: int, *, bottleneck: bool, dims: int, time: int
    ):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

        outside = width * 4 if bottleneck else width
        self.conv3: ConvBN | None = None
        self.downsample: ConvBN | None = None
        if bottleneck:
            self.conv1 = ConvBN(inside, width, kernel=1, dims=dims, time=time)
            self.conv2 = ConvBN(width, width, kernel=3, stride=stride, dims=dims)
            self.conv3 = ConvBN(width, outside, kernel=1, dims=dims, relu=False)
        else:
            self.conv1 = ConvBN(inside, width, kernel=3, stride=stride, dims=dims, time=time)
            self.conv2 = ConvBN(width, outside, kernel=3, dims=dims, time=time, relu=False)
        if stride != 1 or inside != outside:
            self.downsample = ConvBN(
                inside, outside, kernel=1, stride=stride, dims=dims, relu=False
            )

    @property
    def last_norm(self) -> nn.BatchNorm2d | nn.BatchNorm3d:
        """The batch norm before the addition."""
        return (self.conv3 or self.conv2).bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        if self.conv3 is not None:
            y = self.conv3(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Features of images or clips.

    Images (N, 3, H, W) become (N, C, H/32, W/32), clips (N, 3, T, H, W) become
    (N, C, T, H/32, W/32).

    Args:
        depth: 18, 34, 50 or 101.
        dims: 2 or 3. In 3D, time is never strided. Of the blocks of the last two stages, the first
            convolution looks at three frames, and without bottlenecks the second one, too; all
            others look at one.

    Attributes:
        channels: C.
    """

    def __init__(self, depth: Depth, dims: int):
        super().__init__()
        blocks, bottleneck = LAYERS[depth]
        expansion = 4 if bottleneck else 1
        self.channels = 512 * expansion
        self.conv1 = ConvBN(3, 64, kernel=7, stride=2, dims=dims)
        self.pool = (
            nn.MaxPool2d(3, 2, 1) if dims == 2 else nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )

        stage = partial(_stage, bottleneck=bottleneck, dims=dims)
        late = 3 if dims == 3 else 1
        self.layer1 = stage(64, 64, count=blocks[0], stride=1, time=1)
        self.layer2 = stage(64 * expansion, 128, count=blocks[1], stride=2, time=1)
        self.layer3 = stage(128 * expansion, 256, count=blocks[2], stride=2, time=late)
        self.layer4 = stage(256 * expansion, 512, count=blocks[3], stride=2, time=late)

        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif dims == 3 and isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(
    inside: int, width: int, *, count: int, stride: int, bottleneck: bool, dims: int, time: int
) -> nn.Sequential:
    """``count`` blocks, of which the first one has the stride."""
    outside = width * 4 if bottleneck else width
    return nn.Sequential(
        *(
            Block(
                inside if number == 0 else outside,
                width,
                stride=stride if number == 0 else 1,
                bottleneck=bottleneck,
                dims=dims,
                time=time,
            )
            for number in range(count)
        )
    )
