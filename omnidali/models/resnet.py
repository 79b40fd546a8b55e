"""ResNet backbones, 2D for TSN and 3D for SlowOnly, with mmaction2's parameter names.

One definition serves both: SlowOnly is the 2D network whose kernels got a time axis
(He et al., CVPR 2016; Feichtenhofer et al., ICCV 2019; mmaction2 0.x resnet.py and resnet3d.py).
"""

from __future__ import annotations

import torch
from torch import nn

# blocks of the four stages, and whether a block is a bottleneck
LAYERS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, and ReLU if asked for; parameters ``conv.*`` and
    ``bn.*``.
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
        pad = kernel // 2
        if dims == 2:
            self.conv = nn.Conv2d(inside, outside, kernel, stride, pad, bias=False)
            self.bn = nn.BatchNorm2d(outside)
        else:
            self.conv = nn.Conv3d(
                inside,
                outside,
                (time, kernel, kernel),
                (1, stride, stride),
                (time // 2, pad, pad),
                bias=False,
            )
            self.bn = nn.BatchNorm3d(outside)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck with its stride in
    the 3x3.

    ``time`` is the temporal kernel of the first convolution (inflate style 3x1x1).
    """

    def __init__(
        self, inside: int, width: int, stride: int, *, bottleneck: bool, dims: int, time: int
    ):
        super().__init__()
        outside = width * 4 if bottleneck else width
        if bottleneck:
            self.conv1 = ConvBN(inside, width, 1, dims=dims, time=time)
            self.conv2 = ConvBN(width, width, 3, stride, dims=dims)
            self.conv3 = ConvBN(width, outside, 1, dims=dims, relu=False)
        else:
            self.conv1 = ConvBN(inside, width, 3, stride, dims=dims, time=time)
            self.conv2 = ConvBN(width, outside, 3, dims=dims, relu=False)
            self.conv3 = None
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = ConvBN(inside, outside, 1, stride, dims=dims, relu=False)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        """The batch norm in front of the addition."""
        return (self.conv3 or self.conv2).bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        if self.conv3 is not None:
            y = self.conv3(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Features of pictures (N, 3, H, W) -> (N, C, H/32, W/32), or clips (N, 3, T, H, W) -> (N, C,
    T, ...).

    Args:
        depth: 18, 34, 50 or 101.
        dims: 2 or 3. In 3D, time is never strided; the first convolution of every block of the last
            two stages looks at three frames, all others at one.
    """

    def __init__(self, depth: int, dims: int):
        super().__init__()
        blocks, bottleneck = LAYERS[depth]
        self.channels = 2048 if bottleneck else 512
        self.conv1 = ConvBN(3, 64, 7, 2, dims=dims)
        self.pool = (
            nn.MaxPool2d(3, 2, 1) if dims == 2 else nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )
        inside = 64
        for stage, count in enumerate(blocks):
            width, time = 64 << stage, 3 if dims == 3 and stage >= 2 else 1
            stack = []
            for number in range(count):
                stack.append(
                    Block(
                        inside,
                        width,
                        2 if stage and not number else 1,
                        bottleneck=bottleneck,
                        dims=dims,
                        time=time,
                    )
                )
                inside = width * 4 if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif dims == 3 and isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
