"""What a teacher said of media, kept in the catalog: nothing that was committed is ever scored
twice.

A score belongs to a path and its frames, not to a row of a list, so lists may change. It counts as
long as the file has the size and time that it had when it was scored.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    crc_of,
    damage,
    is_damage,
    trouble,
)
from omnidali.catalog.database.store import SourceTable, connect, media_files
from omnidali.errors import UserError

T = TypeVar("T")
_COMMIT_SECONDS = 2.0  # what a killed run loses at most
_CHUNK = 10_000  # rows whose scores are in memory at a time
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS teachers (id INTEGER PRIMARY KEY, digest TEXT NOT NULL, classes TEXT NOT NULL,"
    " settings TEXT NOT NULL, name TEXT, UNIQUE (digest, classes, settings))",
    "CREATE TABLE IF NOT EXISTS scores (teacher INTEGER NOT NULL, path TEXT NOT NULL, first INTEGER NOT NULL,"
    " frames INTEGER NOT NULL, size INTEGER, mtime_ns INTEGER, logs BLOB, crc INTEGER,"
    " PRIMARY KEY (teacher, path, first, frames)) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Scorer:
    """Who scores, and how; scores of an equal one are used again.

    Attributes:
        digest: of the weights. name: for people. classes: names in the order of the scores.
        settings: text of the views, clips and precision that the scores depend on.
    """

    digest: str
    name: str
    classes: tuple[str, ...]
    settings: str


@dataclass(frozen=True)
class _Place:
    """The key of a score, and the file's size and time."""

    key: tuple[str, int, int]
    stamp: tuple[int | None, int | None]


class ScoreStore:
    """The scores of one teacher in the catalog at ``path``. A context manager for the one process
    that writes.

    Raises:
        UserError: if the catalog is damaged, or cannot be written though it has to be; also from
            all that is asked of it, and where another run with other lists has taken files out.
    """

    def __init__(self, path: str | Path, scorer: Scorer):
        self.path, self._classes, self._last_commit = (
            Path(path),
            len(scorer.classes),
            time.monotonic(),
        )
        try:
            self._db = connect(self.path)
        except DamagedCatalogError as seen:
            raise damage(self.path, seen) from None
        self._teacher = self._try(lambda: self._find(scorer))

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        """Commit, unless an error came; what was committed before it stays."""
        try:
            if kind is None:
                self.commit()
        finally:
            self._db.close()

    def missing(self, table: SourceTable) -> tuple[np.ndarray, int]:
        """Rows int64 (n,) of a table with a piece a row that have no score, of equal ones only the
        first; how many of them did not decode when they were tried, and shall have another chance.
        """
        pieces = np.stack([table.records, _firsts(table), table.frames.astype(np.int64)], 1)
        _, rows = np.unique(pieces, axis=0, return_index=True)
        rows.sort()
        # of the scores, which take 800 bytes a row for 400 classes
        lengths = np.zeros(len(rows), np.int64)
        for start in range(0, len(rows), _CHUNK):
            lengths[start : start + _CHUNK] = [
                -1 if logs is None else len(logs)
                for logs in self._look_up(table, rows[start : start + _CHUNK])
            ]
        return rows[lengths <= 0], int((lengths == 0).sum())

    def add(
        self, table: SourceTable, rows: np.ndarray, logs: np.ndarray, decoded: np.ndarray
    ) -> None:
        """Keep log-probabilities (n, classes) of rows; of those that did not decode, that they did
        not.
        """
        values = []
        for place, scores, good in zip(self._places(table, rows), logs, decoded):
            blob = scores.astype("<f2").tobytes() if good else b""
            row = (*place.key, *place.stamp, blob)
            values.append((self._teacher, *row, crc_of(*row)))
        self._try(
            lambda: self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )
        )
        if time.monotonic() - self._last_commit > _COMMIT_SECONDS:
            self.commit()

    def read(self, table: SourceTable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (rows, log-probabilities float32 (n, classes)) of all rows in order; NaN for what
        does not decode.

        Raises:
            UserError: if one has no score.
        """
        for start in range(0, len(table), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(table)))
            logs = np.full((len(rows), self._classes), np.nan, np.float32)
            for place, blob in enumerate(self._look_up(table, rows)):
                if blob is None:
                    raise UserError(
                        str(self.path),
                        "a score of every file",
                        "files that changed meanwhile",
                        "Start again: what changed is scored anew.",
                    )
                if blob:
                    logs[place] = np.frombuffer(blob, "<f2")
            yield rows, logs

    def commit(self) -> None:
        """Put on the disk what was added."""
        self._try(self._db.commit)
        self._last_commit = time.monotonic()

    def _find(self, scorer: Scorer) -> int:
        for statement in _SCHEMA:
            self._db.execute(statement)
        key = (scorer.digest, json.dumps(scorer.classes), scorer.settings)
        known = "SELECT id FROM teachers WHERE digest = ? AND classes = ? AND settings = ?"
        row = self._db.execute(known, key).fetchone()
        if row is None:
            self._db.execute(
                "INSERT INTO teachers (digest, classes, settings, name) VALUES (?, ?, ?, ?)",
                (*key, scorer.name),
            )
            self._db.commit()
            row = self._db.execute(known, key).fetchone()
        return row[0]

    def _look_up(self, table: SourceTable, rows: np.ndarray) -> list[bytes | None]:
        """The scores' bytes: empty for what does not decode, None where there are none that count."""

        def one(place: _Place) -> bytes | None:
            row = self._db.execute(
                "SELECT size, mtime_ns, logs, crc FROM scores WHERE teacher = ? AND path = ?"
                " AND first = ? AND frames = ?",
                (self._teacher, *place.key),
            ).fetchone()
            if row is None or row[:2] != place.stamp or row[3] != crc_of(*place.key, *row[:3]):
                return None
            return row[2] if len(row[2]) in (0, 2 * self._classes) else None

        return self._try(lambda: [one(place) for place in self._places(table, rows)])

    def _places(self, table: SourceTable, rows: np.ndarray) -> list[_Place]:
        records, firsts, frames = (
            column[rows].tolist() for column in (table.records, _firsts(table), table.frames)
        )
        files = media_files(self._db, self.path, set(records))
        return [
            _Place((os.path.join(*files[record][:2]), first, count), files[record][2])
            for record, first, count in zip(records, firsts, frames)
        ]

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            if is_damage(error):
                raise damage(self.path, error) from None
            raise trouble(self.path, error, "a catalog in which scores can be written") from None


def _firsts(table: SourceTable) -> np.ndarray:
    return (
        np.zeros(len(table.records), np.int64)
        if table.firsts is None
        else table.firsts.astype(np.int64)
    )
