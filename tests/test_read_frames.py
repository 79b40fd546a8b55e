"""The public functions give the right frames, upright, whatever a file claims about itself."""

import itertools
import os
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

import omnidali
from conftest import media_of, needs_tool, watch_decoder
from helpers.ffmpeg_rgb import ffmpeg_rgb
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.config.sources import SourceConfig
from omnidali.decoding import demuxer
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.video import decode_video
from omnidali.errors import UserError
from omnidali.testing.numbered_media import numbered_image, read_numbers, write_video

FAST = {"options": {"preset": "ultrafast"}}


def test_frames_are_whole_upright_and_in_the_requested_order(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=20, width=112, height=80, rotation=90, **FAST)
    assert omnidali.count_frames(tmp_path / "a.mp4") == 20
    frames = omnidali.read_frames(str(tmp_path / "a.mp4"), [7, 0, 7, 19])
    assert frames.shape == (4, 112, 80, 3) and frames.dtype == np.uint8
    turned_back = np.rot90(frames, -1, axes=(1, 2))
    assert [read_numbers(frame[:, 16:96])[1] for frame in turned_back] == [7, 0, 7, 19]
    assert omnidali.read_frames(tmp_path / "a.mp4", []).shape == (0, 112, 80, 3)


def test_unreadable_files_and_frames_are_reported(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=5, width=112, height=80, **FAST)
    for number in (5, -1):
        with pytest.raises(IndexError, match=f"frame {number} of a video of 5 frames"):
            omnidali.read_frames(tmp_path / "a.mp4", [0, number])
    (tmp_path / "b.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, expected in (
        ("b.mp4", "expected a video that can be used, got not a video: text"),
        ("c.mp4", "expected a video that can be read, got No such file"),
        ("pipe.mp4", "got not a regular file"),
    ):
        for call in (omnidali.count_frames, lambda path: omnidali.read_frames(path, [0])):
            with pytest.raises(UserError, match=expected):
                call(tmp_path / name)


@pytest.mark.parametrize(
    "numbers", [[1.0], [True, False], ["1"], "12", [None], None, np.ones(3, bool), [float("nan")]]
)
def test_frame_numbers_that_are_not_integers_are_refused(tmp_path, numbers):
    write_video(tmp_path / "a.mp4", 5, frames=5, width=112, height=80, **FAST)
    with pytest.raises(TypeError):
        omnidali.read_frames(tmp_path / "a.mp4", numbers)


def test_frame_numbers_come_from_any_iterable(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=5, width=112, height=80, **FAST)
    for numbers in ((3,), np.array([3], np.uint8), iter([3]), range(3, 4)):
        assert len(omnidali.read_frames(tmp_path / "a.mp4", numbers)) == 1
    for number in (2**70, np.uint64(2**64 - 1)):
        with pytest.raises(IndexError, match=str(number)):
            omnidali.read_frames(tmp_path / "a.mp4", [number])
    for path in ("a\0b.mp4", "\ud800.mp4"):
        with pytest.raises(UserError, match="a video that can be read"):
            omnidali.count_frames(path)


def test_changed_file_is_probed_again(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=5, width=112, height=80, **FAST)
    assert omnidali.count_frames(tmp_path / "a.mp4") == 5
    write_video(tmp_path / "a.mp4", 6, frames=7, width=112, height=80, **FAST)
    assert omnidali.count_frames(tmp_path / "a.mp4") == 7
    assert read_numbers(omnidali.read_frames(tmp_path / "a.mp4", [6])[0][:, 16:96]) == (6, 6)


