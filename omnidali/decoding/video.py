"""Planned frames of a video on the CPU, through PyAV (FFmpeg).

Frames come by the packet index, or through the demuxer where there is none. Boxes are cut out of the
YUV planes before any conversion.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator

import av
import cv2
import numpy as np

from omnidali.catalog.gate import Refused
from omnidali.catalog.packets import PacketDecoder, PacketIndex
from omnidali.catalog.store import Media
from omnidali.decoding.demuxed import demuxed_frames
from omnidali.decoding.missing import fill_missing, places_of
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import CannotDecode

# 8-bit planar formats whose planes can be cut and scaled on their own: shifts of the colour planes
# (down, across). Everything else is converted to RGB as a whole frame first.
_PLANAR = {"yuv420p": (1, 1), "yuvj420p": (1, 1), "yuv422p": (0, 1), "yuvj422p": (0, 1), "yuv444p": (0, 0),
           "yuvj444p": (0, 0)}
_BT709 = 1
_FULL_RANGE = 2
_LOCAL = threading.local()  # a decoder for each thread, used again


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
    places, found, reason = places_of(frames), set(), None

    def take(source, wanted: list[int]) -> str | None:
        """Write what comes; returns what ended it."""
        try:
            for number, frame in source(media, wanted):
                first, *others = places[number]
                _write_crops(frame, media, boxes, size, out[:, first])
                for other in others:
                    out[:, other] = out[:, first]
                found.add(number)
            return None
        except (CannotDecode, Refused, av.FFmpegError, OSError, ValueError, IndexError, cv2.error, zlib.error,
                struct.error) as error:
            return str(getattr(error, "strerror", None) or error)

    for source in (indexed_frames, demuxed_frames) if media.packets else (demuxed_frames,):
        wanted, failure = sorted(places.keys() - found), ""
        while wanted and failure is not None:
            failure = take(source, wanted)
            reason = failure or reason
            # the first that did not come is given up, at least by this source; others may lie behind the damage
            wanted = [number for number in wanted if number not in found][1:]
    if len(found) == len(places):
        return 0
    if not found:
        raise CannotDecode(reason or f"none of the frames {min(places)} to {max(places)} of {media.frames} came out")
    return fill_missing(out, places, sorted(found))


def indexed_frames(media: Media, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of the wanted frames by the packet index, with this thread's decoder; arguments and errors as
    :meth:`~omnidali.catalog.packets.PacketDecoder.frames`."""
    try:
        with open(media.span.path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != media.stamp:
                raise CannotDecode("the file changed behind the probe")  # another one's packets lie elsewhere
            index = PacketIndex.unpack(media.packets)
            codec = media.codec.partition(":")[0]
            decoder = getattr(_LOCAL, "decoder", None)
            if decoder is None or not decoder.fits(codec, index):
                decoder = _LOCAL.decoder = PacketDecoder(codec, index)
            yield from decoder.frames(index, media.span.reader(file), wanted)
    except BaseException:
        _LOCAL.decoder = None  # what is left in it after an error, nobody knows
        raise


def upright_size(frame: av.VideoFrame, media: Media) -> tuple[int, int]:
    """Width and height of a decoded frame as a viewer shows it, pixels."""
    return (frame.width, frame.height) if media.rotation % 180 == 0 else (frame.height, frame.width)


def _write_crops(frame, media: Media, boxes: np.ndarray, size: int, out: np.ndarray) -> None:
    """Write the crops (V, size, size, 3) of one decoded frame."""
    upright = upright_size(frame, media)
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
