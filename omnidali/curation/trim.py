"""One piece of a long video as a file of its own: its packets as they are, or its frames encoded
anew. No audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.probe import IRREGULAR, open_video, unpack_numbers, video_stream
from omnidali.catalog.probing.sniff import UnsupportedMediaError
from omnidali.curation.copies.encode import Recipe, encode_video, probe_written
from omnidali.decoding.failure_cause import cause_of
from omnidali.errors import DecodeError
from omnidali.utils.heartbeat import moves_on

EXACT = Recipe(16, 18, "veryfast", "fastdecode")
_NEEDS_EXACT = "cut it with --exact"


class Cut(NamedTuple):
    """What a file holds of its original.

    Attributes:
        first: the original's frame that it begins with. frames: how many it holds. replaced: of
            them, those that did not come out and that the next one stands for.
        start, seconds: the piece, from the original's first frame on.
        early, late: seconds by which the file begins before the piece, and ends behind it.
    """

    first: int
    frames: int
    replaced: int
    start: float
    seconds: float
    early: float
    late: float


def encode_piece(media: Media, path: Path, first: int, count: int) -> Cut:
    """Write exactly the frames of a piece, upright and in their size, as H.264; arguments and
    errors as :func:`copy_piece`.
    """
    replaced = encode_video(media, path, EXACT, min(media.width, media.height), count, first)
    with open_video(media.span, media.container) as container:
        stream = video_stream(container)
        seconds = _seconds(media, stream.time_base, stream.average_rate)
    return Cut(first, count, replaced, *_place(seconds, first, count), 0.0, 0.0)


def copy_piece(media: Media, path: Path, first: int, count: int) -> Cut:
    """Write the packets of a piece, from the keyframe at or before it on, as MP4.

    Where later frames are needed to decode the last ones, the file ends later, too.

    Args:
        first, count: the piece's frames, in presentation order.

    Raises:
        DecodeError: for a video that cannot be cut so, and if the file is not as it must be.
        OSError, av.FFmpegError: if the file cannot be written.
    """
    times, keys = media.frame_times, unpack_numbers(media.keyframes)
    place = int(np.searchsorted(keys, first, side="right")) - 1
    if times is None or place < 0 or media.codec.endswith(IRREGULAR):
        lacks = (
            "has no keyframe before the piece"
            if place < 0
            else "has no timestamps that tell its frames"
        )
        raise DecodeError(f"the video {lacks}: {_NEEDS_EXACT}")
    key = int(keys[place])
    order = _order(media, times, key, first + count - 1)
    shown = times[order] - times[key]  # in decoding order
    rising = np.sort(shown)
    ticks = rising - (rising - shown).max()  # times to decode at, none behind the time to show at
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as copy:
        stream = None
        for packet, pts, dts in zip(
            _packets(media, int(times[key])), shown.tolist(), ticks.tolist()
        ):
            if stream is None:
                tick = packet.stream.time_base
                seconds = _seconds(media, tick, None)
                stream = _add_stream(copy, packet.stream, media)
            packet.pts, packet.dts, packet.stream = pts, dts, stream
            copy.mux(packet)
    _check(path, rising * float(tick), media)
    end = key + len(order)
    start, length = _place(seconds, first, count)
    return Cut(
        key,
        len(order),
        0,
        start,
        length,
        start - float(seconds[key]),
        float(seconds[end - 1] - seconds[first + count - 1]),
    )


def _packets(media: Media, begin: int) -> Iterator[av.Packet]:
    """Packets in decoding order from the keyframe that is shown at ``begin`` on, without what is
    shown before it.
    """
    for seek in (True, False):  # demuxers of streams without an index may land behind it
        with open_video(media.span, media.container) as container:
            stream = video_stream(container)
            if seek:
                container.seek(begin, stream=stream)
            packets = (
                packet
                for packet in _demuxed(container, stream)
                if packet.size and not packet.is_discard and _time(packet) is not None
            )
            for packet in packets:
                if packet.is_keyframe and _time(packet) >= begin:
                    break
            else:
                continue
            if _time(packet) == begin:
                yield packet
                yield from (packet for packet in packets if _time(packet) > begin)
                return


def _demuxed(container, stream) -> Iterator[av.Packet]:
    for packet in container.demux(stream):
        moves_on()
        yield packet


def _time(packet: av.Packet) -> int | None:
    """When a packet's frame is shown; AVI has times of decoding alone, which are the same where
    nothing is reordered.
    """
    return packet.dts if packet.pts is None else packet.pts


def _order(media: Media, times: np.ndarray, key: int, last: int) -> np.ndarray:
    """Numbers of the frames from ``key`` to ``last`` in decoding order, and of those that it takes
    to have no hole.

    Raises:
        DecodeError: if the packets are not those that the catalog counted, each once.
    """
    order, highest = [], 0
    try:
        for packet in _packets(media, int(times[key])):
            order.append(int(np.searchsorted(times, _time(packet))))
            highest = max(highest, order[-1])
            if highest >= last and len(order) == highest - key + 1:
                break
    except (UnsupportedMediaError, av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise cause_of(error).error() from None
    if highest < last or sorted(order) != list(range(key, highest + 1)):
        raise DecodeError(f"its packets do not have the timestamps of its frames: {_NEEDS_EXACT}")
    return np.array(order)


def _add_stream(copy, original, media: Media):
    try:
        stream = copy.add_stream_from_template(original, opaque=True)
    except ValueError:
        raise DecodeError(
            f"MP4 does not hold {media.codec.partition(':')[0]}: {_NEEDS_EXACT}"
        ) from None
    stream.time_base = original.time_base
    return stream


def _seconds(media: Media, tick: Fraction, rate: Fraction | None) -> np.ndarray:
    """Of every frame, from the original's first on."""
    times = media.frame_times
    return (
        np.arange(media.frames) / float(rate or 25)
        if times is None
        else (times - times[0]) * float(tick)
    )


def _place(seconds: np.ndarray, first: int, count: int) -> tuple[float, float]:
    """Start and length of a piece; a last frame that nothing follows lasts as long as the mean one."""
    after = first + count
    end = (
        seconds[after]
        if after < len(seconds)
        else seconds[-1] + seconds[-1] / max(len(seconds) - 1, 1)
    )
    return float(seconds[first]), float(end - seconds[first])


def _check(path: Path, seconds: np.ndarray, media: Media) -> None:
    copy = probe_written(path, seconds)
    if (copy.width, copy.height, copy.codec, copy.rotation) != (
        media.width,
        media.height,
        media.codec,
        media.rotation,
    ):
        raise DecodeError(
            f"the file is {copy.codec} of {copy.width}x{copy.height}, turned by {copy.rotation}"
        )
