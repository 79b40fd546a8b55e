"""Peers that decode clip by clip, for a DataLoader or a thread pool."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module

import av
import cv2
import numpy as np
import torch

from benchmarks.loader_task import ClipRequest, LoaderTask
from benchmarks.peer_tools import (
    WAYS,
    crop_all,
    crop_into,
    empty_clip,
    repeat_frames,
)

# ---- decord ----


def _decord_clip(clip: ClipRequest, size: int) -> np.ndarray:
    from decord import VideoReader, cpu

    reader = VideoReader(clip.path, ctx=cpu(0), num_threads=1)
    return crop_all(reader.get_batch(clip.frames).asnumpy(), clip, size)


def decord(task: LoaderTask, way: str) -> Iterator[torch.Tensor]:
    """decord; ``way`` is one of ``WAYS``."""
    import_module("decord")
    return WAYS[way](task, _decord_clip)


# ---- PyAV ----


def _pyav_clip(clip: ClipRequest, size: int) -> np.ndarray:
    """Decode forward through the file, and on from a later keyframe where the index has one.

    Frames are recognised by their times, which needs a constant frame rate.
    """
    places = _first_places(clip)
    out = empty_clip(clip, size)
    wanted = deque(sorted(places))
    index = -1

    with av.open(clip.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.average_rate is not None and stream.time_base is not None
        ticks = 1 / (stream.average_rate * stream.time_base)
        first = stream.start_time or 0
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
                assert frame.pts is not None
                index = round((frame.pts - first) / ticks)
                # B-frames: the keyframe is decoded before that time, and shown after it
                if index > wanted[0]:
                    back += 1
                    break
                if index == wanted[0]:
                    back = 0
                    image = frame.to_ndarray(format="rgb24")
                    crop_into(image, clip, out[places[wanted.popleft()]])
                    if not wanted or any(index + 1 < key <= wanted[0] for key in keys):
                        break
            else:
                raise RuntimeError(f"{clip.path} ends before frame {wanted[0]}")
    return repeat_frames(out, clip, places)


def pyav(task: LoaderTask, way: str) -> Iterator[torch.Tensor]:
    """PyAV; ``way`` is one of ``WAYS``."""
    return WAYS[way](task, _pyav_clip)


# ---- OpenCV ----


def _imread(path: str, flag: int) -> np.ndarray:
    image = cv2.imread(path, flag)
    if image is None:
        raise RuntimeError(f"OpenCV reads no image in {path}")
    return image


def _opencv_image(clip: ClipRequest, size: int) -> np.ndarray:
    """Decode a JPEG at a fraction of its size where the box allows it: a fraction of the work."""
    top, left, bottom, right = clip.box
    factor = 8
    while factor > 1 and min(bottom - top, right - left) < factor * size:
        factor //= 2
    out = empty_clip(clip, size)

    if factor == 1:
        crop_into(_imread(clip.path, cv2.IMREAD_COLOR_RGB), clip, out[0])
        return out
    flag = {
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[factor]
    image = cv2.cvtColor(_imread(clip.path, flag), cv2.COLOR_BGR2RGB)
    box = (top // factor, left // factor, bottom // factor, right // factor)
    crop_into(image, replace(clip, box=box), out[0])
    return out


def _opencv_clip(clip: ClipRequest, size: int, jump: int) -> np.ndarray:
    """Grab unwanted frames (decoded, not converted); seek over gaps of ``jump`` frames."""
    places = _first_places(clip)
    out = empty_clip(clip, size)
    capture = cv2.VideoCapture(clip.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    index = 0

    for wanted in sorted(places):
        if wanted - index >= jump:
            capture.set(cv2.CAP_PROP_POS_FRAMES, wanted)
            index = wanted
        while index < wanted:
            capture.grab()
            index += 1
        given, image = capture.read()
        index += 1
        if not given:
            raise RuntimeError(f"{clip.path} ends before frame {wanted}")
        frame = out[places[wanted]]
        crop_into(image, clip, frame)
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
    capture.release()
    return repeat_frames(out, clip, places)


def _first_places(clip: ClipRequest) -> dict[int, int]:
    """Where each wanted frame is in the clip; the first place of one that is wanted twice."""
    places: dict[int, int] = {}
    for place, frame in enumerate(clip.frames):
        places.setdefault(frame, place)
    return places


def opencv(task: LoaderTask, way: str, jump: int) -> Iterator[torch.Tensor]:
    """OpenCV; seeks over gaps of ``jump`` frames."""
    decode = _opencv_image if task.kind == "image" else partial(_opencv_clip, jump=jump)
    return WAYS[way](task, decode)


# ---- torchcodec ----


def _torchcodec_clip(clip: ClipRequest, size: int, seek_mode: str) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    decoder = VideoDecoder(
        clip.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
    )
    # "approximate" takes the length from the header and may miss the last frame
    if max(clip.frames) >= len(decoder):
        decoder = VideoDecoder(clip.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return crop_all(decoder.get_frames_at(list(clip.frames)).data.numpy(), clip, size)


def torchcodec(task: LoaderTask, way: str, seek_mode: str) -> Iterator[torch.Tensor]:
    """torchcodec, with its ``seek_mode``."""
    import_module("torchcodec.decoders")
    return WAYS[way](task, partial(_torchcodec_clip, seek_mode=seek_mode))
