"""Checks that the frames of a case are those that FFmpeg gives."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import omnidali
from helpers.frame_matrix.case import Case
from helpers.frame_matrix.excerpts import excerpt_problems
from helpers.frame_matrix.reference import (
    Reference,
    decode_by_program,
    decode_by_pyav,
    has_program,
    painted,
    whole_frames,
)


def problems(
    path: Path,
    expected: Sequence[int] | None = None,
    *,
    by_pyav: bool = False,
    used: int | None = None,
    damaged: bool = False,
    permitted: str = "",
) -> list[str]:
    """What is wrong with the frames that the project reads from a file.

    They are compared with FFmpeg's sequential decoding. Arguments as the attributes of a case.
    """
    is_program = has_program() and not by_pyav
    frames = decode_by_program(path) if is_program else decode_by_pyav(path)
    shown = [painted(frame) for frame in frames]
    if expected is not None and shown != list(expected):
        return [f"the reference itself shows {shown} instead of {list(expected)}"]
    frames = frames[:used]
    compared = whole_frames(frames) if damaged else set(range(len(frames)))
    try:
        count = omnidali.count_frames(path)
        found = [] if count == len(frames) else [f"{count} frames instead of {len(frames)}"]
        reference = Reference(frames)
        for name, numbers in _readings(min(count, len(frames)), path.name):
            read = omnidali.read_frames(path, numbers)
            for number, frame in zip(numbers, read, strict=True):
                wrong = reference.difference(frame, number) if number in compared else ""
                if wrong:
                    found.append(f"{name}, frame {number}: {wrong}")
        return found
    except omnidali.UserError as error:
        is_permitted = permitted and re.search(permitted, str(error))
        return [] if is_permitted else [f"refused: {error}"]


def check(case: Case, path: Path) -> list[str]:
    """Make a case's file at ``path``, and check it and excerpts of it."""
    case.make(path)
    found = problems(
        path,
        case.expected,
        by_pyav=case.by_pyav,
        used=case.used,
        damaged=case.damaged,
        permitted=case.permitted,
    )
    is_whole = not case.damaged and case.used is None and not case.permitted
    return found + excerpt_problems(path) if is_whole else found


def _readings(count: int, name: str) -> Iterator[tuple[str, list[int]]]:
    """What is read at once: everything, each frame alone, and random sets with repeats."""
    if not count:
        return
    yield "in sequence", list(range(count))
    for number in range(count):
        yield "alone", [number]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(4):
        numbers = rng.integers(0, count, 8).tolist()
        numbers += [numbers[2], numbers[0]]
        yield f"among {numbers}", numbers
