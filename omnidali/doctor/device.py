"""The GPU that the checks use, or the CPU that stands in for it.

The stand-in runs every line of the GPU's checks on any machine: DALI has operators of the same
names for the CPU, which decode a few codecs.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.decoding.routes import dali_codecs
from omnidali.utils.constants import MEAN, STD

VIDEO_CODECS = ("h264", "hevc", "mpeg4", "av1", "vp9", "vp8", "mjpeg")  # worth a try on a GPU
_ON_CPU = tuple(codec for codec in VIDEO_CODECS if codec in dali_codecs(None))


@dataclass(frozen=True)
class Device:
    """Where graphs run.

    Attributes:
        number: the CUDA device; None: the CPU stands in for it.
    """

    number: int | None

    @property
    def name(self) -> str:
        """For people."""
        if self.number is None:
            return "DALI on the CPU (a stand-in)"
        return torch.cuda.get_device_name(self.number)

    @property
    def torch_device(self) -> torch.device:
        """Where tensors are."""
        if self.number is None:
            return torch.device("cpu")
        return torch.device("cuda", self.number)

    @property
    def codecs(self) -> tuple[str, ...]:
        """Video codecs worth a try."""
        return _ON_CPU if self.number is None else VIDEO_CODECS

    @property
    def main_codec(self) -> str:
        """The codec of most videos, as far as DALI decodes it here."""
        return self.codecs[0]

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability; None for the stand-in."""
        return None if self.number is None else torch.cuda.get_device_capability(self.number)

    @property
    def cores(self) -> int:
        """That this process may use."""
        return len(os.sched_getaffinity(0))

    def must_decode(self, codec: str) -> bool:
        """Whether DALI has to decode a codec of :attr:`codecs`, as the routes take for granted."""
        return codec in dali_codecs(self.capability)

    def synchronise(self) -> None:
        """Wait until all that was queued on the device is done."""
        if self.number is not None:
            torch.cuda.synchronize(self.number)

    def free_memory(self) -> int:
        """Bytes of the GPU that nobody uses; 0 for the stand-in."""
        return 0 if self.number is None else torch.cuda.mem_get_info(self.number)[0]


def pixels_of(clips: torch.Tensor) -> np.ndarray:
    """Normalised clips (..., 3) on the scale 0..255: float32."""
    return (clips.float().cpu() * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
