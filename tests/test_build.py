"""Builds of the catalog: what is read, probed, left out and done again."""

import errno
import os
import sqlite3

import pytest

from helpers.small_builds import IMAGES, fail_to_list, make_images, run_build, write
from omnidali.catalog import probe_new
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_image


def test_build_leaves_bad_files_out_and_reports_why(tmp_path):
    make_images(tmp_path)
    write(tmp_path / "pics/text.jpg", "hello")
    with open(tmp_path / "l.txt", "a") as file:
        file.write("text.jpg 0\ngone.jpg 1\n../l.txt 0\n0.jpg 0\n")
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.repeated) == (6, 9, 1)
    assert summary.refused == {
        "missing file": 1,
        "not a photo: text": 1,
        "path leaves the root": 1,
    }
    assert "1 missing file, such as gone.jpg" in str(
        summary
    ) and "1 repeated lines counted once" in str(summary)
    reasons = sqlite3.connect(tmp_path / "c.sqlite").execute(
        "SELECT path, state FROM media WHERE state <> 'ok'"
    )
    assert ("gone.jpg", "missing file") in reasons.fetchall()
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1] and table.media(
        table.records[3]
    ).path.endswith("pics/3.jpg")
    assert set(table.widths) == {40} and set(table.heights) == {30}


def test_second_build_probes_only_changes(tmp_path):
    make_images(tmp_path)
    run_build(tmp_path)
    old = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert run_build(tmp_path).probed == 0
    assert CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint == old.fingerprint
    write_image(tmp_path / "pics/2.jpg", 9, 44, 30)  # a file is replaced
    assert run_build(tmp_path).probed == 1
    table = CatalogReader(tmp_path / "c.sqlite").table("s")
    assert table.widths[2] == 44 and table.fingerprint != old.fingerprint
    os.remove(tmp_path / "pics/1.jpg")  # a file is deleted
    assert run_build(tmp_path).refused == {"missing file": 1}
    write_image(tmp_path / "pics/1.jpg", 1, 40, 30)  # and made again
    assert run_build(tmp_path).usable == 6
    write(tmp_path / "l.txt", "3.jpg 1\n4.jpg 1\n")  # the list shrinks, and one label changes
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed) == (2, 0)
    assert CatalogReader(tmp_path / "c.sqlite").table("s").labels.tolist() == [1, 1]


def test_files_removed_by_another_list_are_reported_missing(tmp_path):
    make_images(tmp_path)
    path, photos = (
        tmp_path / "c.sqlite",
        {
            name: MediaConfig(kind="image", root="pics", list=f"{name}.txt")
            for name in ("older", "newer")
        },
    )
    write(tmp_path / "older.txt", "0.jpg 0\n5.jpg 0\n")
    write(tmp_path / "newer.txt", "0.jpg 0\n1.jpg 0\n2.jpg 0\n")
    build_catalog(path, {"web": photos["older"]}, tmp_path, progress=False)
    running = CatalogReader(path).table("web")
    build_catalog(path, {"web": photos["newer"]}, tmp_path, progress=False)
    assert running.media(running.records[0]).path.endswith("0.jpg")
    with pytest.raises(UserError, match="another run has read other lists into this catalog"):
        running.media(running.records[1])
    with (
        ScoreStore(path, Scorer("digest", "teacher", ("a", "b"), "settings")) as scores,
        pytest.raises(UserError, match="another run has read other lists into this catalog"),
    ):
        scores.missing(running)


def test_new_files_in_class_folders_are_seen(tmp_path):
    write_image(tmp_path / "pics/a/0.jpg", 0, 40, 30)
    sources = {"s": SourceConfig(kind="image", root="pics")}
    assert run_build(tmp_path, sources).usable == 1
    write_image(tmp_path / "pics/a/1.jpg", 0, 40, 30)
    assert run_build(tmp_path, sources).usable == 2


