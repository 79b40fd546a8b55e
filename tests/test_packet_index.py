"""The packet index finds every frame, and reads and decodes no more than is needed."""

from dataclasses import replace

import av
import numpy as np
import pytest

import omnidali
from conftest import media_of, watch_decoder
from omnidali.catalog.probing.file_span import FileSpan, Region
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.image import DecodeError
from omnidali.decoding.video import decode_video, indexed_frames
from omnidali.testing.numbered_media import numbered_image, read_numbers, write_video

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


def test_planned_frames_are_decoded(made):
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
        difference = np.abs(
            out[0, 0].astype(int) - numbered_image(77, int(frames[0]), 112, 80)[:, 16:96]
        )
        # the codec's own loss, on noise; wrong colours would be far above
        assert difference.mean() < 16


def test_index_and_demuxer_give_the_same_pixels(made):
    """Frames come by the index, through the demuxer with seeks, or counted from the start."""
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


def test_index_reads_only_needed_packets(tmp_path):
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
        return (tmp_path / "a.mp4").read_bytes()[offset : offset + count]

    decoder = PacketDecoder("h264", index)
    assert [number for number, _ in decoder.frames(index, read, [40, 3, 5])] == [3, 5, 40]
    assert asked == [index.sizes[:6].sum(), index.sizes[32:41].sum()]


def test_unneeded_b_frames_are_not_decoded(tmp_path):
    """Of a GOP with B-frames, only frames that others refer to are decoded; the wanted pixels stay
    the same (test above).
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
    with Region(media.span) as file:
        assert [number for number, _ in decoder.frames(index, file.read_at, [50])] == [50]
    assert len(came) <= 60 // 4 + 4


def test_known_damage_keeps_all_packets(tmp_path):
    """What a decoder makes up depends on everything that came before."""
    path = tmp_path / "a.mp4"
    write_video(path, 3, frames=30, width=160, height=128, b_frames=2)
    index = PacketIndex.unpack(media_of(path).packets)
    assert index.disposable.any()
    data = bytearray(path.read_bytes())
    begin, size = int(index.offsets[0]), int(index.sizes[0])
    noise = np.random.default_rng(1).integers(1, 256, size // 2, np.uint8)
    data[begin + size - len(noise) : begin + size] = noise.tobytes()
    path.write_bytes(data)
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)  # as the child that probes has it
    try:
        probe = probe_video(FileSpan(str(path)), decodes_all=True)
    finally:
        av.logging.set_level(level)
    assert probe.codec == "h264:damaged"
    assert not PacketIndex.unpack(probe.packets).disposable.any()


def test_leading_frame_decodes_from_the_keyframe_before():
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


def test_packed_index_round_trips():
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
        size=(640, 360),
        has_fields=True,
        is_full_range=True,
        drops_leading=True,
        disposable=np.array([False, True, False]),
        checked=np.array([True, False, True]),
        checksums=np.array([0xFFFFFFFF, 7], np.uint32),
    )
    for name, value in vars(PacketIndex.unpack(index.pack())).items():
        assert np.array_equal(value, getattr(index, name)), name


def test_file_changed_after_the_probe_falls_back_to_the_demuxer(tmp_path):
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


def test_hevc_pictures_that_others_refer_to_stay_whatever_their_headers_say(tmp_path):
    """An encoder that calls all of them disposable: without one, those after it are wrong."""
    path = tmp_path / "a.mp4"
    options = {"x265-params": "log-level=none:bframes=0:keyint=12"}
    write_video(path, 1, frames=24, width=160, height=128, codec="libx265", options=options)
    media = media_of(path)
    index = PacketIndex.unpack(media.packets)
    data = bytearray(path.read_bytes())
    for offset in index.offsets[~index.keys].tolist():
        assert data[offset + 4] >> 1 == 1  # TRAIL_R
        data[offset + 4] = 0  # TRAIL_N
    path.write_bytes(data)

    right = PacketIndex.unpack(media_of(path).packets)
    assert not right.disposable.any()
    whole = omnidali.read_frames(path, range(24))
    for number in (11, 20, 5):
        assert np.array_equal(omnidali.read_frames(path, [number])[0], whole[number])


def test_join_of_two_encodings_is_the_cpus(tmp_path):
    """The parameter sets of the second one take the numbers of the first one's, once."""
    for name, options in (("a", {"crf": "20"}), ("b", {"x264-params": "cabac=0:8x8dct=0:ref=1"})):
        write_video(tmp_path / f"{name}.h264", 1, frames=12, width=64, height=64, options=options)
    joined = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "j.h264").write_bytes(joined)
    with av.open(str(tmp_path / "j.h264")) as video, av.open(str(tmp_path / "j.mkv"), "w") as out:
        stream = video.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in video.demux(stream) if packet.size):
            packet.pts = packet.dts = number
            packet.stream = copy
            out.mux(packet)
    assert media_of(tmp_path / "j.mkv").codec.startswith("h264:edited")
