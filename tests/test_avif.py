"""AVIF photos: the right pixels, the right way up, and hostile files refused before a decoder."""

import io
import struct

import av
import cv2
import numpy as np
import pytest

from conftest import media_of
from helpers.avif_files import (
    GRID,
    PICTURE,
    avif,
    box,
    clap,
    coded,
    full_box,
    grid,
    grid_avif,
    imir,
    irot,
    ispe,
    picture_avif,
)
from helpers.oriented_images import decoded, made_picture, media_with, tiff
from omnidali.catalog.probing import avif_support, image_probe
from omnidali.catalog.probing.avif_support import decodes_avif
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.frame_planes import frame_orientation, show_upright
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES, check_image, probe_image
from omnidali.catalog.probing.limits import MAX_HIDDEN, UnsupportedMediaError
from omnidali.curation.copies.encode import encode_image
from omnidali.decoding.colours import rgb_matrix
from omnidali.errors import DecodeError

if not decodes_avif():
    pytest.skip("OpenCV decodes no AVIF here", allow_module_level=True)

WIDTH, HEIGHT = 90, 60
SHOWN = made_picture(WIDTH, HEIGHT)
CONTENT, SETTINGS = coded(SHOWN)
SIZE = ispe(WIDTH, HEIGHT)


def by_ffmpeg(data):
    """What FFmpeg shows of a file: uint8 (H, W, 3), RGB."""
    with av.open(io.BytesIO(data), format="mov") as video:
        frame = next(video.decode(video=0))
    return show_upright(frame.to_ndarray(format="rgb24"), *frame_orientation(frame))


def read_whole(folder, data):
    """The picture by this project: through its probe, and the decoder of the CPU."""
    media = media_with(folder, data)
    side = min(media.width, media.height)
    return media, decoded(media, [(0, 0, side, side)], side)[0]


TURNS = [
    (*(() if quarters is None else (irot(quarters),)), *(() if axis is None else (imir(axis),)))
    for quarters in (None, 0, 1, 2, 3)
    for axis in (None, 0, 1)
]


@pytest.mark.parametrize("turns", TURNS, ids=lambda turns: "-".join(map(repr, turns)) or "none")
def test_picture_is_turned_as_its_boxes_say(tmp_path, turns):
    data = picture_avif(SHOWN, *turns)
    media, picture = read_whole(tmp_path, data)
    right = by_ffmpeg(data)
    assert (media.height, media.width) == right.shape[:2]
    assert np.array_equal(picture, right[: len(picture), : len(picture)])
    is_turned = media.codec == "avif:rotated"
    assert is_turned == (not np.array_equal(right, SHOWN)) and media.container == "avif"
    assert check_image(media.span, probe_image(media.span)).height == media.height


def test_turns_differ():
    assert len({by_ffmpeg(picture_avif(SHOWN, *turns)).tobytes() for turns in TURNS}) == 8


@pytest.mark.parametrize("more", [0, 10_000])
@pytest.mark.parametrize("is_first", [True, False])
def test_turn_in_exif_is_not_followed(tmp_path, is_first, more):
    """The standard leaves the turning to the boxes, and so do browsers. OpenCV 5.0 refuses such a
    file if its metadata lie late.
    """
    picture = (PICTURE, CONTENT, [SIZE, *SETTINGS])
    metadata = [(b"Exif", bytes(4) + tiff(6) + bytes(more), []), (b"mime", b"<x:xmpmeta/>", [])]
    items = [*metadata, picture] if is_first else [picture, *metadata]
    number = 1 + items.index(picture)
    refers = [(b"cdsc", other, number) for other in (1, 2, 3) if other != number]
    media, shown = read_whole(tmp_path, avif(items, primary=number, refers=refers))
    assert (media.codec, media.width, media.height) == ("avif", WIDTH, HEIGHT)
    assert np.array_equal(shown, SHOWN[:, :HEIGHT])
    assert check_image(media.span, probe_image(media.span)).codec == "avif"
    encode_image(media, tmp_path / "copy", 200)
    assert media_of(tmp_path / "copy", "image").width == WIDTH


