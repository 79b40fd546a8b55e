"""Run folders, catalogs and copies of older versions still work, or are refused with a reason."""

import json
import os
import sqlite3
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.old_runs import ARCHIVE, relocate, unpack_world
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database import sql_schema
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.left_out_table import left_out_path
from omnidali.catalog.database.reader import CatalogReader
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.sources import SourceConfig
from omnidali.decoding.excerpt import make_excerpt
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import open_loader
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.testing.numbered_media import write_video


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder of the archive: world/ with two run folders, and a copy of each; the current
    folder is world/.
    """
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for catalog in tmp_path.rglob("catalog.sqlite"):
        relocate(catalog, str(tmp_path))
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path


@pytest.fixture
def fifth(tmp_path, monkeypatch):
    """A run folder, and the catalog of version 5 in it, as version 0.2 first wrote them."""
    with tarfile.open(ARCHIVE.with_name("catalog-5.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    relocate(tmp_path / "world/run/catalog.sqlite", str(tmp_path))
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def sixth(tmp_path, monkeypatch):
    """A run folder with a catalog of version 6, which passed a JPEG named .aspx over."""
    return unpack_world("catalog-6", tmp_path, monkeypatch)


def test_run_over_unchanged_files_resumes(old, capfd):
    config = load_config("run_right/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config)) as loader:
        assert (
            loader.load_state_dict(load_checkpoint("run_right/checkpoints/last.pt")["loader"]) == []
        )
        assert loader.state_dict()["step"] == 2
        next(loader)
    printed = capfd.readouterr().err
    assert (
        printed.count(
            "a catalog of an older version: 4 videos, PNG and WebP files are probed again"
        )
        == 1
    )
    open_data(config)
    assert "older version" not in capfd.readouterr().err  # once


def assert_renumbered_run_is_refused():
    config = load_config("run_wrong/config.yaml")
    with open_loader(config, open_data(config)) as loader, pytest.raises(UserError) as caught:
        loader.load_state_dict(load_checkpoint("run_wrong/checkpoints/last.pt")["loader"])
    assert (
        "sources.clips has files whose frames had wrong numbers when the run began: 0.avi"
        in str(caught.value)
    )


def assert_unchanged_run_resumes():
    config = load_config("run_right/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config)) as loader:
        loader.load_state_dict(load_checkpoint("run_right/checkpoints/last.pt")["loader"])


def test_run_over_renumbered_files_is_refused(old):
    assert_renumbered_run_is_refused()


def test_runs_resume_or_are_refused_with_a_new_catalog(old):
    os.unlink("run_wrong/catalog.sqlite")
    assert_renumbered_run_is_refused()
    os.unlink("run_right/catalog.sqlite")
    assert_unchanged_run_resumes()


def test_info_reports_how_to_upgrade_an_old_catalog(old, capsys):
    assert cli.main(["info", "--catalog", "run_right/catalog.sqlite"]) == 2
    assert (
        "expected a catalog of version 8, got version 4. Start the training, or `omnidali lint`"
        in capsys.readouterr().err
    )


def test_upgrade_drops_only_scores_of_renumbered_videos(old):
    catalog = old / "world/run_wrong/catalog.sqlite"
    db = sqlite3.connect(catalog)
    photo = db.execute("SELECT * FROM media WHERE path = '0.jpg'").fetchone()
    db.execute("CREATE TABLE teachers (id INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO teachers VALUES (1)")
    db.execute("CREATE TABLE scores (teacher INTEGER, path TEXT)")
    for name in ("wrong/0.avi", "wrong/1.mp4", "photos/0.jpg"):
        db.execute("INSERT INTO scores VALUES (1, ?)", (str(old / "world" / name),))
    db.commit()
    db.close()
    config = load_config("run_wrong/config.yaml")
    open_data(config)
    db = connect(catalog, read_only=True)
    assert db.execute("SELECT * FROM media WHERE path = '0.jpg'").fetchone()[: len(photo)] == photo
    assert [
        os.path.basename(path) for (path,) in db.execute("SELECT path FROM scores ORDER BY path")
    ] == ["0.jpg", "1.mp4"]


@pytest.mark.parametrize("name, made_again", [("right", []), ("wrong", ["0.avi"])])
def test_copies_with_wrong_frames_are_made_again(old, capfd, name, made_again):
    copies = {path: path.stat().st_mtime_ns for path in (old / f"copy_{name}" / name).iterdir()}
    assert (
        cli.main(
            [
                "transcode",
                "--config",
                f"{name}.yaml",
                "--out",
                f"../copy_{name}",
                "--sources",
                "clips",
            ]
        )
        == 0
    )
    printed = capfd.readouterr().err
    assert (
        sorted(path.name for path, time in copies.items() if path.stat().st_mtime_ns != time)
        == made_again
    )
    for file in made_again:
        assert f"{file} is made again: frame" in printed
    rows = [
        json.loads(line) for line in (old / f"copy_{name}/transcode.jsonl").read_text().splitlines()
    ]
    assert all(row["checked"] and row["replaced"] == 0 for row in rows)
    with open_loader(
        config := load_config(old / f"copy_{name}/config.yaml"), open_data(config)
    ) as loader:
        next(loader)


def test_killed_upgrade_starts_again(old, monkeypatch):
    """The whole upgrade is one transaction."""

    def kill(text):
        raise KeyboardInterrupt

    source = SourceConfig(kind="video", root="right", list="right.txt")
    with monkeypatch.context() as patch:
        patch.setattr(sql_schema, "json", SimpleNamespace(loads=kill))
        with pytest.raises(KeyboardInterrupt):
            build_catalog("run_right/catalog.sqlite", {"clips": source}, ".", progress=False)
    build_catalog("run_right/catalog.sqlite", {"clips": source}, ".", progress=False)
    assert len(CatalogReader("run_right/catalog.sqlite").table("clips")) == 2


def test_build_stopped_after_the_upgrade_is_required_again(old):
    connect("run_right/catalog.sqlite", upgrades=True).close()
    with pytest.raises(
        UserError,
        match="expected the source clips in the catalog, got nothing. Start the run again",
    ):
        CatalogReader("run_right/catalog.sqlite").table("clips")
    assert_unchanged_run_resumes()


def test_run_resumes_with_an_old_catalog(old):
    assert_unchanged_run_resumes()


def test_upgraded_catalog_has_the_schema_of_a_new_one(old):
    config = load_config("run_right/config.yaml")
    open_data(config)
    connect("new.sqlite").close()

    def columns_of(path):
        db = connect(path)
        return [
            db.execute(
                f"SELECT name, type, dflt_value FROM pragma_table_info('{table}') ORDER BY name"
            ).fetchall()
            for table in ("sources", "media", "entries", "packed")
        ]

    assert columns_of("run_right/catalog.sqlite") == columns_of("new.sqlite")


def test_notes_are_found_by_an_index(tmp_path):
    db = connect(tmp_path / "c.sqlite")
    plan = db.execute(
        "EXPLAIN QUERY PLAN SELECT COUNT(*) FROM media"
        " WHERE source = 1 AND note <> '' AND +state = 'ok'"
    )
    assert "media_note" in plan.fetchone()[-1]


def test_run_resumes_with_a_catalog_of_version_5(fifth, capfd):
    """Its videos are probed again, for checksums and packets that no other refers to."""
    config = load_config("run/config.yaml", ["train.steps=3"])
    state = torch.load("run/checkpoints/last.pt")["loader"]
    with open_loader(config, open_data(config, as_begun=True)) as loader:
        assert loader.load_state_dict(state) == []
        next(loader)
    printed = capfd.readouterr().err
    assert printed.count("3 videos are probed again, as the catalog keeps checksums") == 1

    table = CatalogReader("run/catalog.sqlite").table("clips")
    assert table.codec_names == ("h264", "h264:open-gop", "mpeg4")
    for record in table.records.tolist():
        media = table.media(record)
        assert make_excerpt(media, np.arange(media.frames)).packets == media.frames
    open_data(config)
    assert "older version" not in capfd.readouterr().err  # once


def test_videos_that_changed_stay_as_they_were_until_a_run_over_version_5_ends(fifth):
    """Without an index, their frames are counted from the start."""
    write_video(fifth / "clips/0.mp4", 0, frames=13, width=64, height=48)
    config = load_config("run/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config, as_begun=True)) as loader:
        loader.load_state_dict(torch.load("run/checkpoints/last.pt")["loader"])
        next(loader)


def test_upgrade_from_version_5_keeps_scores(fifth):
    """Frames keep their numbers, and so what a teacher said of them."""
    db = sqlite3.connect("run/catalog.sqlite")
    db.execute("CREATE TABLE teachers (id INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO teachers VALUES (1)")
    db.execute("CREATE TABLE scores (teacher INTEGER, path TEXT)")
    db.execute("UPDATE media SET codec = 'mpeg4:irregular' WHERE path = '1.avi'")
    paths = [str(fifth / path) for path in ("clips/1.avi", "photos/0.jpg")]
    db.executemany("INSERT INTO scores VALUES (1, ?)", [(path,) for path in paths])
    db.commit()
    db.close()
    open_data(load_config("run/config.yaml"))
    db = connect("run/catalog.sqlite", read_only=True)
    assert [path for (path,) in db.execute("SELECT path FROM scores ORDER BY path")] == paths


def test_run_resumes_with_a_catalog_of_version_6_as_it_was_read(sixth, capfd):
    """Only a fresh start reads folders by the new rules."""
    config = load_config("run/config.yaml", ["train.steps=3"])
    state = torch.load("run/checkpoints/last.pt")["loader"]
    with open_loader(config, open_data(config, as_begun=True)) as loader:
        assert loader.load_state_dict(state) == []
        next(loader)
    assert "a catalog of an older version is brought up to date" in capfd.readouterr().err
    assert len(CatalogReader("run/catalog.sqlite").table("pics")) == 4

    data = open_data(config)
    assert "5 samples" in data.summary[0] and "1 left out (1 not a photo: text" in data.summary[0]
    assert "1 files probed now" in data.summary[0] and "probed now" not in data.summary[1]
    rows = left_out_path(Path("run/catalog.sqlite")).read_text().splitlines()
    assert rows[1:] == [
        "pics,cat/notes.txt,,,not a photo: text,",
        "clips,gone.mp4,clips.txt,3,missing file,",
    ]


def test_upgraded_catalog_has_the_tables_of_a_new_one(sixth, tmp_path):
    open_data(load_config("run/config.yaml"))
    columns = {}
    connect(tmp_path / "new.sqlite").close()
    for path in ("run/catalog.sqlite", tmp_path / "new.sqlite"):
        db = connect(path, read_only=True)
        tables = db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        columns[path] = {
            name: {row[1:] for row in db.execute(f"PRAGMA table_info({name})")}
            for (name,) in tables.fetchall()
        }
    one, other = columns.values()
    assert one == other and "left_out" in one


def test_formats_that_were_refused_are_probed_again_by_a_fresh_start(sixth):
    db = sqlite3.connect("run/catalog.sqlite")
    for path, state in (
        ("ant/1.jpg", "not a JPEG, PNG or WebP image: BMP"),
        ("cat/3.jpg", "broken in another way"),
    ):
        db.execute("UPDATE media SET state = ? WHERE path = ?", (state, path))
    db.commit()
    db.close()
    summary = open_data(load_config("run/config.yaml")).summary[0]
    assert "4 samples" in summary and "2 files probed now" in summary  # 9.aspx is the other one
    assert "2 left out (1 broken in another way, such as cat/3.jpg; " in summary
