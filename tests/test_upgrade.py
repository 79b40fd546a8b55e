"""A run folder, a catalog and copies of version 0.1 go on, or say why they do not."""

import json
import os
import sqlite3
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database import migration
from omnidali.catalog.database.integrity import crc_of
from omnidali.catalog.database.store import MEDIA_COLUMNS, CatalogReader, connect
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.schema import SourceConfig
from omnidali.errors import UserError
from omnidali.loading.data import open_data, open_loader
from omnidali.models.checkpoint_file import load_checkpoint

ARCHIVE = Path(__file__).parent / "golden" / "run-0.1.tar.xz"
# where the run of the archive was made; `relocate` makes it one of another folder
BUILT_IN = "/tmp/fx"


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


def relocate(catalog, root):
    """Write another folder into a catalog of version 4, as if it had been made there."""
    db = sqlite3.connect(catalog)
    for source, *texts in db.execute("SELECT id, root, signature, watched FROM sources").fetchall():
        texts = [text.replace(BUILT_IN, root) for text in texts]
        db.execute(
            "UPDATE sources SET root = ?, signature = ?, watched = ? WHERE id = ?", (*texts, source)
        )
    for record, folder, *values in db.execute(
        f"SELECT m.id, s.root, m.{', m.'.join(MEDIA_COLUMNS)} FROM media m JOIN sources s ON s.id = m.source"
    ):
        db.execute("UPDATE media SET crc = ? WHERE id = ?", (crc_of(folder, *values), record))
    db.commit()
    db.close()


def test_a_run_over_files_that_were_right_goes_on(old, capfd):
    config = load_config("run_right/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config)) as loader:
        assert (
            loader.load_state_dict(load_checkpoint("run_right/checkpoints/last.pt")["loader"]) == []
        )
        assert loader.state_dict()["step"] == 2
        next(loader)
    told = capfd.readouterr().err
    assert (
        told.count("a catalog of an older version: 4 videos, PNG and WebP files are probed again")
        == 1
    )
    open_data(config)
    assert "older version" not in capfd.readouterr().err  # once


def test_a_run_over_renumbered_files_is_refused_by_name(old):
    config = load_config("run_wrong/config.yaml")
    with open_loader(config, open_data(config)) as loader, pytest.raises(UserError) as caught:
        loader.load_state_dict(load_checkpoint("run_wrong/checkpoints/last.pt")["loader"])
    assert (
        "sources.clips has files whose frames had wrong numbers when the run began: 0.avi"
        in str(caught.value)
    )


def test_the_same_holds_with_a_new_catalog(old):
    os.unlink("run_wrong/catalog.sqlite")
    test_a_run_over_renumbered_files_is_refused_by_name(old)
    os.unlink("run_right/catalog.sqlite")
    config = load_config("run_right/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config)) as loader:
        loader.load_state_dict(load_checkpoint("run_right/checkpoints/last.pt")["loader"])


def test_readers_of_an_old_catalog_say_what_brings_it_up_to_date(old, capsys):
    assert cli.main(["info", "--catalog", "run_right/catalog.sqlite"]) == 2
    assert (
        "expected a catalog of version 5, got version 4. Start the training, or `omnidali lint`"
        in capsys.readouterr().err
    )


def test_photos_and_their_scores_stay_and_scores_of_renumbered_videos_go(old):
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
def test_copies_whose_frames_were_wrong_are_made_again(old, capfd, name, made_again):
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
    told = capfd.readouterr().err
    assert (
        sorted(path.name for path, time in copies.items() if path.stat().st_mtime_ns != time)
        == made_again
    )
    for file in made_again:
        assert f"{file} is made again: frame" in told
    rows = [
        json.loads(line) for line in (old / f"copy_{name}/transcode.jsonl").read_text().splitlines()
    ]
    assert all(row["checked"] and row["replaced"] == 0 for row in rows)
    with open_loader(
        config := load_config(old / f"copy_{name}/config.yaml"), open_data(config)
    ) as loader:
        next(loader)


def test_a_killed_upgrade_is_made_once_more(old, monkeypatch):
    """Everything of it is one transaction."""

    def kill(text):
        raise KeyboardInterrupt

    source = SourceConfig(kind="video", root="right", list="right.txt")
    with monkeypatch.context() as patch:
        patch.setattr(migration, "json", SimpleNamespace(loads=kill))
        with pytest.raises(KeyboardInterrupt):
            build_catalog("run_right/catalog.sqlite", {"clips": source}, ".", progress=False)
    build_catalog("run_right/catalog.sqlite", {"clips": source}, ".", progress=False)
    assert len(CatalogReader("run_right/catalog.sqlite").table("clips")) == 2


def test_a_build_that_was_stopped_behind_the_upgrade_is_asked_for_again(old):
    connect("run_right/catalog.sqlite", upgrades=True).close()
    with pytest.raises(
        UserError,
        match="expected the source clips in the catalog, got nothing. Start the run again",
    ):
        CatalogReader("run_right/catalog.sqlite").table("clips")
    test_a_run_over_files_that_were_right_goes_on_again(old)


def test_a_run_over_files_that_were_right_goes_on_again(old):
    config = load_config("run_right/config.yaml", ["train.steps=3"])
    with open_loader(config, open_data(config)) as loader:
        loader.load_state_dict(load_checkpoint("run_right/checkpoints/last.pt")["loader"])


def test_an_upgraded_catalog_is_as_a_new_one(old):
    config = load_config("run_right/config.yaml")
    open_data(config)
    connect("new.sqlite").close()
    schemas = [
        [
            db.execute(
                f"SELECT name, type, dflt_value FROM pragma_table_info('{table}') ORDER BY name"
            ).fetchall()
            for table in ("sources", "media", "entries", "packed")
        ]
        for db in (connect(path) for path in ("run_right/catalog.sqlite", "new.sqlite"))
    ]
    assert schemas[0] == schemas[1]


def test_notes_are_found_without_a_look_at_every_file(tmp_path):
    db = connect(tmp_path / "c.sqlite")
    plan = db.execute(
        "EXPLAIN QUERY PLAN SELECT COUNT(*) FROM media WHERE source = 1 AND note <> '' AND +state = 'ok'"
    )
    assert "media_note" in plan.fetchone()[-1]
