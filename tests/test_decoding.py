"""Every planned frame comes back, from every codec and container, on every path; and where it
belongs.
"""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from conftest import media_of, watch_decoder
from helpers.plans import table_with
from omnidali.catalog.probing.packet_index import PacketDecoder, PacketIndex
from omnidali.decoding.image import DecodeError, decode_image
from omnidali.decoding.routes import choose_routes, on_cpu
from omnidali.decoding.scale import cut_and_scale
from omnidali.decoding.video import decode_video, indexed_frames
from omnidali.errors import UserError
from omnidali.testing.numbered_media import picture, read_numbers, write_photo, write_video

FORMATS = {
    "h264.mp4": {},
    "h264-long-gop-b.mp4": {"gop": 250, "b_frames": 3},
    "h264-444.mp4": {"pixels": "yuv444p"},
    "h264-422.mp4": {"pixels": "yuv422p"},
    "h264.mkv": {"b_frames": 2},
    "h264.ts": {"b_frames": 2},
    "open-gop.mp4": {"b_frames": 3, "options": {"x264-params": "open-gop=1:keyint=8:bframes=3"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none"},
    },
    "hevc-10bit.mp4": {
        "codec": "libx265",
        "pixels": "yuv420p10le",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none"},
    },
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "crf": "30"}},
    "mpeg4.mp4": {"codec": "mpeg4", "b_frames": 2, "options": {"b": "2000000"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "2000000"}},
    "vp8.webm": {
        "codec": "libvpx",
        "options": {"deadline": "realtime", "cpu-used": "8", "b": "2000000"},
    },
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    },
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"q": "4"}},
    "variable-rate.mp4": {"b_frames": 2, "times": np.cumsum(np.arange(60) * 37 % 90 + 5).tolist()},
}


@pytest.fixture(scope="module", params=FORMATS)
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / request.param
    write_video(path, 77, frames=60, width=112, height=80, **FORMATS[request.param])
    return media_of(path)


def test_planned_frames_come_back(made):
    assert made.frames == 60
    rng = np.random.default_rng(1)
    whole = np.array([[0, 16, 80, 96]])
    cases = [rng.integers(0, 60, 8) for _ in range(6)] + [
        np.arange(60),
        np.array([59, 0, 59]),
        np.array([31]),
    ]
    for frames in cases:
        out = np.zeros((1, len(frames), 80, 80, 3), np.uint8)
        assert decode_video(made, frames, whole, 80, out) == 0
        assert [read_numbers(shown) for shown in out[0]] == [(77, frame) for frame in frames]
        difference = np.abs(out[0, 0].astype(int) - picture(77, int(frames[0]), 112, 80)[:, 16:96])
        # the codec's own loss, on noise; wrong colours would be far above
        assert difference.mean() < 16


def test_all_roads_give_the_same_pixels(made):
    """By the index, through the demuxer with seeks, and counted from the start."""
    index = PacketIndex.unpack(made.packets)
    assert index.is_direct == (not made.path.endswith(".ts"))  # MPEG-TS cuts packets up
    by_demuxer = replace(made, stamp=(0, 0))  # as if the file had changed
    rng = np.random.default_rng(2)
    for count in (1, 3, 8):
        frames, outs = rng.integers(0, 60, count), []
        for media in (made, by_demuxer, replace(made, packets=b"")):
            outs.append(np.zeros((1, count, 40, 40, 3), np.uint8))
            assert decode_video(media, frames, np.array([[0, 0, 80, 112]]), 40, outs[-1]) == 0
        assert np.array_equal(outs[0], outs[1]) and np.array_equal(outs[0], outs[2])


def test_index_reads_no_packet_in_vain(tmp_path):
    write_video(tmp_path / "a.mp4", 1, frames=64, width=64, height=64, gop=16)
    index = PacketIndex.unpack(media_of(tmp_path / "a.mp4").packets)
    assert index.runs([40, 3, 5, 63]) == [
        (0, 5, {3: 3, 5: 5}),
        (32, 40, {40: 40}),
        (48, 63, {63: 63}),
    ]
    asked = []

    def read(offset, count):
        asked.append(count)
        return memoryview((tmp_path / "a.mp4").read_bytes()[offset : offset + count])

    decoder = PacketDecoder("h264", index)
    assert [number for number, _ in decoder.frames(index, read, [40, 3, 5])] == [3, 5, 40]
    assert asked == [index.sizes[:6].sum(), index.sizes[32:41].sum()]


def test_frames_that_nothing_needs_are_not_decoded(tmp_path):
    """Of a GOP with B-frames only what others refer to; the wanted pixels stay the same (test
    above).
    """
    write_video(
        tmp_path / "b.mp4",
        1,
        frames=60,
        width=64,
        height=64,
        gop=60,
        b_frames=3,
        options={"x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"},
    )
    media = media_of(tmp_path / "b.mp4")
    index, came = PacketIndex.unpack(media.packets), []
    decoder = PacketDecoder("h264", index)
    watch_decoder(decoder, lambda packet, frames: came.extend(frames))
    with open(media.path, "rb", buffering=0) as file:
        assert [number for number, _ in decoder.frames(index, media.span.reader(file), [50])] == [
            50
        ]
    assert len(came) <= 60 // 4 + 4


