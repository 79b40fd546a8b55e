"""Limits of images and videos, beyond which no decoder is called."""

import struct

import cv2
import numpy as np
import pytest

from conftest import media_of
from helpers.slow_media import progressive_jpeg, write_sliced
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES, probe_image
from omnidali.catalog.probing.limits import MAX_SCANS, MAX_UNITS, UnsupportedMediaError
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.curation.copies.encode import encode_image
from omnidali.decoding.decoders import decode_thumbnail
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_image


def test_scans_are_counted_anywhere_in_a_jpeg(tmp_path):
    """Scans of a thumbnail do not count, nor do bytes of a comment that look like one."""
    assert read_image_header(progressive_jpeg(MAX_SCANS)).has_scans
    with pytest.raises(UnsupportedMediaError, match=f"JPEG with more than {MAX_SCANS} scans"):
        read_image_header(progressive_jpeg(MAX_SCANS + 1))
    data = progressive_jpeg(10)
    for segment in (b"\xff\xe1", b"\xff\xfe"):
        fake = segment + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
        assert read_image_header(data[:2] + fake + data[2:]).width == 64
        last = data.rindex(b"\xff\xda")
        assert read_image_header(data[:last] + fake + data[last:]).width == 64
    late = progressive_jpeg(3000)
    begin = late.index(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    # after what the probe reads at first
    (tmp_path / "late.jpg").write_bytes(late[:begin] + comment * 6 + late[begin:])
    assert begin + len(comment) * 6 > IMAGE_HEADER_BYTES
    with pytest.raises(UnsupportedMediaError, match="scans"):
        probe_image(FileSpan(str(tmp_path / "late.jpg")))
    with pytest.raises(UnsupportedMediaError, match="segments behind its header"):
        read_image_header(data[:begin] + b"\xff\xfe\0\2" * 5000 + b"\xff\xda" * 200 + data[begin:])


def test_baseline_jpegs_may_hide_scans():
    """A baseline JPEG has one scan a component, however many there are; where the first scan holds
    all components there is no second one.
    """
    picture = np.full((48, 64, 3), 128, np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    assert not read_image_header(data).has_scans
    begin = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + data[begin + 14 : -2]
    parts = data[:begin] + scan * 3 + data[-2:]
    assert read_image_header(parts).has_scans
    with pytest.raises(UnsupportedMediaError, match="scans"):
        read_image_header(data[:begin] + scan * 200 + data[-2:])


def test_images_meet_the_limit_before_every_decoder(tmp_path):
    """Also an image that was replaced after its probe."""
    write_image(tmp_path / "a.jpg", 1, 64, 48)
    media = media_of(tmp_path / "a.jpg", "image")
    (tmp_path / "a.jpg").write_bytes(progressive_jpeg(30_000))
    with pytest.raises(DecodeError, match="more than 100 scans"):
        encode_image(media, tmp_path / "b.jpg", 32)
    assert (decode_thumbnail("image", media, 0, np.array([[0, 0, 48, 64]]), 32) == 128).all()


def test_packets_of_endless_slices_are_refused(tmp_path):
    write_sliced(tmp_path / "slices.mp4", 2 * MAX_UNITS)
    write_sliced(tmp_path / "treacle.mp4", 1200)
    with pytest.raises(UnsupportedMediaError, match=f"more than {MAX_UNITS:,} units in a packet"):
        probe_video(FileSpan(str(tmp_path / "slices.mp4")))
    assert probe_video(FileSpan(str(tmp_path / "treacle.mp4"))).frames == 12
