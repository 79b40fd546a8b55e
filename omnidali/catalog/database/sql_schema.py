"""The tables of the catalog's SQLite file, and how those of older versions become them."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from omnidali.catalog.database.integrity import crc_of
from omnidali.utils.untrusted_text import say

VERSION = 8
UPGRADED = (4, 5, 6, 7)  # the versions that can be brought up to the present one
NEW = "new"  # the state of a file before its probe

# media: a row a file, as probed; entries: a row an item of the list, in its order, with the number
# of its line and of its list among several, and with all labels as text where it has several;
# left_out: what no sample is made of, by stage.
# A file's id is never given to another one: a run that reads an older list shall miss a file rather
# than show another's pictures.
SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, kind TEXT, root TEXT, pattern TEXT, format TEXT, signature TEXT,
    watched TEXT, left_out TEXT, unusable TEXT, fingerprint TEXT, entries_crc INTEGER, pixel_aspect TEXT);
CREATE TABLE IF NOT EXISTS media (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source INTEGER NOT NULL, path TEXT NOT NULL, archive TEXT, offset INTEGER,
    size INTEGER, state TEXT NOT NULL DEFAULT 'new', container TEXT, codec TEXT, width INTEGER, height INTEGER,
    frames INTEGER, frame_rate REAL, tick REAL, rotation INTEGER, timing BLOB, keyframes BLOB, packets BLOB,
    bytes INTEGER, mtime_ns INTEGER, crc INTEGER, mirrored INTEGER NOT NULL DEFAULT 0,
    aspect REAL NOT NULL DEFAULT 1.0, note TEXT NOT NULL DEFAULT '', UNIQUE (source, path));
CREATE INDEX IF NOT EXISTS media_state ON media (source, state);
CREATE INDEX IF NOT EXISTS media_note ON media (source) WHERE note <> '';
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL, media INTEGER NOT NULL, label INTEGER NOT NULL, unit TEXT,
    first REAL, last REAL, video TEXT, positive INTEGER, line INTEGER NOT NULL DEFAULT 0,
    list INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS entries_source ON entries (source, id);
CREATE TABLE IF NOT EXISTS packed (
    source INTEGER, name TEXT, chunk INTEGER, data BLOB, crc INTEGER, PRIMARY KEY (source, name, chunk));
CREATE TABLE IF NOT EXISTS left_out (
    source INTEGER NOT NULL, stage TEXT NOT NULL, path TEXT NOT NULL, reason TEXT NOT NULL,
    place TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS left_out_source ON left_out (source, stage, reason);
"""  # noqa: E501 (SQLite keeps the text as it is, and catalogs are compared by it)

# what the checksum of a file's row covers: all that the probe found, and where the file is
MEDIA_COLUMNS = (
    "path",
    "archive",
    "offset",
    "size",
    "container",
    "codec",
    "width",
    "height",
    "frames",
    "frame_rate",
    "tick",
    "rotation",
    "timing",
    "keyframes",
    "packets",
    "bytes",
    "mtime_ns",
)
# covered where they are not what they are by default
RARE_COLUMNS = {"mirrored": 0, "aspect": 1.0, "note": ""}

_COLUMNS = (
    "ALTER TABLE sources ADD COLUMN pixel_aspect TEXT",
    "ALTER TABLE media ADD COLUMN mirrored INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE media ADD COLUMN aspect REAL NOT NULL DEFAULT 1.0",
    "ALTER TABLE media ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX media_note ON media (source) WHERE note <> ''",
)
_TABLES = (
    "ALTER TABLE entries ADD COLUMN line INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE entries ADD COLUMN list INTEGER NOT NULL DEFAULT 0",
    *(statement for statement in SCHEMA.split(";") if " left_out" in statement),
)
_LABELS = ("ALTER TABLE entries ADD COLUMN labels TEXT NOT NULL DEFAULT ''",)
# Files that are probed again, by the version of the catalog. A run that still reads their rows does
# without an index of packets. NULL marks those of which frames may have other numbers.
_VIDEOS = "source IN (SELECT id FROM sources WHERE kind IN ('video', 'untrimmed'))"
_AGAIN = {
    4: "UPDATE media SET state = 'new', packets = NULL, crc = NULL"
    f" WHERE {_VIDEOS} OR codec IN ('png', 'webp')",
    5: f"UPDATE media SET state = 'new', packets = x'', crc = NULL WHERE {_VIDEOS}",
}
_INCOMPLETE = (
    "UPDATE sources SET fingerprint = NULL"
    f" WHERE id IN (SELECT source FROM media WHERE state = '{NEW}')"
)
_NOTES = {
    4: "videos, PNG and WebP files are probed again, as frames are numbered as they are decoded"
    " now, and EXIF turns pictures of all formats",
    5: "videos are probed again, as the catalog keeps checksums of their packets now",
}


def media_crc(root: str, row: Mapping[str, object]) -> int:
    """Compute the checksum of a file's row, given by the names of its columns."""
    rare = [row[name] for name, usual in RARE_COLUMNS.items() if row[name] != usual]
    return crc_of(root, *(row[name] for name in MEDIA_COLUMNS), *rare)


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring an older catalog up to the present version.

    Version 5 numbers frames in a decoder's order; version 6 knows which packets no other refers to,
    and their checksums; version 7 knows lines, and what is left out; version 8 keeps several labels
    of an item. The build that follows probes again what is affected; ids, teachers' scores and
    JPEGs stay.
    """
    with db:  # which rolls back after an error
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in UPGRADED:  # another process was quicker
            return

        if version == 4:
            _add(db, _COLUMNS, "ignore")  # pixel_aspect
            db.execute("UPDATE sources SET pixel_aspect = 'ignore'")
        if version < 7:
            _add(db, _TABLES, "below", "auto")  # links and split
        _add(db, _LABELS)
        again = db.execute(_AGAIN[version]).rowcount if version in _AGAIN else 0
        db.execute(_INCOMPLETE)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.commit()

    if version in _NOTES:
        done = f": {again:,} {_NOTES[version]}"
    elif version == 6:
        done = " is brought up to date: it knows what lists and folders leave out now"
    else:
        done = " is brought up to date: it can keep several labels of an item now"
    say(f"{path}: a catalog of an older version{done}", error=True)


def _add(db: sqlite3.Connection, statements: Sequence[str], *settings: str) -> None:
    """Add what a version added to the one before: columns, tables, and settings of sources.

    Args:
        db: the open catalog.
        statements: of SQL.
        *settings: values of the new settings, with which lists are read as they were.
    """
    for statement in statements:
        db.execute(statement)
    for source, signature in db.execute(
        "SELECT id, signature FROM sources WHERE signature IS NOT NULL"
    ).fetchall():
        try:
            known, *others = json.loads(signature)
            signature = json.dumps([[*known, *settings], *others])
        except (ValueError, TypeError):  # damaged: the build reads the list again
            signature = None
        db.execute("UPDATE sources SET signature = ? WHERE id = ?", (signature, source))
