"""Weights that others have released, by name: where each file lies, and what network it is of.

A name is the publisher and the file's name without what makes it unique: the date and the first
digits of the file's SHA-256. Those of mmaction2 are the 20 of the OmniSource release and its
baselines, as its tables name them. Nothing here opens a connection; see
:mod:`~omnidali.models.download`.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Literal

_TORCHVISION = "https://download.pytorch.org/models/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/"
_MMACTION2 = "https://download.openmmlab.com/mmaction/recognition/"
# One folder of mmaction2 a network, with a folder in it for each source of training data.
_MINI_TSN = "omnisource/tsn_r50_1x1x8_100e_minikinetics_rgb/"
_MINI_SLOWONLY = "omnisource/slowonly_r50_8x8x1_256e_minikinetics_rgb/"

# file name = stem, a date where mmaction2 has one, digits of the SHA-256
_FILE = re.compile(r"(?P<stem>.+?)(_\d{8})?-(?P<digits>[0-9a-f]{8})\.pth")
_CLASSES = {"kinetics400": 400, "minikinetics": 200}


@dataclass(frozen=True)
class ReleasedWeights:
    """One published file.

    Attributes:
        name: of the publisher, a slash, and its own.
        url: of the file.
        network: ``resnet`` for images, whose classifier is never taken, or a recogniser.
        depth: layers of the ResNet.
        classes: outputs of its classifier.
        sampling: of a recogniser's clips: frames of one, their distance, clips of a training
            sample.
    """

    name: str
    url: str
    network: Literal["resnet", "tsn", "slowonly"]
    depth: int
    classes: int
    sampling: tuple[int, int, int] | None = None

    @property
    def file(self) -> str:
        """The file's name, at its publisher and in the cache."""
        return self.url.rpartition("/")[2]

    @property
    def digits(self) -> str:
        """The first digits of the file's SHA-256, which stand in its name."""
        match = _FILE.fullmatch(self.file)
        assert match is not None, self.file
        return match["digits"]

    @property
    def recipe(self) -> dict[str, object] | None:
        """The settings with which the publisher tests a recogniser; None for a ResNet for images.

        Source: the configs of mmaction2 0.x.
        """
        if self.sampling is None:
            return None
        clip_len, interval, clips = self.sampling
        views: dict[str, object] = {"num_clips": 10, "crops": "three", "average": "prob"}
        if self.network == "tsn":
            is_kinetics400 = self.classes == _CLASSES["kinetics400"]
            crops = {"crops": "ten", "size": 224} if is_kinetics400 else {"crops": "three"}
            views = {"num_clips": 25, **crops, "average": "score"}
        return {
            "model": {"name": self.network, "depth": self.depth},
            "clip": {"clip_len": clip_len, "frame_interval": interval, "num_clips": clips},
            "evaluation": {"test": views},
        }

    def __str__(self) -> str:
        if self.network == "resnet":
            return f"ResNet-{self.depth} for {self.classes} classes of images"
        kind = {"tsn": "TSN", "slowonly": "SlowOnly"}[self.network]
        return f"{kind} on ResNet-{self.depth}, {self.classes} classes"


def _of_images(name: str, url: str) -> ReleasedWeights:
    """A ResNet that was trained on ImageNet's classes."""
    depth = re.findall(r"resnet(\d+)", name)[0]
    return ReleasedWeights(name, url, network="resnet", depth=int(depth), classes=1000)


def _of_mmaction2(path: str) -> ReleasedWeights:
    """A recogniser, whose facts are in the name of its file."""
    match = _FILE.fullmatch(path.rpartition("/")[2])
    assert match is not None, path
    stem = match["stem"]
    depth = re.findall(r"_r(\d+)_", stem)[0]
    classes = next(count for data, count in _CLASSES.items() if data in stem)
    clip_len, interval, clips = map(int, re.findall(r"_(\d+)x(\d+)x(\d+)_", stem)[0])
    return ReleasedWeights(
        f"mmaction2/{stem}",
        _MMACTION2 + path,
        network="tsn" if stem.startswith("tsn") else "slowonly",
        depth=int(depth),
        classes=classes,
        sampling=(clip_len, interval, clips),
    )


