"""What has changed since the catalog was built: lists, and the files that they name."""

import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.integrity import DamagedCatalogError
from omnidali.catalog.database.source_table import COLUMNS
from omnidali.catalog.database.sql_schema import NEW
from omnidali.catalog.listing.scan import MULTI_LABEL, SIGNED, SourceScan
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.catalog.probing.probe import OK, UNREADABLE
from omnidali.catalog.probing.root_guard import LINK_LEAVES, escape_reason
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError

T = TypeVar("T")
_CheckedRow: TypeAlias = tuple[Any, ...]  # id, path, size, time and tar of a file
# files of a source whose size and time are compared at a warm start; of more than that
CHECKED_AT_START = 100_000
SAMPLE_AT_START = 20_000  # these, evenly spread


class KnownSource(NamedTuple):
    """The catalog's entry for a source and its list.

    Attributes:
        id: of the source in the catalog.
        signature: of :meth:`SourceScan.signature` when the list was read; None: read it again.
        watched: JSON list of the paths that the signature covers.
        left_out: JSON object of reasons and counts.
        root: real path of the source's folder.
        kind: of the source.
        pattern: of file names.
    """

    id: int
    signature: str | None
    watched: str | None
    left_out: str | None
    root: str | None
    kind: str | None
    pattern: str | None

    @classmethod
    def find(cls, db: sqlite3.Connection, name: str) -> "KnownSource | None":
        """Read the row of the source ``name``; None if there is none."""
        row = db.execute(
            f"SELECT {', '.join(cls._fields)} FROM sources WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else cls._make(row)

    @property
    def links(self) -> object:
        """The setting ``links`` with which the list was read; None: it never was."""
        settings = parse_stored(self.signature, list)[0] if self.signature else []
        return dict(zip(SIGNED, settings, strict=False)).get("links")

    @property
    def rules(self) -> object:
        """The rules by which the list was read; None: by those before there were numbers."""
        signature = parse_stored(self.signature, list) if self.signature else []
        return signature[5] if len(signature) > 5 else None

    def needs_reading(self, scan: SourceScan, as_begun: bool) -> bool:
        """Whether the list is to be read, as it is new or changed.

        Args:
            scan: the source as its config has it now.
            as_begun: whether only what the user decides on counts, for a resumed run.
        """
        config = scan.config
        if (self.root, self.kind, self.pattern) != (scan.root, config.kind, config.pattern):
            return True
        watched = parse_stored(self.watched or "[]", list)
        if as_begun and self.signature is not None:
            now = scan.signature(watched, matches=[])
            return _users_part(self.signature, scan) != _users_part(now, scan)

        if scan.signature(watched, scan.matches()) != self.signature:
            return True
        # the disk may give by now what it did not give then
        left_out = parse_stored(self.left_out or "{}", dict)
        return any(reason.startswith(UNREADABLE) for reason in left_out)


def would_change(
    path: Path,
    sources: Mapping[str, MediaConfig],
    data_root: Path,
    classes: list[str] | None,
    *,
    multi_label: bool = False,
) -> bool | None:
    """Whether a build would write to the catalog of a resumed run.

    It would if lists or media have changed.

    Args:
        path: of the catalog.
        sources: by name.
        data_root: folder that lists and roots start from.
        classes: names in label order; none: numbers alone.
        multi_label: whether an item may have several labels.

    Returns:
        None if there is no good catalog, which is built again, and for one of an older version:
            bringing it up to date may take hours, and does no harm.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(connect(path, read_only=True)) as db:
            return any(
                _source_changed(
                    db,
                    SourceScan.of(
                        name, source, data_root, classes=classes, multi_label=multi_label
                    ),
                )
                for name, source in sources.items()
            )
    except (UserError, DamagedCatalogError, sqlite3.Error):
        return None


def _source_changed(db: sqlite3.Connection, scan: SourceScan) -> bool:
    known = KnownSource.find(db, scan.name)
    if known is None or known.needs_reading(scan, as_begun=True):
        return True
    (new,) = db.execute(
        "SELECT COUNT(*) FROM media WHERE source = ? AND state = ?", (known.id, NEW)
    ).fetchone()
    usable = _usable_rows(db, known.id)
    return bool(new or _find_changed(db, known.id, scan.root, usable, as_begun=True))


def mark_changed(db: sqlite3.Connection, source: int, scan: SourceScan, as_begun: bool) -> None:
    """Set files back to ``new`` whose size or time is not what it was at the probe.

    So are files whose links lead elsewhere: those that left the root are looked at again, and
    those that leave it now.

    Args:
        db: the open catalog.
        source: its id of the source.
        scan: the source.
        as_begun: whether to look at usable files alone, and at what they hold alone.
    """
    usable = _usable_rows(db, source)
    changed = _find_changed(db, source, scan.root, usable, as_begun=as_begun)
    if not as_begun and not scan.config.follows_links:
        changed += _find_moved_links(db, source, scan.root, usable)
    db.executemany("UPDATE media SET state = ? WHERE id = ?", [(NEW, record) for record in changed])
    db.commit()


def _find_changed(
    db: sqlite3.Connection, source: int, root: str, usable: list[_CheckedRow], *, as_begun: bool
) -> list[int]:
    """The catalog ids of files with another size or time, of usable ones and others."""
    rows = usable
    if not as_begun:
        # two ranges instead of <>: the index finds them, and passes over millions of usable files
        refused = [
            row
            for side in "<>"
            for row in db.execute(
                f"SELECT id FROM media WHERE source = ? AND state {side} ? AND state <> ?",
                (source, OK, NEW),
            )
        ]
        rows = rows + _checked_rows(db, np.array(refused, np.int64).reshape(-1))

    # a tar has many members
    @functools.lru_cache(maxsize=1000)
    def stamp(path: str) -> tuple[int | None, int | None]:
        return stamp_of(os.path.join(root, path))

    return [
        record
        for record, path, size, mtime, archive in rows
        if (stamp(path)[1] != mtime if archive else stamp(path) != (size, mtime))
    ]


def _usable_rows(db: sqlite3.Connection, source: int) -> list[_CheckedRow]:
    """Rows as below, of the files that samples are made of."""
    chunks = db.execute(
        "SELECT data FROM packed WHERE source = ? AND name = 'records' ORDER BY chunk", (source,)
    )
    records = np.frombuffer(b"".join(data for (data,) in chunks), COLUMNS["records"])
    return _checked_rows(db, records)


def _checked_rows(db: sqlite3.Connection, records: np.ndarray) -> list[_CheckedRow]:
    """Id, path, size, time and tar of files, of many an even sample."""
    if len(records) > CHECKED_AT_START:
        records = records[np.linspace(0, len(records) - 1, SAMPLE_AT_START).astype(np.int64)]
    return db.execute(
        "SELECT id, COALESCE(archive, path), bytes, mtime_ns, archive FROM media WHERE id IN"
        " (SELECT value FROM json_each(?))",
        (json.dumps(records.tolist()),),
    ).fetchall()


def _find_moved_links(
    db: sqlite3.Connection, source: int, root: str, usable: list[_CheckedRow]
) -> list[int]:
    """The catalog ids of files that a link led out of the root, or leads now, but not both."""

    @functools.lru_cache(maxsize=10_000)
    def folder_leaves(folder: str) -> bool:
        return escape_reason(root, folder) is not None

    def leaves(path: str) -> bool:
        if folder_leaves(os.path.dirname(path) or os.curdir):
            return True
        return os.path.islink(os.path.join(root, path)) and escape_reason(root, path) is not None

    refused = db.execute(
        "SELECT id, COALESCE(archive, path) FROM media WHERE source = ? AND state = ?",
        (source, LINK_LEAVES),
    ).fetchall()
    return [
        *(record for record, path, *_ in usable if leaves(path)),
        *(record for record, path in refused if not leaves(path)),
    ]


def parse_stored(text: str, kind: type[T]) -> T:
    """Parse a JSON text of the catalog, which must hold a value of the type ``kind``.

    Raises:
        DamagedCatalogError: if it is not as it was written.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = None
    if not isinstance(value, kind):
        raise DamagedCatalogError("a text that is not as it was written")
    return value


def _users_part(signature: str, scan: SourceScan) -> tuple[object, ...]:
    """The part of a signature that the user decides on, without the files found in folders."""
    settings, root, classes, _, watched, *rules = parse_stored(signature, list)
    lists = [str(path) for path in scan.lists()]
    if scan.config.labels:
        lists.append(str(scan.data_root / scan.config.labels))
    stamps = [[path, stamp] for path, stamp in watched if path in lists]
    return settings, root, classes, stamps, MULTI_LABEL in rules
