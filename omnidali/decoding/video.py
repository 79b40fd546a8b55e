"""Planned frames of a video on the CPU, through PyAV (FFmpeg).

Wanted frames are grouped by GOP: seek to the last keyframe before the first wanted one, decode
forward, stop behind the last. Boxes are cut out of the YUV planes before any conversion.
"""

from __future__ import annotations

import av
import cv2
import numpy as np

from omnidali.catalog.probe import open_video, unpack_numbers
from omnidali.catalog.store import Media
from omnidali.decoding.missing import fill_missing, places_of
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import CannotDecode

# 8-bit planar formats whose planes can be cut and scaled on their own: shifts of the colour planes
# (down, across). Everything else is converted to RGB as a whole frame first.
_PLANAR = {"yuv420p": (1, 1), "yuvj420p": (1, 1), "yuv422p": (0, 1), "yuvj422p": (0, 1), "yuv444p": (0, 0),
           "yuvj444p": (0, 0)}
_BT709 = 1
_FULL_RANGE = 2


def decode_video(media: Media, frames: np.ndarray, boxes: np.ndarray, size: int, out: np.ndarray) -> int:
    """Decode the planned frames and write their crops.

    Args:
        frames: int (F,), indices in presentation order, in any order, repeats allowed.
        boxes: int (V, 4), in pixels of the upright picture.
        size: side of each crop, pixels.
        out: uint8 (V, F, size, size, 3), RGB.

    Returns:
        How many of the F frames the stream did not give and the nearest decoded one stands for.

    Raises:
        CannotDecode: if no wanted frame can be decoded.
    """
    places, found = places_of(frames), []
    try:
        with open_video(media.span, media.container) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            for index, frame in _wanted_frames(container, stream, media, sorted(places)):
                first, *others = places[index]
                _write_crops(frame, media, boxes, size, out[:, first])
                for other in others:
                    out[:, other] = out[:, first]
                found.append(index)
    except (CannotDecode, av.FFmpegError, OSError, ValueError, IndexError, cv2.error) as error:
        if not found:
            raise CannotDecode(str(getattr(error, "strerror", None) or error)) from None
    if not found:
        raise CannotDecode(f"none of the frames {min(places)} to {max(places)} of {media.frames} came out")
    return fill_missing(out, places, found)


def _wanted_frames(container, stream, media: Media, wanted: list[int]):
    """Yield (index, frame) of the wanted frames, in rising order, each at most once."""
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


def _write_crops(frame, media: Media, boxes: np.ndarray, size: int, out: np.ndarray) -> None:
    """Write the crops (V, size, size, 3) of one decoded frame."""
    if media.rotation % 180 == 0:
        upright = (frame.width, frame.height)
    else:
        upright = (frame.height, frame.width)
    if upright != (media.width, media.height):
        raise CannotDecode(f"a frame of {upright[0]}x{upright[1]} in a video of {media.width}x{media.height}")
    shifts = _PLANAR.get(frame.format.name)
    if media.rotation or shifts is None:
        picture = np.rot90(frame.to_ndarray(format="rgb24"), media.rotation // 90)
        for view, box in enumerate(boxes):
            out[view] = cut_and_scale(np.ascontiguousarray(picture), box, size, size)
        return
    planes = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:plane.height, :plane.width]
              for plane in frame.planes]
    matrix = _matrix(frame.colorspace == _BT709, frame.color_range == _FULL_RANGE or "j" in frame.format.name)
    yuv = np.empty((size, size, 3), np.uint8)
    for view, box in enumerate(boxes):
        down, across = shifts
        colour = ((box[0] >> down), (box[1] >> across), -(-box[2] >> down), -(-box[3] >> across))
        channels = [cut_and_scale(plane, part, size, size)
                    for plane, part in zip(planes, (box, colour, colour))]
        cv2.merge(channels, dst=yuv)
        cv2.transform(yuv, matrix, dst=out[view])


def _matrix(bt709: bool, full_range: bool) -> np.ndarray:
    """Rows R, G, B over (Y, U, V, 1), for 8-bit values (ITU-R BT.601 and BT.709)."""
    red, blue = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    green = 1 - red - blue
    y, c, offset = (1, 1, 0) if full_range else (255 / 219, 255 / 224, 16)
    rows = np.array([[y, 0, 2 * (1 - red) * c],
                     [y, -2 * (1 - blue) * blue / green * c, -2 * (1 - red) * red / green * c],
                     [y, 2 * (1 - blue) * c, 0]])
    return np.column_stack([rows, -rows @ [offset, 128, 128]]).astype(np.float32)
