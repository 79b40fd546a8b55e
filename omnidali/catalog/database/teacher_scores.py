"""Scores of media by teachers, kept in the catalog: committed ones are never computed twice.

A score belongs to a path and its frames, not to a row of a list, so lists may change. It counts as
long as the file has the size and time that it had when it was scored.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.integrity import crc_of, reporting_damage
from omnidali.catalog.database.reader import media_files
from omnidali.catalog.database.source_table import SourceTable
from omnidali.errors import UserError

_COMMIT_SECONDS = 2.0  # what a killed run loses at most
_WRITABLE = "a catalog in which scores can be written"
_CHUNK = 10_000  # rows whose scores are in memory at a time
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS teachers (id INTEGER PRIMARY KEY, digest TEXT NOT NULL,"
    " classes TEXT NOT NULL, settings TEXT NOT NULL, name TEXT,"
    " UNIQUE (digest, classes, settings))",
    "CREATE TABLE IF NOT EXISTS scores (teacher INTEGER NOT NULL, path TEXT NOT NULL,"
    " first INTEGER NOT NULL, frames INTEGER NOT NULL, size INTEGER, mtime_ns INTEGER, logs BLOB,"
    " crc INTEGER, PRIMARY KEY (teacher, path, first, frames)) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Scorer:
    """A teacher and its settings; scores of an equal one are used again.

    Attributes:
        digest: of the weights.
        name: for people.
        classes: names in the order of the scores.
        settings: text of the views, clips and precision that the scores depend on.
    """

    digest: str
    name: str
    classes: tuple[str, ...]
    settings: str


# the key of a score (path, first frame, frames), and the file's size and time
_Place = tuple[tuple[str, int, int], tuple[int | None, int | None]]


class ScoreStore:
    """The scores of one teacher. A context manager for the one process that writes.

    Args:
        path: of the catalog.
        scorer: the teacher.

    Raises:
        UserError: if the catalog is damaged, or cannot be written though it has to be; also from
            all methods, and where another run with other lists has taken files out.
    """

    def __init__(self, path: str | Path, scorer: Scorer):
        self.path = Path(path)
        self._classes = len(scorer.classes)
        self._last_commit = time.monotonic()
        with reporting_damage(self.path):
            self._db = connect(self.path)
        with reporting_damage(self.path, _WRITABLE):
            self._teacher = self._find(scorer)

    def __enter__(self) -> "ScoreStore":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Commit, unless there was an error; earlier commits stay."""
        try:
            if kind is None:
                self.commit()
        finally:
            self._db.close()

    def missing(self, table: SourceTable) -> tuple[np.ndarray, int]:
        """Find the rows of a table with one piece a row that have no score.

        Returns:
            Rows int64 (n,), of equal pieces only the first; and how many of them did not decode
                when they were tried, and shall have another chance.
        """
        pieces = np.stack([table.records, _firsts(table), table.frames.astype(np.int64)], axis=1)
        _, rows = np.unique(pieces, axis=0, return_index=True)
        rows.sort()

        # of the scores, which take 800 bytes a row for 400 classes
        lengths = np.array(
            [
                -1 if logs is None else len(logs)
                for start in range(0, len(rows), _CHUNK)
                for logs in self._look_up(table, rows[start : start + _CHUNK])
            ],
            np.int64,
        )
        return rows[lengths <= 0], int((lengths == 0).sum())

    def add(
        self, table: SourceTable, rows: np.ndarray, logs: np.ndarray, decoded: np.ndarray
    ) -> None:
        """Keep the scores of rows.

        Args:
            table: with one piece a row.
            rows: int64 (n,).
            logs: log-probabilities float (n, classes).
            decoded: bool (n,), whether the row decoded; if not, only that is kept.
        """
        with reporting_damage(self.path, _WRITABLE):
            values = []
            for (key, stamp), scores, good in zip(
                self._places(table, rows), logs, decoded, strict=True
            ):
                blob = scores.astype("<f2").tobytes() if good else b""
                row = (*key, *stamp, blob)
                values.append((self._teacher, *row, crc_of(*row)))
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )
        if time.monotonic() - self._last_commit > _COMMIT_SECONDS:
            self.commit()

    def read(self, table: SourceTable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (rows, log-probabilities float32 (n, classes)) of all rows in order.

        The log-probabilities of what does not decode are NaN.

        Raises:
            UserError: if a row has no score.
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
        """Write the added scores to the disk."""
        with reporting_damage(self.path, _WRITABLE):
            self._db.commit()
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
        """The scores' bytes: empty for what does not decode, None if none counts."""
        found: list[bytes | None] = []
        with reporting_damage(self.path, _WRITABLE):
            for key, stamp in self._places(table, rows):
                row = self._db.execute(
                    "SELECT size, mtime_ns, logs, crc FROM scores WHERE teacher = ? AND path = ?"
                    " AND first = ? AND frames = ?",
                    (self._teacher, *key),
                ).fetchone()
                counts = (
                    row is not None
                    and row[:2] == stamp
                    and row[3] == crc_of(*key, *row[:3])
                    and len(row[2]) in (0, 2 * self._classes)
                )
                found.append(row[2] if counts else None)
        return found

    def _places(self, table: SourceTable, rows: np.ndarray) -> list[_Place]:
        records = table.records[rows].tolist()
        firsts = _firsts(table)[rows].tolist()
        frames = table.frames[rows].tolist()
        files = media_files(self._db, self.path, set(records))
        return [
            ((os.path.join(*files[record][:2]), first, count), files[record][2])
            for record, first, count in zip(records, firsts, frames, strict=True)
        ]


def _firsts(table: SourceTable) -> np.ndarray:
    if table.firsts is None:
        return np.zeros(len(table.records), np.int64)
    return table.firsts.astype(np.int64)
