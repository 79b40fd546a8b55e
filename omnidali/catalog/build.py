"""Fill the catalog: read the lists, probe what is new or changed, count what is left out."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.changes import KnownSource, mark_changed
from omnidali.catalog.database.columns import read_columns, write_columns
from omnidali.catalog.database.connection import writing
from omnidali.catalog.database.entries import entries_crc, write_entries
from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    move_aside,
    only_build,
    reporting_damage,
)
from omnidali.catalog.listing.scan import SourceScan
from omnidali.catalog.probe_new import probe_new
from omnidali.catalog.probing.probe_pool import ProbePool
from omnidali.catalog.summary import Summary, summarise
from omnidali.config.schema import MediaConfig
from omnidali.utils.text_files import require_utf8_names


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
) -> list[Summary]:
    """Bring the catalog at ``path`` up to date with ``sources``.

    A source whose list has not changed costs a size-and-time check of its files (of an even sample
    above 100,000). A build that was killed goes on where it was; a damaged catalog is moved aside
    and made again; a second build at the same time waits for the first.

    Args:
        path: of the catalog.
        sources: by name.
        data_root: folder that lists and roots start from.
        classes: names in label order; none: numbers alone.
        threads: processes that probe; none: one for each core.
        progress: whether to show bars.
        as_begun: for a run that goes on: files that were usable when it began stay so, whatever
            became of them, and no other ones come. The loader finds the faults, as it does in a run
            that nobody stopped.
        is_current: whether :func:`~omnidali.catalog.changes.would_change` has just found that
            nothing changed, so that no file is asked again.

    Raises:
        UserError: for missing roots and lists, bad lines, and sources without any usable file.
    """
    require_utf8_names()
    path = Path(path)
    # before anything is made
    scans = [
        SourceScan.of(name, source, data_root, classes=classes) for name, source in sources.items()
    ]

    with (
        reporting_damage(path),
        only_build(path),
        ProbePool(threads or len(os.sched_getaffinity(0))) as pool,
    ):
        build = _Build(path, scans, pool, progress, as_begun, is_current)
        try:
            return build.run()
        except DamagedCatalogError as seen:
            try:
                move_aside(path, seen)
            except OSError:  # others own it
                raise seen from None
            return build.run()


@dataclass(frozen=True)
class _Build:
    """One pass over all sources; see :func:`build_catalog` for the fields."""

    path: Path
    scans: list[SourceScan]
    pool: ProbePool
    progress: bool
    as_begun: bool
    is_current: bool

    def run(self) -> list[Summary]:
        with writing(self.path) as db:
            return [self._bring_up_to_date(db, scan) for scan in self.scans]

    def _bring_up_to_date(self, db: sqlite3.Connection, scan: SourceScan) -> Summary:
        known = KnownSource.find(db, scan.name)
        if known is None:  # a catalog that cannot be written is good enough where nothing is new
            db.execute("INSERT INTO sources (name) VALUES (?)", (scan.name,))
            known = KnownSource.find(db, scan.name)
            assert known is not None
        source = known.id

        repeated = 0
        reads_list = known.needs_reading(scan, self.as_begun)
        if reads_list:
            watched, repeated = write_entries(db, source, scan)
            db.execute(
                "UPDATE sources SET signature = ?, watched = ?, fingerprint = NULL,"
                " entries_crc = ? WHERE id = ?",
                (
                    scan.signature(watched, scan.tars()),
                    json.dumps(watched),
                    entries_crc(db, source),
                    source,
                ),
            )
            db.commit()

        if not self.is_current:
            mark_changed(db, source, scan.root, as_begun=self.as_begun)
        probed, lost = probe_new(
            db, source, scan, self.pool, progress=self.progress, as_begun=self.as_begun
        )

        fingerprint, crc = db.execute(
            "SELECT fingerprint, entries_crc FROM sources WHERE id = ?", (source,)
        ).fetchone()
        if not probed and fingerprint is not None:
            read_columns(db, source, fingerprint)  # SQLite does not see bits that flip
        else:
            if not reads_list and crc != entries_crc(db, source):
                raise DamagedCatalogError("the entries of the list changed")
            write_columns(
                db,
                source,
                by_video=scan.config.media_kind.has_pieces,
                keep_all=scan.config.pieces == "all",
            )
        db.commit()
        return summarise(db, source, scan, probed=probed, repeated=repeated, lost=lost)
