"""EXIF's orientation: every format is seen upright, wherever the tag lies, and hostile bytes cost
nothing.
"""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import media_of
from helpers.plans import table_with
from omnidali.catalog.database.store import Media
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing import sniff as gate
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES
from omnidali.catalog.probing.probe import probe_frames, probe_image
from omnidali.catalog.probing.sniff import (
    MAX_HEADER_BYTES,
    MAX_SEGMENTS,
    UnsupportedMediaError,
    read_image_header,
)
from omnidali.curation.copies.encode import encode_photo
from omnidali.decoding.frame_folder import decode_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.routes import choose_routes
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import DecodeError, UserError

WIDTH, HEIGHT = 90, 60
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


def test_the_eight_pictures_differ():
    pictures = [seen(made_picture(60, 60), orientation).astype(int) for orientation in ORIENTATIONS]
    for number, one in enumerate(pictures):
        assert all(np.abs(one - other).mean() > 25 for other in pictures[:number])


@every_form
@every_orientation
def test_the_probe_says_the_size_that_is_seen(tmp_path, form, orientation):
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
def test_boxes_are_cut_out_of_the_upright_picture(tmp_path, form, orientation):
    media = media_with(tmp_path, FORMS[form](made_picture(), orientation))
    wanted = seen(made_picture(), orientation)
    boxes = [
        (0, 0, 50, 50),
        (10, 8, 50, 48),
        (media.height - 40, media.width - 44, media.height, media.width),
    ]
    for size in (40, 16):
        for box, shown in zip(boxes, decoded(media, boxes, size)):
            assert_alike(shown, cut_and_scale(wanted, box, size, size), form)


@every_orientation
def test_jpegs_that_are_decoded_small_are_upright(tmp_path, orientation):
    media = media_with(tmp_path, jpeg(made_picture(720, 480), orientation))
    wanted = cut_and_scale(seen(made_picture(720, 480), orientation), (32, 64, 416, 448), 48, 48)
    assert np.abs(decoded(media, [(32, 64, 416, 448)], 48)[0].astype(int) - wanted).mean() < 4


@every_orientation
def test_jpegs_whose_exif_comes_late_are_upright(tmp_path, orientation):
    profile = b"\xff\xe2" + struct.pack(">H", 40_002) + bytes(40_000)
    media = media_with(tmp_path, jpeg(made_picture(), orientation, before=profile))
    shown = decoded(media, [(4, 6, 44, 46)], 40)[0].astype(int)
    assert np.abs(shown - seen(made_picture(), orientation)[4:44, 6:46]).mean() < 4


@pytest.mark.parametrize("form", EXACT)
@every_orientation
def test_a_moving_picture_is_upright(tmp_path, form, orientation):
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


def test_frames_of_a_folder_are_turned_one_by_one(tmp_path):
    for number, orientation in enumerate((1, 2, 3, 4), 1):
        (tmp_path / f"img_{number:05d}.png").write_bytes(png(made_picture(), orientation))
    probe = probe_frames(FileSpan(str(tmp_path)), "img_{:05d}.png")
    media = Media.of(str(tmp_path), FileSpan(str(tmp_path)), probe)
    assert (media.frames, media.codec) == (4, "png")
    out = np.zeros((1, 4, 50, 50, 3), np.uint8)
    decode_frames(media, np.arange(4), np.array([[4, 10, 54, 60]]), 50, out)
    for shown, orientation in zip(out[0], (1, 2, 3, 4)):
        assert np.array_equal(shown, seen(made_picture(), orientation)[4:54, 10:60])


@every_form
@every_orientation
@pytest.mark.parametrize("short_side", [30, 100])
def test_a_training_copy_is_upright(tmp_path, form, orientation, short_side):
    media = media_with(tmp_path, FORMS[form](made_picture(), orientation))
    encode_photo(media, tmp_path / "copy", short_side)
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


def test_dali_gets_no_picture_that_it_might_not_turn():
    codecs = ["jpeg", "png", "png:rotated", "webp", "webp:rotated"]
    wanted = {codec: "cpu" if ":" in codec else "dali" for codec in codecs}
    assert choose_routes(table_with(codecs, "image"), "auto", (9, 0)) == wanted
    with pytest.raises(
        UserError, match="codecs that DALI decodes on the CPU, got png:rotated, webp:rotated"
    ):
        choose_routes(table_with(codecs, "image"), "dali", None)


