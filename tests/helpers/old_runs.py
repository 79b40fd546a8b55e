"""Run folders and catalogs of older versions, in the archives of tests/golden."""

import os
import sqlite3
import tarfile
from pathlib import Path

from omnidali.catalog.database.integrity import crc_of
from omnidali.catalog.database.sql_schema import MEDIA_COLUMNS

ARCHIVE = Path(__file__).parents[1] / "golden" / "run-0.1.tar.xz"
# where the run of the archive was made; `relocate` writes another folder in its place
BUILT_IN = "/tmp/fx"


def unpack_world(name, folder, monkeypatch):
    """The world of an archive, whose files have the times that its catalog knows."""
    with tarfile.open(ARCHIVE.with_name(f"{name}.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    catalog = folder / "world/run/catalog.sqlite"
    relocate(catalog, str(folder))
    db = sqlite3.connect(catalog)
    for root, path, time in db.execute(
        "SELECT s.root, m.path, m.mtime_ns FROM media m JOIN sources s ON s.id = m.source"
        " WHERE m.mtime_ns IS NOT NULL"
    ):
        os.utime(os.path.join(root, path), ns=(time, time))  # the archive has whole seconds
    db.close()
    monkeypatch.chdir(folder / "world")
    return folder / "world"


def relocate(catalog, root):
    """Write another folder into an older catalog, as if it had been made there."""
    db = sqlite3.connect(catalog)
    for source, *texts in db.execute("SELECT id, root, signature, watched FROM sources").fetchall():
        texts = [text.replace(BUILT_IN, root) for text in texts]
        db.execute(
            "UPDATE sources SET root = ?, signature = ?, watched = ? WHERE id = ?", (*texts, source)
        )
    for record, folder, *values in db.execute(
        f"SELECT m.id, s.root, m.{', m.'.join(MEDIA_COLUMNS)}"
        " FROM media m JOIN sources s ON s.id = m.source"
    ):
        db.execute("UPDATE media SET crc = ? WHERE id = ?", (crc_of(folder, *values), record))
    db.commit()
    db.close()
