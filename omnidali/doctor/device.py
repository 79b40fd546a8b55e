"""The GPU that the checks use, or the CPU that stands in for it.

The stand-in runs every line of the GPU's checks on any machine: DALI has operators of the same
names for the CPU, which decode a few codecs.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.utils.constants import MEAN, STD

# what DALI decodes: on a GPU all of them (AV1 on some chips), on the CPU the last three
VIDEO_CODECS = ("h264", "hevc", "mpeg4", "av1", "vp9", "vp8", "mjpeg")
_ON_CPU = ("vp9", "vp8", "mjpeg")


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
        """Whether every chip of this kind decodes a codec of :attr:`codecs`.

        AV1 came with some chips of 2020 and 2022; NVDEC takes MJPEG on none through DALI.
        """
        return self.number is None or codec not in ("av1", "mjpeg")

    def synchronise(self) -> None:
        """Wait until all that was queued on the device is done."""
        if self.number is not None:
            torch.cuda.synchronize(self.number)

    def free_memory(self) -> int:
        """Bytes of the GPU that nobody uses; 0 for the stand-in."""
        return 0 if self.number is None else torch.cuda.mem_get_info(self.number)[0]

    def pixels(self, output: object) -> np.ndarray:
        """What a graph made, on the scale 0..255: float32 (n, F, S, S, 3)."""
        clips = torch.from_dlpack(output).float().cpu()
        return (clips * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
