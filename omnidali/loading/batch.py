"""ClipBatch, the value that loading hands to training and evaluation, and StepBatch, a step's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NoReturn, Self

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from omnidali.errors import UserError
from omnidali.planning.samples import Samples


@dataclass(frozen=True, repr=False)
class ClipBatch:
    """Clips of one shape, with labels and origins.

    Attributes:
        clips: (N, 3, T, H, W), float32, float16 or bfloat16, RGB normalised to ImageNet's mean 0
            and standard deviation 1; channels-last in memory (``channels_last_3d``). T = 1 for
            images.
        labels: (N,) int64, -1 where unknown; after mixup (N, classes) float32, each row summing to
            1. In a training on several labels an item (N, classes) float32, 1 for each of them, or
            blends of such rows; in its evaluation (N,) int64, the rarest one.
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

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Self:
        """The same clips on a device; themselves where they are there already.

        Args:
            device: where they shall be.
            non_blocking: do not wait for the copies; see :meth:`pin_memory`.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same clips in page-locked memory, from which a GPU copies beside other work.

        Clips that are on a device stay there.
        """
        if self.clips.device.type != "cpu":
            return self
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The batch with each of its tensors changed."""
        changed = {field.name: change(getattr(self, field.name)) for field in fields(self)}
        if all(changed[name] is getattr(self, name) for name in changed):
            return self
        return replace(self, **changed)

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
        slots: int64 (N,) of every group on the host, as its ``slot``; empty if nobody knows them.
    """

    step: int
    groups: tuple[ClipBatch, ...]
    auxiliary: tuple[bool, ...] = ()
    samples: tuple[Samples, ...] = ()
    slots: tuple[np.ndarray, ...] = ()

    @property
    def clips(self) -> list[torch.Tensor]:
        """The clips of the groups, as models take them; logits come in the same order."""
        return [group.clips for group in self.groups]

    @property
    def video(self) -> torch.Tensor:
        """(N, 3, T, H, W), all clips in one tensor, in the order of :attr:`labels`.

        It is the clips themselves where they are one group, else a copy.

        Raises:
            UserError: if the clips have several shapes, as videos and single images have.
        """
        shapes = {"x".join(map(str, group.clips.shape[1:])) for group in self.groups}
        if len(shapes) != 1:
            raise UserError(
                "StepBatch.video",
                "clips of one shape",
                " and ".join(sorted(shapes)) or "no clips",
                "Use clips or groups, which have a tensor for each shape, or let images fill whole"
                " clips (sources.NAME.inflate: still or warp).",
            )
        if len(self.groups) == 1:
            return self.groups[0].clips
        return torch.cat(self.clips).contiguous(memory_format=torch.channels_last_3d)

    @property
    def labels(self) -> torch.Tensor:
        """(N,) int64, or (N, classes) float32, of all groups in order."""
        return torch.cat([group.labels for group in self.groups])

    @property
    def source(self) -> torch.Tensor:
        """(N,) int64, of all groups in order."""
        return torch.cat([group.source for group in self.groups])

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Self:
        """The same step with its tensors on a device; itself where they are there already.

        Lightning and Accelerate move batches by this method, too.

        Args:
            device: where they shall be.
            non_blocking: do not wait for the copies; see :meth:`pin_memory`.
        """
        return self._replace_groups(
            [group.to(device, non_blocking=non_blocking) for group in self.groups]
        )

    def pin_memory(self) -> Self:
        """The same step in page-locked memory, as ``DataLoader(..., pin_memory=True)`` wants it.

        Example::

            for batch in DataLoader(loader, batch_size=None, pin_memory=True):
                batch = batch.to("cuda", non_blocking=True)
        """
        return self._replace_groups([group.pin_memory() for group in self.groups])

    def _replace_groups(self, groups: Sequence[ClipBatch]) -> Self:
        if all(new is old for new, old in zip(groups, self.groups, strict=True)):
            return self
        return replace(self, groups=tuple(groups))

    @property
    def host_slots(self) -> tuple[np.ndarray, ...]:
        """``slots``, or those of the groups, for which the host waits for the device.

        The groups count where somebody has left clips out of them.
        """
        if list(map(len, self.slots)) == list(map(len, self.groups)):
            return self.slots
        return tuple(group.slot.cpu().numpy() for group in self.groups)

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __repr__(self) -> str:
        return f"StepBatch({self.step}: {', '.join(map(repr, self.groups))})"


def _refuse_to_collate(batches: Sequence[StepBatch], **_: object) -> NoReturn:
    """What PyTorch's default collation of several steps into one batch does."""
    raise UserError(
        "DataLoader.batch_size",
        "None, as each StepBatch is a whole batch",
        f"a number: {len(batches)} of them for one batch",
        "Write DataLoader(loader, batch_size=None); train.batch says how many clips a batch has.",
    )


default_collate_fn_map[StepBatch] = _refuse_to_collate