def test_a_file_that_became_another_format_is_not_turned_twice(tmp_path):
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


def test_a_file_that_was_turned_since_the_probe_says_so(tmp_path):
    media = media_with(tmp_path, png(made_picture(), 1))
    (tmp_path / "photo").write_bytes(png(made_picture(), 6))
    with pytest.raises(DecodeError, match="a picture of 60x90 where it had 90x60"):
        decoded(media, [(0, 0, 60, 60)], 60)
    with pytest.raises(DecodeError, match="60x90 pixels where the header said 90x60"):
        encode_photo(media, tmp_path / "copy", 30)


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
def test_a_tag_behind_much_else_is_found(tmp_path, make):
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
def test_a_tag_beyond_the_limit_is_never_looked_for(tmp_path, make):
    media = media_with(tmp_path, make(made_picture()))
    assert (media.width, media.height, ":" in media.codec) == (WIDTH, HEIGHT, False)
    assert_alike(decoded(media, [(0, 0, 60, 60)], 60)[0], made_picture()[:60, :60], "webp")


def test_only_what_may_hold_a_tag_is_read_again(tmp_path, monkeypatch):
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


def test_what_is_no_orientation_is_none():
    picture, plain = made_picture(), encoded(".png", made_picture())
    no_order, far = b"XX*\0" + tiff(6)[4:], b"II*\0" + bytes([255] * 4) + tiff(6)[8:]
    for payload in (b"", b"II", no_order, far, tiff(0), tiff(9), tiff(6)[:20], bytes(1000)):
        header = read_image_header(plain[:33] + png_chunk(b"eXIf", payload) + plain[33:])
        assert (header.codec, header.width, header.height, header.orientation) == (
            "png",
            WIDTH,
            HEIGHT,
            1,
        )


def test_a_tag_counts_only_where_decoders_look_for_it():
    picture, exif = made_picture(), png_chunk(b"eXIf", tiff(6))
    plain, simple, extended = encoded(".png", picture), encoded(".webp", picture), webp(picture, 6)
    shorter = struct.pack("<I", len(extended) - 8 - len(riff_chunk(b"EXIF", tiff(6))))
    assert read_image_header(plain + exif).orientation == 1  # behind the end
    # the first
    assert (
        read_image_header(plain[:33] + exif + png_chunk(b"eXIf", tiff(3)) + plain[33:]).orientation
        == 6
    )
    # the header says that there is none
    assert read_image_header(webp(picture, 6, flags=0)).orientation == 1
    # there is no such header
    assert read_image_header(simple + riff_chunk(b"EXIF", tiff(6))).orientation == 1
    # behind the end in the header
    assert read_image_header(extended[:4] + shorter + extended[8:]).orientation == 1


@pytest.mark.parametrize("form", [form for form in FORMS if form != "jpeg"])
def test_a_cut_file_keeps_its_size_or_is_refused(form):
    data = FORMS[form](made_picture(), 3)
    for end in range(len(data)):
        try:
            header = read_image_header(data[:end])
        except UnsupportedMediaError as refusal:
            assert end < 30, (end, refusal)
            continue
        assert header.orientation in (1, 3)
        assert end < 30 or (header.width, header.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", ["_png_chunk", "_riff_chunk"])
def test_endless_chunks_are_given_up(monkeypatch, name):
    looked, chunk_at = [], getattr(gate, name)
    monkeypatch.setattr(
        gate, name, lambda data, position: (looked.append(position), chunk_at(data, position))[1]
    )
    data = encoded(".png", made_picture())[:33] + bytes(12 * 1_000_000)
    if name == "_riff_chunk":
        head = webp(made_picture(), 6)[:30]
        data = head[:4] + struct.pack("<I", 0xFFFFFFFF) + head[8:] + bytes(8 * 1_000_000)
    for whole in (True, False):
        looked.clear()
        assert read_image_header(data, whole=whole).orientation == 1
        assert len(looked) == MAX_SEGMENTS


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
def test_hostile_bytes_give_a_header_or_a_refusal(tail, whole, form):
    head = {"png": encoded(".png", made_picture())[:33], "webp": webp(made_picture(), 6)[:30]}[form]
    try:
        header = read_image_header(head + b"".join(tail), whole=whole)
    except UnsupportedMediaError as refusal:
        assert str(refusal) == "header cut off" and not whole
        return
    assert header.orientation in ORIENTATIONS
    assert sorted((header.width, header.height)) == [HEIGHT, WIDTH]
