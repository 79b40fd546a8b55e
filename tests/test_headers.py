"""Slice and frame headers say in what order a decoder gives the frames, and when only a decoder
knows.
"""

from fractions import Fraction

import av
import pytest

from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing import probe as probing
from omnidali.catalog.probing.bit_reader import Bits, UnclearHeadersError
from omnidali.catalog.probing.nal_headers import H264Reader
from omnidali.catalog.probing.packet_walk import PacketWalk
from omnidali.catalog.probing.probe import probe_video
from omnidali.testing.numbered_media import video_frame, write_video

X264 = {"options": {"preset": "veryfast"}, "b_frames": 3}
X265 = {
    "codec": "libx265",
    "options": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:b-adapt=0"},
}
OPEN_X265 = {
    "codec": "libx265",
    "options": {
        "preset": "ultrafast",
        "x265-params": "log-level=none:bframes=3:b-adapt=0:open-gop=1:keyint=8:min-keyint=8",
    },
}
VP9 = {
    "codec": "libvpx-vp9",
    "options": {
        "deadline": "good",
        "cpu-used": "5",
        "b": "300k",
        "lag-in-frames": "16",
        "auto-alt-ref": "1",
    },
}
SVT = {"codec": "libsvtav1", "options": {"preset": "12", "crf": "40"}}
TOLD = {
    "h264.mp4": X264,
    "h264.mkv": X264,
    "h264.flv": X264,
    "h264.ts": X264,
    "h264-no-b.mp4": {"gop": 8},
    "h264-open.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3"}},
    "h264-pyramid.mp4": {"options": {"x264-params": "b-pyramid=normal:bframes=5:b-adapt=0"}},
    "h264-slices.mp4": {"options": {"x264-params": "slices=4:bframes=2"}},
    "h264-mbaff.mp4": {"options": {"x264-params": "interlaced=1:bframes=2"}},
    "h264-10bit.mp4": {**X264, "pixels": "yuv420p10le"},
    "h264-444.mp4": {**X264, "pixels": "yuv444p"},
    "h264-scaling.mp4": {"options": {"x264-params": "cqm=jvt:bframes=2"}},
    "h264-hrd.mp4": {
        "options": {"x264-params": "nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500:bframes=2"}
    },
    "hevc.mp4": X265,
    "hevc.mkv": X265,
    "hevc-open.mp4": OPEN_X265,
    "hevc.ts": X265,
    "hevc-10bit.mp4": {**X265, "pixels": "yuv420p10le"},
    "vp9.webm": VP9,
    "vp9.mp4": VP9,
    "vp9-444.webm": {**VP9, "pixels": "yuv444p"},
    "av1.mkv": SVT,
    "av1.mp4": SVT,
    "av1.webm": SVT,
    "av1-10bit.mkv": {**SVT, "pixels": "yuv420p10le"},
}
UNTOLD = {
    "a.avi": (X264, "no presentation times"),
    "mpeg4.mp4": ({"codec": "mpeg4", "b_frames": 2}, "frames of mpeg4"),
    "vp8.webm": ({"codec": "libvpx", "options": {"deadline": "realtime"}}, "frames of vp8"),
}


def walks_of(path, monkeypatch):
    """The passes over a file that its probe makes."""
    walks = []

    class Noted(PacketWalk):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            walks.append(self)

    monkeypatch.setattr(probing, "PacketWalk", Noted)
    assert probe_video(FileSpan(str(path))).frames == 40
    return walks


@pytest.mark.parametrize("name", TOLD)
def test_headers_spare_the_decoding(tmp_path, monkeypatch, name):
    write_video(tmp_path / name, 3, frames=40, width=144, height=112, **TOLD[name])
    (walk,) = walks_of(tmp_path / name, monkeypatch)
    assert walk.unclear is None and not walk.decodes_all and len(walk.shown) == 1


