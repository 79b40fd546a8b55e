"""Mixup as planned: clips and labels of a step's pairs, blended where the clips lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Blend:
    """What one group of clips is blended with; arrays of length N, see
    :class:`~omnidali.planning.plan.Samples`.
    """

    slots: np.ndarray
    partners: np.ndarray
    own_weights: np.ndarray
    partner_frames: np.ndarray
    labels: np.ndarray


def blend(
    buffers: Sequence[torch.Tensor], blends: Sequence[Blend], classes: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Blend the groups of a step.

    Args:
        buffers: (N, T, S, S, 3) each, T being 1 or the clip's length. classes: of the soft labels.

    Returns:
        w * clip + (1 - w) * partner for every clip of every group, and its label: float32 (N,
            classes), each
        row summing to 1.
    """
    place_of = {
        slot: (number, place)
        for number, group in enumerate(blends)
        for place, slot in enumerate(group.slots.tolist())
    }
    partners = [np.array([place_of[slot] for slot in group.partners.tolist()]) for group in blends]
    return (
        [_blend_clips(number, buffers, blends, places) for number, places in enumerate(partners)],
        [_blend_labels(number, blends, places, classes) for number, places in enumerate(partners)],
    )


def _blend_clips(
    number: int, buffers: Sequence[torch.Tensor], blends: Sequence[Blend], partners: np.ndarray
) -> torch.Tensor:
    """One group's clips; ``partners`` (N, 2) says in which group and where therein the partners
    stand.

    A single picture is spread over all frames of its partner's clip; where the picture is the
    slot's own, it is blended with the planned frame of the partner alone, so that it stays one
    picture.
    """
    buffer, group = buffers[number], blends[number]
    weights = torch.as_tensor(group.own_weights, dtype=buffer.dtype, device=buffer.device).view(
        -1, 1, 1, 1, 1
    )
    out = buffer * weights
    for theirs, other in enumerate(buffers):
        rows = np.flatnonzero((partners[:, 0] == theirs) & (group.partners != group.slots))
        if not len(rows):
            continue
        places = torch.as_tensor(partners[rows, 1], device=buffer.device)
        if buffer.shape[1] == 1 < other.shape[1]:
            frames = torch.as_tensor((group.partner_frames[rows] * other.shape[1]).astype(np.int64))
            clips = other[places, frames.to(buffer.device)][:, None]
        else:
            clips = other[places]
        rows = torch.as_tensor(rows, device=buffer.device)
        out[rows] += clips * (1 - weights[rows])
    return out


def _blend_labels(
    number: int, blends: Sequence[Blend], partners: np.ndarray, classes: int
) -> torch.Tensor:
    group = blends[number]
    theirs = [int(blends[other].labels[place]) for other, place in partners.tolist()]
    soft, rows = np.zeros((len(theirs), classes), np.float32), np.arange(len(theirs))
    np.add.at(soft, (rows, group.labels), group.own_weights)
    np.add.at(soft, (rows, theirs), 1 - group.own_weights)
    return torch.from_numpy(soft)
