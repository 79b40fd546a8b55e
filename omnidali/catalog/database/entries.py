"""The entries of a source's list in the catalog, and the files that they name."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter

from omnidali.catalog.listing.scan import SourceScan


def write_entries(db: sqlite3.Connection, source: int, scan: SourceScan) -> tuple[list[str], int]:
    """Make media and entries match the list.

    Args:
        db: the open catalog.
        source: its id of the source.
        scan: the source.

    Returns:
        The files to watch, and how many lines repeat another.

    Raises:
        UserError: for missing files and wrong lines.
    """
    left_out: Counter[str] = Counter()
    form, watched = _fill_listed(db, scan, left_out)
    (total,) = db.execute("SELECT COUNT(*) FROM listed").fetchone()

    config = scan.config
    old = db.execute("SELECT root, kind, pattern FROM sources WHERE id = ?", (source,)).fetchone()
    if old != (scan.root, config.kind, config.pattern):
        db.execute("DELETE FROM media WHERE source = ?", (source,))
    _match_media(db, source)
    _replace_entries(db, source, by_video=config.media_kind.has_pieces)

    db.execute(
        "UPDATE sources SET kind = ?, root = ?, pattern = ?, format = ?, left_out = ?,"
        " pixel_aspect = ? WHERE id = ?",
        (
            config.kind,
            scan.root,
            config.pattern,
            form,
            json.dumps(left_out),
            config.pixel_aspect,
            source,
        ),
    )
    (kept,) = db.execute("SELECT COUNT(*) FROM entries WHERE source = ?", (source,)).fetchone()
    return watched, total - kept


def entries_crc(db: sqlite3.Connection, source: int) -> int:
    """Compute the checksum of a source's entries."""
    crc = 0
    for row in db.execute(
        "SELECT media, label, unit, first, last, video, positive FROM entries WHERE source = ?"
        " ORDER BY id",
        (source,),
    ):
        crc = zlib.crc32(repr(row).encode("utf-8", "surrogatepass"), crc)
    return crc


def _fill_listed(
    db: sqlite3.Connection, scan: SourceScan, left_out: Counter[str]
) -> tuple[str, list[str]]:
    """Read the list into a temporary table; its format, and the files to watch."""
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS listed (path TEXT, label INTEGER, unit TEXT, first REAL,"
        " last REAL, video TEXT, positive INTEGER, archive TEXT, offset INTEGER, size INTEGER)"
    )
    db.execute("DELETE FROM listed")
    form, rows, watched = scan.read(left_out)
    db.executemany("INSERT INTO listed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.execute("CREATE INDEX IF NOT EXISTS temp.listed_path ON listed (path)")
    return form, watched


def _match_media(db: sqlite3.Connection, source: int) -> None:
    # members of a tar have no time of their own: they are probed again where they moved
    db.execute(
        "DELETE FROM media WHERE source = ? AND NOT EXISTS (SELECT 1 FROM listed l"
        " WHERE l.path = media.path AND l.archive IS media.archive AND l.offset IS media.offset"
        " AND l.size IS media.size AND l.positive IS NOT NULL)",
        (source,),
    )
    db.execute(
        "INSERT OR IGNORE INTO media (source, path, archive, offset, size)"
        " SELECT ?, path, archive, offset, size"
        " FROM listed WHERE positive IS NOT NULL ORDER BY rowid",
        (source,),
    )


def _replace_entries(db: sqlite3.Connection, source: int, by_video: bool) -> None:
    order = "l.rowid"
    if by_video:
        order = "MIN(l.rowid) OVER (PARTITION BY l.video, l.label), l.rowid"
    db.execute("DELETE FROM entries WHERE source = ?", (source,))
    # a removed piece whose file nobody needs is an entry all the same: the numbers of the others
    # count it
    db.execute(
        "INSERT INTO entries (source, media, label, unit, first, last, video, positive)"
        " SELECT ?, COALESCE(m.id, 0), l.label, l.unit, l.first, l.last, l.video, l.positive"
        " FROM listed l LEFT JOIN media m ON m.source = ? AND m.path = l.path WHERE l.rowid IN"
        " (SELECT MIN(rowid) FROM listed GROUP BY path, label, unit, first, last)"
        f" ORDER BY {order}",
        (source, source),
    )
