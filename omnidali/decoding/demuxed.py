"""Wanted frames of a video whose packets cannot be read by an index: through FFmpeg's demuxer, with seeks.

Needed where a container cuts its packets up (MPEG-TS) or has no timestamps, and where the index gave less than was
wanted, as of a file that changed behind the probe.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np

from omnidali.catalog.gate import check_size
from omnidali.catalog.probe import open_video, unpack_numbers
from omnidali.catalog.store import Media


def demuxed_frames(media: Media, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of the wanted frames, in rising order, each at most once.

    Wanted frames are grouped by GOP: seek to the last keyframe before the first one, decode forward, stop behind the
    last.

    Raises:
        Refused, av.FFmpegError, OSError, ValueError, IndexError: from a file that is broken.
    """
    with open_video(media.span, media.container) as container:
        stream = container.streams.video[0]
        check_size(stream.codec_context.width or 1, stream.codec_context.height or 1)  # it may be another file by now
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        yield from _wanted(container, stream, media, wanted)


def _wanted(container, stream, media: Media, wanted: list[int]):
    times = media.frame_times
    keyframes = unpack_numbers(media.keyframes)  # at most the first where there are no timestamps to seek by
    position = 0  # in wanted
    decoded_to = -1  # last index that the running decoder gave
    while position < len(wanted):
        key = int(np.searchsorted(keyframes, wanted[position], side="right")) - 1
        if key > 0 and keyframes[key] > decoded_to + 1:
            source = _after_seek(container, stream, times, keyframes, key, wanted[position])
        else:
            source = _from_here(container, stream, times)
        before = position
        for index, frame in source:
            decoded_to = index
            while position < len(wanted) and wanted[position] < index:
                position += 1  # the stream has a hole here
            if position < len(wanted) and wanted[position] == index:
                yield index, frame
                position += 1
                if position < len(wanted):
                    ahead = int(np.searchsorted(keyframes, wanted[position], side="right")) - 1
                    if ahead > 0 and keyframes[ahead] > index + 1:
                        break  # the next wanted frame has a keyframe of its own
            if position == len(wanted):
                break
        else:
            if position == before:  # the stream ended without giving anything more
                return


def _after_seek(container, stream, times, keyframes, key: int, wanted: int):
    """Frames from a keyframe on; steps back to earlier ones where the demuxer lands too late."""
    while True:
        container.seek(int(times[keyframes[key]]), stream=stream, backward=True, any_frame=False)
        frames = _from_here(container, stream, times)
        first = next(frames, None)
        if first is not None and first[0] <= wanted:
            break
        if key <= 0:
            break
        key -= 1
    if first is not None:
        yield first
        yield from frames


def _from_here(container, stream, times):
    """(presentation index, frame) of all frames that the demuxer and decoder give from where they are."""
    index = -1
    for frame in container.decode(stream):
        if times is None:
            index += 1
        elif frame.pts is None:
            continue
        elif 0 <= index < len(times) - 1 and times[index + 1] == frame.pts:
            index += 1
        else:
            index = int(np.searchsorted(times, frame.pts))
            if index == len(times) or times[index] != frame.pts:
                continue  # not among the frames that the probe counted
        yield index, frame
