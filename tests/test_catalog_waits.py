"""A catalog that another process has locked, that is deleted, or whose disk is in trouble, while a
run uses it.
"""

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from omnidali.catalog.build import build_catalog, writing
from omnidali.catalog.database import connection as waiting
from omnidali.catalog.database import store
from omnidali.catalog.database.integrity import damage, trouble
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.config.schema import SourceConfig
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_photo

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
    """A catalog of three photos, whose connections do not wait for long within SQLite."""
    for number in range(3):
        write_photo(tmp_path / f"{number}.jpg", number, 60, 50)
    (tmp_path / "l.txt").write_text("".join(f"{number}.jpg {number}\n" for number in range(3)))
    build_catalog(tmp_path / "c.sqlite", SOURCE, tmp_path, threads=1, progress=False)
    connect = sqlite3.connect
    monkeypatch.setattr(
        store.sqlite3,
        "connect",
        lambda *names, **options: connect(*names, **{**options, "timeout": 0.05}),
    )
    return tmp_path / "c.sqlite"


@contextmanager
def locked(path, seconds):
    """Another process has the file to itself, for so long."""
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
def test_a_lock_is_waited_for_and_told(path, monkeypatch, caplog, use):
    monkeypatch.setattr(waiting, "_FIRST_TOLD", 0.3)
    monkeypatch.setattr(waiting, "_told", {})
    with locked(path, 1.5), caplog.at_level(logging.WARNING, "omnidali"):
        begun = time.monotonic()
        assert use(path) == 1 and time.monotonic() - begun > 0.5
    told = [
        line
        for line in caplog.messages
        if "waiting for another process, which has it locked" in line
    ]
    assert len(told) == 1 and str(path) in told[0]


def test_a_lock_is_waited_for_by_connections_old_and_new(path):
    reader = CatalogReader(path)
    record = int(reader.table("s").records[0])
    with locked(path, 1.0):
        assert reader.media(record).path.endswith("0.jpg")
    with locked(path, 1.0):
        assert in_a_thread(lambda: reader.media(record)).path.endswith("0.jpg")


def test_two_that_wait_for_each_other_do_not_wait_for_ever(path, monkeypatch):
    monkeypatch.setattr(waiting, "_REFUSED_SECONDS", 0.5)
    one, other = store.connect(path), store.connect(path)
    one.execute("BEGIN")
    one.execute("SELECT 1 FROM media").fetchone()  # reads until its transaction ends
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        one.execute("DELETE FROM media")
    one.close()
    other.close()


@pytest.mark.parametrize("words", OUTSIDE)
def test_no_trouble_from_outside_is_a_reason_to_delete_the_catalog(path, words):
    for told in (
        damage(path, sqlite3.OperationalError(words)),
        trouble(path, sqlite3.OperationalError(words)),
    ):
        assert (
            words in str(told) and "elete" not in str(told) and "as it was written" not in str(told)
        )
    assert "Delete the file" in str(
        damage(path, sqlite3.DatabaseError("database disk image is malformed"))
    )


def test_a_large_change_keeps_nobody_from_reading_until_it_is_committed(path):
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


def test_what_a_killed_writer_left_half_done_ends_no_run(path):
    reader = CatalogReader(path)
    record = int(reader.table("s").records[0])
    code = (
        f"import os, sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('PRAGMA cache_size = 1');"
        " db.execute('UPDATE packed SET data = zeroblob(LENGTH(data))');"
        " db.execute('UPDATE media SET packets = zeroblob(20000)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert path.with_name("c.sqlite-journal").stat().st_size > 0
    assert reader.media(record).path.endswith("0.jpg")
    assert len(reader.table("s")) == 3


def test_a_deleted_catalog_ends_no_run(path):
    reader = CatalogReader(path)
    table = reader.table("s")
    path.unlink()
    for row in range(3):
        assert in_a_thread(lambda: table.media(table.first_record(row))).path.endswith(f"{row}.jpg")
        assert in_a_thread(lambda: table.media_at(str(path.with_name(f"{row}.jpg")))).path.endswith(
            f"{row}.jpg"
        )


def test_another_catalog_of_the_same_name_is_not_read(path):
    """Ids in it belong to other files."""
    reader = CatalogReader(path)
    table = reader.table("s")
    path.unlink()
    (path.parent / "l.txt").write_text("2.jpg 0\n1.jpg 1\n")
    build_catalog(path, SOURCE, path.parent, threads=1, progress=False)
    for row in range(3):
        assert in_a_thread(lambda: table.media(table.first_record(row))).path.endswith(f"{row}.jpg")

    def load():
        with pytest.raises(UserError, match="deleted while the run used it.*--resume auto"):
            reader.table("s")
        return True

    assert in_a_thread(load)


def test_a_catalog_that_is_not_there_is_told(path):
    path.unlink()
    with pytest.raises(UserError, match="expected a catalog, got no file. .*--resume auto"):
        CatalogReader(path).table("s")


def test_a_lack_of_descriptors_is_waited_for(path, monkeypatch):
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

    monkeypatch.setattr(store.sqlite3, "connect", failing)
    assert in_a_thread(lambda: reader.media(record)).path.endswith("0.jpg") and not failures
