"""Theora in Ogg: frames have FFmpeg's numbers on any pages, and where files were joined."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest

import omnidali
from conftest import media_of, needs_tool
from helpers.frame_matrix.encoding import encode
from helpers.frame_matrix.reference import decode_by_pyav
from helpers.ogg_files import theora_ogg
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.curation.copies.encode import RECIPES, encode_video
from omnidali.decoding import demuxer
from omnidali.decoding.demuxer import frames_from


@pytest.fixture(scope="module")
def theora():
    needs_tool("ffmpeg")
    return encode("theora", "plain", True)


def extradata_of(video):
    with av.open(io.BytesIO(video.template)) as container:
        return container.streams.video[0].codec_context.extradata


def write(path, video, places, *, in_page, serial=7):
    part = video.part(places)
    data = theora_ogg(extradata_of(video), part.packets, part.keys, in_page=in_page, serial=serial)
    with path.open("ab") as file:
        file.write(data)


def check(path):
    """Every frame, in sequence and alone, is FFmpeg's; returns how many there are."""
    right = decode_by_pyav(path)
    assert omnidali.count_frames(path) == len(right)
    for numbers in (list(range(len(right))), *([number] for number in range(len(right)))):
        for number, frame in zip(numbers, omnidali.read_frames(path, numbers), strict=True):
            assert np.abs(frame.astype(int) - right[number]).mean() < 4, (numbers, number)
    return len(right)


@pytest.mark.parametrize("in_page", [1, 3, 8])
def test_frames_on_pages_of_several_packets(tmp_path, theora, in_page):
    write(tmp_path / "a.ogv", theora, range(28), in_page=in_page)
    assert check(tmp_path / "a.ogv") == 28


@pytest.mark.parametrize("in_page", [2, 4, 5])
def test_packets_of_one_size_are_told_apart(tmp_path, theora, in_page):
    """Those on a page lie at one place, by the demuxer's word."""
    size = max(map(len, theora.packets))
    padded = replace(theora, packets=tuple(packet.ljust(size, b"\0") for packet in theora.packets))
    write(tmp_path / "a.ogv", padded, range(28), in_page=in_page)
    assert check(tmp_path / "a.ogv") == 28


@pytest.mark.parametrize("serials", [(7, 7), (7, 8)])
def test_joined_files_are_read_to_their_end(tmp_path, theora, serials):
    path = tmp_path / "a.ogv"
    for serial, places in zip(serials, (range(14), range(9, 28)), strict=True):
        write(path, theora, places, in_page=4, serial=serial)
    assert check(path) == 33
    media = media_of(path)
    assert [number for number, _ in frames_from(media)] == list(range(33))
    assert [number for number, _ in frames_from(media, 20)] == list(range(20, 33))
    assert encode_video(media, tmp_path / "copy.mp4", RECIPES["fast"], 112) == 0
    assert omnidali.count_frames(tmp_path / "copy.mp4") == 33


def test_decoding_begins_at_no_keyframe_after_new_tables(tmp_path, theora):
    """A joined file may bring other tables, which its keyframes need."""
    for _ in range(2):
        write(tmp_path / "a.ogv", theora, range(20), in_page=4)
    media = media_of(tmp_path / "a.ogv")
    index = PacketIndex.unpack(media.packets)
    assert index.key_packets.tolist() == [0, 9, 18]
    assert len(index.numbers) == 43 and (index.numbers == -1).sum() == 3
    assert media.codec == "theora:indirect:irregular"


def test_tables_between_frames_are_no_damage(tmp_path, theora):
    """FFmpeg's decoder logs an error at each."""
    for _ in range(2):
        write(tmp_path / "a.ogv", theora, range(12), in_page=4)
    av.logging.set_level(av.logging.ERROR)
    try:
        probe = probe_video(FileSpan(str(tmp_path / "a.ogv")), decodes_all=True)
    finally:
        av.logging.set_level(None)
    assert (probe.codec, probe.frames, probe.note) == ("theora:indirect:irregular", 24, "")


def test_seek_that_fails_falls_back_to_the_start(tmp_path, theora, monkeypatch):
    write(tmp_path / "a.ogv", theora, range(28), in_page=4)
    media = media_of(tmp_path / "a.ogv")
    index = PacketIndex.unpack(media.packets)
    seeks = []

    def packets(source, first, seeks_first, may_end=False):
        seeks.append(seeks_first)
        if seeks_first:
            raise demuxer._NotFoundError
        return real(source, first, seeks_first, may_end)

    real = demuxer._IndexedSource.packets
    monkeypatch.setattr(demuxer._IndexedSource, "packets", packets)
    assert [number for number, _ in demuxer.demuxed_frames(media, index, [20])] == [20]
    assert seeks == [True, False]
