"""Frames of any one video as arrays, decoded in the same way as for a training."""

import functools
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan, stamp_of
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.video import places_of, write_frames
from omnidali.errors import UserError, start_of

_KEPT = 16  # probes of files that are read again and again


def count_frames(path: str | Path) -> int:
    """How many frames a video has: those that FFmpeg's sequential decoding outputs.

    Raises:
        UserError: if the file cannot be read, or no training would use it; the message has the
            reason.
    """
    return _media(path).frames


def read_frames(path: str | Path, numbers: Iterable[SupportsIndex]) -> np.ndarray:
    """Frames of a video: uint8 (F, H, W, 3), RGB, upright, unscaled.

    Frame k is the k-th that FFmpeg's sequential decoding puts out, whatever the file says about its
    times. The file takes the same steps as those of a training: the checks, the probe, the packet
    index, and the decoder of the CPU.

    Args:
        path: of the video.
        numbers: of the frames, from 0 on, in any order, repeats allowed.

    Raises:
        UserError: if the file cannot be read, or no training would use it; if a frame does not
            decode.
        IndexError: for a number that the video does not have.
        TypeError: for anything but a whole number.

    Example::

        import omnidali

        last = omnidali.count_frames("video.avi") - 1
        first_and_last = omnidali.read_frames("video.avi", [0, last])
        print(first_and_last.shape)  # (2, 240, 320, 3)
    """
    media = _media(path)
    wanted = [_whole(number) for number in numbers]
    outside = next((number for number in wanted if not 0 <= number < media.frames), None)
    if outside is not None:
        raise IndexError(f"{path}: frame {outside} of a video of {media.frames} frames, from 0 on")

    frames = np.array(wanted, np.int64)
    out = np.zeros((1, len(frames), media.height, media.width, 3), np.uint8)
    places = places_of(frames)
    found, cause = write_frames(media, places, np.array([[0, 0, media.height, media.width]]), out)
    missing = sorted(places.keys() - found)
    if not missing:
        return out[0]

    advice = "Run `omnidali lint --decode` to see what else of the file does not decode."
    if cause is not None and cause.passes:
        advice = "Check the disk, then read again; the file need not be bad."
    raise UserError(
        str(path),
        f"frame {missing[0]} of {media.frames}",
        str(cause.error()) if cause is not None else "no picture",
        advice,
    )


def _whole(number: SupportsIndex) -> int:
    if isinstance(number, bool):  # a mask is no list of numbers
        raise TypeError(f"frame numbers must be whole numbers, got {number}")
    return operator.index(number)


def _media(path: str | Path) -> Media:
    full = os.path.abspath(path)
    return _probe(str(path), full, stamp_of(full))


@functools.lru_cache(maxsize=_KEPT)
def _probe(path: str, full: str, stamp: tuple[int | None, int | None]) -> Media:
    """Probe a file; ``stamp`` makes a changed file another one."""
    span = FileSpan(full)
    try:
        if os.path.exists(full) and not os.path.isfile(full):
            raise UnsupportedMediaError("not a regular file")  # a pipe would be waited for
        return Media.of(full, span, probe_video(span))
    except UnsupportedMediaError as error:
        raise UserError(
            path, "a video that can be used", str(error), "Fetch it again, or convert it."
        ) from None
    except (OSError, ValueError) as error:  # the second: no name of a file
        raise UserError(
            path,
            "a video that can be read",
            f"{getattr(error, 'strerror', None) or error}{start_of(path)}",
            "Check the path and its permissions.",
        ) from None
