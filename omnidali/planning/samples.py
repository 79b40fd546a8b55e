"""The planned samples of one source in one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Samples:
    """The planned samples of one source in one step on one rank.

    There are n samples with V views of F frames. The arrays are never changed in place.

    Attributes:
        source: place of the source in the config.
        size: side of the output image, pixels.
        repeat: how often a frame is repeated in the clip (1, or T for an image).
        draws: int64 (n,), numbers in the source's endless sequence.
        slots: int64 (n,), global slot numbers; items in an evaluation.
        rows: int64 (n,), rows of the source's table.
        pieces: int64 (n, P), pieces of the table that the frames come from, F / P of them each.
        frames: int32 (n, F), frame indices in the files, in presentation order.
        boxes: int32 (n, V, 4), see :mod:`omnidali.planning.crops`.
        flips: bool (n, V).
        valid: bool (n,), False for samples that only pad the last step of an evaluation.
        attempts: int64 (n,), 0, or which substitute this is.
        motions: float32 (n, T, 3, 3), see :mod:`omnidali.planning.camera_motion`; None if
            nothing moves.
        partners: int64 (n,), slot that the clip is blended with, its own for none; None, as the
            next two, without mixup.
        own_weights: float32 (n,), weight of the sample's own clip in the blend.
        partner_frames: float32 (n,) in [0, 1), which frame of a longer partner a single image
            takes.
    """

    source: int
    size: int
    repeat: int
    draws: np.ndarray
    slots: np.ndarray
    rows: np.ndarray
    pieces: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray
    valid: np.ndarray
    attempts: np.ndarray
    motions: np.ndarray | None = None
    partners: np.ndarray | None = None
    own_weights: np.ndarray | None = None
    partner_frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clip_frames(self) -> int:
        """Frames of the finished clip."""
        return self.frames.shape[1] * self.repeat

    def take(self, index: np.ndarray) -> Samples:
        """The samples at ``index`` (an array of places or of truth values)."""
        taken = {
            name: value[index]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return replace(self, **taken)
