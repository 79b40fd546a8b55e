"""ClipBatch, the value that loading hands to training and evaluation."""

from dataclasses import dataclass

import torch

from omnidali.planning.samples import Samples


@dataclass(frozen=True, repr=False)
class ClipBatch:
    """Clips of one shape, with labels and origins.

    Attributes:
        clips: (N, 3, T, H, W), float32, float16 or bfloat16, RGB normalised to ImageNet's mean 0
            and standard deviation 1; channels-last in memory (``channels_last_3d``). T = 1 for
            images.
        labels: (N,) int64, -1 where unknown; after mixup (N, classes) float32, each row summing to
            1.
        source: (N,) int64, place of the source in the config.
        record: (N,) int64, the catalog's id of the file.
        slot: (N,) int64, global slot number; in an evaluation the number of the item.
        valid: (N,) bool, False for repeats that only fill up an evaluation's last batch.

    Raises:
        ValueError: if a shape or type is off, or the memory is not channels-last.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    source: torch.Tensor
    record: torch.Tensor
    slot: torch.Tensor
    valid: torch.Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.clips.shape)
        if len(shape) != 5 or shape[1] != 3:
            raise ValueError(
                f"clips must be (N, 3, T, H, W), got {shape}: an image needs a time axis, T = 1"
            )
        if not self.clips.is_floating_point():
            raise ValueError(f"clips must be floating point and normalised, got {self.clips.dtype}")
        if not self.clips.permute(0, 2, 3, 4, 1).is_contiguous():
            raise ValueError(
                f"clips must be channels-last in memory, got strides {self.clips.stride()}"
            )

        dtypes = {
            "source": torch.int64,
            "record": torch.int64,
            "slot": torch.int64,
            "valid": torch.bool,
        }
        is_soft = self.labels.ndim == 2 and self.labels.dtype == torch.float32
        if not is_soft or len(self.labels) != shape[0]:
            dtypes = {"labels": torch.int64, **dtypes}
        for name, dtype in dtypes.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape[:1] or value.dtype != dtype:
                raise ValueError(
                    f"{name} must be ({shape[0]},) {dtype}, got {tuple(value.shape)} {value.dtype}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.clips.shape))
        dtype = str(self.clips.dtype).removeprefix("torch.")
        return f"ClipBatch({shape} {dtype} on {self.clips.device})"


@dataclass(frozen=True, repr=False)
class StepBatch:
    """The clips of one rank in one step: a ClipBatch for each clip shape, so that no image is
    repeated.

    Attributes:
        step: number of the step, from 0.
        groups: ClipBatches in the order of their first source; none is empty.
        auxiliary: for every group, whether it holds no clip of the first source, the target.
        samples: that were decoded, one entry a source; substitutes where a file failed.
    """

    step: int
    groups: tuple[ClipBatch, ...]
    auxiliary: tuple[bool, ...] = ()
    samples: tuple[Samples, ...] = ()

    @property
    def clips(self) -> list[torch.Tensor]:
        """The clips of the groups, as models take them; logits come in the same order."""
        return [group.clips for group in self.groups]

    @property
    def labels(self) -> torch.Tensor:
        """(N,) int64, or (N, classes) float32 after mixup, of all groups in order."""
        return torch.cat([group.labels for group in self.groups])

    @property
    def source(self) -> torch.Tensor:
        """(N,) int64, of all groups in order."""
        return torch.cat([group.source for group in self.groups])

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __repr__(self) -> str:
        return f"StepBatch({self.step}: {', '.join(map(repr, self.groups))})"
