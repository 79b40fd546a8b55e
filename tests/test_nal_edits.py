"""Edits of H.264 and HEVC streams: the cropping goes, and nothing else changes."""

import io

import av
import numpy as np
import pytest

from conftest import media_of
from omnidali.catalog.probing.frame_planes import frame_planes
from omnidali.catalog.probing.nal_reader import unescape
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.nal_edits import NalEditor, edit_units, escape
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video

OPTIONS = {
    "h264": {"codec": "libx264"},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
}
CODED = {"h264": 16, "hevc": 8}  # what both sides of a coded picture are multiples of, at least


def decode(data):
    with av.open(io.BytesIO(data.tobytes())) as video:
        return list(video.decode(video=0))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("size", [(340, 256), (162, 170), (426, 240), (854, 178), (176, 144)])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_coded_and_shown_size_become_equal(codec, size, ending, tmp_path):
    """avcC and hvcC have the parameter sets in MP4 and Matroska; in AVI they are in the packets."""
    if codec == "hevc" and ending == "avi":
        ending = "mov"
    path = tmp_path / f"a.{ending}"
    width, height = size
    write_video(path, 3, frames=6, width=width, height=height, **OPTIONS[codec])
    media = media_of(path)
    with av.open(str(path)) as video:
        right = list(video.decode(video=0))

    shown = decode(make_excerpt(media, np.arange(6)).data)
    coded = [-(-side // CODED[codec]) * CODED[codec] for side in size]
    assert [(frame.width, frame.height) for frame in shown] == [tuple(coded)] * 6
    for one, other in zip(shown, right, strict=True):
        for plane, whole in zip(frame_planes(other), frame_planes(one), strict=True):
            assert np.array_equal(plane, whole[: plane.shape[0], : plane.shape[1]])


def test_cropping_at_the_left_or_top_stays(tmp_path):
    """Without it the picture would lie elsewhere in the frame."""
    path = tmp_path / "a.mp4"
    write_video(path, 3, frames=2, width=176, height=144)
    with (
        av.open(str(path)) as video,
        av.open(str(tmp_path / "cropped.mp4"), "w") as out,
    ):
        stream = video.streams.video[0]
        copy = out.add_stream_from_template(stream)
        edit = av.BitStreamFilterContext(
            "h264_metadata=crop_left=16:crop_top=8:crop_right=4", stream, copy
        )
        for packet in video.demux(stream):
            for edited in edit.filter(packet if packet.size else None):
                edited.stream = copy
                out.mux(edited)
    media = media_of(tmp_path / "cropped.mp4")
    extradata = PacketIndex.unpack(media.packets).extradata
    editor = NalEditor("h264", extradata)
    assert editor.extradata == extradata and editor.coded_size is None
    with pytest.raises(DecodeError, match="cut at their left or top"):  # the CPU's
        make_excerpt(media, np.array([0]))


def test_ordinary_parameter_sets_stay_as_they_are(tmp_path):
    for codec, options in OPTIONS.items():
        path = tmp_path / f"{codec}.mp4"
        write_video(path, 3, frames=2, width=192, height=160, **options)
        extradata = PacketIndex.unpack(media_of(path).packets).extradata
        editor = NalEditor(codec, extradata)
        assert editor.extradata == extradata and editor.coded_size == (192, 160)


@pytest.mark.parametrize("length_size", [0, 1, 2, 4])
def test_units_come_through_an_edit_that_changes_nothing(length_size):
    rng = np.random.default_rng(length_size)
    for _ in range(200):
        units = [
            bytes(rng.integers(1, 256, rng.integers(1, 40), np.uint8)) + b"\x80"
            for _ in range(rng.integers(1, 5))
        ]
        starts = [b"\0\0\1" if rng.random() < 0.5 else b"\0\0\0\1" for _ in units]
        if length_size:
            starts = [len(unit).to_bytes(length_size, "big") for unit in units]
        data = b"".join(start + unit for start, unit in zip(starts, units, strict=True))
        assert edit_units(data, length_size, lambda unit: unit) == data
        ends = edit_units(data, length_size, lambda unit: unit.rstrip(b"\0")[-1:])
        assert ends.count(b"\x80") == len(units)
        assert edit_units(data + b"\0", length_size, lambda unit: unit) == data + b"\0"


def test_escapes_are_put_back():
    """Zeros that the shorter fields bring together must not look like a start code."""
    rng = np.random.default_rng(5)
    for _ in range(500):
        payload = bytes(rng.choice([0, 0, 0, 1, 2, 3, 200], 30).astype(np.uint8)) + b"\x80"
        escaped = escape(payload)
        assert unescape(escaped) == payload
        assert not any(code in escaped for code in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_parameter_sets_between_keyframes_lose_their_cropping_too(codec, tmp_path):
    """Where pictures are renewed piece by piece, no later packet is a keyframe."""
    path = tmp_path / ("a.avi" if codec == "h264" else "a.mkv")
    encoder = OPTIONS[codec]["codec"]
    params = "keyint=8:intra-refresh=1:repeat-headers=1"
    options = {f"{encoder[3:]}-params": f"{params}:log-level=none"}
    write_video(path, 3, frames=30, width=162, height=170, codec=encoder, options=options)
    media = media_of(path)
    assert PacketIndex.unpack(media.packets).key_packets.tolist() == [0]
    shown = decode(make_excerpt(media, np.arange(30)).data)
    assert len(shown) == 30 and len({(frame.width, frame.height) for frame in shown}) == 1


def test_keyframe_of_hevc_begins_to_count_anew_after_a_cut():
    """It drops none of the pictures before it, which may wait to be shown."""
    cra = bytes([21 << 1, 1, 0xC0, 7])
    other = bytes([1 << 1, 1, 0x80, 7])
    packet = b"".join(len(unit).to_bytes(4, "big") + unit for unit in (cra, other))
    editor = NalEditor("hevc", b"\1" + bytes(20) + b"\3\0")
    assert editor.edit_packet(packet, is_cut=False) == packet
    edited = editor.edit_packet(packet, is_cut=True)
    assert edited == packet.replace(cra, bytes([18 << 1, 1, 0x80, 7]))
