"""Headers of untrusted images: hostile files are refused before a decoder opens them."""

import time

import cv2
import numpy as np
import pytest

from conftest import media_of
from helpers.raw_png import raw_png
from helpers.small_builds import write
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.decoding.image import decode_image


@pytest.mark.parametrize(
    "data, expected",
    [
        (raw_png(65535, 65535), "too large: 65535x65535"),
        (raw_png(0, 9), "no picture: 0x9"),
        (b"GIF89a" + bytes(50), "a photo that is not read: GIF"),
        (b"BM" + bytes(60), "unknown bytes"),
        (b"II*\0" + bytes(60), "not read: TIFF or camera raw"),
        (b"\x1f\x8b" + bytes(60), "gzip"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG without a header"),
        (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\2" + bytes(20), "animated WebP"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(20), "without a picture"),
        (b"\xff\xd8\xff\xc3\0\x11\x08\0\x20\0\x20\3" + bytes(9), "JPEG of a rare kind: process 3"),
        (b"\xff\xd8\xff\xc1\0\x11\x0c\0\x20\0\x20\3" + bytes(9), "12 bits"),
        (b"\xff\xd8" + b"\xff\xe2\0\2" * 5000, "more than 4,096 segments"),
        (b"\xff\xd8" + b"\xff" * 9000, "cut off"),
    ],
)
def test_hostile_images_are_refused_before_decoding(tmp_path, data, expected):
    with pytest.raises(UnsupportedMediaError, match=expected):
        probe_image(FileSpan(str(write(tmp_path / "x.jpg", data))))


def test_endless_headers_cost_little_time_and_memory(tmp_path):
    for filler in (b"\0", b"\xff", b"\xff\x00", b"\xff\xd0"):
        began = time.thread_time()
        with pytest.raises(UnsupportedMediaError):
            read_image_header(b"\xff\xd8\xff" + filler * (1 << 23))
        assert time.thread_time() - began < 2
    with open(tmp_path / "x.jpg", "wb") as file:  # a sparse file of half a gigabyte
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(1 << 29)
    with pytest.raises(UnsupportedMediaError, match="larger than 256 MiB"):
        probe_image(FileSpan(str(tmp_path / "x.jpg")))


def test_rare_images_decode_or_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 65536, (60, 90, 3), np.uint16)
    files = {
        "deep.png": cv2.imencode(".png", image)[1].tobytes(),
        "grey.png": cv2.imencode(".png", image[:, :, 0])[1].tobytes(),
        "alpha.png": cv2.imencode(".png", np.dstack([image, image[:, :, 0]]))[1].tobytes(),
        "grey.jpg": cv2.imencode(".jpg", (image[:, :, 0] >> 8).astype(np.uint8))[1].tobytes(),
    }
    for name, data in files.items():
        media = media_of(write(tmp_path / name, data), "image")
        out = np.zeros((1, 1, 56, 56, 3), np.uint8)
        decode_image(media, np.array([[0, 0, 60, 90]]), 56, out)
        assert out.std() > 5, name
