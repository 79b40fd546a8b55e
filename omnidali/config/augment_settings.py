"""The settings of what training does to the pixels of its clips, after the loader."""

from dataclasses import dataclass
from typing import Annotated, Literal

from omnidali.config.setting import (
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    setting,
)

HalfTurn = Annotated[float, Range(0, 0.5)]
Magnitude = Annotated[float, Range(0, 30)]
Boxes = Annotated[int, Range(1, 100)]


@dataclass(frozen=True, kw_only=True)
class ColorJitterConfig:
    """Random brightness, contrast, saturation and hue, in random order, as torchvision has it."""

    probability: Share = setting(1.0, "share of the clips that are changed")
    brightness: NotNegative = setting(0.0, "b: factor from 1 - b (0 at least) to 1 + b")
    contrast: NotNegative = setting(0.0, "the same for the contrast")
    saturation: NotNegative = setting(0.0, "the same for the saturation")
    hue: HalfTurn = setting(0.0, "h: the hue turns by -h to h of the whole circle", unit="turns")

    @property
    def is_on(self) -> bool:
        """Whether it can change a pixel."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        return self.probability > 0 and any(strengths)


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """RandAugment (Cubuk et al., 2020) with torchvision's 14 operations and its magnitudes."""

    count: Natural = setting(0, "operations on a clip, one after the other; 0: none")
    magnitude: Magnitude = setting(
        9.0, "strength of all operations, of 30 as in torchvision; timm's m9 is 27"
    )
    magnitude_std: NotNegative = setting(
        0.0, "standard deviation of the magnitude, of 30; timm's mstd0.5 is 1.5"
    )
    probability: Share = setting(1.0, "of each operation; timm has 0.5")


@dataclass(frozen=True, kw_only=True)
class ErasingConfig:
    """Random erasing (Zhong et al., AAAI 2020), the same boxes on all frames of a clip."""

    probability: Share = setting(0.0, "share of the clips that lose boxes; 0: none")
    mode: Literal["const", "rand", "pixel"] = setting(
        "pixel", "boxes of ImageNet's mean colour, of a random colour, or of noise"
    )
    boxes: Boxes = setting(1, "most boxes of a clip, which share the area; timm's count")
    area: tuple[PositiveShare, PositiveShare] = setting(
        (0.02, 1 / 3), "smallest and largest share of the frame's area"
    )
    aspect: tuple[Positive, Positive] = setting(
        (0.3, 3.3), "smallest and largest ratio of height to width"
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What training does to the pixels of its clips after crop, flip and mixup, in this order."""

    color_jitter: ColorJitterConfig = setting(
        ColorJitterConfig(), "brightness, contrast, saturation and hue"
    )
    randaugment: RandAugmentConfig = setting(RandAugmentConfig(), "random operations")
    erasing: ErasingConfig = setting(ErasingConfig(), "boxes that are erased")

    @property
    def is_on(self) -> bool:
        """Whether any of it can change a pixel."""
        randaugment = self.randaugment
        changes = randaugment.count > 0 and randaugment.probability > 0
        return self.color_jitter.is_on or changes or self.erasing.probability > 0
