"""The frames that make a clip: mmaction2's SampleFrames, vectorised.

There are C clips of L frames at interval I; the span of a clip is L * I. Frames past the end of a
video wrap around (mode 'loop').
"""

from typing import Literal

import numpy as np

from omnidali.planning.philox import below


def sample_train(
    lengths: np.ndarray, words: np.ndarray, clip_len: int, interval: int, clips: int
) -> np.ndarray:
    """Frames for training: one random offset in each of C equal parts of the video.

    Args:
        lengths: int (n,), frames of each video.
        words: uint64 (n, C), random 32-bit words.
        clip_len: L.
        interval: I, frames.
        clips: C.

    Returns:
        int32 (n, C * L), frame indices, 0 <= index < length.
    """
    lengths = np.asarray(lengths, np.int64)[:, None]
    span = clip_len * interval
    room = lengths - span + 1
    average = room // clips
    steps = np.arange(clips)

    # Long videos have an offset in each part; shorter ones C sorted offsets, or offsets that spread
    # evenly, or none.
    offsets = np.where(average > 0, steps * average + below(words, np.maximum(average, 1)), 0)
    crowded = (average <= 0) & (lengths > max(clips, span))
    offsets = np.where(crowded, np.sort(below(words, np.maximum(room, 1)), axis=1), offsets)
    short = (average == 0) & ~crowded
    offsets = np.where(short, np.round(steps * (room / clips)).astype(np.int64), offsets)
    return _expand(offsets, lengths, clip_len, interval)


def sample_test(
    lengths: np.ndarray,
    clip_len: int,
    interval: int,
    clips: int,
    positions: Literal["centered", "ends"] = "centered",
) -> np.ndarray:
    """Frames for evaluation: C evenly spaced clips; see :func:`sample_train`.

    Args:
        lengths: int (n,), frames of each video.
        clip_len: L.
        interval: I, frames.
        clips: C.
        positions: ``centered``, the middle of each of C equal parts, as in mmaction2 0.x; or
            ``ends``, the first clip begins with the video and the last one ends with it, as in
            mmaction2 1.x. There single frames (L = 1) are centered, too.

    Returns:
        int32 (n, C * L), frame indices, 0 <= index < length.

    >>> sample_test(np.array([300]), clip_len=1, interval=1, clips=3)
    array([[ 50, 150, 250]], dtype=int32)
    >>> sample_test(np.array([300]), clip_len=2, interval=100, clips=3, positions="ends")
    array([[  0, 100, 100, 200, 199, 299]], dtype=int32)
    """
    lengths = np.asarray(lengths, np.int64)[:, None]
    if positions == "ends":
        return _expand(
            _offsets_to_ends(lengths, clip_len, interval, clips), lengths, clip_len, interval
        )

    span = clip_len * interval
    average = (lengths - span + 1) / clips
    offsets = (np.arange(clips) * average + average / 2).astype(np.int64)
    return _expand(np.where(lengths > span - 1, offsets, 0), lengths, clip_len, interval)


def _offsets_to_ends(lengths: np.ndarray, clip_len: int, interval: int, clips: int) -> np.ndarray:
    """First frames (n, C) of clips from the begin of videos of ``lengths`` (n, 1) to their end.

    The order of the operations is mmaction2 1.2's, so that they round alike: halves to even.
    """
    numbers = np.arange(clips)
    if clip_len == 1:
        average = lengths / clips
        return (numbers * average + average / 2).astype(np.int64)
    room = np.maximum(lengths - ((clip_len - 1) * interval + 1), 0)
    if clips == 1:
        return room // 2
    return np.round(numbers * (room / (clips - 1))).astype(np.int64)


def frames_decoded(wanted: np.ndarray, keyframes: np.ndarray) -> int:
    """How many frames a decoder must decode to show ``wanted``.

    It continues from its position, or from the last keyframe before a frame.

    >>> frames_decoded(np.array([3, 5, 17]), np.array([0, 8, 16]))
    8
    """
    count = 0
    position = -1
    for frame in np.unique(wanted).tolist():
        before = keyframes[: np.searchsorted(keyframes, frame, side="right")]
        begin = max(int(before[-1]) if len(before) else 0, position + 1)
        count += frame - begin + 1
        position = frame
    return count


def _expand(offsets: np.ndarray, lengths: np.ndarray, clip_len: int, interval: int) -> np.ndarray:
    """Frames int32 (n, C * L) of clips that begin at offsets (n, C)."""
    frames = offsets[:, :, None] + np.arange(clip_len) * interval
    return (frames.reshape(len(lengths), offsets.shape[1] * clip_len) % lengths).astype(np.int32)
