"""BMP photos: every kind that is read has the right pixels, and others are refused by reason."""

import struct

import av
import cv2
import numpy as np
import pytest

from conftest import media_of
from helpers.bmp_files import MASKS, MASKS_555, MASKS_565, RLE4, RLE8, bmp, bottom_up, top_down
from helpers.oriented_images import decoded, made_picture, media_with
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES, check_image, probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.curation.copies.encode import encode_image
from omnidali.errors import DecodeError

WIDTH, HEIGHT = 37, 30
PICTURE = made_picture(WIDTH, HEIGHT)
BLUE_FIRST = PICTURE[:, :, ::-1]
RED, GREEN, BLUE = (PICTURE[:, :, channel].astype(np.uint32) for channel in range(3))
WHOLE = RED << 16 | GREEN << 8 | BLUE
RNG = np.random.default_rng(2)
PALETTE = tuple(map(tuple, RNG.integers(0, 256, (256, 3)).tolist()))
VALUES = RNG.integers(0, 256, (HEIGHT, WIDTH))


def shown(values, bits):
    """The colours of values of so many bits."""
    return np.array(PALETTE, np.uint8)[values % (1 << bits)]


def run_length(values, bits):
    """Values (H, W) in runs of one or two, with lines from the last one on."""
    parts = []
    for number, row in enumerate(values[::-1].tolist()):
        for place in range(0, len(row), 2):
            pair = row[place : place + 2]
            if bits == 4:
                parts.append(bytes([len(pair), pair[0] << 4 | pair[-1]]))
            else:
                parts += [bytes([1, value]) for value in pair]
        parts.append(b"\0\1" if number == len(values) - 1 else b"\0\0")
    return b"".join(parts)


def in_palette(bits, *, order=bottom_up, **more):
    values = VALUES % (1 << bits)
    height = -HEIGHT if order is top_down else HEIGHT
    data = bmp(WIDTH, height, bits, order(values, bits), palette=PALETTE[: 1 << bits], **more)
    return data, shown(values, bits)


def plain(bits, values, *, order=bottom_up, **more):
    height = -HEIGHT if order is top_down else HEIGHT
    return bmp(WIDTH, height, bits, order(values, bits), **more), PICTURE


def made():
    """(file, picture) by name."""
    kinds = {}
    for order in (bottom_up, top_down):
        way = order.__name__
        for bits in (1, 4, 8):
            kinds[f"{bits} bits {way}"] = in_palette(bits, order=order)
        kinds[f"24 bits {way}"] = plain(24, BLUE_FIRST, order=order)
        kinds[f"32 bits {way}"] = plain(32, WHOLE, order=order)
        kinds[f"32 bits with transparency {way}"] = plain(32, WHOLE | 0x80 << 24, order=order)
        kinds[f"32 bits by masks {way}"] = plain(
            32, WHOLE, order=order, compression=MASKS, masks=(0xFF0000, 0xFF00, 0xFF), header=108
        )
    for bits in (1, 4, 8):
        kinds[f"{bits} bits of OS/2"] = in_palette(bits, header=12)
    kinds["24 bits of OS/2"] = plain(24, BLUE_FIRST, header=12)
    kinds["24 bits with a gap"] = plain(24, BLUE_FIRST, gap=99)
    kinds["24 bits with a version 5 header"] = plain(24, BLUE_FIRST, header=124)
    kinds["8 bits, few colours"] = (
        bmp(WIDTH, HEIGHT, 8, bottom_up(VALUES % 3, 8), palette=PALETTE[:3]),
        np.array(PALETTE, np.uint8)[VALUES % 3],
    )
    for bits, compression in ((8, RLE8), (4, RLE4)):
        values = VALUES % (1 << bits)
        data = run_length(values, bits)
        palette = PALETTE[: 1 << bits]
        kinds[f"runs of {bits} bits"] = (
            bmp(WIDTH, HEIGHT, bits, data, compression=compression, palette=palette),
            shown(values, bits),
        )
    kinds["16 bits"] = plain(16, RED >> 3 << 10 | GREEN >> 3 << 5 | BLUE >> 3)
    kinds["16 bits by masks"] = plain(
        16,
        RED >> 3 << 10 | GREEN >> 3 << 5 | BLUE >> 3,
        compression=MASKS,
        masks=MASKS_555,
    )
    kinds["16 bits, green of six"] = plain(
        16, RED >> 3 << 11 | GREEN >> 2 << 5 | BLUE >> 3, compression=MASKS, masks=MASKS_565
    )
    return kinds


KINDS = made()


def by_ffmpeg(data):
    (frame,) = av.CodecContext.create("bmp", "r").decode(av.Packet(data))
    return frame.to_ndarray(format="rgb24")


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_right(tmp_path, name):
    data, picture = KINDS[name]
    media = media_with(tmp_path, data)
    assert (media.container, media.codec) == ("bmp", "bmp")
    assert (media.width, media.height) == (WIDTH, HEIGHT)
    right = by_ffmpeg(data)
    boxes = [(0, left, HEIGHT, left + HEIGHT) for left in (0, WIDTH - HEIGHT)]
    first, last = decoded(media, boxes, HEIGHT)
    assert np.array_equal(first, right[:, :HEIGHT]) and np.array_equal(last, right[:, -HEIGHT:])
    lost = 8 if name.startswith("16") else 0  # what the file has not
    assert np.abs(right.astype(int) - picture).max() <= lost
    assert check_image(media.span, probe_image(media.span)).width == WIDTH


