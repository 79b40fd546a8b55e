"""What all cases of the frame matrix have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILE = 5  # painted into the video that is to be read
DECOY = 9  # painted into others in the same file
FRAMES = 28
GOP = 9  # frames from one keyframe to the next
RATE = 30  # frames a second
HIDDEN = 11  # frames before an edit list's beginning, which lies inside the second GOP
SPLIT = 14  # frames before the clock restarts
LARGER = (192, 160)  # of a video beside one of the usual size
PATIENCE_SECONDS = 120  # with one run of the ffmpeg program


@dataclass(frozen=True)
class Case:
    """One file that is made and checked.

    Attributes:
        name: unique; its last part is the file's ending behind a dot.
        make: writes the file.
        expected: the numbers that its frames show, in order; None where FFmpeg alone decides.
        program: whether making it takes the ffmpeg program.
        by_pyav: whether the reference is PyAV's, because the program may be too old for the kind.
        used: how many frames from the first on are promised; None: all.
        damaged: whether only those frames are compared that came out of FFmpeg whole.
        permitted: pattern of the reasons for which the file may be refused; empty: it must be read.
        kind: container, codec, structure and timing; None of an extra case.
    """

    name: str
    make: Callable[[Path], None]
    expected: tuple[int, ...] | None = tuple(range(FRAMES))
    program: bool = False
    by_pyav: bool = False
    used: int | None = None
    damaged: bool = False
    permitted: str = ""
    kind: tuple[str, str, str, str] | None = None
