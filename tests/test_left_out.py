"""What is left out of a source is named in a table, with list, line and reason."""

import contextlib
import csv
import os
import sqlite3

import pytest

from helpers.small_builds import write
from omnidali.catalog.build import REPEATED, build_catalog
from omnidali.catalog.database.left_out_table import left_out_path
from omnidali.catalog.database.listed_items import FEWER_FRAMES
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.listing.folders import NO_FRAME
from omnidali.catalog.probing.root_guard import LINK_LEAVES, OUTSIDE
from omnidali.config.sources import SourceConfig
from omnidali.errors import NoUsableFilesError, UserError
from omnidali.testing.numbered_media import write_image


def build(folder, **source):
    """Build a catalog of one source; returns its summary, and the rows of the table."""
    sources = {"s": SourceConfig(**{"kind": "image", "root": "pics", **source})}
    summary = build_catalog(folder / "c.sqlite", sources, folder, progress=False)[0]
    return summary, rows_of(folder)


def rows_of(folder):
    path = left_out_path(folder / "c.sqlite")
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shown(rows):
    return [(row["path"], row["list"].rpartition("/")[2], row["line"]) for row in rows]


def test_each_refused_line_is_named_at_every_start(tmp_path):
    for n in range(3):
        write_image(tmp_path / f"pics/{n}.jpg", n, 40, 30)
    write(tmp_path / "pics/3.jpg", "<html>")
    write(tmp_path / "l.txt", "# head\n0.jpg 0\n3.jpg 1\n0.jpg 0\n\n1.jpg 1\ngone.jpg 0\n2.jpg 1\n")

    summary, rows = build(tmp_path, list="l.txt")
    assert shown(rows) == [
        ("0.jpg", "l.txt", "4"),
        ("3.jpg", "l.txt", "3"),
        ("gone.jpg", "l.txt", "7"),
    ]
    assert [row["source"] for row in rows] == ["s"] * 3
    assert rows[0]["reason"] == REPEATED
    assert "web page" in rows[1]["reason"] and "missing" in rows[2]["reason"]
    assert f"each in {left_out_path(tmp_path / 'c.sqlite')}" in str(summary)

    # a warm start, whatever became of the table
    left_out_path(tmp_path / "c.sqlite").unlink()
    assert build(tmp_path, list="l.txt")[1] == rows

    # once nothing is left out there is none
    write(tmp_path / "l.txt", "0.jpg 0\n1.jpg 1\n")
    summary, rows = build(tmp_path, list="l.txt")
    assert rows == [] and "left out" not in str(summary)


def test_table_names_everything_where_nothing_is_usable(tmp_path):
    write(tmp_path / "pics/1.jpg", "<html>")
    write(tmp_path / "l.txt", "1.jpg 0\n2.jpg 0\n")
    with pytest.raises(NoUsableFilesError, match=r"each in .*c\.left_out\.csv"):
        build(tmp_path, list="l.txt")
    assert shown(rows_of(tmp_path)) == [("1.jpg", "l.txt", "1"), ("2.jpg", "l.txt", "2")]


def test_folders_with_fewer_frames_than_listed_are_named(tmp_path):
    for folder, count in (("a", 10), ("b", 8), ("two words", 3)):
        for n in range(count):
            write_image(tmp_path / f"pics/{folder}/img_{n + 1:05}.jpg", n, 40, 30)
    write(tmp_path / "l.txt", "a 10 0\nb 10 1\ntwo words 25 1\na 5 1\n")

    summary, rows = build(tmp_path, kind="frames", list="l.txt")
    assert summary.usable == 2 and summary.refused == {FEWER_FRAMES: 2}
    assert f"2 {FEWER_FRAMES}, such as b" in str(summary)
    assert shown(rows) == [("b", "l.txt", "2"), ("two words", "l.txt", "3")]
    assert [row["detail"] for row in rows] == [
        "8 frames where the list needs 10",
        "3 frames where the list needs 25",
    ]


def test_files_with_odd_names_are_named(tmp_path):
    write_image(tmp_path / "pics/cat/1.jpg", 0, 40, 30)
    for name in (b"cat/\xe9.jpg", b"cat/=cmd.txt"):
        write(tmp_path / "pics" / os.fsdecode(name), "x")
    _, rows = build(tmp_path)
    assert [row["path"] for row in rows] == ["cat/=cmd.txt", "cat/\\xe9.jpg"]
    assert rows[1]["reason"].startswith("name is not UTF-8")


def test_table_that_cannot_be_written_stops_nothing(tmp_path):
    write_image(tmp_path / "pics/cat/1.jpg", 0, 40, 30)
    write(tmp_path / "pics/cat/notes.txt", "x")
    left_out_path(tmp_path / "c.sqlite").mkdir()
    sources = {"s": SourceConfig(kind="image", root="pics")}
    assert build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)[0].usable == 1


@pytest.fixture
def linked(tmp_path):
    """Two photos, of which one is a link that leads out of the root, and their list."""
    write_image(tmp_path / "pics/1.jpg", 1, 40, 30)
    write_image(tmp_path / "out/2.jpg", 2, 40, 30)
    (tmp_path / "pics/2.jpg").symlink_to(tmp_path / "out/2.jpg")
    write(tmp_path / "l.txt", "1.jpg 0\n2.jpg 1\n")
    return tmp_path


def test_setting_of_links_counts_for_files_that_are_known(linked):
    summary, rows = build(linked, list="l.txt")
    assert summary.refused == {LINK_LEAVES: 1} and shown(rows) == [("2.jpg", "l.txt", "2")]
    assert build(linked, list="l.txt", links="follow")[0].usable == 2
    assert build(linked, list="l.txt")[0].refused == {LINK_LEAVES: 1}


