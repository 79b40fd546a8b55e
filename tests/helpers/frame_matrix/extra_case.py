"""Makes the cases that have no place in the matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from helpers.frame_matrix.case import FRAMES, Case
from helpers.frame_matrix.clocks import Clock, constant_clock
from helpers.frame_matrix.containers import CONTAINERS, mux, patch_avi
from helpers.frame_matrix.encoding import Encoded, encode_for


def make_cases(
    name: str,
    make: Callable,
    kinds: str,
    *,
    expected: Iterable[int] | None = range(FRAMES),
    program: bool = False,
    by_pyav: bool = False,
    damaged: bool = False,
    **arguments,
) -> Iterator[Case]:
    """Cases of one make.

    Args:
        name: of the cases, between the video's and the container's.
        make: called with a path, container, codec, structure, and ``arguments``.
        kinds: words such as ``h264-open.mp4,ts``: codec, structure and containers.
        expected: as of the case.
        program: as of the case.
        by_pyav: as of the case.
        damaged: as of the case.
        **arguments: of ``make``.
    """
    for word in kinds.split():
        video, _, containers = word.partition(".")
        codec, _, structure = video.partition("-")
        for container in containers.split(","):
            yield Case(
                f"{video}-{name}.{container}",
                partial(make, container=container, codec=codec, structure=structure, **arguments),
                expected=None if expected is None else tuple(expected),
                program=program,
                by_pyav=by_pyav,
                damaged=damaged,
            )


def write_muxed(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    clock: Clock = constant_clock,
    change: Callable[[Encoded], Encoded] | None = None,
    count: int = FRAMES,
    size: tuple[int, int] | None = None,
    pixels: str | None = None,
    **more,
) -> None:
    """Write a file; ``change``: what is done to the packets. ``more`` as of :func:`mux`."""
    video = encode_for(container, codec, structure, count=count, size=size, pixels=pixels)
    if change is not None:
        video = change(video)
    mux(path, CONTAINERS.get(container, container), [(video, clock)], **more)
    if container == "avi":
        patch_avi(path, codec, structure=structure)
