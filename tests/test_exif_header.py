"""Where orientations lie in the headers of images, and what is no orientation."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.oriented_images import (
    FORMS,
    HEIGHT,
    ORIENTATIONS,
    WIDTH,
    assert_alike,
    decoded,
    encoded,
    made_picture,
    media_with,
    png,
    png_chunk,
    riff_chunk,
    seen,
    tiff,
    webp,
)
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES, probe_image
from omnidali.catalog.probing.limits import MAX_HEADER_BYTES, MAX_SEGMENTS, UnsupportedMediaError


@pytest.mark.parametrize(
    "make",
    [
        lambda picture: png(picture, 6, before=png_chunk(b"iTXt", bytes(IMAGE_HEADER_BYTES))),
        lambda picture: png(
            picture, 6, at_end=True, before=png_chunk(b"iTXt", bytes(IMAGE_HEADER_BYTES - 40))
        ),
        lambda picture: webp(
            picture, 6, before=riff_chunk(b"XMP ", bytes(IMAGE_HEADER_BYTES + 1)), flags=0x0C
        ),
    ],
)
def test_orientation_after_long_metadata_is_found(tmp_path, make):
    media = media_with(tmp_path, make(made_picture()))
    assert (media.width, media.height) == (HEIGHT, WIDTH)
    assert_alike(
        decoded(media, [(8, 4, 48, 44)], 40)[0], seen(made_picture(), 6)[8:48, 4:44], "webp"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda picture: png(
            picture, 6, at_end=True, before=png_chunk(b"iTXt", bytes(MAX_HEADER_BYTES))
        ),
        lambda picture: webp(
            picture, 6, before=riff_chunk(b"XMP ", bytes(MAX_HEADER_BYTES)), flags=0x0C
        ),
    ],
)
def test_orientation_beyond_the_header_limit_is_ignored(tmp_path, make):
    media = media_with(tmp_path, make(made_picture()))
    assert (media.width, media.height, ":" in media.codec) == (WIDTH, HEIGHT, False)
    assert_alike(decoded(media, [(0, 0, 60, 60)], 60)[0], made_picture()[:60, :60], "webp")


def test_only_files_that_may_hold_a_tag_are_read_again(tmp_path, monkeypatch):
    asked, read = [], FileSpan.read_bytes
    monkeypatch.setattr(
        FileSpan, "read_bytes", lambda span, count=None: (asked.append(count), read(span, count))[1]
    )
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    twice = [IMAGE_HEADER_BYTES, MAX_HEADER_BYTES]
    for data, wanted in (
        (png(noise, 3), twice[:1]),
        (png(noise, 3, at_end=True), twice),
        (encoded(".png", noise), twice),
        (webp(noise, 3, quality=101), twice),
        (webp(noise, 3, quality=101, at_start=True), twice[:1]),
        (webp(noise, 3, quality=101, flags=0), twice[:1]),
        (encoded(".webp", noise, cv2.IMWRITE_WEBP_QUALITY, 101), twice[:1]),
    ):
        assert len(data) > IMAGE_HEADER_BYTES
        (tmp_path / "photo").write_bytes(data)
        asked.clear()
        probe_image(FileSpan(str(tmp_path / "photo")))
        assert asked == wanted


def test_invalid_orientation_is_ignored():
    plain = encoded(".png", made_picture())
    no_order, far = b"XX*\0" + tiff(6)[4:], b"II*\0" + bytes([255] * 4) + tiff(6)[8:]
    for payload in (b"", b"II", no_order, far, tiff(0), tiff(9), tiff(6)[:20], bytes(1000)):
        header = read_image_header(plain[:33] + png_chunk(b"eXIf", payload) + plain[33:])
        assert (header.codec, header.width, header.height, header.orientation) == (
            "png",
            WIDTH,
            HEIGHT,
            1,
        )


def test_orientation_counts_only_where_decoders_read_it():
    picture, exif = made_picture(), png_chunk(b"eXIf", tiff(6))
    plain, simple, extended = encoded(".png", picture), encoded(".webp", picture), webp(picture, 6)
    shorter = struct.pack("<I", len(extended) - 8 - len(riff_chunk(b"EXIF", tiff(6))))
    assert read_image_header(plain + exif).orientation == 1  # after the end
    # the first
    assert (
        read_image_header(plain[:33] + exif + png_chunk(b"eXIf", tiff(3)) + plain[33:]).orientation
        == 6
    )
    # the header says that there is none
    assert read_image_header(webp(picture, 6, flags=0)).orientation == 1
    # there is no such header
    assert read_image_header(simple + riff_chunk(b"EXIF", tiff(6))).orientation == 1
    # after the end that the header gives
    assert read_image_header(extended[:4] + shorter + extended[8:]).orientation == 1


@pytest.mark.parametrize("form", [form for form in FORMS if form != "jpeg"])
def test_truncated_file_keeps_its_size_or_is_refused(form):
    data = FORMS[form](made_picture(), 3)
    for end in range(len(data)):
        try:
            header = read_image_header(data[:end])
        except UnsupportedMediaError as refusal:
            assert end < 30, (end, refusal)
            continue
        assert header.orientation in (1, 3)
        assert end < 30 or (header.width, header.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "make",
    [
        lambda others: png(made_picture(), 6, before=png_chunk(b"tEXt", b"") * others),
        lambda others: webp(made_picture(), 6, before=riff_chunk(b"XMP ", b"") * others),
    ],
    ids=["png", "webp"],
)
def test_search_through_endless_chunks_ends(make):
    for others, orientation in ((MAX_SEGMENTS - 4, 6), (MAX_SEGMENTS, 1)):
        for whole in (True, False):
            assert read_image_header(make(others), whole=whole).orientation == orientation


@given(
    tail=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    b"eXIf",
                    b"EXIF",
                    b"IEND",
                    b"Exif\0\0",
                    b"II*\0\x08\0\0\0",
                    b"MM\0*\0\0\0\x08",
                    tiff(6),
                    png_chunk(b"eXIf", tiff(7)),
                    riff_chunk(b"EXIF", tiff(8)),
                    b"\xff" * 8,
                    bytes(8),
                ]
            ),
        )
    ),
    whole=st.booleans(),
    form=st.sampled_from(["png", "webp"]),
)
def test_mutated_bytes_give_a_header_or_a_refusal(tail, whole, form):
    head = {"png": encoded(".png", made_picture())[:33], "webp": webp(made_picture(), 6)[:30]}[form]
    try:
        header = read_image_header(head + b"".join(tail), whole=whole)
    except UnsupportedMediaError as refusal:
        assert str(refusal) == "header cut off" and not whole
        return
    assert header.orientation in ORIENTATIONS
    assert sorted((header.width, header.height)) == [HEIGHT, WIDTH]
