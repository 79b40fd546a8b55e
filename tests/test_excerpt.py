"""Excerpts hold no packet more than they need, read no more, and notice changes.

The frame matrix checks that they decode to the wanted frames (test_frame_matrix.py).
"""

import io
import os
from dataclasses import replace

import av
import numpy as np
import pytest

from conftest import media_of, needs_tool
from helpers.frame_matrix import extras
from helpers.frame_matrix.reference import painted
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.vpx_av1_headers import split_superframe
from omnidali.decoding.coded_pictures import one_picture_each
from omnidali.decoding.excerpt import make_excerpt
from omnidali.errors import DecodeError
from omnidali.loading.dali_inputs import read_content
from omnidali.testing.numbered_media import write_video

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


@pytest.mark.parametrize(
    "ending, codec", [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264")]
)
def test_dali_gets_a_container_of_our_own(ending, codec, tmp_path):
    """Of the file itself it gets packets alone, no header, index, name or reference."""
    path = tmp_path / f"a.{ending}"
    write_video(path, 1, frames=12, width=64, height=64, codec=codec)
    media = media_of(path)
    index = PacketIndex.unpack(media.packets)
    content = read_content(media, np.array([3]))
    data = content.data.tobytes()
    assert data.startswith(b"\x1a\x45\xdf\xa3") and b"matroska" in data[:32]
    whole = path.read_bytes()
    packets = sum(index.sizes[:4].tolist())
    assert packets <= len(data) <= packets + len(index.extradata) + 40 * 4 + 256
    with av.open(io.BytesIO(data)) as video:
        assert not video.metadata and len(video.streams) == 1
    head = whole[: int(index.offsets[0])].replace(index.extradata or b"-", b"")
    assert not any(head[place : place + 24] in data for place in range(0, len(head) - 24, 24))


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


HIDDEN = [case for case in extras.extras() if case.name.startswith(("vp8-hidden", "vp9-hidden"))]


@pytest.mark.parametrize("case", HIDDEN, ids=lambda case: case.name)
def test_places_where_hidden_pictures_come_out_too(case, tmp_path):
    """As on a GPU: a packet is one coded picture, and the wanted ones are where they shall be."""
    needs_tool("ffmpeg")
    path = tmp_path / case.name
    case.make(path)
    media = media_of(path)
    wanted = np.array([39, 3, 21, 18, 3])
    excerpt = make_excerpt(media, wanted, shows_hidden=True)
    with av.open(io.BytesIO(excerpt.data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [packet.pts for packet in packets] == list(range(excerpt.packets))
        frames = [packet.decode() for packet in packets]
    assert not all(frames), "there is a hidden one"
    assert all(len(split_superframe(bytes(packet))) == 1 for packet in packets)
    shown = [painted(frames[place][0].to_ndarray(format="rgb24")) for place in excerpt.places]
    assert shown == wanted.tolist()


def test_pictures_that_no_decoder_gives_again_are_the_cpus(tmp_path):
    """VP9's frame that is shown again, and AV1's packets of several pictures."""
    frame, again = b"\x82hidden", b"\x88"
    pictures, origins, shown = one_picture_each("vp9", [b"\x80hidden", frame])
    assert (pictures, origins, shown) == ([b"\x80hidden", frame], [0, 1], [False, True])
    with pytest.raises(DecodeError, match="shown again"):
        one_picture_each("vp9", [frame, again])
    header, repeat = b"\x1a\x01\x10", b"\x1a\x01\x80"  # units of a frame's header, with their size
    assert one_picture_each("av1", [header]) == ([header], [0], [True])
    for packet in (header + header, repeat, header + repeat):
        with pytest.raises(DecodeError, match="AV1"):
            one_picture_each("av1", [packet])


@pytest.mark.parametrize("is_full", [False, True])
def test_excerpt_names_full_range(is_full, tmp_path):
    """DALI's decoder on a GPU goes by the stream or the container: it may be known from neither."""
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=3, width=64, height=64)
    media = media_of(path)
    index = replace(PacketIndex.unpack(media.packets), is_full_range=is_full)
    excerpt = make_excerpt(replace(media, packets=index.pack()), np.arange(3))
    with av.open(io.BytesIO(excerpt.data)) as container:
        assert (container.streams.video[0].codec_context.color_range == 2) == is_full
