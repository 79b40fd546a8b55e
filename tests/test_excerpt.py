"""Excerpts decode to the wanted frames, hold no packet more than they need, and notice changes.

A tenth of the frame matrix and one container of every extra kind are checked, and all of them where
OMNIDALI_MATRIX=whole.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

from conftest import media_of, needs_tool
from helpers.frame_matrix import extras, matrix
from helpers.frame_matrix.excerpts import excerpt_problems, has_excerpts
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.excerpt import make_excerpt
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video

MATRIX = matrix.matrix()
CASES = [*matrix.representative(MATRIX), *matrix.one_of_each(extras.extras())]
if os.environ.get("OMNIDALI_MATRIX") == "whole":
    CASES = [*MATRIX, *extras.extras()]
CODECS = ("av1", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9")
CASES = sorted(
    (
        case
        for case in CASES
        if case.name.startswith(CODECS) and not case.damaged and case.used is None
    ),
    key=lambda case: case.name,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_excerpts_decode_to_the_wanted_frames(case, tmp_path):
    if case.program or os.environ.get("OMNIDALI_REQUIRE_TOOLS") == "1":
        needs_tool("ffmpeg")
    path = tmp_path / case.name
    case.make(path)
    media = media_of(path)
    if has_excerpts(media):
        assert excerpt_problems(path) == []
    elif media.codec.partition(":")[2].startswith(("indirect", "uncounted")):
        with pytest.raises(DecodeError, match="no excerpt"):
            make_excerpt(media, np.array([0]))
    else:
        assert media.codec.partition(":")[2], "the reason why it is the CPU's"


VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "b": "500k"}}
SEGMENTS = np.arange(8) * 37 + 18  # a frame of each of TSN's eight, of 300


def x264(text):
    return {"options": {"x264-params": f"scenecut=0:{text}"}}


@pytest.mark.parametrize(
    "options, last, clip",
    [
        ({**VP9, "gop": 8}, 8, 8 * 8),
        ({**VP9, "gop": 16}, 16, 8 * 16),
        ({"codec": "mjpeg", "pixels": "yuvj420p"}, 1, 8),
        ({"gop": 8}, 8, 8 * 8),
        # x264 writes I 7B P 7B: a keyframe, at most one P, and the picture itself
        ({"gop": 16, "b_frames": 7, **x264("b-adapt=0:b-pyramid=none:open-gop=0")}, 3, 8 * 4),
        ({"gop": 8, "b_frames": 7, **x264("b-adapt=0:b-pyramid=none:open-gop=0")}, 3, 8 * 3),
    ],
)
def test_excerpt_holds_no_more_packets_than_the_gop_makes_it(options, last, clip, tmp_path):
    path = tmp_path / ("a.avi" if options.get("codec") == "mjpeg" else "a.mkv")
    write_video(path, 1, frames=300, width=64, height=64, **options)
    media = media_of(path)
    assert make_excerpt(media, np.array([299])).packets <= last
    assert make_excerpt(media, np.array([0])).packets == 1
    assert make_excerpt(media, SEGMENTS).packets <= clip


def test_only_the_wanted_runs_are_read(tmp_path, monkeypatch):
    """A run is read to the end of its stretch of packets, for the checksum."""
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=400, width=64, height=64, gop=200, **x264("min-keyint=200"))
    media = media_of(path)
    index = PacketIndex.unpack(media.packets)
    assert index.key_packets.tolist() == [0, 200]
    read = []
    read_at = Region.read_at

    def note(region, offset, count):
        data = read_at(region, offset, count)
        read.append(len(data))
        return data

    monkeypatch.setattr(Region, "read_at", note)
    make_excerpt(media, np.array([235, 2]))
    assert sum(read) == index.sizes[:32].sum() + index.sizes[200:264].sum()


def test_change_of_needed_bytes_is_noticed(tmp_path):
    """Size and time of the file are as before; frames of other stretches are not affected."""
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=60, width=64, height=64, gop=12)
    media = media_of(path)
    index = PacketIndex.unpack(media.packets)
    data = bytearray(path.read_bytes())
    data[int(index.offsets[30]) + 40] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(media.stamp[1], media.stamp[1]))

    for wanted in (24, 30, 35):
        with pytest.raises(DecodeError, match="packets 24 to 35 changed after the probe"):
            make_excerpt(media, np.array([2, wanted]))
    for wanted in (0, 23, 36, 59):
        assert make_excerpt(media, np.array([wanted])).packets > 0
    os.utime(path)
    with pytest.raises(DecodeError, match="the file changed after the probe"):
        make_excerpt(media, np.array([0]))


def test_video_far_inside_of_a_large_file_costs_as_little_as_a_small_one(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=30, width=64, height=64)
    media = media_of(path)
    archive = tmp_path / "a.tar"
    with open(archive, "wb") as file:  # most of it is a hole
        file.seek(5 << 30)
        file.write(path.read_bytes())
    status = archive.stat()
    member = replace(
        media,
        span=FileSpan(str(archive), 5 << 30, path.stat().st_size),
        stamp=(status.st_size, status.st_mtime_ns),
    )
    wanted = np.array([29, 4])
    assert make_excerpt(member, wanted).data.tobytes() == make_excerpt(media, wanted).data.tobytes()


def test_file_that_ends_early_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=30, width=64, height=64)
    media = media_of(path)
    path.write_bytes(path.read_bytes()[: int(PacketIndex.unpack(media.packets).offsets[20])])
    status = path.stat()
    cut = replace(media, stamp=(status.st_size, status.st_mtime_ns))
    with pytest.raises(DecodeError, match="changed after the probe"):
        make_excerpt(cut, np.array([29]))
