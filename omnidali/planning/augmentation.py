"""What happens to the pixels of each training clip after the loader: planned numbers.

They are a pure function of (settings, seed, slot), and the slot is one of the whole training: the
same on any number of ranks, and after a resume. :mod:`omnidali.training.augmentation` applies them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnidali.config.augment_settings import (
    AugmentConfig,
    ColorJitterConfig,
    ErasingConfig,
    RandAugmentConfig,
)
from omnidali.planning.philox import Purpose, Stream, below, normals

# The stream that belongs to no source, as mixup's; the purposes differ.
_WHOLE_PLAN = 0xFFFF

JITTERS = ("brightness", "contrast", "saturation", "hue")
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
# of a largest magnitude, 30; shears, shifts (of the side) and turns (degrees) have a random sign,
# and so have the changes of factors from 1
_STRONGEST = {
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "rotate": 30.0,
    "brightness": 0.9,
    "color": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
}
_LARGEST = 30.0
_ERASING_TRIES = 10  # of Zhong et al.'s loop; a box that does not fit then is left out
# words of a box: whether there is one, then a size, an aspect and a place for each try
_BOX_WORDS = 4 * (1 + _ERASING_TRIES)


@dataclass(frozen=True)
class Jitter:
    """The colour jitter of n clips.

    Attributes:
        order: int64 (n, 4), places in ``JITTERS``, in the order in which they are applied.
        factors: float32 (n, 4), by place in ``JITTERS``; 1 leaves the first three as they are, and
            0 the hue, whose unit is turns.
    """

    order: np.ndarray
    factors: np.ndarray


@dataclass(frozen=True)
class Operations:
    """One RandAugment operation on each of n clips.

    Attributes:
        kinds: int64 (n,), places in ``OPERATIONS``.
        values: float32 (n,): a shear, a shift as share of the side, degrees, the factor of a colour
            change, bits, or a threshold of 1; 0 for operations without a number.
    """

    kinds: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """The erased boxes of n clips.

    Attributes:
        corners: int64 (n, boxes, 4), top, left, bottom and right, in pixels; equal for no box.
        keys: int64 (n, boxes, 2), words below 2**32 that the colour of each pixel depends on.
    """

    corners: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class AugmentNumbers:
    """What is done to n clips, in this order.

    Attributes:
        jitter: the colour jitter; None for none.
        operations: of RandAugment, one after the other.
        boxes: to erase; None for none.
    """

    jitter: Jitter | None
    operations: Sequence[Operations]
    boxes: Boxes | None


class AugmentPlan:
    """Plans the numbers of all clips of a training.

    Args:
        config: which changes, and how strong.
        seed: of the run.
    """

    def __init__(self, config: AugmentConfig, seed: int):
        self._config = config
        self._stream = Stream(seed, _WHOLE_PLAN)

    def __call__(self, slots: np.ndarray, size: int) -> AugmentNumbers:
        """The numbers of the clips in ``slots``.

        Args:
            slots: int64 (n,), global slot numbers.
            size: side of the clips' frames, pixels.
        """
        config = self._config
        jitter = boxes = None
        if config.color_jitter.is_on:
            jitter = _plan_jitter(config.color_jitter, self._stream, slots)
        if config.erasing.probability > 0:
            boxes = _plan_boxes(config.erasing, self._stream, slots, size)
        operations = _plan_operations(config.randaugment, self._stream, slots)
        return AugmentNumbers(jitter, operations, boxes)


def _plan_jitter(config: ColorJitterConfig, stream: Stream, slots: np.ndarray) -> Jitter:
    """The colour jitter of the clips in ``slots``, as torchvision's ColorJitter draws it."""
    drawn = stream.uniform(Purpose.JITTER, slots, 9)
    order = np.argsort(drawn[:, :4], axis=1, kind="stable")

    strengths = np.array([config.brightness, config.contrast, config.saturation])
    low = np.maximum(0, 1 - strengths)
    factors = low + (1 + strengths - low) * drawn[:, 4:7]
    hue = config.hue * (2 * drawn[:, 7:8] - 1)

    is_changed = drawn[:, 8:] < config.probability
    factors = np.where(is_changed, np.concatenate([factors, hue], axis=1), (1, 1, 1, 0))
    return Jitter(order, factors.astype(np.float32))


