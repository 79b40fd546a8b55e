"""Planned frames of a video on the CPU, through PyAV (FFmpeg).

Frames come by the packet index, or through the demuxer if there is none.
"""

import struct
import threading
import zlib
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import Region
from omnidali.catalog.probing.frame_planes import show_upright
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import DAMAGED, IRREGULAR
from omnidali.decoding.colours import write_rgb
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.failure_cause import Cause, cause_of, graver
from omnidali.errors import DecodeError

FrameSource = Callable[[Media, PacketIndex | None, list[int]], Iterator[tuple[int, av.VideoFrame]]]

# What broken files raise.
_ERRORS = (
    DecodeError,
    UnsupportedMediaError,
    av.FFmpegError,
    OSError,
    ValueError,
    IndexError,
    cv2.error,
    zlib.error,
    struct.error,
)
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

    Arguments, result and errors are those of :class:`~omnidali.decoding.decoders.Decoder`.
    """
    places = places_of(frames)
    found, cause = write_frames(media, places, boxes, out)
    if not found:
        if cause is None:
            first, last = min(places), max(places)
            cause = Cause(f"none of the frames {first} to {last} of {media.frames} came out")
        raise cause.error()
    if cause is not None and causes is not None and len(found) < len(places):
        causes.append(cause)
    return fill_missing(out, places, sorted(found))


def places_of(frames: np.ndarray) -> dict[int, list[int]]:
    """Where in the clip each frame is wanted; repeats allowed."""
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(frames.tolist()):
        places.setdefault(frame, []).append(place)
    return places


def fill_missing(out: np.ndarray, places: dict[int, list[int]], found: list[int]) -> int:
    """Copy the nearest frame that was found to the places of those that were not.

    Args:
        out: (V, F, ...).
        places: where in ``out`` each frame is wanted.
        found: at least one of the wanted frames.

    Returns:
        How many places were filled.
    """
    missing = sorted(set(places) - set(found))
    for frame in missing:
        nearest = min(found, key=lambda other: abs(other - frame))
        for place in places[frame]:
            out[:, place] = out[:, places[nearest][0]]
    return sum(len(places[frame]) for frame in missing)


def write_frames(
    media: Media, places: dict[int, list[int]], boxes: np.ndarray, out: np.ndarray
) -> tuple[set[int], Cause | None]:
    """Write the crops of the frames that can be had.

    Args:
        media: the file.
        places: where in ``out`` each frame belongs.
        boxes: int (V, 4), top, left, bottom, right, pixels of the upright picture.
        out: uint8 (V, F, height, width, 3), RGB.

    Returns:
        The frames that came, and why others did not: what the first way of decoding met, then what
        the next one did.
    """
    index = PacketIndex.unpack(media.packets) if media.packets else None
    found: set[int] = set()
    cause = None
    for source in frame_sources(index):
        worst = None
        wanted = sorted(places.keys() - found)
        while wanted:
            try:
                for number, frame in source(media, index, wanted):
                    first, *others = places[number]
                    _write_crops(frame, media, boxes, out[:, first])
                    for other in others:
                        out[:, other] = out[:, first]
                    found.add(number)
                break
            except _ERRORS as error:
                worst = graver(worst, cause_of(error))
            # The first that did not come is given up, at least by this source; others may lie after
            # the damage.
            wanted = [number for number in wanted if number not in found][1:]
        if worst is not None:
            cause = worst if cause is None else cause.then(worst)
    return found, cause


def frame_sources(index: PacketIndex | None) -> tuple[FrameSource, ...]:
    """The ways to get frames of a video, the best one first.

    Each yields (number, frame) of the wanted frames, each at most once.
    """
    if index is not None and index.is_direct:
        return indexed_frames, demuxed_frames
    return (demuxed_frames,)


def indexed_frames(
    media: Media, index: PacketIndex | None, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames by the packet index, with this thread's decoder.

    Errors are those of :meth:`~omnidali.catalog.probing.packet_decoder.PacketDecoder.frames`.
    """
    assert index is not None
    with Region(media.span) as file:
        if file.stamp != media.stamp:  # the packets of another file lie elsewhere
            raise DecodeError("the file changed after the probe")

        codec = media.codec.partition(":")[0]
        # It is put back at the end only: its state after an error is unknown.
        decoder: PacketDecoder | None = vars(_LOCAL).pop("decoder", None)
        # Frames that must be filled in must not be taken from another video.
        is_reusable = index.keys[0] and not media.codec.endswith((DAMAGED, IRREGULAR))
        if decoder is None or not is_reusable or not decoder.fits(codec, index):
            decoder = PacketDecoder(codec, index)
        for number, frame in decoder.frames(index, file.read_at, wanted):
            is_reusable &= not frame.is_corrupt
            yield number, frame
        if is_reusable:
            _LOCAL.decoder = decoder


def upright_size(frame: av.VideoFrame, media: Media) -> tuple[int, int]:
    """Width and height of a decoded frame as a viewer shows it, pixels."""
    return (frame.width, frame.height) if media.rotation % 180 == 0 else (frame.height, frame.width)


def _write_crops(frame: av.VideoFrame, media: Media, boxes: np.ndarray, out: np.ndarray) -> None:
    """Write the crops (V, height, width, 3) of one decoded frame."""
    width, height = upright_size(frame, media)
    stored_width, stored_height = media.stored
    if (width, height) != media.stored:
        raise DecodeError(
            f"a frame of {width}x{height} in a video of {stored_width}x{stored_height}"
        )
    if media.stored != (media.width, media.height):
        across = stored_width / media.width
        down = stored_height / media.height
        boxes = np.rint(boxes * [down, across, down, across]).astype(np.int64)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)

    for box, crop in zip(boxes.tolist(), out, strict=True):
        if not media.rotation and not media.mirrored:
            write_rgb(frame, box, crop)
            continue
        is_turned = media.rotation % 180 != 0
        coded = np.empty(crop.transpose(1, 0, 2).shape if is_turned else crop.shape, np.uint8)
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
