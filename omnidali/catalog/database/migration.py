"""Catalogs of the version before: what is still true in them stays, the rest is found again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from omnidali.catalog.database.schema import VERSION
from omnidali.utils.untrusted_text import say

UPGRADED = 4  # the version that can be brought up to the present one
_COLUMNS = (
    "ALTER TABLE sources ADD COLUMN pixel_aspect TEXT",
    "ALTER TABLE media ADD COLUMN mirrored INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE media ADD COLUMN aspect REAL NOT NULL DEFAULT 1.0",
    "ALTER TABLE media ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX media_note ON media (source) WHERE note <> ''",
)
# Rows without an index of packets are those that are probed again; a run that still reads them does
# without.
_AGAIN = (
    "UPDATE media SET state = 'new', packets = NULL, crc = NULL WHERE source IN"
    " (SELECT id FROM sources WHERE kind IN ('video', 'untrimmed')) OR codec IN ('png', 'webp')"
)
_INCOMPLETE = (
    "UPDATE sources SET fingerprint = NULL"
    " WHERE id IN (SELECT source FROM media WHERE packets IS NULL)"
)


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring a catalog of version 4 up to version 5, which numbers frames as a decoder gives them.

    The build that follows probes videos, PNG and WebP files again; teachers' scores, ids and JPEGs
    stay.
    """
    with db:  # which rolls back where an error comes
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != UPGRADED:  # another process was quicker
            return

        for statement in _COLUMNS:
            db.execute(statement)
        again = db.execute(_AGAIN).rowcount
        db.execute(_INCOMPLETE)
        for source, signature in db.execute(
            "SELECT id, signature FROM sources WHERE signature IS NOT NULL"
        ).fetchall():
            try:
                settings, *others = json.loads(signature)
                signature = json.dumps([[*settings, "ignore"], *others])
            except (ValueError, TypeError):  # damaged: the build reads the list again
                signature = None
            db.execute(
                "UPDATE sources SET pixel_aspect = 'ignore', signature = ? WHERE id = ?",
                (signature, source),
            )

        db.execute(f"PRAGMA user_version = {VERSION}")
        db.commit()
    say(
        f"{path}: a catalog of an older version: {again:,} videos, PNG and WebP files are probed"
        " again, as frames are numbered as they are decoded now, and EXIF turns pictures of all"
        " formats",
        error=True,
    )
