"""The boxes of MP4 and QuickTime, looked at before FFmpeg is: what few bytes claim there, it makes
memory and time of.

A header may be compressed, and inflates to gigabytes at each opening; a table may give a billion
samples one size. Only places where FFmpeg looks are visited, and no claim is believed: each box
ends where the one around it does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from omnidali.catalog.probing.sniff import MAX_VIDEO_FRAMES, UnsupportedMediaError

Read = Callable[[int, int], bytes]  # offset, count: the bytes there, fewer at the end

MAX_BOXES = 1 << 16  # before the header, and in it; films have a few hundred
# boxes behind the header that are looked at; a live recording may have more
MAX_FRAGMENTS = 1 << 18
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_COMPRESSED, _WITH = b"cmov", b"dcomzlib"  # between them lies the length of a box
# bytes that two pieces of a file share, if none of it shall be missed
OVERLAP = len(_COMPRESSED) + 4 + len(_WITH)


def check_compression(data: bytes) -> None:
    """Raise UnsupportedMediaError for bytes on which FFmpeg inflates a header, in whatever box they lie."""
    place = data.find(_WITH)
    while place >= 0:
        if place >= 8 and data.startswith(_COMPRESSED, place - 8):
            raise UnsupportedMediaError(
                "a compressed header (cmov): it may hold any amount of memory"
            )
        place = data.find(_WITH, place + 1)


@dataclass
class _Track:
    """What a track's tables claim."""

    is_audio: bool = False
    samples: int = 0
    sample_size: int = 0  # of all of them; 0: each has its own in the table
    durations: tuple[int, int] = (0, 0)  # how many entries, and the duration of the first

    @property
    def is_in_chunks(self) -> bool:
        """Whether FFmpeg takes a chunk for a packet, as with PCM: its samples cost nothing."""
        return self.is_audio and self.durations == (1, 1)


def check_boxes(read: Read, size: int, with_fragments: bool = False) -> None:
    """Look at the tables of an MP4 or QuickTime file of ``size`` bytes.

    Args:
        with_fragments: whether to look behind the header, too, which takes a while in a long
            recording.

    Raises:
        UnsupportedMediaError: if they claim more samples than there can be.
        OSError: if the file cannot be read.
    """
    has_header = False
    in_fragments = 0
    for number, (kind, start, end) in enumerate(_boxes(read, 0, size)):
        if not has_header and number >= MAX_BOXES:
            raise UnsupportedMediaError(f"no header within {MAX_BOXES:,} boxes")
        if number >= MAX_FRAGMENTS:
            return
        if kind == b"moov":
            has_header = True
            _check_header(read, start, end, size)
            if not with_fragments:
                return
        elif kind == b"moof" and with_fragments:
            in_fragments += _fragment_samples(read, start, end)
            if in_fragments > size:
                raise UnsupportedMediaError(
                    f"its fragments claim more samples than its {size:,} bytes"
                )


def _check_header(read: Read, start: int, end: int, size: int) -> None:
    track = _Track()
    for kind, begin, stop in _descend(read, start, end):
        if kind == b"trak":
            _check_track(track, size)
            track = _Track()
        elif kind == b"hdlr":
            track.is_audio = read(begin + 8, min(4, stop - begin)) == b"soun"
        elif kind == b"stsz":
            track.sample_size, track.samples = _numbers(read, begin + 4, stop)
        elif kind == b"stts":
            entries, _ = _numbers(read, begin + 4, stop)
            track.durations = entries, _numbers(read, begin + 8, stop)[1]
    _check_track(track, size)


def _check_track(track: _Track, size: int) -> None:
    if track.is_in_chunks:
        return
    if not track.is_audio and track.samples > MAX_VIDEO_FRAMES:
        raise UnsupportedMediaError(f"more than {MAX_VIDEO_FRAMES:,} frames")
    if track.sample_size and track.samples > size:
        raise UnsupportedMediaError(
            f"a track claims {track.samples:,} samples, more than its {size:,} bytes"
        )


def _fragment_samples(read: Read, start: int, end: int) -> int:
    return sum(
        _numbers(read, begin, stop)[1]
        for kind, begin, stop in _descend(read, start, end)
        if kind == b"trun"
    )


def _numbers(read: Read, begin: int, stop: int) -> tuple[int, int]:
    """Two numbers of a table; zeros where it ends before them."""
    data = read(begin, min(8, max(0, stop - begin)))
    return struct.unpack(">II", data) if len(data) == 8 else (0, 0)


def _descend(read: Read, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the content of all boxes, those of containers behind their
    container.
    """
    left = [_boxes(read, start, end)]
    seen = 0
    while left:
        box = next(left[-1], None)
        if box is None:
            left.pop()
            continue
        seen += 1
        if seen > MAX_BOXES:
            raise UnsupportedMediaError(f"a header of more than {MAX_BOXES:,} boxes")
        yield box
        if box[0] in _CONTAINERS and len(left) < len(_CONTAINERS):
            left.append(_boxes(read, box[1], box[2]))


def _boxes(read: Read, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the content of the boxes in a stretch of the file."""
    while start + 8 <= end:
        head = bytes(read(start, 16))
        if len(head) < 8:
            return
        length, kind = struct.unpack_from(">I4s", head)
        content = start + 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
            content = start + 16
        stop = end if length == 0 else min(start + length, end)
        if stop < content:
            return
        yield kind, content, stop
        start = stop