@pytest.mark.parametrize(
    "crop, rows, columns",
    [
        (clap(70, 50), slice(5, 55), slice(10, 80)),
        (clap(70, 50, (10, 1), (-5, 1)), slice(0, 50), slice(20, 90)),
        (clap((141, 2 * 1 + 1), 51, (1, 2), (1, 2)), slice(5, 56), slice(22, 69)),
    ],
)
def test_crop_is_applied_before_the_turn(tmp_path, crop, rows, columns):
    media, picture = read_whole(tmp_path, picture_avif(SHOWN, crop, irot(1)))
    right = np.rot90(SHOWN[rows, columns])
    assert (media.height, media.width) == right.shape[:2]
    side = len(picture)
    assert np.array_equal(picture, right[:side, :side])
    assert check_image(media.span, probe_image(media.span)).height == media.height


def test_picture_of_tiles_is_put_together(tmp_path):
    whole = made_picture(160, 128)
    media, picture = read_whole(tmp_path, grid_avif(whole, 2, 2, irot(3)))
    assert (media.width, media.height) == (128, 160)
    assert np.array_equal(picture, np.rot90(whole, 3)[:128, :128])


def test_transparency_and_depth_do_not_change_colours(tmp_path):
    half = np.dstack([SHOWN[:, :, ::-1], np.full((HEIGHT, WIDTH), 128, np.uint8)])
    deep = SHOWN[:, :, ::-1].astype(np.uint16) * 4
    flags = [cv2.IMWRITE_AVIF_QUALITY, 98]
    for picture, options in ((half, flags), (deep, [*flags, cv2.IMWRITE_AVIF_DEPTH, 10])):
        data = cv2.imencode(".avif", picture, options)[1].tobytes()
        shown = read_whole(tmp_path, data)[1].astype(int)
        assert np.abs(shown - SHOWN[:, :HEIGHT]).mean() < 3
        # which scales colours up in another way
        assert np.abs(shown - by_ffmpeg(data)[:, :HEIGHT]).mean() < 6


def flat_avif(colour, matrix, *, is_full):
    """A picture of one colour (R, G, B), coded in a matrix and a range that its headers name."""
    rows = rgb_matrix(matrix, is_full)
    values = np.linalg.solve(rows[:, :3].astype(float), np.array(colour, float) - rows[:, 3])
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([min(255, round(value))]) * (plane.line_size * plane.height))
    frame.colorspace, frame.color_range = matrix, 2 if is_full else 1

    file = io.BytesIO()
    with av.open(file, "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"crf": "5"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = frame.colorspace, frame.color_range
        context.color_primaries = 1
        context.color_trc = 13
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


# OpenCV's conversion for BT.601, BT.709 and BT.2020: levels by which blue may be off, which README
# states.
@pytest.mark.parametrize(
    "matrix, is_full, blue",
    [(6, False, 3), (1, False, 13), (9, False, 17), (6, True, 3), (1, True, 3), (9, True, 3)],
)
def test_matrix_and_range_are_followed_but_for_some_blue(tmp_path, matrix, is_full, blue):
    for colour in ((0, 0, 255), (255, 0, 0), (0, 255, 0), (200, 120, 40), (128, 128, 128)):
        data = flat_avif(colour, matrix, is_full=is_full)
        shown = read_whole(tmp_path, data)[1].astype(int)
        for right in (np.array(colour), by_ffmpeg(data).astype(int)):
            assert (np.abs(shown - right).max((0, 1)) <= (3, 3, blue)).all()


def test_header_after_what_is_read_first_is_found(tmp_path):
    data = picture_avif(SHOWN, before=box(b"free", bytes(IMAGE_HEADER_BYTES)))
    assert np.array_equal(read_whole(tmp_path, data)[1], SHOWN[:, :HEIGHT])


def test_training_copy_is_upright(tmp_path):
    media = media_with(tmp_path, picture_avif(SHOWN, clap(80, 60), irot(1)))
    encode_image(media, tmp_path / "copy", 200)
    copy = media_of(tmp_path / "copy", "image")
    assert (copy.codec, copy.width, copy.height) == ("jpeg", 60, 80)
    shown = cv2.imread(str(tmp_path / "copy"), cv2.IMREAD_COLOR_RGB).astype(int)
    assert np.abs(shown - np.rot90(SHOWN[:, 5:85])).mean() < 5


def test_animation_is_refused(tmp_path):
    data = picture_avif(SHOWN, brands=(b"avis", b"avif", b"mif1"))
    with pytest.raises(UnsupportedMediaError, match="animated AVIF"):
        read_image_header(data)


def test_opencv_without_avif_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.avif").write_bytes(picture_avif(SHOWN))
    monkeypatch.setattr(image_probe, "decodes_avif", lambda: False)
    with pytest.raises(UnsupportedMediaError, match="not decoded by the OpenCV that is installed"):
        probe_image(FileSpan(str(tmp_path / "a.avif")))


@pytest.mark.parametrize("answer", [None, np.zeros((16, 8), np.uint8), np.zeros((8, 16), np.uint8)])
def test_opencv_that_decodes_otherwise_counts_as_without(monkeypatch, answer):
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: answer)
    assert not avif_support.decodes_avif.__wrapped__()


