"""Fill the catalog: read the lists, probe what is new or changed, count what is left out."""

import json
import os
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from omnidali.catalog.changes import KnownSource, mark_changed
from omnidali.catalog.database.columns import read_columns, write_columns
from omnidali.catalog.database.connection import writing
from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    move_aside,
    only_build,
    reporting_damage,
)
from omnidali.catalog.database.left_out_table import (
    LISTING,
    clear_left_out,
    left_out_path,
    update_left_out_csv,
    write_left_out,
)
from omnidali.catalog.database.sql_schema import NEW
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.listing.scan import RULES, SourceScan
from omnidali.catalog.probe_new import probe_new
from omnidali.catalog.probing.probe_pool import ProbePool
from omnidali.catalog.summary import Summary, summarise
from omnidali.config.sources import MediaConfig
from omnidali.errors import NoUsableFilesError
from omnidali.utils.text_files import require_utf8_names

REPEATED = "line that repeats another"


def build_catalog(
    path: str | Path,
    sources: Mapping[str, MediaConfig],
    data_root: str | Path,
    classes: list[str] | None = None,
    *,
    threads: int | None = None,
    progress: bool = True,
    as_begun: bool = False,
    is_current: bool = False,
    multi_label: bool = False,
) -> list[Summary]:
    """Bring the catalog at ``path`` up to date with ``sources``.

    A source whose list has not changed costs a size-and-time check of its files (of an even sample
    above 100,000). A build that was killed continues where it was; a damaged catalog is moved aside
    and made again; a second build at the same time waits for the first.

    Args:
        path: of the catalog.
        sources: by name.
        data_root: folder that lists and roots start from.
        classes: names in label order; none: numbers alone.
        threads: processes that probe; none: one for each core.
        progress: whether to show bars.
        as_begun: for a resumed run: files that were usable when it began stay so, whatever
            became of them, and no others are added. The loader finds the faults, as it does in a
            run that was never stopped.
        is_current: whether :func:`~omnidali.catalog.changes.would_change` has just found that
            nothing changed, so that no file is checked again.
        multi_label: whether an item may have several labels.

    Raises:
        UserError: for missing roots and lists, bad lines, and sources without any usable file.
    """
    require_utf8_names()
    path = Path(path)
    # before anything is made
    scans = [
        SourceScan.of(name, source, data_root, classes=classes, multi_label=multi_label)
        for name, source in sources.items()
    ]

    with (
        reporting_damage(path),
        only_build(path),
        ProbePool(threads or len(os.sched_getaffinity(0))) as pool,
    ):
        build = partial(
            _update, path, scans, pool, progress=progress, as_begun=as_begun, is_current=is_current
        )
        try:
            return build()
        except DamagedCatalogError as seen:
            try:
                move_aside(path, seen)
            except OSError:  # others own it
                raise seen from None
            return build()


def _update(
    path: Path, scans: Sequence[SourceScan], pool: ProbePool, **options: bool
) -> list[Summary]:
    """Update all sources; ``options`` are those of :func:`_update_source`."""
    with writing(path) as db:
        try:
            summaries = [_update_source(db, path, scan, pool, **options) for scan in scans]
        except NoUsableFilesError:  # the table says why
            update_left_out_csv(db, path)
            raise
        update_left_out_csv(db, path)
        return summaries


def _update_source(
    db: sqlite3.Connection,
    path: Path,
    scan: SourceScan,
    pool: ProbePool,
    *,
    progress: bool,
    as_begun: bool,
    is_current: bool,
) -> Summary:
    known = KnownSource.find(db, scan.name)
    if known is None:  # a catalog that cannot be written is good enough if nothing is new
        db.execute("INSERT INTO sources (name) VALUES (?)", (scan.name,))
        known = KnownSource.find(db, scan.name)
        assert known is not None
    source = known.id

    repeated = 0
    reads_list = known.needs_reading(scan, as_begun)
    if reads_list:
        repeated = _write_entries(db, known, scan)
        db.commit()

    if not is_current:
        mark_changed(db, source, scan, as_begun=as_begun)
    probed, lost = probe_new(db, source, scan, pool, progress=progress, as_begun=as_begun)

    fingerprint, crc = db.execute(
        "SELECT fingerprint, entries_crc FROM sources WHERE id = ?", (source,)
    ).fetchone()
    if not probed and fingerprint is not None:
        read_columns(db, source, fingerprint)  # SQLite does not see bits that flip
    else:
        if not reads_list and crc != _entries_crc(db, source):
            raise DamagedCatalogError("the entries of the list changed")
        write_columns(
            db,
            source,
            by_video=scan.config.media_kind.has_pieces,
            keep_all=scan.config.pieces == "all",
            multi_label=scan.multi_label,
        )
    db.commit()
    return summarise(
        db,
        source,
        scan,
        probed=probed,
        repeated=repeated,
        lost=lost,
        left_out=left_out_path(path),
    )


