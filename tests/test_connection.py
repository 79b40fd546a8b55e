"""A catalog in use that another process locks or deletes, or whose disk fails."""

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database import connection
from omnidali.catalog.database.connection import writing
from omnidali.catalog.database.integrity import damage, trouble
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_image

SOURCE = {"s": SourceConfig(kind="image", root=".", list="l.txt")}
OUTSIDE = (
    "database is locked",
    "database or disk is full",
    "attempt to write a readonly database",
    "disk I/O error",
    "unable to open database file",
    "interrupted",
    "out of memory",
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A catalog of three images; its connections do not wait for long within SQLite."""
    for number in range(3):
        write_image(tmp_path / f"{number}.jpg", number, 60, 50)
    (tmp_path / "l.txt").write_text("".join(f"{number}.jpg {number}\n" for number in range(3)))
    build_catalog(tmp_path / "c.sqlite", SOURCE, tmp_path, threads=1, progress=False)
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda *names, **options: connect(*names, **{**options, "timeout": 0.05}),
    )
    return tmp_path / "c.sqlite"


@contextmanager
def locked(path, seconds):
    """Let another process lock the file for this many seconds."""
    code = (
        f"import sqlite3, time; db = sqlite3.connect({str(path)!r}); db.execute('BEGIN EXCLUSIVE');"
        f" print(flush=True); time.sleep({seconds})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def in_a_thread(work):
    """The result of ``work`` on a new thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    return found[0]


def build(path):
    os.utime(path.parent / "1.jpg", (1, 1))  # something to write
    return build_catalog(path, SOURCE, path.parent, threads=1, progress=False)[0].probed


def score(path):
    with ScoreStore(path, Scorer("digest", "name", ("a", "b"), "settings")):
        return 1


@pytest.mark.parametrize(
    "use",
    [
        lambda path: len(CatalogReader(path).table("s")) - 2,
        build,
        score,
    ],
    ids=["reader", "build", "scores"],
)
def test_lock_is_waited_for_with_a_warning(path, monkeypatch, caplog, use):
    monkeypatch.setattr(connection, "_FIRST_WARNED", 0.3)
    monkeypatch.setattr(connection, "_warned", {})
    with locked(path, 1.5), caplog.at_level(logging.WARNING, "omnidali"):
        begun = time.monotonic()
        assert use(path) == 1 and time.monotonic() - begun > 0.5
    warnings = [
        line
        for line in caplog.messages
        if "waiting for another process, which has it locked" in line
    ]
    assert len(warnings) == 1 and str(path) in warnings[0]


def test_old_and_new_connections_wait_for_a_lock(path):
    reader = CatalogReader(path)
    record = int(reader.table("s").records[0])
    with locked(path, 1.0):
        assert reader.media(record).path.endswith("0.jpg")
    with locked(path, 1.0):
        assert in_a_thread(lambda: reader.media(record)).path.endswith("0.jpg")


def test_deadlock_ends_in_an_error(path, monkeypatch):
    monkeypatch.setattr(connection, "_REFUSED_SECONDS", 0.5)
    one, other = connection.connect(path), connection.connect(path)
    one.execute("BEGIN")
    one.execute("SELECT 1 FROM media").fetchone()  # reads until its transaction ends
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        one.execute("DELETE FROM media")
    one.close()
    other.close()


@pytest.mark.parametrize("words", OUTSIDE)
def test_outside_trouble_is_never_called_damage(path, words):
    for error in (
        damage(path, sqlite3.OperationalError(words)),
        trouble(path, sqlite3.OperationalError(words)),
    ):
        assert (
            words in str(error)
            and "elete" not in str(error)
            and "as it was written" not in str(error)
        )
    assert "Delete the file" in str(
        damage(path, sqlite3.DatabaseError("database disk image is malformed"))
    )


def test_large_uncommitted_change_blocks_no_reader(path):
    """A list of a million lines takes minutes; SQLite locked the file once it had 2 MB to write."""
    reader = CatalogReader(path)
    with writing(path) as db:
        db.executemany(
            "INSERT INTO media (source, path) VALUES (9, ?)",
            [(f"{number:01000}",) for number in range(20_000)],
        )
        begun = time.monotonic()
        assert len(reader.table("s")) == 3 and in_a_thread(lambda: reader.media(1)) is not None
        assert time.monotonic() - begun < 0.5
        db.commit()


def test_journal_of_a_killed_writer_ends_no_run(path):
    reader = CatalogReader(path)
    record = int(reader.table("s").records[0])
    code = (
        f"import os, sqlite3; db = sqlite3.connect({str(path)!r});"
        " db.execute('PRAGMA cache_size = 1');"
        " db.execute('UPDATE packed SET data = zeroblob(LENGTH(data))');"
        " db.execute('UPDATE media SET packets = zeroblob(20000)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert path.with_name("c.sqlite-journal").stat().st_size > 0
    assert reader.media(record).path.endswith("0.jpg")
    assert len(reader.table("s")) == 3


def test_deleted_catalog_ends_no_run(path):
    reader = CatalogReader(path)
    table = reader.table("s")
    path.unlink()
    for row in range(3):
        assert in_a_thread(lambda row=row: table.media(table.first_record(row))).path.endswith(
            f"{row}.jpg"
        )
        assert in_a_thread(
            lambda row=row: table.media_at(str(path.with_name(f"{row}.jpg")))
        ).path.endswith(f"{row}.jpg")


def test_replaced_catalog_is_not_read(path):
    """Its ids belong to other files."""
    reader = CatalogReader(path)
    table = reader.table("s")
    path.unlink()
    (path.parent / "l.txt").write_text("2.jpg 0\n1.jpg 1\n")
    build_catalog(path, SOURCE, path.parent, threads=1, progress=False)
    for row in range(3):
        assert in_a_thread(lambda row=row: table.media(table.first_record(row))).path.endswith(
            f"{row}.jpg"
        )

    def load():
        with pytest.raises(UserError, match="deleted while the run used it.*--resume auto"):
            reader.table("s")
        return True

    assert in_a_thread(load)


def test_missing_catalog_is_reported(path):
    path.unlink()
    with pytest.raises(UserError, match="expected a catalog, got no file. .*--resume auto"):
        CatalogReader(path).table("s")


def test_reader_waits_for_descriptors(path, monkeypatch):
    reader = CatalogReader(path)
    record = int(reader.table("s").records[0])
    connect, failures = (
        sqlite3.connect,
        [sqlite3.OperationalError("unable to open database file")] * 3,
    )

    def failing(*names, **options):
        if failures:
            raise failures.pop()
        return connect(*names, **options)

    monkeypatch.setattr(sqlite3, "connect", failing)
    assert in_a_thread(lambda: reader.media(record)).path.endswith("0.jpg") and not failures
