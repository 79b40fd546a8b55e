"""The decoders of the CPU: right pixels at the right place, upright, in the right colours."""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from conftest import media_of
from omnidali.decoding.image import DecodeError, decode_image
from omnidali.decoding.scale import cut_and_scale
from omnidali.decoding.video import decode_video
from omnidali.testing.numbered_media import numbered_image, read_numbers, write_image, write_video


def test_part_of_an_image_has_the_pixels_of_the_whole(tmp_path):
    write_image(tmp_path / "a.jpg", 3, 130, 97)
    media = media_of(tmp_path / "a.jpg", "image")
    for box in ([0, 0, 97, 130], [10, 24, 60, 74], [90, 2, 96, 8], [3, 100, 96, 130]):
        part, whole = (np.zeros((1, 1, 32, 32, 3), np.uint8) for _ in range(2))
        decode_image(media, np.array([box]), 32, part)
        decode_image(replace(media, codec="jpeg:left to OpenCV"), np.array([box]), 32, whole)
        assert np.array_equal(part, whole) and part.any()


def test_boxes_are_cut_where_planned(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=3, width=112, height=80, options={"crf": "4"})
    media = media_of(tmp_path / "a.mp4")
    boxes = np.array([[0, 0, 80, 80], [10, 20, 50, 100], [78, 110, 80, 112]])
    out = np.zeros((3, 1, 40, 40, 3), np.uint8)
    decode_video(media, np.array([2]), boxes, 40, out)
    for box, shown in zip(boxes, out[:, 0], strict=True):
        wanted = cut_and_scale(numbered_image(5, 2, 112, 80), box, 40, 40)
        assert np.abs(shown.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_phone_videos_are_upright(tmp_path, rotation):
    write_video(
        tmp_path / "a.mp4",
        5,
        frames=3,
        width=112,
        height=80,
        rotation=rotation,
        options={"crf": "4"},
    )
    media = media_of(tmp_path / "a.mp4")
    upright = np.rot90(numbered_image(5, 1, 112, 80), rotation // 90)
    assert (media.height, media.width) == upright.shape[:2]
    out = np.zeros((1, 1, 60, 60, 3), np.uint8)
    decode_video(media, np.array([1]), np.array([[4, 6, 64, 66]]), 60, out)
    assert np.abs(out[0, 0].astype(int) - upright[4:64, 6:66]).mean() < 4


@pytest.mark.parametrize("colorspace, full", [(1, False), (1, True), (5, False), (5, True)])
def test_colours_follow_matrix_and_range(tmp_path, colorspace, full):
    """Against swscale, FFmpeg's own conversion, in 16-pixel averages: the filters for colour planes
    differ.
    """
    matrix = "bt709" if colorspace == 1 else "bt470bg"
    params = f"colormatrix={matrix}:fullrange={'on' if full else 'off'}"
    write_video(
        tmp_path / "a.mp4",
        5,
        frames=2,
        width=112,
        height=80,
        options={"crf": "4", "x264-params": params},
    )

    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == colorspace and (frame.color_range == 2) == full
        wanted = frame.to_ndarray(format="rgb24")
    out = np.zeros((1, 1, 80, 80, 3), np.uint8)
    decode_video(media_of(tmp_path / "a.mp4"), np.array([0]), np.array([[0, 16, 80, 96]]), 80, out)
    shown, wanted = (
        cv2.resize(picture.astype(np.float32), (5, 5), interpolation=cv2.INTER_AREA)
        for picture in (out[0, 0], wanted[:, 16:96])
    )
    assert np.abs(shown - wanted).max() < 3  # the other matrix is off by 13 and more here


def test_odd_sizes_decode(tmp_path):
    write_video(
        tmp_path / "a.webm",
        3,
        frames=4,
        width=113,
        height=81,
        codec="libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"},
    )
    media = media_of(tmp_path / "a.webm")
    assert (media.width, media.height) == (113, 81)
    out = np.zeros((1, 2, 81, 81, 3), np.uint8)
    decode_video(media, np.array([3, 1]), np.array([[0, 32, 81, 113]]), 81, out)
    assert np.abs(out[0, 0].astype(int) - numbered_image(3, 3, 113, 81)[:, 32:]).mean() < 12


def test_missing_frames_are_counted_and_filled_from_neighbours(tmp_path):
    write_video(tmp_path / "a.ts", 3, frames=40, width=112, height=80, gop=10)
    media = media_of(tmp_path / "a.ts")
    data = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(data[: len(data) // 2 // 188 * 188])  # cut off after the probe
    frames = np.array([2, 39, 1])
    out = np.zeros((1, 3, 80, 80, 3), np.uint8)
    assert decode_video(media, frames, np.array([[0, 16, 80, 96]]), 80, out) == 1
    assert [read_numbers(shown)[1] for shown in out[0]] == [2, 2, 1]


def test_undecodable_video_raises_decode_error(tmp_path):
    write_video(tmp_path / "a.mp4", 3, frames=10, width=112, height=80)
    media, out = media_of(tmp_path / "a.mp4"), np.zeros((1, 1, 80, 80, 3), np.uint8)
    for damage in (lambda path: path.write_bytes(b"\0" * 500), lambda path: path.unlink()):
        damage(tmp_path / "a.mp4")
        with pytest.raises(DecodeError):
            decode_video(media, np.array([0]), np.array([[0, 0, 80, 80]]), 80, out)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "progressive.jpg", "grey.jpg"])
def test_images_are_cropped_where_planned(tmp_path, name):
    path, wanted = tmp_path / name, numbered_image(9, 0, 110, 90)
    if name == "progressive.jpg":
        path.write_bytes(
            cv2.imencode(".jpg", wanted[:, :, ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        )
    elif name == "grey.jpg":
        wanted = np.repeat(cv2.cvtColor(wanted, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
        path.write_bytes(cv2.imencode(".jpg", wanted[:, :, 0])[1].tobytes())
    else:
        write_image(path, 9, 110, 90)
    out = np.zeros((2, 1, 90, 90, 3), np.uint8)
    decode_image(media_of(path, "image"), np.array([[0, 10, 90, 100], [0, 0, 90, 90]]), 90, out)
    assert read_numbers(out[0, 0]) == (9, 0)
    assert np.abs(out[0, 0].astype(int) - wanted[:, 10:100]).mean() < 8


def test_exif_rotation_is_applied(tmp_path):
    from helpers.exif import exif

    write_image(tmp_path / "a.jpg", 9, 110, 90)
    jpeg, out = (tmp_path / "a.jpg").read_bytes(), np.zeros((1, 1, 90, 90, 3), np.uint8)
    for orientation, turns in ((6, -1), (3, 2), (8, 1)):
        (tmp_path / "b.jpg").write_bytes(jpeg[:2] + exif(orientation) + jpeg[2:])
        upright = np.rot90(numbered_image(9, 0, 110, 90), turns)
        decode_image(media_of(tmp_path / "b.jpg", "image"), np.array([[0, 0, 90, 90]]), 90, out)
        assert np.abs(out[0, 0].astype(int) - upright[:90, :90]).mean() < 8


def test_large_jpegs_decode_small_and_look_the_same(tmp_path):
    write_image(tmp_path / "a.jpg", 9, 800, 600)
    write_image(tmp_path / "a.png", 9, 800, 600)
    boxes, out = np.array([[0, 100, 600, 700]]), np.zeros((2, 1, 1, 64, 64, 3), np.uint8)
    decode_image(media_of(tmp_path / "a.jpg", "image"), boxes, 64, out[0])  # at 1/8 size
    decode_image(media_of(tmp_path / "a.png", "image"), boxes, 64, out[1])  # averaged by area
    assert read_numbers(out[0, 0, 0]) == read_numbers(out[1, 0, 0]) == (9, 0)
    assert np.abs(out[0].astype(int) - out[1]).mean() < 6


def test_broken_image_raises_decode_error(tmp_path):
    write_image(tmp_path / "a.png", 9, 110, 90)
    media, out = media_of(tmp_path / "a.png", "image"), np.zeros((1, 1, 90, 90, 3), np.uint8)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DecodeError):
        decode_image(media, np.array([[0, 0, 90, 90]]), 90, out)
    write_image(tmp_path / "a.png", 9, 50, 90)
    with pytest.raises(DecodeError, match="a picture of 50x90 where it had 110x90"):
        decode_image(media, np.array([[0, 0, 90, 90]]), 90, out)
