"""Mixup as planned: clips and labels of a step's pairs, blended where the clips lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Blend:
    """Partners and weights of one group of N clips.

    Attributes:
        slots: as in :class:`~omnidali.planning.samples.Samples`, like the next three.
        partners: slot that each clip is blended with.
        own_weights: of each clip in its blend.
        partner_frames: which frame of a longer partner an image takes.
        labels: int (N,), of the clips.
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
        buffers: (N, T, S, S, 3) each, T being 1 or the clip's length.
        blends: of the groups.
        classes: of the soft labels.

    Returns:
        w * clip + (1 - w) * partner for every clip of every group; and of every group the labels,
            float32 (N, classes), each row summing to 1.
    """
    place_of = {
        slot: (number, place)
        for number, group in enumerate(blends)
        for place, slot in enumerate(group.slots.tolist())
    }
    clips = []
    labels = []
    for number, group in enumerate(blends):
        partners = np.array([place_of[slot] for slot in group.partners.tolist()])
        clips.append(_blend_clips(number, buffers, blends, partners))
        labels.append(_blend_labels(number, blends, partners, classes))
    return clips, labels


def _blend_clips(
    number: int, buffers: Sequence[torch.Tensor], blends: Sequence[Blend], partners: np.ndarray
) -> torch.Tensor:
    """Blend one group's clips.

    An image is spread over all frames of its partner's clip. Where the image is the slot's own, it
    is blended with the planned frame of the partner alone, so that it stays one image.

    Args:
        number: of the group.
        buffers: as of :func:`blend`.
        blends: as of :func:`blend`.
        partners: int (N, 2), group of each partner and its place there.
    """
    buffer = buffers[number]
    group = blends[number]
    weights = torch.as_tensor(group.own_weights, dtype=buffer.dtype, device=buffer.device)
    weights = weights.view(-1, 1, 1, 1, 1)
    out = buffer * weights

    for theirs, other in enumerate(buffers):
        mine = np.flatnonzero((partners[:, 0] == theirs) & (group.partners != group.slots))
        if not len(mine):
            continue
        places = torch.as_tensor(partners[mine, 1], device=buffer.device)
        if buffer.shape[1] == 1 < other.shape[1]:
            frames = (group.partner_frames[mine] * other.shape[1]).astype(np.int64)
            clips = other[places, torch.as_tensor(frames, device=buffer.device)][:, None]
        else:
            clips = other[places]
        rows = torch.as_tensor(mine, device=buffer.device)
        out[rows] += clips * (1 - weights[rows])
    return out


def _blend_labels(
    number: int, blends: Sequence[Blend], partners: np.ndarray, classes: int
) -> torch.Tensor:
    group = blends[number]
    theirs = np.array([blends[other].labels[place] for other, place in partners.tolist()])
    soft = np.zeros((len(theirs), classes), np.float32)
    rows = np.arange(len(theirs))
    np.add.at(soft, (rows, group.labels), group.own_weights)
    np.add.at(soft, (rows, theirs), 1 - group.own_weights)
    return torch.from_numpy(soft)