def test_a_leading_frame_reaches_back_behind_its_keyframe():
    # shown order 0 4 ... : packet 3 is a keyframe that shows frame 5; packet 4 shows frame 4, which
    # needs the GOP before
    index = PacketIndex(
        np.arange(6) * 10,
        np.full(6, 10),
        np.array([0, 1, 2, 5, 4, 3]),
        np.array([True, False, False, True, False, False]),
        b"",
        2,
        0,
        2,
    )
    assert index.runs([4, 5]) == [(0, 4, {4: 4, 3: 5})] and index.runs([5]) == [(3, 3, {3: 5})]
    assert index.runs([0, 5, 3]) == [(0, 5, {0: 0, 5: 3, 3: 5})]


def test_packed_index_comes_back():
    index = PacketIndex(
        np.array([900, 40, 7000]),
        np.array([5, 9, 1]),
        np.array([0, -1, 1]),
        np.array([True, False, True]),
        b"header",
        1,
        2,
        3,
        is_direct=False,
        is_skippable=False,
        size=(640, 360),
        has_fields=True,
    )
    for name, value in vars(PacketIndex.unpack(index.pack())).items():
        assert np.array_equal(value, getattr(index, name)), name


def test_file_that_changed_behind_the_probe_falls_back_to_the_demuxer(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 1, frames=20, width=64, height=64)
    media = media_of(path)
    write_video(path, 2, frames=20, width=64, height=64, options={"crf": "10"})
    out = np.zeros((1, 2, 64, 64, 3), np.uint8)
    assert decode_video(media, np.array([3, 17]), np.array([[0, 0, 64, 64]]), 64, out) == 0
    assert [read_numbers(shown) for shown in out[0]] == [(2, 3), (2, 17)]
    with pytest.raises(DecodeError, match="changed after the probe"):
        # its packets are not even tried
        next(indexed_frames(media, PacketIndex.unpack(media.packets), [3]))


def test_part_of_a_photo_has_the_pixels_of_the_whole(tmp_path):
    write_photo(tmp_path / "a.jpg", 3, 130, 97)
    media = media_of(tmp_path / "a.jpg", "image")
    for box in ([0, 0, 97, 130], [10, 24, 60, 74], [90, 2, 96, 8], [3, 100, 96, 130]):
        part, whole = (np.zeros((1, 1, 32, 32, 3), np.uint8) for _ in range(2))
        decode_image(media, np.array([box]), 32, part)
        decode_image(replace(media, codec="jpeg:left to OpenCV"), np.array([box]), 32, whole)
        assert np.array_equal(part, whole) and part.any()


