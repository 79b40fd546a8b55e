"""Which frames make a clip: mmaction2's SampleFrames, vectorised.

N frames, clips of L frames at interval I, C clips, span = L * I. Frames past the end wrap around
(mode 'loop').
"""

from __future__ import annotations

import numpy as np

from omnidali.planning.philox import below


def sample_train(
    lengths: np.ndarray, words: np.ndarray, clip_len: int, interval: int, clips: int
) -> np.ndarray:
    """Frames for training: one random offset in each of C equal parts of the video.

    Args:
        lengths: int array (n,), frames of each video.
        words: uint64 array (n, C) of random 32-bit words.

    Returns:
        int32 array (n, C * L) of frame indices, 0 <= index < length.
    """
    lengths = np.asarray(lengths, np.int64)[:, None]
    span = clip_len * interval
    room = lengths - span + 1
    average = room // clips
    steps = np.arange(clips)
    offsets = np.where(average > 0, steps * average + below(words, np.maximum(average, 1)), 0)
    crowded = (average <= 0) & (lengths > max(clips, span))
    if crowded.any():
        offsets = np.where(crowded, np.sort(below(words, np.maximum(room, 1)), axis=1), offsets)
    short = (average == 0) & ~crowded
    if short.any():
        offsets = np.where(short, np.round(steps * (room / clips)).astype(np.int64), offsets)
    return _expand(offsets, lengths, clip_len, interval)


def sample_test(lengths: np.ndarray, clip_len: int, interval: int, clips: int) -> np.ndarray:
    """Frames for evaluation: the middle of each of C equal parts; shapes as in
    :func:`sample_train`.

    >>> sample_test(np.array([300]), clip_len=1, interval=1, clips=3)
    array([[ 50, 150, 250]], dtype=int32)
    """
    lengths = np.asarray(lengths, np.int64)[:, None]
    span = clip_len * interval
    average = (lengths - span + 1) / clips
    offsets = (np.arange(clips) * average + average / 2).astype(np.int64)
    return _expand(np.where(lengths > span - 1, offsets, 0), lengths, clip_len, interval)


def frames_decoded(wanted: np.ndarray, keyframes: np.ndarray) -> int:
    """How many frames must be decoded to show ``wanted``, each from the last keyframe on or from
    where one is.

    >>> frames_decoded(np.array([3, 5, 17]), np.array([0, 8, 16]))
    8
    """
    count, position = 0, -1
    for frame in np.unique(wanted).tolist():
        before = keyframes[: np.searchsorted(keyframes, frame, side="right")]
        begin = max(int(before[-1]) if len(before) else 0, position + 1)
        count, position = count + frame - begin + 1, frame
    return count


def _expand(offsets: np.ndarray, lengths: np.ndarray, clip_len: int, interval: int) -> np.ndarray:
    frames = offsets[:, :, None] + np.arange(clip_len) * interval
    return (frames.reshape(len(lengths), offsets.shape[1] * clip_len) % lengths).astype(np.int32)
