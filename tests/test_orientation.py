"""Images are upright, by EXIF, in every format and by every way of decoding."""

import struct

import cv2
import numpy as np
import pytest

from conftest import media_of
from helpers.oriented_images import (
    EXACT,
    FORMS,
    HEIGHT,
    ORIENTATIONS,
    WIDTH,
    assert_alike,
    decoded,
    encoded,
    every_form,
    every_orientation,
    jpeg,
    made_picture,
    media_with,
    png,
    seen,
)
from helpers.plans import table_with
from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.folder_probe import probe_frames
from omnidali.curation.copies.encode import encode_image
from omnidali.decoding.decoders import decode_frames
from omnidali.decoding.routes import choose_routes
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import DecodeError, UserError


def test_eight_orientations_differ():
    pictures = [seen(made_picture(60, 60), orientation).astype(int) for orientation in ORIENTATIONS]
    for number, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 25 for other in pictures[:number])


@every_form
@every_orientation
def test_probe_gives_the_upright_size(tmp_path, form, orientation):
    media = media_with(tmp_path, FORMS[form](made_picture(), orientation))
    assert (media.width, media.height) == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    container = form.partition(" ")[0]
    turned = container != "jpeg" and orientation > 1
    assert (media.container, media.codec) == (
        container,
        f"{container}:rotated" if turned else container,
    )


@every_form
@every_orientation
def test_boxes_are_cut_out_of_the_upright_image(tmp_path, form, orientation):
    media = media_with(tmp_path, FORMS[form](made_picture(), orientation))
    wanted = seen(made_picture(), orientation)
    boxes = [
        (0, 0, 50, 50),
        (10, 8, 50, 48),
        (media.height - 40, media.width - 44, media.height, media.width),
    ]
    for size in (40, 16):
        for box, shown in zip(boxes, decoded(media, boxes, size), strict=True):
            assert_alike(shown, cut_and_scale(wanted, box, size, size), form)


@every_orientation
def test_jpegs_decoded_small_are_upright(tmp_path, orientation):
    media = media_with(tmp_path, jpeg(made_picture(720, 480), orientation))
    wanted = cut_and_scale(seen(made_picture(720, 480), orientation), (32, 64, 416, 448), 48, 48)
    assert np.abs(decoded(media, [(32, 64, 416, 448)], 48)[0].astype(int) - wanted).mean() < 4


@every_orientation
def test_jpegs_with_late_exif_are_upright(tmp_path, orientation):
    profile = b"\xff\xe2" + struct.pack(">H", 40_002) + bytes(40_000)
    media = media_with(tmp_path, jpeg(made_picture(), orientation, before=profile))
    shown = decoded(media, [(4, 6, 44, 46)], 40)[0].astype(int)
    assert np.abs(shown - seen(made_picture(), orientation)[4:44, 6:46]).mean() < 4


@pytest.mark.parametrize("form", EXACT)
@every_orientation
def test_image_with_camera_motion_is_upright(tmp_path, form, orientation):
    wanted = seen(made_picture(), orientation)
    motions = np.array(
        [[[1.3, 0, 6], [0, 1.3, 4], [0, 0, 1]], [[1.2, 0.1, 10], [-0.1, 1.1, 12], [0, 0, 1]]]
    )
    turned = media_with(tmp_path, FORMS[form](made_picture(), orientation), "turned")
    plain = media_with(tmp_path, encoded(".png", wanted), "plain")
    shown, expected = (
        decoded(media, [(0, 0, media.height, media.width)], 32, motions, 2)
        for media in (turned, plain)
    )
    assert np.array_equal(shown, expected) and np.ptp(shown) > 50


def test_each_frame_of_a_folder_is_turned(tmp_path):
    for number, orientation in enumerate((1, 2, 3, 4), 1):
        (tmp_path / f"img_{number:05d}.png").write_bytes(png(made_picture(), orientation))
    probe = probe_frames(FileSpan(str(tmp_path)), "img_{:05d}.png")
    media = Media.of(str(tmp_path), FileSpan(str(tmp_path)), probe)
    assert (media.frames, media.codec) == (4, "png")
    out = np.zeros((1, 4, 50, 50, 3), np.uint8)
    decode_frames(media, np.arange(4), np.array([[4, 10, 54, 60]]), 50, out)
    for shown, orientation in zip(out[0], (1, 2, 3, 4), strict=True):
        assert np.array_equal(shown, seen(made_picture(), orientation)[4:54, 10:60])


@every_form
@every_orientation
@pytest.mark.parametrize("short_side", [30, 100])
def test_training_copy_is_upright(tmp_path, form, orientation, short_side):
    media = media_with(tmp_path, FORMS[form](made_picture(), orientation))
    encode_image(media, tmp_path / "copy", short_side)
    copy = media_of(tmp_path / "copy", "image")
    share = min(1, short_side / HEIGHT)
    assert (copy.width, copy.height, copy.codec) == (
        media.width * share,
        media.height * share,
        "jpeg",
    )
    if form != "jpeg":
        assert b"Exif" not in (tmp_path / "copy").read_bytes()

    shown = cv2.imdecode(np.fromfile(tmp_path / "copy", np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    wanted = cv2.resize(
        seen(made_picture(), orientation), (copy.width, copy.height), interpolation=cv2.INTER_AREA
    )
    assert np.abs(shown - wanted).mean() < 5


def test_dali_gets_no_image_that_it_might_not_turn():
    codecs = ["jpeg", "png", "png:rotated", "webp", "webp:rotated"]
    wanted = {codec: "cpu" if ":" in codec else "dali" for codec in codecs}
    assert choose_routes(table_with(codecs, "image"), "auto", (9, 0)).decoders == wanted
    with pytest.raises(
        UserError, match="codecs that DALI decodes on the CPU, got png:rotated, webp:rotated"
    ):
        choose_routes(table_with(codecs, "image"), "dali", None)


def test_file_of_a_new_format_is_not_turned_twice(tmp_path):
    media = media_with(tmp_path, encoded(".jpg", made_picture()))
    for orientation in (2, 3, 4):
        (tmp_path / "photo").write_bytes(png(made_picture(), orientation))
        shown = decoded(media, [(0, 0, 60, 60)], 60)[0]
        assert np.array_equal(shown, seen(made_picture(), orientation)[:60, :60])

    media = media_with(tmp_path, png(made_picture(), 2))
    (tmp_path / "photo").write_bytes(jpeg(made_picture(), 3))
    assert (
        np.abs(
            decoded(media, [(0, 0, 60, 60)], 60)[0].astype(int) - seen(made_picture(), 3)[:60, :60]
        ).mean()
        < 4
    )


def test_file_turned_after_the_probe_raises_decode_error(tmp_path):
    media = media_with(tmp_path, png(made_picture(), 1))
    (tmp_path / "photo").write_bytes(png(made_picture(), 6))
    with pytest.raises(DecodeError, match="a picture of 60x90 where it had 90x60"):
        decoded(media, [(0, 0, 60, 60)], 60)
    with pytest.raises(DecodeError, match="60x90 pixels where the header said 90x60"):
        encode_image(media, tmp_path / "copy", 30)