_ALL = (
    # ImageNet; those of training recipe v1 are what the reference starts from
    _of_images("torchvision/resnet18", f"{_TORCHVISION}resnet18-f37072fd.pth"),
    _of_images("torchvision/resnet34", f"{_TORCHVISION}resnet34-b627a593.pth"),
    _of_images("torchvision/resnet50", f"{_TORCHVISION}resnet50-0676ba61.pth"),
    _of_images("torchvision/resnet101", f"{_TORCHVISION}resnet101-63fe2227.pth"),
    _of_images("torchvision/resnet50_v2", f"{_TORCHVISION}resnet50-11ad3fa6.pth"),
    _of_images("torchvision/resnet101_v2", f"{_TORCHVISION}resnet101-cd907fc2.pth"),
    # a billion images from Instagram (IG-1B), then ImageNet
    _of_images(
        "facebookresearch/resnet50_swsl",
        f"{_FACEBOOK}semi_weakly_supervised_resnet50-16a12f1b.pth",
    ),
    *map(
        _of_mmaction2,
        (
            # Kinetics-400, without and with the web sources
            "tsn/tsn_r50_1x1x3_100e_kinetics400_rgb/"
            "tsn_r50_1x1x3_100e_kinetics400_rgb_20200614-e508be42.pth",
            "tsn/omni/tsn_imagenet_pretrained_r50_omni_1x1x3_kinetics400_rgb_20200926-54192355.pth",
            "tsn/omni/"
            "tsn_1G1B_pretrained_r50_without_omni_1x1x3_kinetics400_rgb_20200926-c133dd49.pth",
            "tsn/omni/tsn_1G1B_pretrained_r50_omni_1x1x3_kinetics400_rgb_20200926-2863fed0.pth",
            "slowonly/slowonly_r50_4x16x1_256e_kinetics400_rgb/"
            "slowonly_r50_4x16x1_256e_kinetics400_rgb_20200704-a69556c6.pth",
            "slowonly/omni/slowonly_r50_omni_4x16x1_kinetics400_rgb_20200926-51b1f7ea.pth",
            "slowonly/omni/slowonly_r101_without_omni_8x8x1_kinetics400_rgb_20200926-0c730aef.pth",
            "slowonly/omni/slowonly_r101_omni_8x8x1_kinetics400_rgb_20200926-b5dbb701.pth",
            # mini-Kinetics, by source
            f"{_MINI_TSN}baseline/tsn_r50_1x1x8_100e_minikinetics_rgb_20201030-b4eaf92b.pth",
            f"{_MINI_TSN}googleimage/"
            "tsn_r50_1x1x8_100e_minikinetics_googleimage_rgb_20201030-23966b4b.pth",
            f"{_MINI_TSN}webimage/"
            "tsn_r50_1x1x8_100e_minikinetics_webimage_rgb_20201030-66f5e046.pth",
            f"{_MINI_TSN}insvideo/"
            "tsn_r50_1x1x8_100e_minikinetics_insvideo_rgb_20201030-011f984d.pth",
            f"{_MINI_TSN}kineticsraw/"
            "tsn_r50_1x1x8_100e_minikinetics_kineticsraw_rgb_20201030-59f5d064.pth",
            f"{_MINI_TSN}omnisource/"
            "tsn_r50_1x1x8_100e_minikinetics_omnisource_rgb_20201030-0f56ef51.pth",
            f"{_MINI_SLOWONLY}baseline/"
            "slowonly_r50_8x8x1_256e_minikinetics_rgb_20201030-168eb098.pth",
            f"{_MINI_SLOWONLY}googleimage/"
            "slowonly_r50_8x8x1_256e_minikinetics_googleimage_rgb_20201030-7da6dfc3.pth",
            f"{_MINI_SLOWONLY}webimage/"
            "slowonly_r50_8x8x1_256e_minikinetics_webimage_rgb_20201030-c36616e9.pth",
            f"{_MINI_SLOWONLY}insvideo/"
            "slowonly_r50_8x8x1_256e_minikinetics_insvideo_rgb_20201030-e2890e8d.pth",
            f"{_MINI_SLOWONLY}kineticsraw/"
            "slowonly_r50_8x8x1_256e_minikinetics_kineticsraw_rgb_20201030-62974bac.pth",
            f"{_MINI_SLOWONLY}omnisource/"
            "slowonly_r50_8x8x1_256e_minikinetics_omnisource_rgb_20201030-284cfd3b.pth",
        ),
    ),
)
RELEASED = {weights.name: weights for weights in _ALL}
PUBLISHERS = tuple(dict.fromkeys(name.partition("/")[0] for name in RELEASED))


def suggest_released(name: str) -> str:
    """The known names that come closest to another one, as advice; empty if none does.

    >>> suggest_released("torchvison/resnet50"), suggest_released("resnet50_swsl")
    ("Did you mean 'torchvision/resnet50'?", "Did you mean 'facebookresearch/resnet50_swsl'?")
    >>> suggest_released("weights/mine.pth")
    ''
    """
    by_last_part = {known.partition("/")[2]: known for known in RELEASED}
    stem = _FILE.fullmatch(name.rpartition("/")[2])
    last = stem["stem"] if stem else name.rpartition("/")[2].removesuffix(".pth")
    found = by_last_part.get(last)
    if found is None:
        close = difflib.get_close_matches(name.removesuffix(".pth"), RELEASED, n=1, cutoff=0.75)
        found = close[0] if close else None
    return f"Did you mean '{found}'?" if found else ""
