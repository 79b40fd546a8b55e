"""`lint --decode` compares whole files with the catalog, which learns what differs."""

import csv
import sqlite3
from dataclasses import replace

import av
import numpy as np
import pytest

from conftest import media_of
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.verify import recheck
from omnidali.cli import main as cli
from omnidali.config.sources import SourceConfig
from omnidali.decoding.routes import choose_routes
from omnidali.errors import UserError
from omnidali.planning.fingerprint import describe_content
from omnidali.testing.numbered_media import write_image, write_video

VIDEOS = SourceConfig(kind="video", root="v")
FAST = {"width": 112, "height": 80, "frames": 30, "gop": 10, "options": {"preset": "ultrafast"}}


@pytest.fixture
def world(tmp_path):
    """Four files of two classes, each of 30 frames with a keyframe every ten."""
    for number, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4", "b/3.avi")):
        write_video(tmp_path / "v" / name, number, **FAST)
    return tmp_path


def built(world, source=VIDEOS):
    """The table of the world, and the summary of its build."""
    (summary,) = build_catalog(world / "c.sqlite", {"v": source}, world, progress=False)
    return CatalogReader(world / "c.sqlite").table("v"), summary


def overwrite(path, packet, fill):
    """Write ``fill`` over the middle of packet number ``packet``, without a change of the
    container.
    """
    index = PacketIndex.unpack(media_of(path).packets)
    data = bytearray(path.read_bytes())
    begin, size = int(index.offsets[packet]), int(index.sizes[packet])
    data[begin + size // 3 : begin + size - 4] = bytes(fill for _ in range(size - 4 - size // 3))
    path.write_bytes(bytes(data))


def test_recheck_finds_nothing_in_sound_files(world):
    before, _ = built(world)
    assert recheck(world / "c.sqlite", "v", VIDEOS, progress=False) == (4, [])
    after, summary = built(world)
    assert after.fingerprint == before.fingerprint and not summary.noted


def test_recheck_reports_concealed_damage_once(world):
    overwrite(world / "v/a/1.mp4", 14, 0)
    before, summary = built(world)
    assert len(before) == 4 and not summary.noted  # a training reads the headers alone
    count, (found,) = recheck(world / "c.sqlite", "v", VIDEOS, progress=False)
    assert count == 4 and found.path == "a/1.mp4" and not found.changes_frames
    assert found.detail.endswith("of 30 packets are damaged, the first about frame 14")

    after, summary = built(world)
    assert "1 damaged or used in part (such as a/1.mp4: " in str(summary)
    routes = choose_routes(after, "auto", (9, 0))
    assert routes.decoders == {"h264": "dali", "h264:damaged": "cpu"}
    # a run may continue
    assert describe_content(after)["content"] == describe_content(before)["content"]
    assert recheck(world / "c.sqlite", "v", VIDEOS, progress=False) == (
        4,
        [],
    )  # the catalog knows it now


def test_frames_that_do_not_decode_take_no_number(world):
    path = world / "v/a/0.mp4"
    index = PacketIndex.unpack(media_of(path).packets)
    data = bytearray(path.read_bytes())
    begin = int(index.offsets[12])
    data[begin + 4] = data[begin + 4] & 0x60 | 31  # a NAL unit of a kind that decoders skip
    path.write_bytes(bytes(data))
    # what a catalog holds that read no header
    with sqlite3.connect(world / "c.sqlite") as db:
        built(world)
        assert db.execute("SELECT frames, codec FROM media WHERE path = 'a/0.mp4'").fetchone() == (
            29,
            "h264:damaged:irregular",
        )


def test_recheck_corrects_the_order_of_frames(world):
    table, _ = built(world)
    media = table.media(table.records[0])
    index = PacketIndex.unpack(media.packets)
    numbers = index.numbers.copy()
    numbers[[4, 5]] = numbers[[5, 4]]
    with sqlite3.connect(world / "c.sqlite") as db:
        db.execute(
            "UPDATE media SET packets = ?, crc = NULL WHERE path = 'a/0.mp4'",
            (replace(index, numbers=numbers).pack(),),
        )
    _, (found,) = recheck(world / "c.sqlite", "v", VIDEOS, progress=False)
    assert (found.path, found.detail, found.changes_frames) == (
        "a/0.mp4",
        "frames come in another order from frame 4 on",
        True,
    )
    again, _ = built(world)
    assert np.array_equal(
        PacketIndex.unpack(again.media(again.records[0]).packets).numbers, index.numbers
    )


def test_recheck_of_a_sample_decodes_as_many_files_as_asked(world, monkeypatch):
    built(world)
    assert recheck(world / "c.sqlite", "v", VIDEOS, sample=3, progress=False)[0] == 3
    assert recheck(world / "c.sqlite", "v", VIDEOS, sample=99, progress=False)[0] == 4


def test_lint_decode_reports_damaged_files(world, capsys):
    overwrite(world / "v/b/2.mp4", 25, 0)
    for number, data in enumerate((lambda jpeg: jpeg, lambda jpeg: jpeg[:-2])):
        write_image(world / f"p/{'ab'[number]}/{number}.jpg", number, 200, 150)
        path = world / f"p/{'ab'[number]}/{number}.jpg"
        path.write_bytes(data(path.read_bytes()))
    (world / "c.yaml").write_text(
        f"data_root: {world}\nrun_dir: {world}/run\ntrain: {{steps: 1}}\nsources:\n"
        "  v: {kind: video, root: v}\n  p: {kind: image, root: p}\n"
    )
    command = ["lint", "--config", str(world / "c.yaml"), "--out", str(world / "out")]
    assert cli.main(command) == 0
    assert "damaged" not in capsys.readouterr().out
    assert cli.main([*command, "--decode"]) == 0
    printed = capsys.readouterr().out
    assert "v: 4 files decoded whole, 1 are not what the catalog said" in printed
    assert "WARN  p: 1 files are refused, such as b/1.jpg (no picture comes out)" in printed
    table = (world / "out/issues.csv").read_text(encoding="utf-8").splitlines()
    rows = {row["path"]: row for row in csv.DictReader(table)}
    assert (
        rows["b/2.mp4"]["problem"] == "damaged"
        and "the first about frame 25" in rows["b/2.mp4"]["detail"]
    )
    assert cli.main(command) == 0  # without decoding: the catalog knows
    assert "such as b/2.mp4" in capsys.readouterr().out


def test_lint_refuses_wrong_options(world, capsys):
    (world / "c.yaml").write_text("train: {steps: 1}\nsources: {v: {kind: video, root: v}}\n")
    for options, printed in (
        (["--sample", "3"], "--sample: expected --decode beside it"),
        (["--decode", "--sample", "0"], "--sample: expected 1 or more, got 0"),
    ):
        assert cli.main(["lint", "--config", str(world / "c.yaml"), *options]) == 2
        assert printed in capsys.readouterr().err


def test_recheck_reports_the_number_of_a_damaged_frame(world):
    for number in range(1, 6):
        write_image(world / f"f/x/img_{number:05}.jpg", number, 90, 60)
    path = world / "f/x/img_00004.jpg"
    path.write_bytes(path.read_bytes()[:900])
    (world / "f.txt").write_text("x 5 0\n")
    source = SourceConfig(kind="frames", root="f", list="f.txt")
    build_catalog(world / "c.sqlite", {"f": source}, world, progress=False)
    _, (found,) = recheck(world / "c.sqlite", "f", source, progress=False)
    assert found.detail == "1 of 5 frames are damaged, the first is frame 3: no picture comes out"


def test_undecodable_files_leave_the_catalog(world):
    """An image with a header and no data after it."""
    write_image(world / "p/a/0.png", 0, 90, 60)
    write_image(world / "p/b/1.png", 1, 90, 60)
    path = world / "p/a/0.png"
    path.write_bytes(path.read_bytes()[:60])
    source = SourceConfig(kind="image", root="p")
    build_catalog(world / "c.sqlite", {"p": source}, world, progress=False)
    _, (found,) = recheck(world / "c.sqlite", "p", source, progress=False)
    assert (found.path, found.detail) == ("a/0.png", "no picture comes out")
    (summary,) = build_catalog(world / "c.sqlite", {"p": source}, world, progress=False)
    assert summary.usable == 1 and summary.refused == {"no picture comes out": 1}


def test_ffmpegs_log_is_off_elsewhere():
    assert av.logging.get_level() is None


def test_lint_decode_survives_a_source_of_undecodable_files(world, capsys):
    for name in ("a/0.png", "b/1.png"):
        write_image(world / "p" / name, 0, 90, 60)
        (world / "p" / name).write_bytes((world / "p" / name).read_bytes()[:60])
    (world / "c.yaml").write_text(
        f"data_root: {world}\nrun_dir: {world}/run\ntrain: {{steps: 1}}\nsources:\n"
        "  p: {kind: image, root: p}\n"
    )
    assert cli.main(["lint", "--config", str(world / "c.yaml"), "--decode"]) == 1
    assert "ERROR p: " in capsys.readouterr().out


def test_recheck_refuses_a_locked_catalog_before_decoding(world, monkeypatch):
    built(world)
    monkeypatch.setattr("omnidali.catalog.verify.ProbePool", None)
    blocker = sqlite3.connect(world / "c.sqlite")
    blocker.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(
        "omnidali.catalog.database.connection.connect",
        lambda *_, **__: sqlite3.connect(world / "c.sqlite", timeout=0),
    )
    with pytest.raises(UserError, match="a catalog that can be written, got database is locked"):
        recheck(world / "c.sqlite", "v", VIDEOS, progress=False)
    blocker.close()
