"""One file of a training copy: its frames, times, colours and keyframes."""

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from conftest import media_of
from helpers.copies import PLAIN, SHORT, frames_of, numbers
from omnidali.curation.copies import encode
from omnidali.curation.copies.encode import RECIPES, encode_video, scaled_size
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import numbered_image, write_video


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_gives_closed_gops_without_b_frames(tmp_path, recipe):
    source, path = tmp_path / "a.mp4", tmp_path / "b"
    write_video(
        source, 1, frames=37, gop=250, b_frames=3, **{**PLAIN, "options": {"preset": "fast"}}
    )
    assert encode_video(media_of(source), path, RECIPES[recipe], SHORT) == 0
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path), format="mp4") as container:
        frames = list(container.decode(video=0))
    assert [PictureType(frame.pict_type).name for frame in frames] == [
        "P" if number % RECIPES[recipe].gop else "I" for number in range(37)
    ]
    with av.open(str(path), format="mp4") as container:  # every GOP decodes alone
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert all(packet.pts == packet.dts for packet in packets)
        start = len(packets) - 1 - (len(packets) - 1) % RECIPES[recipe].gop
        container.seek(packets[start].pts, stream=container.streams.video[0])
        assert numbers(next(container.decode(video=0)).to_ndarray(format="rgb24")) == (1, start)


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


def test_scaled_size_never_enlarges_and_can_be_even():
    assert scaled_size(1920, 1080, 256, even=True) == (456, 256) and scaled_size(
        61, 41, 256, even=True
    ) == (60, 40)
    assert scaled_size(61, 41, 256) == (61, 41) and scaled_size(1, 5000, 256, even=True) == (
        2,
        5000,
    )


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
