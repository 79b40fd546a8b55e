"""Planned frames of a video on the CPU, through PyAV (FFmpeg).

Frames come by the packet index, or through the demuxer where there is none.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.frame_planes import show_upright
from omnidali.catalog.probing.packet_index import PacketDecoder, PacketIndex
from omnidali.catalog.probing.probe import DAMAGED, IRREGULAR
from omnidali.catalog.probing.sniff import UnsupportedMediaError
from omnidali.decoding.colours import write_rgb
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.failure_cause import Cause, cause_of, graver
from omnidali.decoding.frame_fill import fill_missing, places_of
from omnidali.errors import DecodeError

_LOCAL = threading.local()  # a decoder for each thread, used again


def decode_video(
    media: Media,
    frames: np.ndarray,
    boxes: np.ndarray,
    size: int,
    out: np.ndarray,
    causes: list[Cause] | None = None,
) -> int:
    """Decode the planned frames and write their crops.

    Args:
        frames: int (F,), frame numbers, in any order, repeats allowed.
        boxes: int (V, 4), in pixels of the upright picture.
        size: side of each crop, pixels.
        out: uint8 (V, F, size, size, 3), RGB.
        causes: gets why frames did not come.

    Returns:
        How many of the F frames the stream did not give and the nearest decoded one stands for.

    Raises:
        DecodeError: if no wanted frame can be decoded.
    """
    places = places_of(frames)
    found, cause = write_frames(media, places, boxes, out)
    if len(found) == len(places):
        return 0
    if not found and cause is None:
        raise DecodeError(
            f"none of the frames {min(places)} to {max(places)} of {media.frames} came out"
        )
    if not found:
        raise cause.error()
    if causes is not None and cause is not None:
        causes.append(cause)
    return fill_missing(out, places, sorted(found))


def write_frames(
    media: Media, places: dict[int, list[int]], boxes: np.ndarray, out: np.ndarray
) -> tuple[set[int], Cause | None]:
    """Write the crops of the frames that can be had.

    Args:
        places: where in ``out`` each frame belongs. boxes: as of :func:`decode_video`.
        out: uint8 (V, F, height, width, 3), RGB.

    Returns:
        The frames that came, and why others did not: what the first way of decoding met, then what
            the next one did.
    """
    found: set[int] = set()
    cause = None

    def take(source: Callable, wanted: list[int]) -> Cause | None:
        """Write what comes; returns what ended it."""
        try:
            for number, frame in source(media, index, wanted):
                first, *others = places[number]
                _write_crops(frame, media, boxes, out[:, first])
                for other in others:
                    out[:, other] = out[:, first]
                found.add(number)
            return None
        except (
            DecodeError,
            UnsupportedMediaError,
            av.FFmpegError,
            OSError,
            ValueError,
            IndexError,
            cv2.error,
            zlib.error,
            struct.error,
        ) as error:
            return cause_of(error)

    index = PacketIndex.unpack(media.packets) if media.packets else None
    is_direct = index is not None and index.is_direct
    for source in (indexed_frames, demuxed_frames) if is_direct else (demuxed_frames,):
        wanted = sorted(places.keys() - found)
        worst, is_over = None, False
        while wanted and not is_over:
            failure = take(source, wanted)
            worst = graver(worst, failure)
            is_over = failure is None
            # the first that did not come is given up, at least by this source; others may lie
            # behind the damage
            wanted = [number for number in wanted if number not in found][1:]
        if worst is not None:
            cause = worst if cause is None else cause.then(worst)
    return found, cause


def indexed_frames(
    media: Media, index: PacketIndex, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of the wanted frames by the packet index, with this thread's decoder;
    arguments and errors as :meth:`~omnidali.catalog.probing.packet_index.PacketDecoder.frames`.
    """
    try:
        with open(media.span.path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != media.stamp:
                # another one's packets lie elsewhere
                raise DecodeError("the file changed after the probe")
            codec = media.codec.partition(":")[0]
            decoder = getattr(_LOCAL, "decoder", None)
            # where something must be made up, it must not be made up of another video
            is_whole = index.keys[0] and not media.codec.endswith((DAMAGED, IRREGULAR))
            if decoder is None or not is_whole or not decoder.fits(codec, index):
                decoder = _LOCAL.decoder = PacketDecoder(codec, index)
            is_sound = True
            for number, frame in decoder.frames(index, media.span.reader(file), wanted):
                is_sound &= not frame.is_corrupt
                yield number, frame
            if not (is_sound and is_whole):
                _LOCAL.decoder = None
    except BaseException:
        _LOCAL.decoder = None  # what is left in it after an error, nobody knows
        raise


def upright_size(frame: av.VideoFrame, media: Media) -> tuple[int, int]:
    """Width and height of a decoded frame as a viewer shows it, pixels."""
    return (frame.width, frame.height) if media.rotation % 180 == 0 else (frame.height, frame.width)


def _write_crops(frame: av.VideoFrame, media: Media, boxes: np.ndarray, out: np.ndarray) -> None:
    """Write the crops (V, height, width, 3) of one decoded frame."""
    upright = upright_size(frame, media)
    if upright != media.stored:
        raise DecodeError(
            f"a frame of {upright[0]}x{upright[1]} in a video of {media.stored[0]}x{media.stored[1]}"
        )
    if media.stored != (media.width, media.height):
        across, down = media.stored[0] / media.width, media.stored[1] / media.height
        boxes = np.rint(boxes * [down, across, down, across]).astype(np.int64)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    for box, crop in zip(boxes.tolist(), out):
        if not media.rotation and not media.mirrored:
            write_rgb(frame, box, crop)
            continue
        coded = np.empty(
            crop.shape if media.rotation % 180 == 0 else crop.transpose(1, 0, 2).shape, np.uint8
        )
        write_rgb(frame, coded_box(box, media), coded)
        crop[:] = show_upright(coded, media.rotation, media.mirrored)


def coded_box(box: tuple[int, int, int, int], media: Media) -> tuple[int, int, int, int]:
    """Where a box of the upright picture lies in the coded one: top, left, bottom, right."""
    top, left, bottom, right = box
    width, height = media.stored
    for _ in range(media.rotation // 90):  # a quarter clockwise takes a quarter back
        top, left, bottom, right = left, height - bottom, right, height - top
        width, height = height, width
    if media.mirrored:
        left, right = width - right, width - left
    return top, left, bottom, right
