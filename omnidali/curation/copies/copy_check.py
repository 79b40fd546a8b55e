"""Whether the frames of a copy are those of its original, one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import av
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import probe_video
from omnidali.catalog.probing.sniff import UnsupportedMediaError
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.frame_fill import places_of
from omnidali.decoding.video import write_frames
from omnidali.errors import DecodeError

_TRIED = 16  # frames of a file, evenly spread
_NEAR = 2  # frames before and after each that it is compared with
# pixels of the small pictures that are compared: noise, which encoding loses, is averaged away
_SIDE = 24
_DIFFERS = 1.5  # levels, on average, from which on two frames of the original are told apart
# One frame alone is judged where frames differ by more than encoding loses, as it may of a slow
# fade, and by how many times nearer another one is.
_CLEARLY, _TIMES = 4.0, 1.3
_RGB, _UNSPECIFIED = 0, 2  # FFmpeg's numbers of colour matrices


def check_frames(media: Media, path: Path, first: int = 0, replaced: Collection[int] = ()) -> None:
    """Compare frames of a copy with the same frames of the original and with their neighbours.

    The original's frames are decoded one by one here, not from front to back as when they were
    copied.

    Args:
        path: of the copy. first: frame of the original that it begins with.
        replaced: frames of the copy that stand for others.

    Raises:
        DecodeError: if frames of the copy are nearer to others than to their own, or have another
            colour matrix.
    """
    try:
        copy = Media.of(str(path), FileSpan(str(path)), probe_video(FileSpan(str(path))))
    except UnsupportedMediaError as refusal:
        raise DecodeError(f"the copy is refused: {refusal}") from None
    matrices = [_matrix(one, number) for one, number in ((media, first), (copy, 0))]
    if matrices[0] is not None and matrices[0] != matrices[1]:
        raise DecodeError(f"the copy has colour matrix {matrices[1]} instead of {matrices[0]}")

    tried = sorted(
        set(np.linspace(0, copy.frames - 1, _TRIED).astype(int).tolist()) - set(replaced)
    )
    around = {number + step for number in tried for step in range(-_NEAR, _NEAR + 1)}
    originals = _small(
        media, sorted(first + number for number in around if 0 <= number < copy.frames)
    )
    copies = _small(copy, tried)
    lacking = [number for number in tried if number not in copies]
    if lacking:
        raise DecodeError(f"frame {lacking[0]} of the copy does not decode")
    wrong, judged = [], 0
    for number in tried:
        distances = _distances(copies.get(number), originals, first + number)
        if distances is None:
            continue
        judged += 1
        own, nearest, apart = distances
        if nearest < own:
            wrong.append((own > _TIMES * nearest and apart > _CLEARLY, number))
    if 2 * len(wrong) > judged or any(is_clear for is_clear, _ in wrong):
        raise DecodeError(
            f"frame {max(wrong)[1]} of the copy is nearer to another frame of the original than to its own"
            f" ({len(wrong)} of {judged} that were compared)"
        )


def _distances(
    shown: np.ndarray | None, originals: dict[int, np.ndarray], number: int
) -> tuple[float, float, float] | None:
    """How far a frame of the copy is from its own and from the nearest other one, and these two
    from each other.

    In levels on average; None where all frames look alike.
    """
    if shown is None or number not in originals:
        return None
    own = originals[number]
    others = [
        (_apart(shown, other), _apart(other, own))
        for near, other in originals.items()
        if 0 < abs(near - number) <= _NEAR and _apart(other, own) >= _DIFFERS
    ]
    return (_apart(shown, own), *min(others)) if others else None


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _small(media: Media, numbers: Iterable[int]) -> dict[int, np.ndarray]:
    """Small pictures of the frames that decode: float32 (side, side, 3) by number."""
    frames = np.array(list(numbers), np.int64)
    out = np.zeros((1, len(frames), _SIDE, _SIDE, 3), np.uint8)
    found, _ = write_frames(
        media, places_of(frames), np.array([[0, 0, media.height, media.width]]), out
    )
    return {
        number: out[0, place].astype(np.float32)
        for place, number in enumerate(frames.tolist())
        if number in found
    }


def _matrix(media: Media, number: int) -> int | None:
    """The colour matrix of a frame; None where it does not decode."""
    index = PacketIndex.unpack(media.packets) if media.packets else None
    try:
        frame = next((frame for _, frame in demuxed_frames(media, index, [number])), None)
    except (av.FFmpegError, OSError, ValueError, IndexError, DecodeError, UnsupportedMediaError):
        return None
    return None if frame is None else copied_matrix(frame)


def copied_matrix(frame: av.VideoFrame) -> int:
    """FFmpeg's number of the colour matrix that a copy of a frame has."""
    return _UNSPECIFIED if frame.colorspace == _RGB else frame.colorspace