def test_links_of_frames_follow_the_setting(tmp_path):
    write_image(tmp_path / "out/img_00001.jpg", 0, 40, 30)
    write_image(tmp_path / "pics/a/img_00001.jpg", 0, 40, 30)
    (tmp_path / "pics/b").mkdir()
    (tmp_path / "pics/b/img_00001.jpg").symlink_to(tmp_path / "out/img_00001.jpg")
    (tmp_path / "pics/c").symlink_to(tmp_path / "out")
    write(tmp_path / "l.txt", "a 1 0\nb 1 0\nc 1 0\n")
    assert build(tmp_path, kind="frames", list="l.txt")[0].usable == 1
    assert build(tmp_path, kind="frames", list="l.txt", links="follow")[0].usable == 3


@pytest.mark.parametrize("root", ["pics", "link", "."])
def test_absolute_paths_work_where_they_lie_below_the_root(linked, root):
    (linked / "link").symlink_to("pics")
    write(linked / "a.txt", f"{linked}/pics/1.jpg 0\n{linked}/link/1.jpg 0\n/etc/hostname 0\n")
    summary, rows = build(linked, root=root, list="a.txt")
    assert summary.refused == {OUTSIDE: 1} and shown(rows)[-1] == ("/etc/hostname", "a.txt", "3")
    assert summary.usable == (2 if root == "." else 1)  # by one path, or by two


def test_root_of_the_disk_takes_any_list(linked):
    write(linked / "a.txt", f"{linked}/pics/1.jpg 0\n{linked}/pics/2.jpg 1\n")
    summary, _ = build(linked, root="/", list="a.txt")
    assert summary.usable == 2  # nothing leads out of it
    table = CatalogReader(linked / "c.sqlite").table("s")
    assert table.media(int(table.records[0])).path == f"{linked}/pics/1.jpg"


def test_new_list_that_fits_the_pattern_is_read(linked):
    write(linked / "lists/a.txt", "1.jpg 0\n")
    assert build(linked, list="lists/*.txt")[0].usable == 1
    write_image(linked / "pics/3.jpg", 3, 40, 30)
    write(linked / "lists/b.txt", "3.jpg 0\ngone.jpg 1\n")
    summary, rows = build(linked, list="lists/*.txt")
    assert summary.usable == 2 and shown(rows) == [("gone.jpg", "b.txt", "2")]


def test_refused_start_leaves_the_table_as_it_was(linked):
    write(linked / "l.txt", "1.jpg 0\n1.jpg 0\ngone.jpg 0\n")
    _, rows = build(linked, list="l.txt")
    for bad in ("1.jpg 0\nsays nothing\n", b"1.jpg 0\n\xff 0\n"):
        kept = (linked / "l.txt").read_bytes()
        stamp = (linked / "l.txt").stat().st_mtime_ns
        write(linked / "l.txt", bad)
        with pytest.raises(UserError):
            build(linked, list="l.txt")
        assert rows_of(linked) == rows
        write(linked / "l.txt", kept)
        os.utime(linked / "l.txt", ns=(stamp, stamp))
        assert build(linked, list="l.txt")[1] == rows


def test_file_that_moves_into_or_out_of_the_root_is_looked_at_again(tmp_path):
    """Behind a folder that becomes a link, with the same size and time."""
    write_image(tmp_path / "pics/1.jpg", 1, 40, 30)
    write_image(tmp_path / "raw/v/2.jpg", 2, 40, 30)
    (tmp_path / "pics/v").symlink_to("../raw/v")
    write(tmp_path / "l.txt", "1.jpg 0\nv/2.jpg 1\n")
    for _ in range(2):
        assert build(tmp_path, list="l.txt")[0].refused == {LINK_LEAVES: 1}
        (tmp_path / "pics/v").unlink()
        (tmp_path / "raw/v").rename(tmp_path / "pics/v")
        assert build(tmp_path, list="l.txt")[0].usable == 2
        (tmp_path / "pics/v").rename(tmp_path / "raw/v")
        (tmp_path / "pics/v").symlink_to("../raw/v")


def test_folders_without_a_readable_frame_are_named(tmp_path):
    write_image(tmp_path / "pics/cat/ok/img_00001.jpg", 0, 40, 30)
    for name in ("cat/notes.txt", "cat/v/img_1.ppm", "cat/w/1.tiff", "cat/x/.img.jpg"):
        write(tmp_path / "pics" / name, "P6")
    summary, rows = build(tmp_path, kind="frames")
    assert summary.usable == 1
    assert [row["path"] for row in rows] == ["cat", "cat/v", "cat/w", "cat/x"]
    assert {row["reason"] for row in rows} == {NO_FRAME}


def test_lists_with_odd_names_are_named_all_the_same(tmp_path):
    write_image(tmp_path / "pics/1.jpg", 1, 40, 30)
    for name in (b"a\xff.txt", b"b.txt"):
        write(tmp_path / "lists" / os.fsdecode(name), "1.jpg 0\n#x.jpg 0\n")
    _, rows = build(tmp_path, list="lists/*.txt")
    assert "a\\xff.txt" in {row["list"].rpartition("/")[2] for row in rows}


def test_catalog_that_only_counted_promises_no_table(tmp_path):
    write_image(tmp_path / "pics/cat/1.jpg", 0, 40, 30)
    write(tmp_path / "pics/cat/notes.txt", "x")
    assert "each in" in str(build(tmp_path)[0])
    with contextlib.closing(sqlite3.connect(tmp_path / "c.sqlite")) as db:
        db.execute("DELETE FROM left_out")
        db.commit()
    assert "1 left out" in str(build(tmp_path)[0]) and "each in" not in str(build(tmp_path)[0])