@pytest.mark.parametrize("name", UNTOLD)
def test_what_headers_do_not_tell_is_decoded_at_once(tmp_path, monkeypatch, name):
    options, _ = UNTOLD[name]
    write_video(tmp_path / name, 3, frames=40, width=144, height=112, **options)
    (walk,) = walks_of(tmp_path / name, monkeypatch)
    assert walk.decodes_all and len(walk.shown) == 40


def copied(source, target):
    """Stream copy with timestamps in the order of decoding, as programs make that believe an AVI's."""
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        stream = original.streams.video[0]
        new = copy.add_stream_from_template(stream)
        number = 0
        for packet in original.demux(stream):
            if packet.size:
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 25), new
                number += 1
                copy.mux(packet)


@pytest.mark.parametrize("codec", [X264, X265], ids=["h264", "hevc"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_timestamps_that_contradict_the_headers_are_not_believed(
    tmp_path, monkeypatch, codec, ending
):
    write_video(tmp_path / "right.mp4", 3, frames=40, width=144, height=112, **codec)
    copied(tmp_path / "right.mp4", tmp_path / f"wrong.{ending}")
    walks = walks_of(tmp_path / f"wrong.{ending}", monkeypatch)
    assert [walk.decodes_all for walk in walks] == [False, True]
    assert "another order than the frames" in walks[0].unclear


def test_a_stream_that_lies_about_its_delay_is_decoded(tmp_path, monkeypatch):
    """More frames are held back than the SPS says: a decoder loses some of them."""
    write_video(tmp_path / "a.mp4", 3, frames=40, width=144, height=112, **X264)
    monkeypatch.setattr("omnidali.catalog.probing.nal_headers._h264_reorder", lambda bits: 0)
    walks = walks_of(tmp_path / "a.mp4", monkeypatch)
    assert "more frames are reordered" in walks[0].unclear and walks[1].decodes_all


def test_a_new_size_is_seen_in_the_headers(tmp_path):
    """Of every codec whose headers are read."""
    for codec, ending, options in (
        ("libvpx-vp9", "webm", VP9["options"]),
        ("libsvtav1", "mkv", SVT["options"]),
    ):
        path = tmp_path / f"a.{ending}"
        with av.open(str(path), "w") as container:
            streams, packets = [], []
            for width in (144, 160):
                context = av.CodecContext.create(codec, "w")
                context.width, context.height, context.pix_fmt = width, 112, "yuv420p"
                context.time_base, context.options = Fraction(1, 25), dict(options)
                streams.append(context)
                frames = [video_frame(1, number, width, 112, None) for number in range(12)]
                packets.append(
                    [
                        *(
                            packet
                            for frame in frames
                            for packet in context.encode(frame.reformat(format="yuv420p"))
                        ),
                        *context.encode(None),
                    ]
                )
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 144, 112, "yuv420p"
            for number, packet in enumerate(packets[0] + packets[1]):
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 25), stream
                container.mux(packet)
        probe = probe_video(FileSpan(str(path)))
        assert probe.frames == 12 and "changes from 144x112 to 160x112 at frame 12" in probe.note


def test_bits_end_with_a_reason():
    bits = Bits(b"\x80")
    assert bits.take(1) == 1
    for read in (bits.golomb, lambda: bits.take(9)):
        with pytest.raises(UnclearHeadersError, match="cut off"):
            read()


@pytest.mark.parametrize("size", [5_000, 1_000_000])
def test_endless_parameter_sets_take_no_time(size):
    extradata = (
        b"\1\x64\0\x1f\xff\xe1"
        + min(size, 65_535).to_bytes(2, "big")
        + b"\x67\x64\0\x1f"
        + b"\xff" * size
    )
    with pytest.raises(UnclearHeadersError):
        H264Reader(extradata)
    with pytest.raises(UnclearHeadersError):
        H264Reader(b"\0\0\1\x67\x64\0\x1f" + b"\xff" * size)
