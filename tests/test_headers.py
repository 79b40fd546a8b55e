"""Slice and frame headers give the order of the frames; where they do not, a decoder is asked."""

from fractions import Fraction

import av
import pytest

from omnidali.catalog.probing import video_probe
from omnidali.catalog.probing.bit_reader import BitReader, UnclearHeadersError
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.h264_headers import H264Reader
from omnidali.catalog.probing.packet_scan import PacketScan
from omnidali.catalog.probing.video_probe import probe_video
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
CLEAR = {
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
UNCLEAR = {
    "a.avi": X264,  # no presentation times
    "mpeg4.mp4": {"codec": "mpeg4", "b_frames": 2},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
}


def passes_of(path, monkeypatch):
    """The passes over a file that its probe makes."""
    passes = []

    class NotedScan(PacketScan):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            passes.append(self)

    monkeypatch.setattr(video_probe, "PacketScan", NotedScan)
    assert probe_video(FileSpan(str(path))).frames == 40
    return passes


@pytest.mark.parametrize("name", CLEAR)
def test_clear_headers_need_no_full_decoding(tmp_path, monkeypatch, name):
    write_video(tmp_path / name, 3, frames=40, width=144, height=112, **CLEAR[name])
    (scan,) = passes_of(tmp_path / name, monkeypatch)
    assert scan.unclear is None and not scan.decodes_all and len(scan.shown) == 1


@pytest.mark.parametrize("name", UNCLEAR)
def test_codec_without_clear_headers_is_decoded_at_once(tmp_path, monkeypatch, name):
    write_video(tmp_path / name, 3, frames=40, width=144, height=112, **UNCLEAR[name])
    (scan,) = passes_of(tmp_path / name, monkeypatch)
    assert scan.decodes_all and len(scan.shown) == 40


def copied(source, target):
    """Copy a stream with timestamps in decoding order, as programs do that trust an AVI."""
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
def test_timestamps_that_contradict_the_headers_are_ignored(tmp_path, monkeypatch, codec, ending):
    write_video(tmp_path / "right.mp4", 3, frames=40, width=144, height=112, **codec)
    copied(tmp_path / "right.mp4", tmp_path / f"wrong.{ending}")
    passes = passes_of(tmp_path / f"wrong.{ending}", monkeypatch)
    assert [scan.decodes_all for scan in passes] == [False, True]
    assert "another order than the frames" in passes[0].unclear


def test_stream_with_a_false_delay_is_decoded(tmp_path, monkeypatch):
    """More frames are held back than the SPS says: a decoder loses some of them."""
    write_video(tmp_path / "a.mp4", 3, frames=40, width=144, height=112, **X264)
    monkeypatch.setattr("omnidali.catalog.probing.h264_headers._read_max_reorder", lambda bits: 0)
    passes = passes_of(tmp_path / "a.mp4", monkeypatch)
    assert "more frames are reordered" in passes[0].unclear and passes[1].decodes_all


def test_size_change_is_found_in_the_headers(tmp_path):
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


def test_bit_reader_raises_at_the_end_of_the_data():
    bits = BitReader(b"\x80")
    assert bits.take(1) == 1
    for read in (bits.golomb, lambda: bits.take(9)):
        with pytest.raises(UnclearHeadersError, match="cut off"):
            read()


@pytest.mark.parametrize("size", [5_000, 1_000_000])
def test_endless_parameter_sets_cost_little_time(size):
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
