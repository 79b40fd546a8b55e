"""Containers that begin a stream in the middle of a file: the video that was chosen goes on."""

import io

import av
import numpy as np
import pytest

import omnidali
from conftest import media_of
from omnidali.catalog.probing.video_container import packets_of
from omnidali.decoding.demuxer import frames_from

COUNT = 120  # seconds, of which FFmpeg looks at 90 for the streams of an FLV


def flv_with_late_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="flv") as container:
        stream = container.add_stream("flv1", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(COUNT):
            picture = np.full((32, 32, 3), 2 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = file.getvalue()

    tags = []
    place = 13
    while place < len(data):
        tags.append(place)
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    late = tags[-9]
    sound = b"\x2f\xff\xfb\x90\x64" + bytes(413)
    tag = b"\x08" + len(sound).to_bytes(3, "big") + data[late + 4 : late + 8] + bytes(3) + sound
    return data[:late] + tag + len(tag).to_bytes(4, "big") + data[late:]


@pytest.fixture
def late_flv(tmp_path):
    path = tmp_path / "a.flv"
    path.write_bytes(flv_with_late_sound())
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
    return path


def test_packets_end_with_the_empty_one(late_flv):
    with av.open(str(late_flv)) as container:
        stream = container.streams.video[0]
        sizes = [packet.size for packet in packets_of(container, stream)]
    assert len(sizes) == COUNT + 1 and all(sizes[:-1]) and sizes[-1] == 0


def test_file_with_late_sound_is_probed_and_read(late_flv):
    assert omnidali.count_frames(late_flv) == COUNT
    media = media_of(late_flv)
    assert [number for number, _ in frames_from(media)] == list(range(COUNT))
    assert [number for number, _ in frames_from(media, 60)] == list(range(60, COUNT))
    frames = omnidali.read_frames(late_flv, range(COUNT))
    assert np.abs(frames[:, 16, 16, 0].astype(int) - 2 * np.arange(COUNT)).max() < 9
