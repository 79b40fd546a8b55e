"""Damaged catalogs: built anew or refused, never silently wrong."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.small_builds import ROOT, make_images, run_build, write
from omnidali.catalog.database import integrity
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_video


def content(path):
    """Everything that training reads from a catalog."""
    reader = CatalogReader(path)
    table = reader.table("s")
    arrays = [
        getattr(table, name).tolist()
        for name in ("labels", "widths", "heights", "frames", "codecs")
    ]
    files = []
    for record in table.records:
        media = table.media(record)
        files.append(
            (
                media.path,
                media.container,
                media.codec,
                media.width,
                media.height,
                media.frames,
                media.rotation,
                media.timing,
                media.keyframes,
                media.packets,
                media.stamp,
                media.span,
            )
        )
        if media.packets:
            PacketIndex.unpack(media.packets)
    return arrays, files, table.fingerprint, table.codec_names


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    make_images(folder, 20)
    write_video(folder / "pics/v.mp4", 1, frames=4, width=64, height=48)
    run_build(folder)
    return folder, (folder / "c.sqlite").read_bytes(), content(folder / "c.sqlite")


def rebuild(folder, data):
    """The content after a start with this catalog; None where the start or the reader says that it
    is damaged.
    """
    for path in folder.glob("c.sqlite*"):
        path.unlink()
    write(folder / "c.sqlite", data)
    try:
        run_build(folder)
        return content(folder / "c.sqlite")
    except UserError as error:
        assert (
            "damaged" in str(error)
            or "as it was written" in str(error)
            or "version" in str(error)
            or "can be opened" in str(error)
            or "Delete the file" in str(error)
        ), error
        return None


def test_catalog_cut_off_anywhere_is_built_anew(catalog, capsys):
    folder, data, wanted = catalog
    for length in (
        0,
        1,
        50,
        99,
        100,
        4095,
        4096,
        5000,
        len(data) // 2,
        len(data) - 4096,
        len(data) - 1,
    ):
        assert rebuild(folder, data[:length]) == wanted, length
        if length:
            assert (folder / "c.sqlite.damaged").exists() == (length >= 16), length
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 9 and all("is damaged" in line and "built anew" in line for line in said)
    assert rebuild(folder, bytes(len(data))) == wanted  # zeros, as after a loss of power
    page = data[:8192] + bytes(4096) + data[12288:]
    assert rebuild(folder, page) == wanted


def test_catalog_in_use_by_a_writer_is_not_called_damaged(tmp_path, monkeypatch):
    """Its length may be older than the length in its header."""
    make_images(tmp_path, 2)
    run_build(tmp_path)
    path, naps = tmp_path / "c.sqlite", []
    data = path.read_bytes()

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            path.write_bytes(data)

    monkeypatch.setattr(time, "sleep", nap)
    write(path, data + bytes(4096))
    integrity.check_length(path)
    assert len(naps) == 2
    write(path, data[:-1])
    with pytest.raises(
        integrity.DamagedCatalogError, match=f"{len(data) - 1:,} bytes instead of {len(data):,}"
    ):
        integrity.check_length(path)
    assert sum(naps) < 0.2


def test_flipped_bits_are_never_silent(catalog):
    folder, data, wanted = catalog
    rng, reported = np.random.default_rng(0), 0
    for place in np.concatenate([rng.integers(100, len(data), 60), rng.integers(0, 100, 6)]):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        found = rebuild(folder, bytes(flipped))
        reported += found is None
        assert found is None or found == wanted, place
    assert reported < 30  # most are mended


def test_changed_column_or_row_is_detected(catalog):
    """SQLite accepts values that somebody changed; the digest does not."""
    folder, data, wanted = catalog
    for change in (
        "UPDATE packed SET data = zeroblob(LENGTH(data)) WHERE name = 'labels'",
        "DELETE FROM packed WHERE name = 'widths'",
        "UPDATE sources SET fingerprint = 'x'",
        "UPDATE sources SET left_out = '{'",
        "UPDATE sources SET root = '/'",
        "UPDATE entries SET label = 1; UPDATE media SET state = 'new' WHERE id = 3",
    ):
        write(folder / "edit.sqlite", data)
        db = sqlite3.connect(folder / "edit.sqlite")
        db.executescript(change)
        db.close()
        assert rebuild(folder, (folder / "edit.sqlite").read_bytes()) == wanted, change
    write(folder / "edit.sqlite", data)
    db = sqlite3.connect(folder / "edit.sqlite")
    db.executescript(
        "UPDATE media SET path = '2.jpg ' WHERE path = '2.jpg';"
        " UPDATE media SET width = 41 WHERE id = 5"
    )
    db.close()
    assert rebuild(folder, (folder / "edit.sqlite").read_bytes()) is None


def test_journal_of_a_killed_writer_is_rolled_back(catalog):
    """An unfinished change is rolled back; a journal of another file does not spoil the new
    catalog.
    """
    folder, data, wanted = catalog
    for path in folder.glob("c.sqlite*"):
        path.unlink()
    write(folder / "c.sqlite", data)
    code = (
        "import os, sqlite3; db = sqlite3.connect('c.sqlite'); db.execute('PRAGMA cache_size = 1');"
        " db.execute('UPDATE packed SET data = zeroblob(LENGTH(data))');"
        " db.execute('UPDATE media SET packets = zeroblob(20000)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder)
    assert (folder / "c.sqlite-journal").stat().st_size > 0 and (
        folder / "c.sqlite"
    ).read_bytes() != data
    run_build(folder)
    assert content(folder / "c.sqlite") == wanted and not (folder / "c.sqlite.damaged").exists()
    write(folder / "c.sqlite-journal", b"\xd9\xd5\x05\xf9 \xa1c\xd7" + bytes(9000))
    write(folder / "c.sqlite", data[:9000] + os.urandom(len(data) - 9000))
    run_build(folder)
    assert content(folder / "c.sqlite") == wanted


def test_two_builds_may_run_at_once(tmp_path, capfd):
    make_images(tmp_path, 40)
    found = []
    builds = [
        threading.Thread(target=lambda: found.append(run_build(tmp_path, threads=1)))
        for _ in range(3)
    ]
    for thread in builds:
        thread.start()
    for thread in builds:
        thread.join()
    assert sorted(summary.probed for summary in found) == [0, 0, 40] and {
        summary.usable for summary in found
    } == {40}
    assert "another process is building" in capfd.readouterr().err


def test_catalog_of_another_user_is_read(tmp_path):
    """The reader may not write it; as root, the test takes another user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, 3)
        run_build(folder)
        (folder / "c.sqlite.lock").unlink()
        for path in (folder, folder / "c.sqlite"):
            path.chmod(0o555)
        code = (
            f"import os, sys\nsys.path.insert(0, {ROOT!r})\n"
            "from omnidali.catalog.build import build_catalog\n"
            "from omnidali.catalog.database.reader import CatalogReader\n"
            "from omnidali.config.schema import SourceConfig\n"
            "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
            "sources = {'s': SourceConfig(kind='image', root='pics', list='l.txt')}\n"
            "usable = build_catalog('c.sqlite', sources, '.', progress=False)[0].usable\n"
            "print(usable, len(CatalogReader('c.sqlite').table('s')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
        )
        assert done.stdout == "3 3\n", done.stderr[-2000:]
        os.utime(folder / "pics/1.jpg", (1, 1))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
        )
        assert "no permission to write" in done.stderr and "UserError" in done.stderr
        folder.chmod(0o755)


def test_file_that_is_no_catalog_is_left_alone(tmp_path):
    make_images(tmp_path, 2)
    write(tmp_path / "c.sqlite", "somebody's notes, which are no database")
    with pytest.raises(UserError, match="a catalog file that can be opened"):
        run_build(tmp_path)
    assert (tmp_path / "c.sqlite").read_text().startswith("somebody") and not (
        tmp_path / f"c.sqlite{integrity.DAMAGED}"
    ).exists()
