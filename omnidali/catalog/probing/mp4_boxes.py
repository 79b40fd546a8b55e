"""Checks the boxes of MP4 and QuickTime before FFmpeg sees them: few bytes there may claim much.

A header may be compressed, and inflates to gigabytes at each opening; a table may give a billion
samples one size. The check visits only places where FFmpeg looks, and believes no claim: each box
ends where the one around it does.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from omnidali.catalog.probing.file_span import ReadAt
from omnidali.catalog.probing.limits import MAX_VIDEO_FRAMES, UnsupportedMediaError

MAX_BOXES = 1 << 16  # before the header, and in it; films have a few hundred
MAX_FRAGMENTS = 1 << 18  # boxes after the header that are checked; a live recording may have more
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_COMPRESSED = b"cmov"  # then follow the length of the next box, and its beginning:
_METHOD = b"dcomzlib"
OVERLAP = len(_COMPRESSED) + 4 + len(_METHOD)  # bytes that two parts of a file share in the check


class _Box(NamedTuple):
    name: bytes
    start: int  # of its content
    end: int


@dataclass
class _Track:
    """What the tables of a track claim.

    Attributes:
        is_audio: whether it is a track of sound.
        samples: how many there are.
        sample_size: bytes of each; 0: each has its own in the table.
        durations: how many entries the table has, and the duration of the first.
    """

    is_audio: bool = False
    samples: int = 0
    sample_size: int = 0
    durations: tuple[int, int] = (0, 0)


def check_compression(data: bytes) -> None:
    """Raise UnsupportedMediaError for bytes on which FFmpeg inflates a header, in any box."""
    place = data.find(_METHOD)
    while place >= 0:
        if place >= 8 and data.startswith(_COMPRESSED, place - 8):
            raise UnsupportedMediaError(
                "a compressed header (cmov): it may hold any amount of memory"
            )
        place = data.find(_METHOD, place + 1)


def check_boxes(read: ReadAt, size: int, with_fragments: bool = False) -> None:
    """Check the tables of an MP4 or QuickTime file.

    Args:
        read: the file's bytes.
        size: bytes of the file.
        with_fragments: whether to check what follows the header, too, which takes a while in a long
            recording.

    Raises:
        UnsupportedMediaError: if they claim more samples than there can be.
        OSError: if the file cannot be read.
    """
    has_header = False
    in_fragments = 0
    for number, box in enumerate(_boxes(read, 0, size)):
        if not has_header and number >= MAX_BOXES:
            raise UnsupportedMediaError(f"no header within {MAX_BOXES:,} boxes")
        if number >= MAX_FRAGMENTS:
            return

        if box.name == b"moov":
            has_header = True
            _check_header(read, box, size)
            if not with_fragments:
                return
        elif box.name == b"moof" and with_fragments:
            in_fragments += sum(
                _two_numbers(read, start, end)[1]
                for name, start, end in _descend(read, box)
                if name == b"trun"
            )
            if in_fragments > size:
                raise UnsupportedMediaError(
                    f"its fragments claim more samples than its {size:,} bytes"
                )


def _check_header(read: ReadAt, header: _Box, size: int) -> None:
    track = _Track()
    for name, start, end in _descend(read, header):
        if name == b"trak":
            _check_track(track, size)
            track = _Track()
        elif name == b"hdlr":
            track.is_audio = read(start + 8, min(4, end - start)) == b"soun"
        elif name == b"stsz":
            track.sample_size, track.samples = _two_numbers(read, start + 4, end)
        elif name == b"stts":
            entries, _ = _two_numbers(read, start + 4, end)
            _, first_duration = _two_numbers(read, start + 8, end)
            track.durations = entries, first_duration
    _check_track(track, size)


def _check_track(track: _Track, size: int) -> None:
    # Of audio such as PCM, FFmpeg takes a chunk for a packet: its samples cost nothing.
    if track.is_audio and track.durations == (1, 1):
        return
    if not track.is_audio and track.samples > MAX_VIDEO_FRAMES:
        raise UnsupportedMediaError(f"more than {MAX_VIDEO_FRAMES:,} frames")
    if track.sample_size and track.samples > size:
        raise UnsupportedMediaError(
            f"a track claims {track.samples:,} samples, more than its {size:,} bytes"
        )


def _two_numbers(read: ReadAt, start: int, end: int) -> tuple[int, int]:
    """Two numbers of a table; zeros if it ends before them."""
    data = read(start, min(8, max(0, end - start)))
    if len(data) < 8:
        return 0, 0
    first, second = struct.unpack(">II", data)
    return first, second


def _descend(read: ReadAt, box: _Box) -> Iterator[_Box]:
    """Yield all boxes inside of a box, those of containers after their container."""
    levels = [_boxes(read, box.start, box.end)]
    seen = 0
    while levels:
        inner = next(levels[-1], None)
        if inner is None:
            levels.pop()
            continue

        seen += 1
        if seen > MAX_BOXES:
            raise UnsupportedMediaError(f"a header of more than {MAX_BOXES:,} boxes")
        yield inner
        if inner.name in _CONTAINERS and len(levels) < len(_CONTAINERS):
            levels.append(_boxes(read, inner.start, inner.end))


def _boxes(read: ReadAt, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes in a stretch of the file."""
    while start + 8 <= end:
        head = bytes(read(start, 16))
        if len(head) < 8:
            return
        length, name = struct.unpack_from(">I4s", head)
        content = start + 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
            content = start + 16

        box_end = end if length == 0 else min(start + length, end)
        if box_end < content:
            return
        yield _Box(name, content, box_end)
        start = box_end