def _plan_operations(
    config: RandAugmentConfig, stream: Stream, slots: np.ndarray
) -> list[Operations]:
    """``config.count`` operations on each of the clips in ``slots``, one after the other."""
    words = stream.words(Purpose.OPERATIONS, slots, 8 * config.count)
    return [_operations(config, words[:, 8 * k : 8 * k + 8]) for k in range(config.count)]


def _operations(config: RandAugmentConfig, words: np.ndarray) -> Operations:
    """Operations from eight words of each clip."""
    shares = words * 2.0**-32
    kinds = below(words[:, 0], np.array(len(OPERATIONS)))
    kinds = np.where(shares[:, 1] < config.probability, kinds, 0)

    spread = config.magnitude_std * normals(shares[:, 4:6])[:, 0]
    strength = np.clip(config.magnitude + spread, 0, _LARGEST) / _LARGEST
    signs = np.where(shares[:, 2] < 0.5, -1.0, 1.0)

    values = np.zeros(len(words))
    for kind, name in enumerate(OPERATIONS):
        rows = kinds == kind
        values[rows] = _values(name, strength[rows], signs[rows])
    return Operations(kinds, values.astype(np.float32))


def _values(name: str, strength: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The number of an operation, as torchvision's RandAugment derives it from a magnitude.

    Args:
        name: of the operation.
        strength: float64 (n,), 0..1.
        signs: float64 (n,), -1 or 1.
    """
    if name in _STRONGEST:
        change = signs * _STRONGEST[name] * strength
        is_factor = name in ("brightness", "color", "contrast", "sharpness")
        return 1 + change if is_factor else change
    if name == "posterize":
        return 8 - np.rint(4 * strength)
    return 1 - strength if name == "solarize" else np.zeros_like(strength)


def _plan_boxes(config: ErasingConfig, stream: Stream, slots: np.ndarray, size: int) -> Boxes:
    """The boxes that the clips in ``slots`` lose.

    A size and an aspect are drawn until the box fits, ten times at most, as in the paper's
    algorithm 1; several boxes share the area, as in timm.

    Args:
        config: how many boxes, of which sizes.
        stream: gives the random numbers.
        slots: int64 (n,).
        size: side of the frames, pixels.
    """
    first = stream.words(Purpose.ERASING, slots, 2)
    is_erased = first[:, 0] * 2.0**-32 < config.probability
    counts = np.where(is_erased, 1 + below(first[:, 1], np.array(config.boxes)), 0)

    corners = np.zeros((len(slots), config.boxes, 4), np.int64)
    keys = np.zeros((len(slots), config.boxes, 2), np.int64)
    for box in range(config.boxes):
        words = stream.words(Purpose.ERASED_BOX, slots, _BOX_WORDS, attempt=box)
        keys[:, box] = words[:, 2:4]
        tries = (words[:, 4:] * 2.0**-32).reshape(len(slots), _ERASING_TRIES, 4)
        placed = _place_boxes(config, tries, counts, size)
        corners[:, box] = np.where((box < counts)[:, None], placed, 0)
    return Boxes(corners, keys)


def _place_boxes(
    config: ErasingConfig, tries: np.ndarray, counts: np.ndarray, size: int
) -> np.ndarray:
    """Corners (n, 4) of the first of each clip's tries that fits; zeros where none does.

    Args:
        config: area and aspect.
        tries: float64 (n, tries, 4) in [0, 1).
        counts: int64 (n,), boxes that share the area.
        size: side of the frames, pixels.
    """
    low, high = config.area
    area = (low + (high - low) * tries[..., 0]) * size**2 / np.maximum(1, counts)[:, None]
    narrow, wide = np.log(config.aspect)
    aspect = np.exp(narrow + (wide - narrow) * tries[..., 1])
    heights = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    widths = np.rint(np.sqrt(area / aspect)).astype(np.int64)

    fits = (heights < size) & (widths < size)
    chosen = np.arange(len(tries)), fits.argmax(axis=1)
    height = np.where(fits.any(axis=1), heights[chosen], 0)
    width = np.where(fits.any(axis=1), widths[chosen], 0)
    top = np.floor(tries[..., 2][chosen] * (size - height + 1)).astype(np.int64)
    left = np.floor(tries[..., 3][chosen] * (size - width + 1)).astype(np.int64)
    return np.stack([top, left, top + height, left + width], axis=1)
