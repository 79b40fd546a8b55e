"""Peers that decode clip by clip, for a DataLoader or a thread pool: decord, PyAV, OpenCV,
torchcodec.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from importlib import import_module

import av
import cv2
import numpy as np
import torch

from benchmarks.loader_task import Item, Job
from benchmarks.peer_tools import (
    WAYS,
    blank,
    cut,
    cut_all,
    repeat_frames,
)

# ---- decord ----


def _decord_clip(item: Item, size: int) -> np.ndarray:
    from decord import VideoReader, cpu

    return cut_all(
        VideoReader(item.path, ctx=cpu(0), num_threads=1).get_batch(item.frames).asnumpy(),
        item,
        size,
    )


def decord(job: Job, way: str) -> Iterator[torch.Tensor]:
    import_module("decord")
    return WAYS[way](job, _decord_clip)


# ---- PyAV ----


def _pyav_clip(item: Item, size: int) -> np.ndarray:
    """Forward through the file, over to the next keyframe where the container's index has one
    before the wanted frame.

    Frames are told by their times, which needs a constant frame rate.
    """
    places = {frame: place for place, frame in reversed(list(enumerate(item.frames)))}
    out, wanted, index = blank(item, size), deque(sorted(places)), -1
    with av.open(item.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ticks, first = 1 / (stream.average_rate * stream.time_base), stream.start_time or 0
        if not len(stream.index_entries):  # WebM's is read at the first seek
            container.seek(first, stream=stream)
        keys = [
            round((entry.timestamp - first) / ticks)
            for entry in stream.index_entries
            if entry.is_keyframe
        ]
        back = 0
        while wanted:
            key = max((key for key in keys if key <= wanted[0] - back), default=0)
            if key > index + 1 or back:
                container.seek(first + round(key * ticks), stream=stream)
            for frame in container.decode(stream):
                index = round((frame.pts - first) / ticks)
                # B-frames: the keyframe is decoded before that time, and shown behind it
                if index > wanted[0]:
                    back += 1
                    break
                if index == wanted[0]:
                    back = 0
                    cut(frame.to_ndarray(format="rgb24"), item, out[places[wanted.popleft()]])
                    if not wanted or any(index + 1 < key <= wanted[0] for key in keys):
                        break
            else:
                raise RuntimeError(f"{item.path} ends before frame {wanted[0]}")
    return repeat_frames(out, item, places)


def pyav(job: Job, way: str) -> Iterator[torch.Tensor]:
    return WAYS[way](job, _pyav_clip)


# ---- OpenCV ----


def _imread(path: str, flag: int) -> np.ndarray:
    picture = cv2.imread(path, flag)
    if picture is None:
        raise RuntimeError(f"OpenCV reads no picture in {path}")
    return picture


def _opencv_photo(item: Item, size: int) -> np.ndarray:
    out, (top, left, bottom, right) = blank(item, size), item.box
    factor = next(
        (factor for factor in (8, 4, 2) if min(bottom - top, right - left) >= factor * size), 1
    )
    if factor == 1:
        cut(_imread(item.path, cv2.IMREAD_COLOR_RGB), item, out[0])
    else:  # JPEG decodes at a fraction of the size for a fraction of the work
        flag = {
            2: cv2.IMREAD_REDUCED_COLOR_2,
            4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8,
        }[factor]
        small = Item(
            item.path, item.frames, tuple(edge // factor for edge in item.box), item.flip, item.file
        )
        cut(cv2.cvtColor(_imread(item.path, flag), cv2.COLOR_BGR2RGB), small, out[0])
    return out


def _opencv_clip(item: Item, size: int, jump: int) -> np.ndarray:
    """Unwanted frames are grabbed (decoded, not converted); behind gaps of ``jump`` frames OpenCV
    seeks.
    """
    places = {frame: place for place, frame in reversed(list(enumerate(item.frames)))}
    out, at = blank(item, size), 0
    capture = cv2.VideoCapture(item.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for wanted in sorted(places):
        if wanted - at >= jump:
            capture.set(cv2.CAP_PROP_POS_FRAMES, wanted)
            at = wanted
        while at < wanted:
            capture.grab()
            at += 1
        given, picture = capture.read()
        at += 1
        if not given:
            raise RuntimeError(f"{item.path} ends before frame {wanted}")
        frame = out[places[wanted]]
        cut(picture, item, frame)
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
    capture.release()
    return repeat_frames(out, item, places)


def opencv(job: Job, way: str, jump: int) -> Iterator[torch.Tensor]:
    return WAYS[way](
        job, _opencv_photo if job.kind == "image" else partial(_opencv_clip, jump=jump)
    )


# ---- torchcodec ----


def _torchcodec_clip(item: Item, size: int, seek_mode: str) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        item.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
    )
    # "approximate" takes the length from the header and may miss the last frame
    if max(item.frames) >= len(decoder):
        decoder = VideoDecoder(item.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return cut_all(decoder.get_frames_at(list(item.frames)).data.numpy(), item, size)


def torchcodec(job: Job, way: str, seek_mode: str) -> Iterator[torch.Tensor]:
    import_module("torchcodec.decoders")
    return WAYS[way](job, partial(_torchcodec_clip, seek_mode=seek_mode))
