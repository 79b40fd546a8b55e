"""Extra cases: joined, marked, empty and damaged packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from helpers.frame_matrix.case import FRAMES, LARGER, SPLIT, Case
from helpers.frame_matrix.clocks import constant_clock
from helpers.frame_matrix.containers import CONTAINERS, make_file, mux
from helpers.frame_matrix.encoding import Encoded, encode_for
from helpers.frame_matrix.extra_case import make_cases, write_muxed


def joined_cases() -> Iterator[Case]:
    """Transport and program streams of two parts that differ, and with two frames in a packet."""
    for kinds, after in (
        ("h264-pyramid.ts,mpg h264-b.ts,mpg", "plain"),
        ("h264-plain.ts,mpg mpeg2-plain.ts,mpg", "b"),
        ("h264-b.ts,mpg", "interlaced"),
        ("hevc-plain.ts,mpg", "open"),
    ):
        yield from make_cases(f"then-{after}", _two_parts, kinds, after=after)
    # FFmpeg's decoder loses a frame between them
    yield from make_cases("then-plain", _two_parts, "mpeg4-b.ts,mpg", after="plain", expected=None)
    yield from make_cases(
        "then-another-stream",
        _two_parts,
        "h264-b.ts",
        after="b",
        options={"mpegts_start_pid": "300"},
        expected=range(SPLIT),
    )
    for case in make_cases("then-a-larger-one", _two_parts, "h264-b.ts", after="b", size=LARGER):
        yield replace(case, used=SPLIT, permitted=r"size|\d+ ?x ?\d+")
    yield from make_cases(
        "two-in-a-packet",
        write_muxed,
        change=_in_pairs,
        kinds="h264-plain.ts,mpg h264-pyramid.ts,mpg mpeg2-b.ts,mpg"
        " mpeg1-plain.ts,mpg mpeg4-b.ts,mpg",
    )


def _two_parts(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    after: str,
    size: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Two videos one after the other; the second one's structure is ``after``."""
    form = CONTAINERS[container]
    mux(path, form, [(encode_for(container, codec, structure, count=SPLIT), constant_clock)])
    data = path.read_bytes()
    second = encode_for(container, codec, after, first=SPLIT, count=FRAMES - SPLIT, size=size)
    mux(path, form, [(second, constant_clock)], options=options)
    path.write_bytes(data + path.read_bytes())


def _in_pairs(video: Encoded) -> Encoded:
    packets = tuple(map(bytes.__add__, video.packets[::2], video.packets[1::2]))
    keys = tuple(map(max, video.keys[::2], video.keys[1::2]))
    return replace(video.part(range(0, FRAMES, 2)), packets=packets, keys=keys)


def keyframe_mark_cases() -> Iterator[Case]:
    """Containers that call every packet a keyframe, or the first alone."""
    for name, marked in (("unmarked", False), ("all-marked", True)):
        yield from make_cases(
            name,
            write_muxed,
            change=partial(_marked, marked),
            kinds="h264-open.mp4,mkv,avi h264-refresh.mp4,mkv hevc-open.mp4,mkv"
            " mpeg4-open.mp4,mkv,avi mpeg2-open.mp4,mkv,avi vp8-plain.mkv,avi"
            " vp9-plain.mp4,mkv av1-pyramid.mp4,mkv ffv1-plain.mp4,mkv,avi",
        )


def _marked(marked: bool, video: Encoded) -> Encoded:
    return replace(video, keys=(True, *[marked] * (FRAMES - 1)))


def empty_packet_cases() -> Iterator[Case]:
    """Packets in between that hold no picture: filler, a delimiter, or a frame left out."""
    for data, kinds, expected in (
        (b"\0\0\0\1\x0c\xff\xff\x80", "h264-plain.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\0\1\x09\xf0", "h264-pyramid.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\0\1\x46\1\x50", "hevc-b.mp4,mkv,ts", range(FRAMES)),
        (b"\0\0\1\xb6\x50\x4f", "mpeg4-plain.mp4,mkv,ts,avi", range(FRAMES)),
        (b"\0\0\1\xb6\x50\x4f", "mpeg4-b.mp4,mkv,ts,avi", None),
    ):
        yield from make_cases(
            "packets-without-pictures",
            write_muxed,
            kinds,
            expected=expected,
            change=partial(_interspersed, data),
        )


def _interspersed(data: bytes, video: Encoded) -> Encoded:
    """A packet of ``data`` after every fifth one, half a frame later."""
    rows = []
    for place in range(FRAMES):
        pts, dts = 2 * video.pts[place], 2 * video.dts[place]
        rows.append((video.packets[place], video.keys[place], pts, dts))
        if place % 5 == 3:
            rows.append((data, False, pts + 1, dts + 1))
    return Encoded(*zip(*rows, strict=True), video.template)


def damage_cases() -> Iterator[Case]:
    """Lost packets, flipped bits, and files that break off.

    A decoder makes up what it misses, or leaves it out; what it makes up depends on its memory.
    """
    # AV1's headers do not show what damage takes along: reading such frames says what finds it
    unseen = "Run `omnidali lint --decode`"

    def damaged(*arguments: object, **options: object) -> Iterator[Case]:
        for case in make_cases(*arguments, expected=None, by_pyav=True, damaged=True, **options):
            yield replace(case, permitted=unseen) if case.name.startswith("av1") else case

    kinds = (
        "h264-pyramid.mp4 h264-open.ts hevc-open.mkv hevc-b.ts mpeg4-b.mp4 mpeg4-packed.avi"
        " mpeg2-open.ts vp8-plain.webm vp9-plain.webm av1-plain.mp4"
    )
    for name, places in (("lost-keyframe", {9}), ("lost-packets", {4, 13, 22})):
        yield from damaged(name, write_muxed, kinds, change=partial(_without, places))
    yield from damaged("flipped-bits", write_muxed, kinds, change=_flipped)
    yield from damaged(
        "breaks-off",
        _broken_off,
        kinds="h264-pyramid.mkv,flv h264-b.ts hevc-open.mkv mpeg4-packed.avi"
        " mpeg4-b.avi vp9-plain.webm mjpeg-plain.avi mpeg2-b.mpg",
    )


def _without(places: set[int], video: Encoded) -> Encoded:
    return video.part(sorted(set(range(FRAMES)) - places))


def _flipped(video: Encoded) -> Encoded:
    """Three bits in each of three packets; the first packet and the headers stay whole."""
    rng = np.random.default_rng(1)
    packets = [bytearray(packet) for packet in video.packets]
    for place in rng.choice(range(1, FRAMES), 3, replace=False):
        size = len(packets[place])
        for at in rng.integers(min(6, size - 1), size, 3):
            packets[place][at] ^= 1 << int(rng.integers(8))
    return replace(video, packets=tuple(map(bytes, packets)))


def _broken_off(path: Path, container: str, codec: str, structure: str) -> None:
    make_file(path, container, codec, structure)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
