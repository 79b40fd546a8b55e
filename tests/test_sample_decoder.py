"""Broken files and their planned substitutes."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import media_of
from helpers.image_source import (
    clips_by_slot,
    image_source,
    make_plan,
    open_images,
    truncate,
)
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.packet_decoder import PacketDecoder
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.config.sources import SourceConfig
from omnidali.decoding import video
from omnidali.decoding.recheck import is_decodable
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image, write_video


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_broken_file_is_replaced_as_planned(tmp_path, decode, caplog):
    table, source, pics = image_source(tmp_path, decode)
    plan = make_plan([table], source, batch=4)
    with open_images(table, source) as batches:
        whole = clips_by_slot(batches)
    truncate(pics / "5.png")
    (pics / "2.png").unlink()
    bad = {5, 2}

    for world, options in ((1, {}), (2, {"prefetch": 5, "threads": 3})):
        parts = {}
        path = tmp_path / f"q{world}.jsonl"
        for rank in range(world):
            with open_images(
                table, source, rank=rank, world=world, quarantine=Quarantine(path), **options
            ) as batches:
                part = list(batches)
                assert [(batch.step, len(batch)) for batch in part] == [
                    (step, 4 // world) for step in range(8)
                ]
                stats = batches.stats()["web"]
                assert (
                    stats.substituted
                    == sum(int((batch.samples[0].attempts > 0).sum()) for batch in part)
                    > 0
                )
                assert stats.bad_files == 2 and stats.replaced_frames == 0
            parts |= clips_by_slot(part)
        assert parts.keys() == whole.keys()
        for step in range(8):
            (samples,) = plan(step)
            for index, (slot, row) in enumerate(
                zip(samples.slots.tolist(), samples.rows.tolist(), strict=True)
            ):
                attempt = 0
                expected = samples.take(np.array([index]))
                while expected.rows[0] in bad:
                    attempt += 1
                    expected = plan.substitute(samples, index, attempt)
                row = int(expected.rows[0])
                assert parts[slot][:2] == (table.records[row], row % 2)  # the same class
                if not attempt and decode == "cpu":
                    assert parts[slot] == whole[slot]
        if world == 1:
            expected_clips = parts
        assert parts == expected_clips or decode == "dali"  # a substitute is decoded by the CPU
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted((row["path"], row["state"]) for row in rows) == [
            (str(pics / "2.png"), "quarantined"),
            (str(pics / "5.png"), "quarantined"),
        ]
        assert "OpenCV reads no picture in it" in str(rows)
        assert {(row["trouble"], row["reason"]) for row in rows} == {
            ("file", "OpenCV reads no picture in it"),
            ("disk", "No such file or directory"),
        }

    assert caplog.text.count(f"quarantined: {pics / '5.png'}") == 2  # once a run


def test_class_without_a_readable_file_is_replaced_by_another(tmp_path):
    table, source, pics = image_source(tmp_path)
    for n in (1, 3, 5, 7):
        truncate(pics / f"{n}.png")
    with open_images(table, source, max_bad_ratio=1.0, max_bad_in_a_row=1000) as batches:
        assert {label for _, label, _ in clips_by_slot(batches).values()} == {0}


@pytest.mark.parametrize("damage", [bytes, lambda size: b"\xff" * size])
def test_video_with_a_broken_beginning_is_not_useless(tmp_path, damage):
    """Clips after the damage decode; a file that is called useless must be so for every draw."""
    write_video(tmp_path / "v" / "0.mp4", 0, frames=24, width=96, height=64, gop=8)
    (tmp_path / "l.txt").write_text("0.mp4 0\n")
    source = {"v": SourceConfig(kind="video", root="v", list="l.txt")}
    build_catalog(tmp_path / "c.sqlite", source, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("v")
    media = table.media(table.first_record(0))
    index = PacketIndex.unpack(media.packets)
    data = bytearray(Path(media.path).read_bytes())
    begin = index.offsets[0]
    end = index.offsets[8]
    data[begin:end] = damage(int(end - begin))
    Path(media.path).write_bytes(data)
    os.utime(media.path, ns=(media.stamp[1], media.stamp[1]))
    assert is_decodable(media, MediaKind.VIDEO)
    box = np.array([[0, 0, 64, 64]])
    out = np.empty((1, 2, 32, 32, 3), np.uint8)
    assert decode_video(media, np.array([20, 21]), box, 32, out) == 0
    assert (
        decode_video(media, np.array([2, 20]), box, 32, out) == 1 and (out[0, 0] == out[0, 1]).all()
    )
    with pytest.raises(DecodeError):
        decode_video(media, np.array([0, 1]), box, 32, out)
    data[begin:] = damage(len(data) - int(begin))
    Path(media.path).write_bytes(data)
    os.utime(media.path, ns=(media.stamp[1], media.stamp[1]))

    assert is_decodable(media, MediaKind.VIDEO) is False


@pytest.mark.parametrize(
    "error, useless", [(errno.EIO, False), (errno.ESTALE, False), (errno.EACCES, True)]
)
def test_passing_trouble_makes_no_file_useless(tmp_path, monkeypatch, error, useless):
    write_image(tmp_path / "a.jpg", 1, 60, 50)
    write_video(tmp_path / "a.mp4", 1, frames=5, width=64, height=48)
    made = [
        (MediaKind.IMAGE, media_of(tmp_path / "a.jpg", "image")),
        (MediaKind.VIDEO, media_of(tmp_path / "a.mp4")),
    ]

    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(FileSpan, "read_bytes", fail)
    monkeypatch.setattr(PacketDecoder, "frames", fail)
    monkeypatch.setattr(video, "demuxed_frames", fail)
    for kind, media in made:
        assert (is_decodable(media, kind) is False) is useless
