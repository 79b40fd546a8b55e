"""Wanted frames by their number, and how those that did not come are filled."""

from __future__ import annotations

import numpy as np


def places_of(frames: np.ndarray) -> dict[int, list[int]]:
    """Where in the clip each frame is wanted; repeats allowed."""
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(frames.tolist()):
        places.setdefault(frame, []).append(place)
    return places


def fill_missing(out: np.ndarray, places: dict[int, list[int]], found: list[int]) -> int:
    """Copy the nearest frame that was found to the places of those that were not.

    Args:
        out: (V, F, ...).
        places: where in ``out`` each frame is wanted.
        found: at least one of the wanted frames.

    Returns:
        How many places were filled.
    """
    missing = sorted(set(places) - set(found))
    for frame in missing:
        nearest = min(found, key=lambda other: abs(other - frame))
        for place in places[frame]:
            out[:, place] = out[:, places[nearest][0]]
    return sum(len(places[frame]) for frame in missing)