def sequence(width, height):
    """A sequence header of AV1 (5.5.1) of a still picture."""
    bits = f"{0:03b}11{0:05b}{15:04b}{15:04b}{width - 1:016b}{height - 1:016b}"
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big") + bytes(8)
    return bytes([0x0A, len(payload)]) + payload


FRAME = b"\x32\2\x18\0"


def one(content, *properties, **more):
    return avif([(PICTURE, content, [*properties, *SETTINGS])], **more)


HOSTILE = {
    "huge size": (one(CONTENT, ispe(60_000, 60_000)), "too large: 60000x60000"),
    "no size": (one(CONTENT), "AVIF without a size"),
    "size of nothing": (one(CONTENT, ispe(0, 9)), "no picture: 0x9"),
    "huge picture of a small size": (
        one(sequence(65_536, 65_536) + FRAME, SIZE),
        "too large: 65536x65536",
    ),
    "huge tile": (
        avif(
            [
                (GRID, grid(1, 1, WIDTH, HEIGHT), [SIZE]),
                (PICTURE, sequence(30_000, 30_000) + FRAME, [SIZE, *SETTINGS]),
            ],
            refers=[(b"dimg", 1, 2)],
        ),
        "too large: 30000x30000",
    ),
    "hidden frames": (
        one(sequence(9, 9) + FRAME * (MAX_HIDDEN + 1), SIZE),
        f"more than {MAX_HIDDEN} frames",
    ),
    "no frame": (one(sequence(9, 9), SIZE), "AVIF without a picture"),
    "no AV1": (one(b"\0" * 50, SIZE), "AVIF without a picture"),
    "broken AV1": (one(b"\x0a\xff\xff", SIZE), "AVIF with broken AV1"),
    "content after the file": (one(CONTENT, SIZE, moved=10_000_000), "cut off"),
    "cut off": (one(CONTENT, SIZE)[:-20], "cut off"),
    "crop beside the picture": (one(CONTENT, SIZE, clap(70, 60, 30)), "crop beside its pixels"),
    "crop of half pixels": (one(CONTENT, SIZE, clap(71, 60)), "crop beside its pixels"),
    "crop by zero": (one(CONTENT, SIZE, clap((70, 0), 60)), "crop of no size"),
    "crop after a turn": (one(CONTENT, SIZE, irot(1), clap(70, 50)), "cut after it is turned"),
    "other primary item": (one(CONTENT, SIZE, primary=9), "its picture is none"),
    "overlay": (avif([(b"iovl", b"", [SIZE])]), "its picture is iovl"),
    "no items": (box(b"ftyp", b"avif", bytes(4)) + full_box(b"meta", 0, 0), "without its box pitm"),
    "endless box": (
        box(b"ftyp", b"avif", bytes(4)) + full_box(b"meta", 0, 0, struct.pack(">I4s", 3, b"pitm")),
        "impossible size",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header_is_refused(tmp_path, name):
    data, reason = HOSTILE[name]
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(UnsupportedMediaError, match=reason):
        probe_image(FileSpan(str(tmp_path / "a.avif")))


def test_items_claim_no_more_than_a_file_holds():
    """A hundred items that are all of 16 MiB would be copied together."""
    data = bytearray(one(CONTENT, SIZE))
    place = data.index(b"iloc") + 4 + 4 + 2 + 2
    struct.pack_into(">I", data, place + 6 + 4, 1 << 29)
    with pytest.raises(UnsupportedMediaError, match="claim more than a file holds"):
        read_image_header(bytes(data))


def test_file_that_is_replaced_after_the_probe_meets_the_limits(tmp_path):
    media = media_with(tmp_path, picture_avif(SHOWN))
    (tmp_path / "photo").write_bytes(HOSTILE["huge picture of a small size"][0])
    with pytest.raises(DecodeError, match="too large"):
        decoded(media, [(0, 0, 30, 30)], 30)