def _write_entries(db: sqlite3.Connection, known: KnownSource, scan: SourceScan) -> int:
    """Make media and entries match the list.

    Returns:
        How many lines repeat another.

    Raises:
        UserError: for missing files and wrong lines.
    """
    source = known.id
    config = scan.config
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS listed (path TEXT, label INTEGER, unit TEXT, first REAL,"
        " last REAL, video TEXT, positive INTEGER, line INTEGER, list INTEGER, labels TEXT,"
        " archive TEXT, offset INTEGER, size INTEGER)"
    )
    db.execute("DELETE FROM listed")
    clear_left_out(db, source, LISTING)
    left_out = LeftOut(partial(write_left_out, db, source, LISTING))
    form, rows, watched = scan.read(left_out)
    total = db.executemany(
        "INSERT INTO listed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
    ).rowcount
    left_out.flush()
    db.execute("CREATE INDEX IF NOT EXISTS temp.listed_path ON listed (path)")

    if (known.root, known.kind, known.pattern) != (scan.root, config.kind, config.pattern):
        db.execute("DELETE FROM media WHERE source = ?", (source,))
    elif known.links != config.links:  # the reason of many states
        db.execute("UPDATE media SET state = ? WHERE source = ?", (NEW, source))
    elif known.rules != RULES:  # files were left out whose formats are read now
        db.execute(
            "UPDATE media SET state = ? WHERE source = ?"
            " AND (state GLOB 'not a*:*' OR state GLOB 'a codec that the gate*')",
            (NEW, source),
        )
    _match_media(db, source)
    kept = _replace_entries(db, source, by_video=config.media_kind.has_pieces)

    found = {
        "kind": config.kind,
        "root": scan.root,
        "pattern": config.pattern,
        "format": form,
        "left_out": json.dumps(left_out.counts),
        "pixel_aspect": config.pixel_aspect,
        "signature": scan.signature(watched, scan.matches()),
        "watched": json.dumps(watched),
        "fingerprint": None,
        "entries_crc": _entries_crc(db, source),
    }
    db.execute(
        f"UPDATE sources SET {', '.join(f'{name} = :{name}' for name in found)} WHERE id = :id",
        {**found, "id": source},
    )
    if total > kept:
        _note_repeated(db, source, watched)
    return total - kept


def _note_repeated(db: sqlite3.Connection, source: int, lists: Sequence[str]) -> None:
    """Name the lines that repeat another; they are counted on their own."""
    repeated = LeftOut(partial(write_left_out, db, source, LISTING))
    for path, line, number in db.execute(
        "SELECT path, line, list FROM listed WHERE rowid NOT IN"
        " (SELECT MIN(rowid) FROM listed GROUP BY path, label, labels, unit, first, last)"
    ):
        repeated.add(path, REPEATED, f"{lists[number]}, line {line}" if line else "")
    repeated.flush()


def _match_media(db: sqlite3.Connection, source: int) -> None:
    # members of a tar have no time of their own: they are probed again if they moved
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


def _replace_entries(db: sqlite3.Connection, source: int, by_video: bool) -> int:
    """Make the entries anew in the list's order, without repetitions; return how many."""
    order = "l.rowid"
    if by_video:
        order = "MIN(l.rowid) OVER (PARTITION BY l.video, l.label, l.labels), l.rowid"
    db.execute("DELETE FROM entries WHERE source = ?", (source,))
    # a removed piece whose file is not needed is an entry all the same: the numbers of the others
    # count it
    return db.execute(
        "INSERT INTO entries"
        " (source, media, label, unit, first, last, video, positive, line, list, labels)"
        " SELECT ?, COALESCE(m.id, 0), l.label, l.unit, l.first, l.last, l.video, l.positive,"
        " l.line, l.list, l.labels"
        " FROM listed l LEFT JOIN media m ON m.source = ? AND m.path = l.path WHERE l.rowid IN"
        " (SELECT MIN(rowid) FROM listed GROUP BY path, label, labels, unit, first, last)"
        f" ORDER BY {order}",
        (source, source),
    ).rowcount


def _entries_crc(db: sqlite3.Connection, source: int) -> int:
    """Compute the checksum of a source's entries."""
    crc = 0
    for *row, labels in db.execute(
        "SELECT media, label, unit, first, last, video, positive, labels FROM entries"
        " WHERE source = ? ORDER BY id",
        (source,),
    ):
        # catalogs from before there were several labels keep their checksums
        row = (*row, labels) if labels else tuple(row)
        crc = zlib.crc32(repr(row).encode("utf-8", "surrogatepass"), crc)
    return crc
