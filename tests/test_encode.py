"""One file of a training copy: its frames, times, colours and keyframes."""

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st

from conftest import media_of
from helpers.copies import PLAIN, SHORT, frames_of, numbers
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.curation.copies import encode
from omnidali.curation.copies.copy_size import BLOCK, image_size, video_size
from omnidali.curation.copies.encode import RECIPES, encode_video
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.video import indexed_frames
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import numbered_image, write_video


def kinds_of(frames, recipe):
    """The picture types of a copy in presentation order, as letters."""
    return "".join(
        "I"
        if number % recipe.gop == 0
        # every GOP ends with a frame that its B-frames can refer to
        else "P"
        if number % recipe.gop % (recipe.b_frames + 1) == 0
        or (number + 1) % recipe.gop == 0
        or number == frames - 1
        else "B"
        for number in range(frames)
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_gives_closed_gops(tmp_path, name):
    source, path = tmp_path / "a.mp4", tmp_path / "b"
    write_video(
        source, 1, frames=37, gop=250, b_frames=3, **{**PLAIN, "options": {"preset": "fast"}}
    )
    recipe = RECIPES[name]
    assert encode_video(media_of(source), path, recipe, SHORT) == 0
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path), format="mp4") as container:
        frames = list(container.decode(video=0))
    shown = "".join(PictureType(frame.pict_type).name for frame in frames)
    assert shown == kinds_of(37, recipe)
    assert [numbers(frame.to_ndarray(format="rgb24")) for frame in frames] == [
        (1, number) for number in range(37)
    ]
    with av.open(str(path), format="mp4") as container:  # every GOP decodes alone
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert all(packet.pts == packet.dts for packet in packets) or recipe.b_frames
        start = 36 - 36 % recipe.gop
        container.seek(packets[start].pts, stream=container.streams.video[0])
        assert numbers(next(container.decode(video=0)).to_ndarray(format="rgb24")) == (1, start)


@pytest.mark.parametrize("frames", [1, 2, 16, 33, 70])
def test_access_takes_few_pictures_to_any_frame(tmp_path, frames):
    """The B-frames are disposable, whatever the length of the last GOP."""
    recipe = RECIPES["access"]
    write_video(tmp_path / "a.mp4", 1, frames=frames, **PLAIN)
    encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", recipe, SHORT)
    media = media_of(tmp_path / "b")
    index = PacketIndex.unpack(media.packets)
    assert index.disposable.sum() == kinds_of(frames, recipe).count("B")
    pictures = [len(index.needed(run)) for n in range(frames) for run in index.runs([n])]
    assert max(pictures) <= 4
    assert [numbers(frame)[1] for frame in frames_of(media)] == [*range(frames)]
    for reader in (indexed_frames, demuxed_frames):
        for number in {0, frames // 2, frames - 1}:
            ((found, frame),) = reader(media, index, [number])
            assert (found, numbers(frame.to_ndarray(format="rgb24"))) == (number, (1, number))


def test_copy_of_blocks_has_no_padding_that_a_decoder_would_cut(tmp_path):
    """DALI compares the coded size with the shown one, and else makes a new decoder."""
    write_video(tmp_path / "a.mp4", 1, frames=3, **{**PLAIN, "width": 340, "height": 256})
    encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], 256)
    with av.open(str(tmp_path / "b"), format="mp4") as container:
        next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == (336, 256)
        assert (context.coded_width, context.coded_height) == (336, 256)
    shown = next(frames_of(media_of(tmp_path / "b"))).astype(int)
    whole = cv2.resize(numbered_image(1, 0, 340, 256), (336, 256), interpolation=cv2.INTER_AREA)
    error = np.abs(shown - whole).mean(axis=(0, 2))  # by column
    assert error.max() < 3 * error.mean()  # stretched: the picture goes from edge to edge


