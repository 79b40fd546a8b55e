"""Names of networks in a config: ours, those of libraries, and functions that make one."""

from dataclasses import dataclass
from typing import Literal, get_args

from omnidali.utils.named_function import is_function_name

# Networks of ours: over each frame alone, and over several frames at a time.
FRAME_WISE = "tsn"
OUR_NETWORKS = (FRAME_WISE, "slowonly")

Library = Literal["timm", "torchvision", "transformers", "function"]
# Libraries that have networks over frames (model.backbone) and over clips (model.name).
FRAME_LIBRARIES: tuple[Library, ...] = ("timm", "torchvision")
CLIP_LIBRARIES: tuple[Library, ...] = ("torchvision", "transformers")


@dataclass(frozen=True)
class NetworkName:
    """A network that is not ours.

    Attributes:
        library: that makes it; ``function`` for any function of a module.
        name: within the library, or ``package.module:function``.
    """

    library: Library
    name: str

    def __str__(self) -> str:
        return self.name if self.library == "function" else f"{self.library}/{self.name}"


def parse_network_name(text: str) -> NetworkName | None:
    """The external network that a text names; None if it has no such form.

    >>> parse_network_name("timm/resnet18")
    NetworkName(library='timm', name='resnet18')
    >>> str(parse_network_name("my_networks:make")), parse_network_name("resnet18")
    ('my_networks:make', None)
    """
    library, slash, name = text.partition("/")
    if slash and name:
        known = next((each for each in get_args(Library) if each == library != "function"), None)
        return NetworkName(known, name) if known else None
    return NetworkName("function", text) if is_function_name(text) else None
