"""Animated GIF as a video: each frame is what the pictures before it and it make of the canvas."""

import struct
import time

import av
import numpy as np
import pytest

import omnidali
from conftest import media_of
from helpers.raw_gif import BACKGROUND, KEEP, PREVIOUS, GifPicture, gif
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.limits import MAX_VIDEO_PIXELS, UnsupportedMediaError
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.curation.copies.encode import RECIPES, encode_video
from omnidali.decoding.decoders import decode_thumbnail

WIDTH, HEIGHT = 64, 48
COUNT = 24
RNG = np.random.default_rng(4)
PALETTE, OTHER = (tuple(map(tuple, RNG.integers(0, 256, (256, 3)).tolist())) for _ in range(2))


def blocks(width, height):
    """Values in blocks of eight pixels."""
    coarse = RNG.integers(0, 256, (-(-height // 8), -(-width // 8)))
    return np.kron(coarse, np.ones((8, 8), int))[:height, :width]


def oddities():
    """Pictures of every disposal, size, place and kind, the first and the tenth one whole."""
    pictures = []
    for number in range(COUNT):
        is_whole = number in (0, 10)
        width = WIDTH if is_whole else int(RNG.integers(9, 40))
        height = HEIGHT if is_whole else int(RNG.integers(9, 30))
        values = blocks(width, height)
        pictures.append(
            GifPicture(
                values,
                left=0 if is_whole else int(RNG.integers(0, WIDTH - width)),
                top=0 if is_whole else int(RNG.integers(0, HEIGHT - height)),
                disposal=(0, KEEP, BACKGROUND, PREVIOUS)[number % 4],
                delay=(0, 1, 4)[number % 3],
                transparent=int(values[0, 0]) if number % 5 in (1, 2) else None,
                palette=OTHER if number % 7 == 3 else (),
                is_interlaced=number % 6 == 4,
                comment=bytes(600) if number % 8 == 5 else b"",
            )
        )
    return pictures


PICTURES = oddities()


def write(path, pictures=PICTURES, **more):
    path.write_bytes(gif(WIDTH, HEIGHT, pictures, PALETTE, **more))
    return path


def by_ffmpeg(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


@pytest.mark.parametrize("loops", [None, 0, 3])
def test_frames_are_those_of_ffmpeg(tmp_path, loops):
    path = write(tmp_path / "a.gif", loops=loops)
    right = by_ffmpeg(path)
    assert len(right) == omnidali.count_frames(path) == COUNT
    assert len({frame.tobytes() for frame in right}) == COUNT
    assert np.array_equal(omnidali.read_frames(path, range(COUNT)), right)
    for number in range(COUNT):
        assert np.array_equal(omnidali.read_frames(path, [number])[0], right[number])
    numbers = [13, 2, 13, 20, 0]
    assert np.array_equal(omnidali.read_frames(path, numbers), [right[k] for k in numbers])


def test_whole_pictures_have_their_own_pixels(tmp_path):
    path = write(tmp_path / "a.gif")
    for number in (0, 10):
        colours = np.array(PICTURES[number].palette or PALETTE, np.uint8)
        assert np.array_equal(
            omnidali.read_frames(path, [number])[0], colours[PICTURES[number].values]
        )


def test_transparent_canvas_is_white(tmp_path):
    clear = GifPicture(np.full((HEIGHT, WIDTH), 3), transparent=3)
    part = GifPicture(np.full((8, 8), 9), left=4, top=4, disposal=PREVIOUS)
    path = write(tmp_path / "a.gif", [clear, part, clear])
    first, second, third = omnidali.read_frames(path, range(3)).astype(int)
    assert (first == 255).all() and (third == 255).all()
    assert (second[4:12, 4:12] == PALETTE[9]).all() and (second[:, 12:] == 255).all()


def test_probe_gives_the_delays(tmp_path):
    media = media_of(write(tmp_path / "a.gif"))
    assert (media.container, media.codec, media.width, media.height) == ("gif", "gif", 64, 48)
    steps = np.diff(media.frame_times) * 0.01
    # FFmpeg shows a picture without a delay for a tenth of a second
    assert set(np.round(steps, 3)) == {0.1, 0.01, 0.04}


def test_training_copy_has_all_frames(tmp_path):
    media = media_of(write(tmp_path / "a.gif"))
    assert encode_video(media, tmp_path / "copy.mp4", RECIPES["fast"], 48) == 0
    assert omnidali.count_frames(tmp_path / "copy.mp4") == COUNT


def test_still_gif_is_no_video(tmp_path):
    path = write(tmp_path / "a.gif", PICTURES[:1])
    with pytest.raises(UnsupportedMediaError, match="a still GIF: one picture is no video"):
        probe_video(FileSpan(str(path)))


def with_canvas(path, width, height):
    data = bytearray(gif(WIDTH, HEIGHT, PICTURES, PALETTE))
    struct.pack_into("<HH", data, 6, width, height)
    path.write_bytes(data)
    return path


def test_canvas_meets_the_limit_before_ffmpeg_opens_the_file(tmp_path, monkeypatch):
    for width, height in ((65_535, 65_535), (65_535, MAX_VIDEO_PIXELS // 65_535 + 1)):
        path = with_canvas(tmp_path / "a.gif", width, height)
        with monkeypatch.context() as patch:
            patch.setattr(av, "open", None)
            with pytest.raises(UnsupportedMediaError, match=f"too large: {width}x{height}"):
                probe_video(FileSpan(str(path)))
    with pytest.raises(UnsupportedMediaError, match="no picture: 0x9"):
        probe_video(FileSpan(str(with_canvas(tmp_path / "a.gif", 0, 9))))


def test_canvas_that_grows_after_the_probe_is_not_decoded(tmp_path):
    media = media_of(write(tmp_path / "a.gif"))
    with_canvas(tmp_path / "a.gif", 65_535, 65_535)
    began = time.process_time()
    shown = decode_thumbnail("video", media, 3, np.array([[0, 0, 48, 64]]), 32)
    assert (shown == 128).all() and time.process_time() - began < 10


def test_picture_outside_of_its_canvas_takes_no_memory(tmp_path):
    """Its size is a claim as well."""
    data = bytearray(gif(WIDTH, HEIGHT, PICTURES, PALETTE))
    place = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, WIDTH, HEIGHT), 100)
    struct.pack_into("<HHHH", data, place + 1, 0, 0, 65_535, 65_535)
    (tmp_path / "a.gif").write_bytes(data)
    probe = probe_video(FileSpan(str(tmp_path / "a.gif")))
    assert (probe.width, probe.height) == (WIDTH, HEIGHT)


def test_gif_that_is_cut_off_gives_what_there_is(tmp_path):
    """The last frame is of the cut picture: FFmpeg 8.1, which PyAV brings, decodes what there is of
    it. The demuxer of older versions, such as 5.1 of Debian 12, drops it.
    """
    data = write(tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) // 2])
    right = by_ffmpeg(tmp_path / "a.gif")
    frames = omnidali.count_frames(tmp_path / "a.gif")
    assert 2 < frames == len(right) < COUNT
    assert np.array_equal(omnidali.read_frames(tmp_path / "a.gif", range(frames)), right)