def test_boxes_are_cut_where_planned(tmp_path):
    write_video(tmp_path / "a.mp4", 5, frames=3, width=112, height=80, options={"crf": "4"})
    media, boxes = (
        media_of(tmp_path / "a.mp4"),
        np.array([[0, 0, 80, 80], [10, 20, 50, 100], [78, 110, 80, 112]]),
    )
    out = np.zeros((3, 1, 40, 40, 3), np.uint8)
    decode_video(media, np.array([2]), boxes, 40, out)
    for box, shown in zip(boxes, out[:, 0]):
        wanted = cut_and_scale(picture(5, 2, 112, 80), box, 40, 40)
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
    upright = np.rot90(picture(5, 1, 112, 80), rotation // 90)
    assert (media.height, media.width) == upright.shape[:2]
    out = np.zeros((1, 1, 60, 60, 3), np.uint8)
    decode_video(media, np.array([1]), np.array([[4, 6, 64, 66]]), 60, out)
    assert np.abs(out[0, 0].astype(int) - upright[4:64, 6:66]).mean() < 4


@pytest.mark.parametrize("colorspace, full", [(1, False), (1, True), (5, False), (5, True)])
def test_colours_follow_matrix_and_range(tmp_path, colorspace, full):
    """Against swscale, FFmpeg's own conversion, in 16-pixel averages: the filters for colour planes
    differ.
    """
    params = f"colormatrix={'bt709' if colorspace == 1 else 'bt470bg'}:fullrange={'on' if full else 'off'}"
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


def test_odd_sizes(tmp_path):
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
    assert np.abs(out[0, 0].astype(int) - picture(3, 3, 113, 81)[:, 32:]).mean() < 12


def test_missing_frames_are_counted_and_a_neighbour_stands_in(tmp_path):
    write_video(tmp_path / "a.ts", 3, frames=40, width=112, height=80, gop=10)
    media = media_of(tmp_path / "a.ts")
    data = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(data[: len(data) // 2 // 188 * 188])  # cut off after the probe
    frames = np.array([2, 39, 1])
    out = np.zeros((1, 3, 80, 80, 3), np.uint8)
    assert decode_video(media, frames, np.array([[0, 16, 80, 96]]), 80, out) == 1
    assert [read_numbers(shown)[1] for shown in out[0]] == [2, 2, 1]


def test_undecodable_videos_say_so(tmp_path):
    write_video(tmp_path / "a.mp4", 3, frames=10, width=112, height=80)
    media, out = media_of(tmp_path / "a.mp4"), np.zeros((1, 1, 80, 80, 3), np.uint8)
    for damage in (lambda path: path.write_bytes(b"\0" * 500), lambda path: path.unlink()):
        damage(tmp_path / "a.mp4")
        with pytest.raises(DecodeError):
            decode_video(media, np.array([0]), np.array([[0, 0, 80, 80]]), 80, out)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "progressive.jpg", "grey.jpg"])
def test_photos(tmp_path, name):
    path, wanted = tmp_path / name, picture(9, 0, 110, 90)
    if name == "progressive.jpg":
        path.write_bytes(
            cv2.imencode(".jpg", wanted[:, :, ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        )
    elif name == "grey.jpg":
        wanted = np.repeat(cv2.cvtColor(wanted, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
        path.write_bytes(cv2.imencode(".jpg", wanted[:, :, 0])[1].tobytes())
    else:
        write_photo(path, 9, 110, 90)
    out = np.zeros((2, 1, 90, 90, 3), np.uint8)
    decode_image(media_of(path, "image"), np.array([[0, 10, 90, 100], [0, 0, 90, 90]]), 90, out)
    assert read_numbers(out[0, 0]) == (9, 0)
    assert np.abs(out[0, 0].astype(int) - wanted[:, 10:100]).mean() < 8


def test_exif_rotation_is_applied(tmp_path):
    from helpers.exif import exif

    write_photo(tmp_path / "a.jpg", 9, 110, 90)
    jpeg, out = (tmp_path / "a.jpg").read_bytes(), np.zeros((1, 1, 90, 90, 3), np.uint8)
    for orientation, turns in ((6, -1), (3, 2), (8, 1)):
        (tmp_path / "b.jpg").write_bytes(jpeg[:2] + exif(orientation) + jpeg[2:])
        upright = np.rot90(picture(9, 0, 110, 90), turns)
        decode_image(media_of(tmp_path / "b.jpg", "image"), np.array([[0, 0, 90, 90]]), 90, out)
        assert np.abs(out[0, 0].astype(int) - upright[:90, :90]).mean() < 8


def test_large_jpegs_decode_small_and_look_the_same(tmp_path):
    write_photo(tmp_path / "a.jpg", 9, 800, 600)
    write_photo(tmp_path / "a.png", 9, 800, 600)
    boxes, out = np.array([[0, 100, 600, 700]]), np.zeros((2, 1, 1, 64, 64, 3), np.uint8)
    decode_image(media_of(tmp_path / "a.jpg", "image"), boxes, 64, out[0])  # at 1/8 size
    decode_image(media_of(tmp_path / "a.png", "image"), boxes, 64, out[1])  # averaged by area
    assert read_numbers(out[0, 0, 0]) == read_numbers(out[1, 0, 0]) == (9, 0)
    assert np.abs(out[0].astype(int) - out[1]).mean() < 6


def test_broken_photos_say_so(tmp_path):
    write_photo(tmp_path / "a.png", 9, 110, 90)
    media, out = media_of(tmp_path / "a.png", "image"), np.zeros((1, 1, 90, 90, 3), np.uint8)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DecodeError):
        decode_image(media, np.array([[0, 0, 90, 90]]), 90, out)
    write_photo(tmp_path / "a.png", 9, 50, 90)
    with pytest.raises(DecodeError, match="a picture of 50x90 where it had 110x90"):
        decode_image(media, np.array([[0, 0, 90, 90]]), 90, out)


def test_routes():
    codecs = ("av1", "h264", "h264:rotated", "hevc:yuv420p10le", "vp9")
    hopper, ada = (9, 0), (8, 9)
    assert set(choose_routes(table_with(codecs), "auto", None).values()) == {"cpu"}
    assert set(choose_routes(table_with(codecs), "cpu", ada).values()) == {"cpu"}
    assert choose_routes(table_with(codecs), "auto", hopper) == {
        "av1": "cpu",
        "h264": "dali",
        "h264:rotated": "cpu",
        "hevc:yuv420p10le": "cpu",
        "vp9": "dali",
    }
    assert choose_routes(table_with(codecs), "auto", ada)["av1"] == "dali"
    assert choose_routes(table_with(["vp9"]), "dali", None) == {"vp9": "dali"}
    assert choose_routes(table_with(codecs), "hybrid", hopper) == {
        "av1": "cpu",
        "h264": "hybrid",
        "h264:rotated": "cpu",
        "hevc:yuv420p10le": "cpu",
        "vp9": "hybrid",
    }
    with pytest.raises(UserError, match="a codec that DALI decodes here, got h264"):
        choose_routes(table_with(["h264"]), "hybrid", None)
    for share in (0, 0.25, 0.6, 1):
        for rank in range(8):  # of every rank the same
            assert abs(on_cpu(np.arange(rank, 8000, 8), share).sum() - 1000 * share) <= 10
    with pytest.raises(UserError, match="codecs that DALI decodes on the CPU, got h264"):
        choose_routes(table_with(["h264", "vp9"]), "dali", None)