@pytest.mark.parametrize("folder", ["pics", "pics/b", "pics/b/deep"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_unreadable_folder_is_reported(tmp_path, monkeypatch, folder, error):
    for name in ("a/0.jpg", "b/1.jpg", "b/deep/2.jpg"):
        write_image(tmp_path / "pics" / name, 0, 40, 30)
    sources = {"s": SourceConfig(kind="image", root="pics")}
    assert run_build(tmp_path, sources).usable == 3
    write_image(tmp_path / "pics/b/3.jpg", 0, 40, 30)  # so that the folders are read again
    fail_to_list(monkeypatch, tmp_path / folder, error)
    with pytest.raises(
        UserError,
        match=f"{folder}: expected a folder that can be read, got {os.strerror(error)}",
    ):
        run_build(tmp_path, sources)
    fail_to_list(monkeypatch, "no folder", errno.EIO)
    assert run_build(tmp_path, sources).usable == 4


def test_killed_build_resumes(tmp_path, monkeypatch):
    make_images(tmp_path, 12)
    original = probe_new.ProbePool.probe

    def dies_late(self, *arguments):
        for number, outcome in enumerate(original(self, *arguments)):
            if number == 7:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(probe_new.ProbePool, "probe", dies_late)
    monkeypatch.setattr(probe_new, "_COMMIT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        build_catalog(tmp_path / "c.sqlite", IMAGES, tmp_path, threads=1, progress=False)
    monkeypatch.setattr(probe_new.ProbePool, "probe", original)
    done = (
        sqlite3.connect(tmp_path / "c.sqlite")
        .execute("SELECT COUNT(*) FROM media WHERE state = 'ok'")
        .fetchone()[0]
    )
    assert 0 < done < 12
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed) == (12, 12 - done)


def test_probing_in_parts_makes_the_same_table(tmp_path, monkeypatch):
    names = ["b.jpg", "c.jpg", "a.jpg", "gone.jpg", "e.jpg", "bad.jpg", "d.jpg"]
    for number, name in enumerate(names):
        if name == "bad.jpg":
            write(tmp_path / name, "no picture")
        elif name != "gone.jpg":
            write_image(tmp_path / name, number, width=40 + number, height=40)
    write(tmp_path / "l.txt", "".join(f"{name} {number}\n" for number, name in enumerate(names)))
    source = SourceConfig(kind="image", root=".", list="l.txt")

    tables = []
    for count in (100, 3, 2):  # of seven files
        monkeypatch.setattr(probe_new, "_PROBED_TOGETHER", count)
        monkeypatch.setattr("omnidali.catalog.database.columns._FETCHED", count)
        path = tmp_path / f"{count}.sqlite"
        (summary,) = build_catalog(path, {"s": source}, tmp_path, progress=False)
        assert summary.probed == 7 and summary.usable == 5 and sum(summary.refused.values()) == 2
        assert build_catalog(path, {"s": source}, tmp_path, progress=False)[0].probed == 0
        tables.append(CatalogReader(path).table("s"))

    assert len({table.fingerprint for table in tables}) == 1
    for table in tables:
        assert table.labels.tolist() == [0, 1, 2, 4, 6] and table.widths.tolist() == [
            40,
            41,
            42,
            44,
            46,
        ]


def test_build_reports_bad_sources(tmp_path):
    make_images(tmp_path)
    with pytest.raises(UserError, match=r"sources.s.root: expected a folder, got .*nowhere"):
        run_build(tmp_path, {"s": SourceConfig(kind="image", root="nowhere", list="l.txt")})
    with pytest.raises(UserError, match="at least one usable file for kind video"):
        run_build(tmp_path, {"s": SourceConfig(kind="video", root="pics", list="l.txt")})
    write(tmp_path / "bad.sqlite", "this is no database, however long it goes on")
    with pytest.raises(UserError, match="a catalog file that can be opened"):
        build_catalog(tmp_path / "bad.sqlite", IMAGES, tmp_path, progress=False)


def test_corrected_kind_is_probed_again(tmp_path):
    make_images(tmp_path)
    with pytest.raises(UserError):
        run_build(tmp_path, {"s": SourceConfig(kind="video", root="pics", list="l.txt")})
    assert run_build(tmp_path).usable == 6


def test_pipes_and_odd_names_do_not_stop_the_build(tmp_path):
    for folder in ("a", "b"):
        write_image(tmp_path / "pics" / folder / "0.jpg", 0, 40, 30)
    os.mkfifo(tmp_path / "pics/a/pipe.jpg")
    (tmp_path / "pics/a").joinpath(os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    summary = run_build(tmp_path, {"s": SourceConfig(kind="image", root="pics")})
    assert summary.usable == 2 and summary.refused == {
        "name is not UTF-8: rename it": 1,
        "not a regular file": 1,
    }
    assert "1 name is not UTF-8: rename it, such as a/\\xff.jpg" in str(summary)