ROWS = bottom_up(BLUE_FIRST, 24)
REFUSALS = {
    "too large": (bmp(60_000, 60_000, 24, b""), "too large: 60000x60000"),
    "too high": (bmp(1, -(2**31), 24, b""), "too large: 1x2147483648"),
    "too wide": (bmp(2**31 - 1, 1, 1, b""), "too large"),
    "no width": (bmp(-5, 5, 24, ROWS), "no picture: -5x5"),
    "no height": (bmp(5, 0, 24, ROWS), "no picture: 5x0"),
    "cut off": (bmp(WIDTH, HEIGHT, 24, ROWS[:-1]), "cut off: 3,413 of 3,414 bytes"),
    "header cut off": (bmp(WIDTH, HEIGHT, 24, ROWS)[:40], "header cut off"),
    "an offset after the file": (bmp(WIDTH, HEIGHT, 24, ROWS, offset=2**32 - 1), "cut off"),
    "an offset in the header": (
        bmp(WIDTH, HEIGHT, 24, ROWS, offset=20),
        "BMP whose picture begins in its header, at byte 20",
    ),
    "an offset in the colours": (
        bmp(WIDTH, HEIGHT, 8, ROWS, palette=PALETTE, offset=60),
        "begins in its header",
    ),
    "too many colours": (bmp(WIDTH, HEIGHT, 8, ROWS, colours=2**32 - 1), "4,294,967,295 colours"),
    "2 bits": (bmp(WIDTH, HEIGHT, 2, ROWS), "rare kind: 2 bits a pixel, compression 0"),
    "64 bits": (bmp(WIDTH, HEIGHT, 64, ROWS), "rare kind: 64 bits"),
    "JPEG": (bmp(WIDTH, HEIGHT, 0, ROWS, compression=4), "rare kind.* compression 4 as JPEG"),
    "PNG": (bmp(WIDTH, HEIGHT, 0, ROWS, compression=5), "compression 5 as PNG"),
    "runs of 24 bits": (bmp(WIDTH, HEIGHT, 24, ROWS, compression=RLE8), "rare kind: 24 bits"),
    "masks of ten bits": (
        bmp(WIDTH, HEIGHT, 32, ROWS, compression=MASKS, masks=(0x3FF << 20, 0x3FF << 10, 0x3FF)),
        "masks 3ff00000, 000ffc00, 000003ff",
    ),
    "16 bits with a late header": (
        bmp(WIDTH, HEIGHT, 16, ROWS, compression=MASKS, masks=MASKS_565, header=108),
        "16 bits a pixel, header 108",
    ),
    "16 bits of OS/2": (bmp(WIDTH, HEIGHT, 16, ROWS, header=12), "16 bits a pixel, header 12"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_rare_and_hostile_files_are_refused(tmp_path, name):
    data, reason = REFUSALS[name]
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(UnsupportedMediaError, match=reason):
        probe_image(FileSpan(str(tmp_path / "a.bmp")))


def test_large_file_is_measured_without_being_read(tmp_path):
    header = bmp(400, 300, 24, b"")
    size = 400 * 300 * 3
    assert size > IMAGE_HEADER_BYTES
    (tmp_path / "a.bmp").write_bytes(header + bytes(size))
    assert probe_image(FileSpan(str(tmp_path / "a.bmp"))).width == 400
    (tmp_path / "a.bmp").write_bytes(header + bytes(size - 1))
    with pytest.raises(UnsupportedMediaError, match="cut off: 360,053 of 360,054 bytes"):
        probe_image(FileSpan(str(tmp_path / "a.bmp")))


def test_file_that_is_cut_off_after_its_probe_does_not_decode(tmp_path):
    data, _ = KINDS["24 bits bottom_up"]
    media = media_with(tmp_path, data)
    (tmp_path / "photo").write_bytes(data[:-20])
    with pytest.raises(DecodeError, match="cut off"):
        decoded(media, [(0, 0, 30, 30)], 30)
    with pytest.raises(DecodeError, match="cut off"):
        encode_image(media, tmp_path / "copy", 20)


def test_runs_that_end_early_do_not_decode(tmp_path):
    data = run_length(VALUES, 8)[:200]
    media = media_with(tmp_path, bmp(WIDTH, HEIGHT, 8, data, compression=RLE8, palette=PALETTE))
    with pytest.raises(DecodeError):
        decoded(media, [(0, 0, 30, 30)], 30)
    with pytest.raises(UnsupportedMediaError):
        check_image(media.span, probe_image(media.span))


def test_training_copy_is_a_jpeg(tmp_path):
    media = media_with(tmp_path, KINDS["24 bits top_down"][0])
    encode_image(media, tmp_path / "copy", 200)
    copy = media_of(tmp_path / "copy", "image")
    assert (copy.codec, copy.width, copy.height) == ("jpeg", WIDTH, HEIGHT)
    picture = cv2.imread(str(tmp_path / "copy"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(picture.astype(int) - PICTURE).mean() < 6


def test_size_of_the_second_header_is_checked():
    data = bytearray(KINDS["24 bits bottom_up"][0])
    struct.pack_into("<I", data, 14, 41)
    with pytest.raises(UnsupportedMediaError, match="not a photo: unknown bytes"):
        read_image_header(bytes(data))
