"""The settings of the network."""

from dataclasses import dataclass
from typing import Literal

from omnidali.config.setting import Share, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    TSN is mmaction2's Recognizer2D with average consensus, SlowOnly its Recognizer3D on
    ResNet3dSlowOnly: a 3D ResNet whose last two stages look at three frames.
    """

    name: Literal["tsn", "slowonly"] = setting("tsn", "kind of network")
    depth: Literal[18, 34, 50, 101] = setting(50, "layers of the ResNet")
    dropout: Share = setting(0.4, "dropout before the last layer")
    pretrained: str | None = setting(
        None,
        "weights to start from, relative to the current folder: .pth or .safetensors, ours,"
        " mmaction2's, torchvision's or timm's",
    )
    pretrained_head: Literal["keep", "fresh"] = setting(
        "keep", "fresh: the classifier starts anew, as for other classes"
    )
    norm: Literal["shared", "target_only"] = setting(
        "shared", "the sources with samples that move the running statistics of batch norms"
    )
    sync_norm: bool = setting(False, "batch norms share statistics among all ranks (GPUs only)")
    channels_last: bool = setting(True, "memory format of weights and activations")
