"""Mixup as planned: clips and labels of a step's pairs, blended where the clips lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Blend:
    """What one group of clips is blended with; arrays of length N, see :class:`~omnidali.planning.plan.Samples`."""

    slots: np.ndarray
    partners: np.ndarray
    own_weights: np.ndarray
    partner_frames: np.ndarray
    labels: np.ndarray


def blend_clips(buffers: Sequence[torch.Tensor], blends: Sequence[Blend]) -> list[torch.Tensor]:
    """w * clip + (1 - w) * partner for every clip.

    A single picture is spread over all frames of its partner's clip; where the picture is the slot's own, it is
    blended with the planned frame of the partner alone, so that it stays one picture.

    Args:
        buffers: (N, T, S, S, 3) each, T being 1 or the clip's length.
    """
    group_of, place_of = _places(blends)
    mixed = []
    for buffer, blend in zip(buffers, blends):
        weights = torch.as_tensor(blend.own_weights, dtype=buffer.dtype, device=buffer.device).view(-1, 1, 1, 1, 1)
        out = buffer * weights
        groups = np.array([group_of[slot] for slot in blend.partners.tolist()])
        for number, other in enumerate(buffers):
            rows = np.flatnonzero((groups == number) & (blend.partners != blend.slots))
            if not len(rows):
                continue
            theirs = torch.as_tensor([place_of[slot] for slot in blend.partners[rows].tolist()], device=buffer.device)
            if buffer.shape[1] == 1 < other.shape[1]:
                frames = torch.as_tensor((blend.partner_frames[rows] * other.shape[1]).astype(np.int64))
                clips = other[theirs, frames.to(buffer.device)][:, None]
            else:
                clips = other[theirs]
            rows = torch.as_tensor(rows, device=buffer.device)
            out[rows] += clips * (1 - weights[rows])
        mixed.append(out)
    return mixed


def blend_labels(blends: Sequence[Blend], classes: int) -> list[torch.Tensor]:
    """The label of a blended clip: float32 (N, classes), each row summing to 1."""
    group_of, place_of = _places(blends)
    soft = []
    for blend in blends:
        theirs = [int(blends[group_of[slot]].labels[place_of[slot]]) for slot in blend.partners.tolist()]
        rows = np.zeros((len(theirs), classes), np.float32)
        numbers = np.arange(len(theirs))
        np.add.at(rows, (numbers, blend.labels), blend.own_weights)
        np.add.at(rows, (numbers, theirs), 1 - blend.own_weights)
        soft.append(torch.from_numpy(rows))
    return soft


def _places(blends: Sequence[Blend]) -> tuple[dict[int, int], dict[int, int]]:
    """The group of every slot, and its place therein."""
    group_of = {slot: number for number, blend in enumerate(blends) for slot in blend.slots.tolist()}
    place_of = {slot: place for blend in blends for place, slot in enumerate(blend.slots.tolist())}
    return group_of, place_of
