"""Extra cases: several streams, and other forms of pictures."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
from av.stream import Disposition

from helpers.frame_matrix.case import DECOY, LARGER, Case
from helpers.frame_matrix.clocks import constant_clock
from helpers.frame_matrix.containers import CONTAINERS, timed_packets
from helpers.frame_matrix.encoding import encode_for
from helpers.frame_matrix.extra_case import make_cases, write_muxed
from omnidali.testing.numbered_media import numbered_image


def stream_cases() -> Iterator[Case]:
    """Other streams beside the video, most of them before it."""
    yield from make_cases("after-a-decoy", _beside, "h264-b.mp4,mkv", is_default=True)
    # MP4 always has a default
    yield from make_cases("after-a-smaller-one", _beside, "h264-b.mkv,ts,avi", is_default=False)
    yield from make_cases("after-a-cover", _cover, "h264-b.mp4")
    yield from make_cases(
        "with-sound",
        write_muxed,
        sound=True,
        kinds="h264-pyramid.mp4,ts hevc-open.mkv mpeg4-packed.avi mpeg2-b.ts mpeg1-b.mpg",
    )


def _beside(path: Path, container: str, codec: str, structure: str, *, is_default: bool) -> None:
    """A decoy before the video, which is the default or larger."""
    decoy = encode_for(container, codec, "plain", file=DECOY)
    real = encode_for(container, codec, structure, size=None if is_default else LARGER)
    options = {"default_mode": "passthrough"} if container == "mkv" else {}
    with av.open(str(path), "w", format=CONTAINERS[container], options=options) as output:
        packets = []
        for video, disposition in ((decoy, 0), (real, Disposition.default if is_default else 0)):
            with av.open(io.BytesIO(video.template)) as source:
                template = source.streams.video[0]
                stream = output.add_stream_from_template(template, opaque=True)
            stream.disposition = disposition
            packets += timed_packets(video, constant_clock, stream)
        output.mux(sorted(packets, key=lambda packet: packet.dts))


def _cover(path: Path, container: str, codec: str, structure: str) -> None:
    """An attached picture that the file names before the video: boxes may come in any order."""
    write_muxed(path, container, codec, structure)
    jpeg = cv2.imencode(".jpg", numbered_image(DECOY, 0, *LARGER))[1].tobytes()
    item = mp4_box(b"covr", mp4_box(b"data", struct.pack(">II", 13, 0), jpeg))
    handler = mp4_box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    cover = mp4_box(b"udta", mp4_box(b"meta", bytes(4), handler, mp4_box(b"ilst", item)))

    # the header lies after the packets, whose places stay
    data = path.read_bytes()
    header, track = data.rindex(b"moov") - 4, data.rindex(b"trak") - 4
    longer = mp4_box(b"moov", data[header + 8 : track], cover, data[track:])
    path.write_bytes(data[:header] + longer)


def mp4_box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def picture_cases() -> Iterator[Case]:
    """Two fields a frame, several slices, odd sizes, more bits and other planes, turned ones."""
    yield from make_cases(
        "of-fields",
        write_muxed,
        kinds="h264-interlaced.mp4,mkv,ts,avi mpeg2-interlaced.mp4,mkv,ts,mpg"
        " mpeg4-interlaced.mp4,mkv,ts,avi",
    )
    yield from make_cases("in-a-picture", write_muxed, kinds="h264-slices.mp4,mkv,ts,avi")
    for pixels, size, kinds in (
        ("yuv420p", (162, 130), "h264-plain.mp4 mpeg4-plain.avi"),
        ("yuv420p", (161, 129), "vp8-plain.webm vp9-plain.webm"),
        ("yuvj422p", (161, 129), "mjpeg-plain.avi"),
        ("yuv422p", (160, 128), "mpeg2-plain.ts"),
        ("yuv444p", (161, 129), "h264-plain.mp4 ffv1-plain.mkv"),
        ("yuv420p10le", (160, 128), "h264-plain.mkv hevc-plain.mp4"),
        ("yuv420p10le", (162, 130), "av1-plain.mp4"),
        ("gray", (160, 128), "h264-plain.mp4"),
        ("bgr0", (160, 128), "ffv1-plain.mkv"),
    ):
        yield from make_cases(
            f"{pixels}-{size[0]}x{size[1]}", write_muxed, kinds=kinds, size=size, pixels=pixels
        )
    for turned in (90, 180, 270):
        yield from make_cases(
            f"turned-by-{turned}", write_muxed, "h264-b.mp4", rotation=turned, expected=None
        )


def form_cases() -> Iterator[Case]:
    """Rare forms of containers."""
    fragments = "frag_keyframe+empty_moov+default_base_moof"
    for name, kinds, options in (
        ("fragmented", "h264-pyramid.mp4 hevc-open.mp4", {"movflags": fragments}),
        ("header-first", "h264-pyramid.mp4", {"movflags": "faststart"}),
        ("without-edits", "h264-pyramid.mp4", {"use_editlist": "0"}),
        ("negative-offsets", "h264-pyramid.mp4", {"movflags": "negative_cts_offsets"}),
        ("live", "h264-pyramid.mkv", {"live": "1"}),
        ("in-small-clusters", "hevc-open.mkv", {"cluster_time_limit": "70"}),
        ("of-discs", "h264-pyramid.ts", {"mpegts_m2ts_mode": "1"}),
    ):
        yield from make_cases(name, write_muxed, kinds, options=options)
    yield from make_cases("raw", write_muxed, "vp8-plain.ivf vp9-plain.ivf av1-plain.ivf")
