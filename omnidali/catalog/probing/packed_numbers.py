"""Sorted numbers in few bytes, as the catalog keeps timestamps and keyframes."""

import zlib

import numpy as np


def pack_numbers(numbers: np.ndarray) -> bytes:
    """Sorted int64 numbers as compressed differences."""
    return zlib.compress(np.diff(np.asarray(numbers, np.int64), prepend=0).tobytes(), 1)


def unpack_numbers(data: bytes) -> np.ndarray:
    """The inverse of :func:`pack_numbers`: int64 (N,), empty for no data."""
    if not data:
        return np.zeros(0, np.int64)
    return np.cumsum(np.frombuffer(zlib.decompress(data), np.int64))


def unpack_times(timing: bytes, frames: int) -> np.ndarray | None:
    """Unpack the timestamps of a video.

    Args:
        timing: as of :class:`~omnidali.catalog.probing.probe.Probe`.
        frames: of the video.

    Returns:
        Ticks in presentation order, int64 (frames,); None if the file has none.
    """
    times = unpack_numbers(timing)
    if not len(times):
        return None
    return times if len(times) == frames else times[0] + np.arange(frames) * (times[1] - times[0])
