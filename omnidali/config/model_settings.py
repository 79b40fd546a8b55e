"""The settings of the network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from omnidali.config.network_names import (
    FRAME_WISE,
    OUR_NETWORKS,
    NetworkName,
    parse_network_name,
)
from omnidali.config.setting import Positive, Share, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    TSN is mmaction2's Recognizer2D with average consensus, SlowOnly its Recognizer3D on
    ResNet3dSlowOnly: a 3D ResNet whose last two stages look at three frames.
    """

    name: str = setting(
        FRAME_WISE,
        "kind of network: tsn, slowonly; an external one over clips: torchvision/NAME,"
        " transformers/NAME or package.module:function",
    )
    backbone: str | None = setting(
        None,
        "tsn: the network over each frame: timm/NAME, torchvision/NAME or package.module:function;"
        " null: the ResNet of `depth`",
    )
    options: Mapping[str, object] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata={"meaning": "arguments for the making of an external network", "unit": ""},
    )
    depth: Literal[18, 34, 50, 101] = setting(50, "layers of the ResNet")
    dropout: Share = setting(0.4, "dropout before the last layer")
    mean: tuple[Share, Share, Share] | None = setting(
        None,
        "mean of RGB that an external network takes, on the scale 0..1; null: what it says itself,"
        " else ImageNet's",
    )
    std: tuple[Positive, Positive, Positive] | None = setting(
        None, "standard deviation of RGB, as mean"
    )
    pretrained: str | bool | None = setting(
        None,
        "weights to start from: a file (.pth or .safetensors, relative to the current folder; ours,"
        " mmaction2's, torchvision's or timm's), a name of `omnidali help weights`, or true for"
        " those that the library of an external network has",
    )
    pretrained_head: Literal["keep", "fresh"] = setting(
        "keep", "fresh: the classifier starts anew, as for other classes"
    )
    norm: Literal["shared", "target_only"] = setting(
        "shared", "the sources with samples that move the running statistics of batch norms"
    )
    sync_norm: bool = setting(False, "batch norms share statistics among all ranks (GPUs only)")
    channels_last: bool = setting(True, "memory format of weights and activations")

    @property
    def is_frame_wise(self) -> bool:
        """Whether the network looks at each frame alone."""
        return self.name == FRAME_WISE

    @property
    def external(self) -> NetworkName | None:
        """The network that is not ours: a backbone, or the whole; None if all of it is ours."""
        if self.name in OUR_NETWORKS:
            return parse_network_name(self.backbone) if self.backbone is not None else None
        return parse_network_name(self.name)

    @property
    def external_key(self) -> str:
        """The setting that names the external network."""
        return "model.backbone" if self.name in OUR_NETWORKS else "model.name"

    @property
    def functions(self) -> tuple[str, ...]:
        """The function that makes the network, which the user has named so; else nothing."""
        external = self.external
        return (external.name,) if external is not None and external.library == "function" else ()
