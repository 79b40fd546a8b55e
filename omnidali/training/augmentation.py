"""Changes the pixels of training clips on the device that trains, by planned numbers."""

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from omnidali.config.augment_settings import AugmentConfig
from omnidali.loading.batch import ClipBatch, StepBatch
from omnidali.loading.device_work import device_work
from omnidali.planning.augmentation import (
    JITTERS,
    OPERATIONS,
    AugmentPlan,
    Boxes,
    Jitter,
    Operations,
)
from omnidali.training import pixel_operations as pixel
from omnidali.training.device_philox import philox
from omnidali.utils.constants import MEAN, STD

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_JITTERS: Mapping[str, Change] = {
    "brightness": pixel.change_brightness,
    "contrast": pixel.change_contrast,
    "saturation": pixel.change_saturation,
    "hue": pixel.turn_hue,
}
_CHANGES: Mapping[str, Change] = {
    "brightness": pixel.change_brightness,
    "color": pixel.change_saturation,
    "contrast": pixel.change_contrast,
    "sharpness": pixel.change_sharpness,
    "posterize": pixel.posterize,
    "solarize": pixel.solarize,
    "autocontrast": pixel.autocontrast,
    "equalize": pixel.equalize,
}
_WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_QUANTILES = 1 << 12  # of the normal distribution, from which noise is taken


class Augmentation:
    """Colour jitter, RandAugment and random erasing of a step's clips, after crop, flip and mixup.

    What happens to a clip is a pure function of (settings, seed, slot); see
    :class:`~omnidali.planning.augmentation.AugmentPlan`. Nothing waits for the device.

    Args:
        config: which changes, and how strong.
        seed: of the run.
        device: of the clips.
    """

    def __init__(self, config: AugmentConfig, seed: int, device: torch.device):
        self._is_on = config.is_on
        self._plan = AugmentPlan(config, seed)
        self._erasing_mode = config.erasing.mode
        self._work = device_work(device)
        self._mean = torch.tensor(MEAN, device=device) / 255
        self._std = torch.tensor(STD, device=device) / 255

    def __call__(self, batch: StepBatch) -> StepBatch:
        """The batch with other pixels; that of the loader stays as it is."""
        if not self._is_on:
            return batch
        groups = [
            self._augment(group, slots)
            for group, slots in zip(batch.groups, batch.host_slots, strict=True)
        ]
        return replace(batch, groups=tuple(groups))

    def _augment(self, group: ClipBatch, slots: np.ndarray) -> ClipBatch:
        numbers = self._plan(slots, group.clips.shape[-1])
        # (N, T, H, W, 3), as it lies in memory
        frames = group.clips.permute(0, 2, 3, 4, 1)

        if numbers.jitter is not None or numbers.operations:
            pixels = (frames.float() * self._std + self._mean).clamp_(0, 1)
            if numbers.jitter is not None:
                self._jitter(pixels, numbers.jitter)
            for operations in numbers.operations:
                self._operate(pixels, operations)
            frames = ((pixels - self._mean) / self._std).to(frames.dtype)
        if numbers.boxes is not None:
            frames = self._erase(frames, numbers.boxes)
        return replace(group, clips=frames.permute(0, 4, 1, 2, 3))

    def _jitter(self, pixels: torch.Tensor, jitter: Jitter) -> None:
        """Change colours in place, each clip in its own order."""
        for turn in range(len(JITTERS)):
            for kind, name in enumerate(JITTERS):
                neutral = 0 if name == "hue" else 1
                factors = jitter.factors[:, kind]
                rows = np.flatnonzero((jitter.order[:, turn] == kind) & (factors != neutral))
                self._change(pixels, rows, factors, _JITTERS[name])

    def _operate(self, pixels: torch.Tensor, operations: Operations) -> None:
        """Do one RandAugment operation on each clip, in place."""
        kinds = np.array(OPERATIONS)[operations.kinds]
        for name, change in _CHANGES.items():
            rows = np.flatnonzero(kinds == name)
            self._change(pixels, rows, operations.values, change)

        size = pixels.shape[3]
        matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(kinds), 1, 1))
        for name in _WARPS:
            chosen = kinds == name
            matrices[chosen] = pixel.inverse_matrices(name, operations.values[chosen], size)
        rows = np.flatnonzero(np.isin(kinds, _WARPS))
        if len(rows):
            places = self._work.upload(rows)
            moved = self._work.upload(matrices[rows])
            pixels[places] = pixel.warp(pixels[places], moved, self._mean)

    def _change(
        self, pixels: torch.Tensor, rows: np.ndarray, values: np.ndarray, change: Change
    ) -> None:
        """Change some clips in place.

        Args:
            pixels: (N, T, H, W, 3).
            rows: int64 (n,), which clips.
            values: float32 (N,), the number of each clip.
            change: of :mod:`omnidali.training.pixel_operations`.
        """
        if len(rows):
            places = self._work.upload(rows)
            numbers = self._work.upload(values[rows]).view(-1, 1, 1, 1, 1)
            pixels[places] = change(pixels[places], numbers)

    def _erase(self, frames: torch.Tensor, boxes: Boxes) -> torch.Tensor:
        """Normalised frames with their boxes erased."""
        frames = frames.clone(memory_format=torch.contiguous_format)
        size = frames.shape[3]
        along = torch.arange(size, device=frames.device)

        for box in range(boxes.corners.shape[1]):
            corners = boxes.corners[:, box]
            rows = np.flatnonzero(corners[:, 2] > corners[:, 0])
            if not len(rows):
                continue
            places = self._work.upload(rows)
            top, left, bottom, right = self._work.upload(corners[rows]).T[:, :, None]
            down = (along >= top) & (along < bottom)
            across = (along >= left) & (along < right)
            inside = (down[:, :, None] & across[:, None, :])[:, None, :, :, None]
            colour = self._colour(boxes.keys[rows, box], size).to(frames.dtype)
            frames[places] = torch.where(inside, colour, frames[places])
        return frames

    def _colour(self, keys: np.ndarray, size: int) -> torch.Tensor:
        """What boxes are filled with, normalised; broadcasts to (n, T, size, size, 3).

        Noise is standard normal, as timm's, and the same on all frames of a clip.

        Args:
            keys: int64 (n, 2), of the random words.
            size: side of the frames, pixels.
        """
        device = self._mean.device
        if self._erasing_mode == "const":
            return torch.zeros(1, device=device)
        side = size if self._erasing_mode == "pixel" else 1
        pixels = torch.arange(side * side, device=device)
        words = philox(pixels, self._work.upload(keys)[:, :, None])[..., :3]
        noise = _normal_quantiles(device)[words >> 20]
        return noise.view(len(keys), 1, side, side, 3)


@functools.cache
def _normal_quantiles(device: torch.device) -> torch.Tensor:
    """Standard normal numbers, float32 (4096,), each as likely as any other.

    A table has the same bits everywhere, which a logarithm has not.
    """
    normal = statistics.NormalDist()
    values = [normal.inv_cdf((number + 0.5) / _QUANTILES) for number in range(_QUANTILES)]
    return torch.tensor(values, dtype=torch.float32, device=device)