def with_display_matrix(source, target, matrix):
    """Copy an MP4 and write another matrix into its track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4
    assert data[place] == 0  # version
    a, b, c, d = (value << 16 for value in matrix)
    data[place + 40 : place + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)


@pytest.mark.parametrize(
    "matrix",
    [
        m
        for m in itertools.product((-1, 0, 1), repeat=4)
        if m[0] * m[3] - m[1] * m[2] and (m[0] == m[3] == 0 or m[1] == m[2] == 0)
    ]
    + [(0, 0, 0, 0)],
)
def test_display_matrices_turn_and_mirror_as_ffmpeg_does(tmp_path, matrix):
    needs_tool("ffmpeg")
    write_video(tmp_path / "plain.mp4", 5, frames=3, width=112, height=80, options={"crf": "4"})
    with_display_matrix(tmp_path / "plain.mp4", tmp_path / "a.mp4", matrix)
    shown = omnidali.read_frames(tmp_path / "a.mp4", [0])[0]
    wanted = ffmpeg_rgb(tmp_path / "a.mp4", shown.shape[1], shown.shape[0])
    assert np.abs(shown.astype(int) - wanted).mean() < 3
    media = media_of(tmp_path / "a.mp4")
    out = np.zeros((1, 1, 40, 40, 3), np.uint8)
    # boxes lie in the upright picture
    decode_video(media, np.array([0]), np.array([[10, 20, 50, 60]]), 40, out)
    assert np.abs(out[0, 0].astype(int) - wanted[10:50, 20:60]).mean() < 4


@pytest.mark.parametrize(
    "matrix, expected", [((1, 1, -1, 1), "rotated by 315 degrees"), ((3, 1, -1, 3), "rotated by")]
)
def test_rotation_by_other_than_quarters_is_refused(tmp_path, matrix, expected):
    write_video(tmp_path / "plain.mp4", 5, frames=3, width=112, height=80, **FAST)
    with_display_matrix(tmp_path / "plain.mp4", tmp_path / "a.mp4", matrix)
    with pytest.raises(UserError, match=expected):
        omnidali.count_frames(tmp_path / "a.mp4")


def two_streams(path, is_default):
    """A file with two video streams of other numbers and sizes."""
    with av.open(str(path), "w") as container:
        streams = []
        for width, default in zip((112, 96), is_default, strict=True):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 80, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else 0
            streams.append(stream)
        for frame_number in range(6):
            for number, stream in enumerate(streams, start=1):
                frame = av.VideoFrame.from_ndarray(
                    numbered_image(number, frame_number, stream.width, 80), format="rgb24"
                )
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "is_default, taken", [((True, False), 1), ((False, True), 2), ((False, False), 1)]
)
def test_default_video_stream_is_decoded(tmp_path, is_default, taken):
    two_streams(tmp_path / "a.mkv", is_default)
    frames = omnidali.read_frames(tmp_path / "a.mkv", range(6))
    width = frames.shape[2]
    assert width == (112, 96)[taken - 1]
    middle = frames[:, :, (width - 80) // 2 : (width + 80) // 2]
    assert [read_numbers(frame) for frame in middle] == [(taken, number) for number in range(6)]


def test_pixel_aspect_is_applied_on_request(tmp_path):
    root = tmp_path / "data"
    write_video(
        root / "a/1.mp4",
        1,
        frames=6,
        width=72,
        height=64,
        pixel_aspect=Fraction(4, 3),
        options={"crf": "4"},
    )
    write_video(root / "b/2.mp4", 2, frames=6, width=96, height=64, options={"crf": "4"})
    sizes = {}
    for setting in ("ignore", "apply"):
        source = SourceConfig(kind="video", root=".", pixel_aspect=setting)
        # the setting may change
        build_catalog(tmp_path / "c.sqlite", {"s": source}, root, progress=False)
        table = CatalogReader(tmp_path / "c.sqlite").table("s")
        sizes[setting] = [
            (int(width), int(height))
            for width, height in zip(table.widths, table.heights, strict=True)
        ]
        assert ("h264:anamorphic" in table.codec_names) == (setting == "apply")
        media = table.media(table.records[0])
        out = np.zeros((1, 1, 64, 64, 3), np.uint8)
        left = 0 if setting == "ignore" else 32
        decode_video(media, np.array([3]), np.array([[0, left, 64, left + 64]]), 64, out)
        wide = cv2.resize(
            numbered_image(1, 3, 72, 64), (media.width, 64), interpolation=cv2.INTER_LINEAR
        )
        assert np.abs(out[0, 0].astype(int) - wide[:, left : left + 64]).mean() < 6
    assert sizes == {"ignore": [(72, 64), (96, 64)], "apply": [(96, 64), (96, 64)]}


def packets_fed(media, number):
    """How many packets a decoder gets for one frame."""
    fed = []
    index = PacketIndex.unpack(media.packets)
    decoder = PacketDecoder(media.codec.partition(":")[0], index)
    watch_decoder(
        decoder, lambda packet, frames: fed.extend([packet] if packet is not None else [])
    )
    with Region(media.span) as file:
        assert [found for found, _ in decoder.frames(index, file.read_at, [number])] == [number]
    return len(fed)


@pytest.mark.parametrize("codec, b_frames", [("mpeg4", 2), ("mpeg4", 0), ("libx264", 2)])
def test_middle_frame_of_avi_costs_as_little_as_in_mp4(tmp_path, codec, b_frames):
    """With keyframes every 30 frames, in a file of five minutes."""
    for name in ("a.avi", "a.mp4"):
        write_video(
            tmp_path / name,
            1,
            frames=300 * 25,
            rate=25,
            width=64,
            height=48,
            codec=codec,
            gop=30,
            b_frames=b_frames,
            options={"preset": "ultrafast"} if codec == "libx264" else {},
        )
    in_avi, in_mp4 = (media_of(tmp_path / name) for name in ("a.avi", "a.mp4"))
    for number in (3750, 3765, 3779):
        assert packets_fed(in_avi, number) <= 1.5 * packets_fed(in_mp4, number)


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_demuxer_seeks_the_keyframe(tmp_path, monkeypatch, name):
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    write_video(
        tmp_path / name,
        1,
        frames=400,
        rate=25,
        width=112,
        height=80,
        codec=codec,
        gop=20,
        b_frames=2,
        options={"b": "2000000"} if codec == "mpeg2video" else {"preset": "ultrafast"},
    )
    media = media_of(tmp_path / name)
    index, read, packets = PacketIndex.unpack(media.packets), [], demuxer._IndexedSource.packets
    monkeypatch.setattr(
        demuxer._IndexedSource,
        "packets",
        lambda *arguments: (read.append(packet) or packet for packet in packets(*arguments)),
    )
    assert [number for number, _ in demuxed_frames(media, index, [350])] == [350]
    assert len(read) <= 40 and not index.is_direct


def test_size_change_is_noted_with_its_frame(tmp_path):
    needs_tool("ffmpeg")
    for number, width in enumerate((112, 144)):
        write_video(tmp_path / f"{number}.ts", number, frames=10, width=width, height=80, **FAST)
    (tmp_path / "a.ts").write_bytes(b"".join((tmp_path / f"{n}.ts").read_bytes() for n in range(2)))
    probe = probe_video(FileSpan(str(tmp_path / "a.ts")))
    assert probe.frames == 10 and probe.width == 112
    assert probe.note == (
        "the picture size changes from 112x80 to 144x80 at frame 10: only those before it are used"
    )
    assert [
        read_numbers(frame[:, 16:96])
        for frame in omnidali.read_frames(tmp_path / "a.ts", range(10))
    ] == [(0, number) for number in range(10)]
