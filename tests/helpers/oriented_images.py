"""Images of all formats and orientations."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from conftest import media_of
from omnidali.decoding.image import decode_image

WIDTH = 90

HEIGHT = 60

ORIENTATIONS = range(1, 9)


# EXIF 2.3, tag 274: the visual sides at which the 0th row and the 0th column lie
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def seen(stored, orientation):
    """A stored picture as it shall be seen, from the words of EXIF alone."""
    row_side, column_side = SIDES[orientation]
    if row_side in ("left", "right"):
        stored = np.transpose(stored, (1, 0, 2))
        row_side, column_side = column_side, row_side
    if row_side == "bottom":
        stored = np.flip(stored, axis=0)
    if column_side == "right":
        stored = np.flip(stored, axis=1)
    return np.ascontiguousarray(stored)


def made_picture(width=WIDTH, height=HEIGHT):
    """A smooth picture, RGB, that is like none of its turned and mirrored versions."""
    coarse = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(ending, picture, *settings):
    return cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def tiff(orientation, order="<"):
    """EXIF's bytes with a directory of two entries, the second one the orientation."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    width, turned = (
        struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        for tag, value in ((0x0100, 77), (0x0112, orientation))
    )
    return start + width + turned + bytes(4)


def jpeg(picture, orientation, before=b""):
    data, exif = (
        encoded(".jpg", picture, cv2.IMWRITE_JPEG_QUALITY, 97),
        b"Exif\0\0" + tiff(orientation, ">"),
    )
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(picture, orientation, at_end=False, before=b""):
    data = encoded(".png", picture)
    place = data.index(b"IEND") - 4 if at_end else 33
    return data[:place] + before + png_chunk(b"eXIf", tiff(orientation)) + data[place:]


def riff_chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp(picture, orientation, quality=95, start=b"", at_start=False, before=b"", flags=0x08):
    """Quality 101 is lossless."""
    data = encoded(".webp", picture, cv2.IMWRITE_WEBP_QUALITY, quality)
    assert data[12:16] in (b"VP8 ", b"VP8L")
    height, width = picture.shape[:2]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    exif = riff_chunk(b"EXIF", start + tiff(orientation, ">"))
    chunks = [before, exif, data[12:]] if at_start else [data[12:], before, exif]
    body = b"WEBP" + riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides) + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FORMS = {
    "jpeg": jpeg,
    "png": png,
    "png at its end": lambda picture, orientation: png(picture, orientation, at_end=True),
    "webp": webp,
    "webp with Exif before the tag": lambda picture, orientation: webp(
        picture, orientation, start=b"Exif\0\0"
    ),
    "webp at its start": lambda picture, orientation: webp(picture, orientation, at_start=True),
    "webp lossless": lambda picture, orientation: webp(picture, orientation, quality=101),
    "webp lossless with Exif before the tag": lambda picture, orientation: webp(
        picture, orientation, quality=101, start=b"Exif\0\0"
    ),
}


EXACT = [form for form in FORMS if "png" in form or "lossless" in form]


every_form = pytest.mark.parametrize("form", FORMS)


every_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)


def media_with(folder, data, name="photo"):
    (folder / name).write_bytes(data)
    return media_of(folder / name, "image")


def decoded(media, boxes, size, motions=None, frames=1):
    out = np.zeros((len(boxes), frames, size, size, 3), np.uint8)
    decode_image(media, np.array(boxes), size, out, motions)
    return out[:, 0] if motions is None else out


def assert_alike(shown, wanted, form):
    if form in EXACT:
        assert np.array_equal(shown, wanted)
    else:
        assert np.abs(shown.astype(int) - wanted).mean() < 4
