"""Probes of images and videos: what the catalog learns of a file."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.exif import exif
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packed_numbers import pack_numbers, unpack_numbers
from omnidali.catalog.probing.sniff import sniff_video
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.testing.numbered_media import write_image, write_video
from omnidali.testing.odd_media import odd_video


@pytest.mark.parametrize(
    "head",
    [
        b"ffconcat version 1.0\nfile a.mp4\n",
        b"#EXTM3U\nhttp://x/a.ts\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"<?xml version='1.0'?><MPD/>",
        b"",
        b"\xff\xd8\xff",
    ],
)
def test_playlists_and_other_bytes_reach_no_demuxer(head):
    with pytest.raises(UnsupportedMediaError, match="not a video"):
        sniff_video(head)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WEBPVP8X",
            b"\xff\xd8\xff\xe1\x00\x20Exif\0\0II*\0",
        ]
    ),
)
def test_image_header_parser_survives_any_bytes(data, start):
    try:
        header = read_image_header(start + data)
        assert header.width > 0 and header.height > 0
    except UnsupportedMediaError as refusal:
        assert str(refusal)


def test_image_headers_give_codec_size_and_rotation(tmp_path):
    for ending in ("jpg", "png", "webp"):
        write_image(tmp_path / f"a.{ending}", 1, width=90, height=60)
        probe = probe_image(FileSpan(str(tmp_path / f"a.{ending}")))
        assert (probe.width, probe.height, probe.frames) == (90, 60, 1)
        assert probe.codec == {"jpg": "jpeg"}.get(ending, ending)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    for orientation in range(1, 9):
        header = read_image_header(jpeg[:2] + exif(orientation) + jpeg[2:])
        assert (header.width, header.height) == ((90, 60) if orientation < 5 else (60, 90))
    huge = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + struct.pack(">II", 65536, 65536)
    with pytest.raises(UnsupportedMediaError, match="too large: 65536x65536"):
        read_image_header(huge)
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><p>404")
    with pytest.raises(UnsupportedMediaError, match="a web page"):
        probe_image(FileSpan(str(tmp_path / "page.jpg")))


def test_first_exif_block_sets_the_rotation(tmp_path):
    write_image(tmp_path / "a.jpg", 1, width=90, height=60)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    header = read_image_header(jpeg[:2] + exif(1) + exif(6) + jpeg[2:])
    assert (header.width, header.height) == (90, 60)


@given(st.lists(st.integers(-(2**40), 2**40), max_size=50))
def test_packed_numbers_round_trip(numbers):
    assert unpack_numbers(pack_numbers(np.array(numbers, np.int64))).tolist() == numbers


def test_video_probe_reads_size_frames_and_rotation(tmp_path):
    write_video(tmp_path / "a.mp4", 1, frames=50, width=90, height=62, gop=12, rate=25)
    probe = probe_video(FileSpan(str(tmp_path / "a.mp4")))
    assert (
        probe.container,
        probe.codec,
        probe.width,
        probe.height,
        probe.frames,
        probe.rotation,
    ) == ("mov", "h264", 90, 62, 50, 0)
    assert probe.frame_rate == 25 and unpack_numbers(probe.keyframes).tolist() == [
        0,
        12,
        24,
        36,
        48,
    ]
    write_video(tmp_path / "phone.mp4", 1, frames=5, width=90, height=62, rotation=90)
    probe = probe_video(FileSpan(str(tmp_path / "phone.mp4")))
    assert (probe.codec, probe.width, probe.height, probe.rotation) == ("h264:rotated", 62, 90, 90)


def test_video_whose_edit_list_hides_all_frames_is_refused(tmp_path):
    odd_video(begin=-100)(tmp_path / "a.mp4", 1)
    with pytest.raises(UnsupportedMediaError, match="no frame decodes"):
        probe_video(FileSpan(str(tmp_path / "a.mp4")))


def test_broken_videos_are_refused_with_a_reason(tmp_path):
    write_video(tmp_path / "a.mp4", 1, frames=20, width=64, height=48)
    whole = (tmp_path / "a.mp4").read_bytes()
    for name, data, reason in (
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"hello\n" * 9, "not a video: text"),
        ("cut.mp4", whole[: len(whole) // 2], "broken"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnsupportedMediaError, match=reason):
            probe_video(FileSpan(str(tmp_path / name)))
