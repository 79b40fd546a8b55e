"""Whether the frames of a copy are those of its original, one by one."""

from collections.abc import Collection, Sequence
from pathlib import Path

import av
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packed_numbers import unpack_numbers, unpack_times
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.video import places_of, write_frames
from omnidali.errors import DecodeError

_TRIED = 16  # frames of a file, evenly spread
_NEAR = 2  # frames before and after each that it is compared with
# pixels of the thumbnails that are compared: noise, which encoding loses, is averaged away
_SIDE = 24
_DIFFERS = 1.5  # levels, on average, from which on two frames of the original differ
# One frame alone is judged if frames differ by more than encoding loses, as it may of a slow
# fade, and by how many times nearer another one is.
_CLEARLY = 4.0
_TIMES = 1.3
_RGB = 0  # FFmpeg's numbers of colour matrices
_UNSPECIFIED = 2


def compare_with_original(media: Media, path: Path, replaced: Collection[int] = ()) -> None:
    """Compare frames of a copy with the same frames of the original and with their neighbours.

    The original's frames are decoded one by one here, not from front to back as when they were
    copied.

    Args:
        media: the original.
        path: of the copy.
        replaced: frames of the copy that are copies of others.

    Raises:
        DecodeError: if frames of the copy are nearer to others than to their own, or have another
            colour matrix.
    """
    try:
        copy = Media.of(str(path), FileSpan(str(path)), probe_video(FileSpan(str(path))))
    except UnsupportedMediaError as refusal:
        raise DecodeError(f"the copy is refused: {refusal}") from None
    original_matrix, copy_matrix = _matrix(media), _matrix(copy)
    if original_matrix is not None and original_matrix != copy_matrix:
        raise DecodeError(f"the copy has colour matrix {copy_matrix} instead of {original_matrix}")

    spread = np.linspace(0, copy.frames - 1, _TRIED).astype(int).tolist()
    tried = sorted(set(spread) - set(replaced))
    near = {number + step for number in tried for step in range(-_NEAR, _NEAR + 1)}
    originals = _thumbnails(media, sorted(near & set(range(copy.frames))))
    copies = _thumbnails(copy, tried)

    wrong = []
    judged = 0
    for number in tried:
        if number not in copies:
            raise DecodeError(f"frame {number} of the copy does not decode")
        if number not in originals:
            continue

        own = originals[number]
        distance = _distance(copies[number], own)
        # others that differ from it: how far they are from the copy's frame, and from its own
        others = [
            (_distance(copies[number], other), _distance(other, own))
            for place, other in originals.items()
            if 0 < abs(place - number) <= _NEAR and _distance(other, own) >= _DIFFERS
        ]
        if not others:
            continue

        judged += 1
        nearest, apart = min(others)
        if nearest < distance:
            wrong.append((distance > _TIMES * nearest and apart > _CLEARLY, number))

    if 2 * len(wrong) > judged or any(is_clear for is_clear, _ in wrong):
        raise DecodeError(
            f"frame {max(wrong)[1]} of the copy is nearer to another frame of the original than to"
            f" its own ({len(wrong)} of {judged} that were compared)"
        )


def check_headers(path: Path, seconds: np.ndarray, size: tuple[int, int], gop: int) -> None:
    """Probe a copy as the catalog will.

    Args:
        path: of the copy.
        seconds: of each frame after the first one.
        size: width and height, pixels.
        gop: frames from one keyframe to the next.

    Raises:
        DecodeError: unless it has one frame at each of these times, and the size, codec and
            keyframes that it was made with.
    """
    try:
        copy = probe_video(FileSpan(str(path)))
    except UnsupportedMediaError as refusal:
        raise DecodeError(f"the file is refused: {refusal}") from None
    if copy.frames != len(seconds):
        raise DecodeError(f"the file has {copy.frames} frames, not {len(seconds)}")

    times = unpack_times(copy.timing, copy.frames)
    if times is None or np.abs((times - times[0]) * copy.tick - seconds).max() > 1e-5:
        raise DecodeError("the file's timestamps are not the original's")
    keyframes = np.arange(0, copy.frames, gop)
    if (copy.width, copy.height, copy.codec) != (*size, "h264") or not np.array_equal(
        unpack_numbers(copy.keyframes), keyframes
    ):
        raise DecodeError(
            f"the copy is {copy.codec} of {copy.width}x{copy.height}, or has other keyframes"
        )


def copied_matrix(frame: av.VideoFrame) -> int:
    """FFmpeg's number of the colour matrix that a copy of a frame has."""
    return _UNSPECIFIED if frame.colorspace == _RGB else frame.colorspace


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Levels by which two thumbnails differ, on average."""
    return float(np.abs(one - other).mean())


def _thumbnails(media: Media, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Thumbnails of the frames that decode: float32 (side, side, 3) by number."""
    frames = np.array(numbers, np.int64)
    out = np.zeros((1, len(frames), _SIDE, _SIDE, 3), np.uint8)
    box = np.array([[0, 0, media.height, media.width]])
    found, _ = write_frames(media, places_of(frames), box, out)
    return {
        number: out[0, place].astype(np.float32)
        for place, number in enumerate(numbers)
        if number in found
    }


def _matrix(media: Media) -> int | None:
    """The colour matrix of the first frame; None if it does not decode."""
    index = PacketIndex.unpack(media.packets) if media.packets else None
    try:
        frame = next((frame for _, frame in demuxed_frames(media, index, [0])), None)
    except (av.FFmpegError, OSError, ValueError, IndexError, DecodeError, UnsupportedMediaError):
        return None
    return None if frame is None else copied_matrix(frame)
