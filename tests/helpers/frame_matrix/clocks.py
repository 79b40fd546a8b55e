"""Clocks: the ticks of a frame's time by its place."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from helpers.frame_matrix.case import HIDDEN, RATE, SPLIT

TICK = Fraction(1, 4 * RATE)  # of all clocks: four a frame
LATE_SECONDS = 100

# ticks of a frame's time by its place; places below 0 are for the decoding times of others
Clock = Callable[[int], int]


def constant_clock(place: int) -> int:
    return 4 * place


def late_clock(place: int) -> int:
    return 4 * (place + LATE_SECONDS * RATE)


def hiding_clock(place: int) -> int:
    return 4 * (place - HIDDEN)


def moved_clock(clock: Clock, ticks: int, place: int) -> int:
    return clock(place) + ticks


def uneven_clock(place: int) -> int:
    return place // 5 * 25 + (0, 3, 8, 12, 21)[place % 5]


def whole_uneven_clock(place: int) -> int:
    """Gaps of whole frames: AVI shows them as packets without bytes."""
    return place // 5 * 32 + (0, 4, 8, 16, 28)[place % 5]


def wrapping_clock(place: int) -> int:
    """A clock of 33 bits at 90 kHz that starts again in the middle."""
    return 4 * (place - SPLIT) + (1 << 33) * 4 * RATE // 90_000


def jumping_clock(place: int) -> int:
    """An hour is left out in the middle."""
    return constant_clock(place) + (3600 * 4 * RATE if place >= SPLIT else 0)


def standing_clock(place: int) -> int:
    return 0


def halting_clock(place: int) -> int:
    return place // 2 * 8


def falling_clock(place: int) -> int:
    return 4 * (100 - place)


def clock_of(container: str, timing: str) -> Clock:
    if timing == "variable":
        return whole_uneven_clock if container == "avi" else uneven_clock
    if timing == "late" and container != "avi":
        return late_clock
    return hiding_clock if timing == "edit" else constant_clock