def test_equal_timestamps_are_put_a_microsecond_apart(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=6, **PLAIN)
    media = media_of(tmp_path / "a.mp4")
    times = media.frame_times.copy()
    times[3:5] = times[2]
    monkeypatch.setattr(type(media), "frame_times", times)
    seconds, ticks, tick = encode._timing(media, 6)
    assert (np.diff(ticks) > 0).all() and np.abs(ticks * float(tick) - seconds).max() < 5e-6
    assert (
        seconds[2] == seconds[3] == seconds[4] and tick.numerator == 1 and tick.denominator < 2**31
    )


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p"])
def test_copy_keeps_the_colour_range(tmp_path, pixels):
    write_video(tmp_path / "a.mp4", 1, frames=2, pixels=pixels, **PLAIN)
    encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)
    shown = next(frames_of(media_of(tmp_path / "b")))
    wanted = cv2.resize(
        numbered_image(1, 0, 144, 96), (96, 64), interpolation=cv2.INTER_AREA
    ).astype(float)
    for channel in range(3):  # a wrong range would stretch the values by 1.16, or its inverse
        slope, offset = np.polyfit(wanted[..., channel].ravel(), shown[..., channel].ravel(), 1)
        assert abs(slope - 1) < 0.08 and abs(offset + (slope - 1) * 128) < 2.5


def test_undecodable_frames_are_replaced_and_counted(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=12, **PLAIN)
    frames_from = encode.frames_from

    def leaky(media, *_):
        yield from (item for item in frames_from(media) if item[0] not in (0, 5, 6, 11))

    monkeypatch.setattr(encode, "frames_from", leaky)
    assert encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT) == 4
    shown = [numbers(frame)[1] for frame in frames_of(media_of(tmp_path / "b"))]
    assert shown == [1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 10]
    monkeypatch.setattr(encode, "frames_from", lambda media, *_: list(frames_from(media))[:5])
    with pytest.raises(DecodeError, match="7 of 12 frames do not come out"):
        encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)


def test_copy_with_other_timestamps_is_refused(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 1, frames=12, **PLAIN)
    media = media_of(tmp_path / "a.mp4")
    timing = encode._timing(media, 12)
    monkeypatch.setattr(encode, "_timing", lambda *_: (timing[0], timing[1] * 3, timing[2]))
    with pytest.raises(DecodeError, match="timestamps are not the original's"):
        encode_video(media, tmp_path / "b", RECIPES["fast"], SHORT)


# sizes by short side: the blocks fit, or the sides are even where they would not
SIZES = {
    (1920, 1080, 256): (448, 256),
    (1080, 1920, 256): (256, 448),
    (340, 256, 256): (336, 256),
    (1920, 1080, 250): (432, 240),
    (144, 96, 64): (96, 64),
    (4000, 16, 256): (4000, 16),
    (160, 120, 256): (160, 120),
    (144, 97, 33): (48, 32),
    (61, 41, 256): (60, 40),
    (1, 5000, 256): (2, 5000),
    (2, 2, 256): (2, 2),
}


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_sides_of_videos_are_blocks_where_the_picture_allows(case):
    assert video_size(*case) == SIZES[case]


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 600))
def test_size_of_a_copy_is_near_that_of_the_picture(width, height, short_side):
    made = video_size(width, height, short_side)
    scale = min(1, short_side / min(width, height))
    across, down = made[0] / (width * scale), made[1] / (height * scale)
    is_even = all(
        side % 2 == 0 and abs(side - exact * scale) <= 1 or exact == 1
        for side, exact in zip(made, (width, height), strict=True)
    )
    if not is_even:
        assert all(side % BLOCK == 0 for side in made)
        assert max(across, down) / min(across, down) <= 1 + 1 / 32 + 1e-9
        assert min(across, down) >= 1 - 1 / 16 - 1e-9
    if width > 1 and height > 1:
        assert made[0] <= width and made[1] <= height
    if short_side >= 256 and min(width, height) >= short_side + BLOCK:
        assert all(side % BLOCK == 0 for side in made)
    plain = image_size(width, height, short_side)
    assert plain[0] <= width and plain[1] <= height
    assert plain == (width, height) if scale == 1 else min(plain) <= short_side


@pytest.mark.parametrize("matrix", [1, 5, 7, 9])
def test_copy_keeps_the_colour_matrix(tmp_path, matrix):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 144, 96, "yuv420p"
        stream.codec_context.colorspace = matrix
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(numbered_image(1, number, 144, 96), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode(None))
    original = media_of(tmp_path / "a.mp4")
    encode_video(original, tmp_path / "b", RECIPES["intra"], 96)
    shown, wanted = (
        next(frames_of(media)).astype(int) for media in (media_of(tmp_path / "b"), original)
    )
    assert np.abs(shown - wanted).mean() < 4
