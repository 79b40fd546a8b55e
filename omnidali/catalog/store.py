"""The catalog's SQLite file: one row a media file, and packed columns that load as arrays."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnidali.catalog.probe import unpack_numbers
from omnidali.errors import UserError

VERSION = 1
NEW, OK = "new", "ok"  # states; anything else is the reason for which a file is left out
CHUNK = 1 << 20  # rows in one packed column piece

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, kind TEXT, root TEXT, signature TEXT, folders TEXT, fingerprint TEXT);
CREATE TABLE IF NOT EXISTS media (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL, path TEXT NOT NULL, label INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'new', container TEXT, codec TEXT, width INTEGER, height INTEGER, frames INTEGER,
    frame_rate REAL, rotation INTEGER, timing BLOB, keyframes BLOB, bytes INTEGER, mtime_ns INTEGER,
    UNIQUE (source, path, label));
CREATE INDEX IF NOT EXISTS media_state ON media (source, state);
CREATE TABLE IF NOT EXISTS packed (
    source INTEGER, name TEXT, chunk INTEGER, data BLOB, PRIMARY KEY (source, name, chunk));
"""
# What the plan needs of every row, as narrow as it fits; a codec is its place in the sorted list of codecs.
_COLUMNS = {"records": np.int64, "labels": np.int32, "widths": np.uint16, "heights": np.uint16, "frames": np.int32,
            "codecs": np.uint8}


@dataclass(frozen=True)
class Media:
    """What a decoder needs of one file. Sizes are upright pixels."""

    path: str
    container: str
    width: int
    height: int
    frames: int
    rotation: int
    timing: bytes
    keyframes: bytes

    @property
    def frame_times(self) -> np.ndarray | None:
        """Every frame's timestamp in presentation order, in stream ticks; None where the file has none."""
        times = unpack_numbers(self.timing)
        if not len(times):
            return None
        return times if len(times) == self.frames else times[0] + np.arange(self.frames) * (times[1] - times[0])


@dataclass(frozen=True, repr=False)
class SourceTable:
    """The usable rows of one source as arrays of length N, in catalog order.

    Attributes:
        records: int64, catalog ids. labels: int32, -1 for unlabelled. widths, heights: uint16, upright
            pixels. frames: int32. codecs: uint8, places in ``codec_names``.
        fingerprint: text that changes with any row, its order, label, size or length.
    """

    name: str
    kind: str
    records: np.ndarray
    labels: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    frames: np.ndarray
    codecs: np.ndarray
    codec_names: tuple[str, ...] = ()
    fingerprint: str = ""
    _reader: "CatalogReader | None" = field(default=None)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"SourceTable({self.name}, {self.kind}, {len(self):,} rows, codecs {', '.join(self.codec_names)})"

    def media(self, row: int) -> Media:
        """Everything the catalog knows of one row's file."""
        return self._reader.media(int(self.records[row]))


def connect(path: str | Path, read_only: bool = False) -> sqlite3.Connection:
    """Open the catalog file, making its tables if it is new.

    Raises:
        UserError: if it cannot be opened, is no catalog or comes from another version.
    """
    path = Path(path)
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        mode = "ro" if read_only else "rwc"
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=60)
        version, = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise UserError(str(path), f"a catalog of version {VERSION}", f"version {version}",
                            "Delete the file; it is rebuilt from the media.")
        if not read_only:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {VERSION}")
        return db
    except (sqlite3.Error, OSError) as error:
        raise UserError(str(path), "a catalog file that can be opened", str(error),
                        "Check the folder's permissions; a damaged file can be deleted, it is rebuilt.") from None


def pack(db: sqlite3.Connection, source: int) -> None:
    """Write the packed columns of a source's usable rows, and its fingerprint."""
    codecs = [name for name, in db.execute(
        "SELECT DISTINCT codec FROM media WHERE source = ? AND state = ? ORDER BY codec", (source, OK))]
    place = {name: index for index, name in enumerate(codecs)}
    digest = hashlib.sha256()
    db.execute("DELETE FROM packed WHERE source = ?", (source,))
    rows = db.execute("SELECT id, label, width, height, frames, codec, path FROM media"
                      " WHERE source = ? AND state = ? ORDER BY id", (source, OK))
    chunk = 0
    while batch := rows.fetchmany(CHUNK):
        *numbers, names, paths = zip(*batch)
        numbers.append([place[name] for name in names])
        for (name, dtype), values in zip(_COLUMNS.items(), numbers):
            data = np.asarray(values, dtype).tobytes()
            if name != "records":  # ids depend on the history of the file, not on its content
                digest.update(data)
            db.execute("INSERT INTO packed VALUES (?, ?, ?, ?)", (source, name, chunk, data))
        digest.update("\n".join(paths).encode())
        chunk += 1
    db.execute("INSERT INTO packed VALUES (?, 'codec_names', 0, ?)", (source, json.dumps(codecs)))
    db.execute("UPDATE sources SET fingerprint = ? WHERE id = ?", (digest.hexdigest(), source))


class CatalogReader:
    """Read-only access for many threads: tables of sources, and media by record."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._local = threading.local()

    @property
    def _db(self) -> sqlite3.Connection:
        if getattr(self._local, "pid", None) != os.getpid():  # connections must not cross threads or forks
            self._local.db, self._local.pid = connect(self.path, read_only=True), os.getpid()
        return self._local.db

    def table(self, name: str) -> SourceTable:
        """Load the usable rows of the source ``name``.

        Raises:
            UserError: if the catalog does not hold it.
        """
        row = self._db.execute("SELECT id, kind, fingerprint FROM sources WHERE name = ?", (name,)).fetchone()
        if row is None or row[2] is None:
            raise UserError(str(self.path), f"the source {name} in the catalog", "nothing", "Start the run again.")
        source, kind, fingerprint = row
        columns = {}
        for column, dtype in _COLUMNS.items():
            pieces = [np.frombuffer(data, dtype) for data, in self._db.execute(
                "SELECT data FROM packed WHERE source = ? AND name = ? ORDER BY chunk", (source, column))]
            columns[column] = np.concatenate(pieces) if pieces else np.zeros(0, dtype)
        names, = self._db.execute("SELECT data FROM packed WHERE source = ? AND name = 'codec_names'",
                                  (source,)).fetchone()
        return SourceTable(name, kind, **columns, codec_names=tuple(json.loads(names)), fingerprint=fingerprint,
                           _reader=self)

    def media(self, record: int) -> Media:
        """What a decoder needs of the file with this catalog id; KeyError if there is none."""
        row = self._db.execute(
            "SELECT s.root, m.path, m.container, m.width, m.height, m.frames, m.rotation, m.timing,"
            " m.keyframes FROM media m JOIN sources s ON s.id = m.source WHERE m.id = ?", (record,)).fetchone()
        if row is None:
            raise KeyError(f"no record {record} in {self.path}")
        root, path, *rest = row
        return Media(os.path.join(root, path), *rest)
