"""Extra cases: edit lists and odd clocks."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from helpers.frame_matrix.case import FRAMES, RATE, Case
from helpers.frame_matrix.clocks import (
    TICK,
    Clock,
    constant_clock,
    falling_clock,
    halting_clock,
    hiding_clock,
    jumping_clock,
    moved_clock,
    standing_clock,
    wrapping_clock,
)
from helpers.frame_matrix.containers import CLUSTER
from helpers.frame_matrix.extra_case import make_cases, write_muxed
from helpers.frame_matrix.extra_streams import mp4_box


def edit_cases() -> Iterator[Case]:
    """Edit lists of more than a beginning."""
    for name, edits, expected in (
        ("two-edits", ((10, 0), (10, 18)), (*range(10), *range(18, 28))),
        ("edits-backwards", ((10, 18), (10, 0)), (*range(18, 28), *range(10))),
        ("edit-repeated", ((10, 0), (10, 0)), (*range(10), *range(10))),
        ("edit-ends-early", ((13, 3),), range(3, 16)),
        ("edit-after-a-pause", ((20, -1), (28, 0)), range(FRAMES)),
    ):
        yield from make_cases(name, _edited, "h264-plain.mp4", edits=edits, expected=expected)
    yield from make_cases(
        "fragmented-edit",
        write_muxed,
        "h264-pyramid.mp4 hevc-open.mp4 mpeg4-b.mp4",
        clock=hiding_clock,
        options={"movflags": "frag_keyframe+delay_moov"},
    )


def _edited(
    path: Path, container: str, codec: str, structure: str, *, edits: Sequence[tuple[int, int]]
) -> None:
    """Replace the edit list by another of (frames, first frame), -1 for a pause."""
    write_muxed(path, container, codec, structure)
    data = bytearray(path.read_bytes())
    (ticks,) = struct.unpack_from(">I", data, data.rindex(b"mdhd") + 16)  # a second
    entries = []
    for frames, first in edits:
        begin = -1 if first < 0 else first * ticks // RATE
        entries.append(struct.pack(">IiI", frames * 1000 // RATE, begin, 1 << 16))

    # the header lies after the packets, whose places stay
    place = data.rindex(b"elst") - 4
    (old,) = struct.unpack_from(">I", data, place)
    new = mp4_box(b"elst", bytes(4), struct.pack(">I", len(entries)), *entries)
    for kind in (b"edts", b"trak", b"moov"):
        at = data.rindex(kind) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(new) - old)
    data[place : place + old] = new
    path.write_bytes(data)


def clock_cases() -> Iterator[Case]:
    """Times that wrap, jump, stand still or run backwards, and AVI's packets without bytes."""
    yield from make_cases(
        "clock-wraps", write_muxed, "h264-pyramid.ts mpeg2-b.ts,mpg", clock=wrapping_clock
    )
    yield from make_cases(
        "clock-jumps",
        write_muxed,
        clock=jumping_clock,
        kinds="h264-pyramid.mp4,mkv,ts,flv,mpg hevc-open.mp4,mkv,ts mpeg2-b.ts,mpg",
    )
    yield from make_cases(
        "after-empty-packets",
        write_muxed,
        clock=partial(moved_clock, constant_clock, 12),
        kinds="h264-pyramid.avi mpeg4-b.avi vp9-plain.avi",
    )
    for name, clock in (
        ("equal-times", standing_clock),
        ("times-in-pairs", halting_clock),
        ("falling-times", falling_clock),
    ):
        yield from make_cases(
            name,
            _with_times,
            clock=clock,
            kinds="h264-pyramid.mkv hevc-open.mkv vp9-plain.mkv mpeg4-b.mkv av1-pyramid.mkv",
        )


def _with_times(path: Path, container: str, codec: str, structure: str, *, clock: Clock) -> None:
    """Write the times of Matroska's blocks anew, as no muxer would."""
    write_muxed(path, container, codec, structure, options={"cluster_time_limit": "32000"})
    data = bytearray(path.read_bytes())
    for found in CLUSTER.finditer(bytes(data)):
        place = found.end() + (found[1][0] & 0x7F)
        begin = int.from_bytes(data[found.end() : place], "big")
        data[found.end() : place] = bytes(place - found.end())
        while place < len(data) and data[place] in (0xA3, 0xA0):
            block, end = _sized(data, place + 1)
            if data[place] == 0xA0:  # a group, which begins with its block
                block, _ = _sized(data, block + 1)
            milliseconds = begin + struct.unpack_from(">h", data, block + 1)[0]
            new = clock(round(milliseconds * RATE / 1000)) * TICK * 1000
            struct.pack_into(">h", data, block + 1, round(new))
            place = end
    path.write_bytes(data)


def _sized(data: bytes, place: int) -> tuple[int, int]:
    """Where the body of a Matroska element begins and ends whose size lies at ``place``."""
    length = 9 - data[place].bit_length()
    size = int.from_bytes(data[place : place + length], "big") & (1 << 7 * length) - 1
    return place + length, place + length + size
