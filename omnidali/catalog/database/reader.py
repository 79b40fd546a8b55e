"""Read-only access to the catalog for the many threads of a run."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnidali.catalog.database.columns import read_columns
from omnidali.catalog.database.connection import connect, warn_waiting
from omnidali.catalog.database.integrity import damage, may_pass, reporting_damage
from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import COLUMNS, SourceTable
from omnidali.catalog.database.sql_schema import MEDIA_COLUMNS, RARE_COLUMNS, media_crc
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.probe import Probe, stretched
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

_ASKED = 10_000  # files that are asked for at once
# for which a disk that gives errors, or a lack of descriptors, may last
_TROUBLE_SECONDS = 60.0
_TROUBLE_PAUSE = 0.2


@dataclass
class _Spare:
    """A connection that works on after the file was deleted, or another one took its name.

    SQLite cannot open a file again that has no name. Every user of ``db`` holds ``lock``.
    """

    db: sqlite3.Connection
    identity: tuple[int, int] | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    pid: int = field(default_factory=os.getpid)


class CatalogReader:
    """Tables of sources, and media by record, for many threads.

    It keeps working if the catalog is deleted or replaced by another one.

    Args:
        path: of the catalog.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._local = threading.local()
        self._opening = threading.Lock()
        self._spare: _Spare | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # connections stay in their process: another one opens the file itself
        return type(self), (self.path,)

    def table(self, name: str) -> SourceTable:
        """Load the usable rows of the source ``name``.

        Raises:
            UserError: if the catalog does not hold it, or is damaged.
        """
        with reporting_damage(self.path):
            row = self._db.execute(
                "SELECT id, kind, fingerprint, pixel_aspect FROM sources WHERE name = ?", (name,)
            ).fetchone()
            if row is None or row[2] is None:
                raise UserError(
                    str(self.path),
                    f"the source {name} in the catalog",
                    "nothing",
                    "Start the run again.",
                )
            source, kind, fingerprint, pixel_aspect = row
            packed = read_columns(self._db, source, fingerprint)

        codec_names = tuple(json.loads(packed.pop("codec_names")[0]))
        paths, count = json.loads(packed.pop("irregular", [b"[[], 0]"])[0])

        # each column is freed once its array is made: they are large
        columns = {}
        while packed:
            column, chunks = packed.popitem()
            columns[column] = np.concatenate(
                [np.frombuffer(data, COLUMNS[column]) for data in chunks]
            )
        sets = None
        if "set_sizes" in columns:
            sets = LabelSets.of(columns["set_sizes"], columns["set_labels"])
        return SourceTable(
            name=name,
            kind=MediaKind(kind),
            records=columns["records"],
            labels=columns["labels"] if sets is None else sets.rarest(),
            label_sets=sets,
            widths=columns["widths"],
            heights=columns["heights"],
            frames=columns["frames"],
            codecs=columns["codecs"],
            firsts=columns.get("firsts"),
            starts=columns.get("starts"),
            positives=columns.get("positives"),
            codec_names=codec_names,
            fingerprint=fingerprint,
            irregular=(tuple(paths), count),
            stretches=pixel_aspect == "apply",
            _reader=self,
        )

    def owners(self, name: str, records: np.ndarray) -> Iterator[str]:
        """See :meth:`SourceTable.owners`; of files of the source ``name``."""
        with reporting_damage(self.path):
            videos = dict(
                self._db.execute(
                    "SELECT media, video FROM entries WHERE unit = '' AND video <> '' AND"
                    " source = (SELECT id FROM sources WHERE name = ?)",
                    (name,),
                )
            )
            for start in range(0, len(records), _ASKED):
                ids = records[start : start + _ASKED].tolist()
                files = media_files(self._db, self.path, set(ids))
                yield from (
                    os.path.normpath(videos.get(record) or files[record][1]) for record in ids
                )

    def find_record(self, name: str, path: str) -> int | None:
        """Look up the catalog id of the file at a path of the source ``name``."""
        with reporting_damage(self.path):
            source = self._row("SELECT id, root FROM sources WHERE name = ?", (name,))
            if source is None:
                return None

            below = os.path.join(source[1], "")
            names = [path, path[len(below) :]] if path.startswith(below) else [path]
            row = self._row(
                "SELECT id FROM media"
                " WHERE source = ? AND path IN (SELECT value FROM json_each(?))",
                (source[0], json.dumps(names)),
            )
            return None if row is None else row[0]

    def media(self, record: int, stretches: bool = False) -> Media:
        """Look up what a decoder needs of the file with this catalog id.

        Args:
            record: the catalog id.
            stretches: as in :class:`SourceTable`.

        Raises:
            UserError: if another run with other lists has taken it out, or the catalog is damaged.
        """
        names = (*MEDIA_COLUMNS, *RARE_COLUMNS)
        with reporting_damage(self.path):
            row = self._row(
                f"SELECT s.root, m.crc, m.{', m.'.join(names)}"
                " FROM media m JOIN sources s ON s.id = m.source WHERE m.id = ?",
                (record,),
            )
        if row is None:
            raise taken_out(self.path)

        root, crc, *values = row
        known = dict(zip(names, values, strict=True))
        if crc is not None and crc != media_crc(root, known):
            raise damage(self.path, f"the row of {ascii(known['path'])} changed")

        path = os.path.join(root, known["path"])
        span = FileSpan(path)
        if known["archive"] is not None:
            span = FileSpan(
                os.path.join(root, known["archive"]), known["offset"], size=known["size"]
            )
        stored = known["width"], known["height"]
        if stretches:
            known["width"], known["height"] = stretched(*stored, known["aspect"])
        known["mirrored"] = bool(known["mirrored"])
        return Media(
            **{name: known[name] for name in Probe.__dataclass_fields__},
            path=path,
            span=span,
            stamp=(known["bytes"], known["mtime_ns"]),
            stored=stored,
        )

    @property
    def _db(self) -> sqlite3.Connection:
        # connections must not cross threads or forks
        if not self._is_open:
            if not self._is_there():
                raise UserError(
                    str(self.path),
                    "the catalog that the run began with",
                    "another file, or none: the catalog was deleted while the run used it",
                    "Start again with --resume auto; it is rebuilt.",
                )
            self._local.db = connect(self.path, read_only=True)
            self._local.pid = os.getpid()
        return self._local.db

    @property
    def _is_open(self) -> bool:
        return getattr(self._local, "pid", None) == os.getpid()

    def _is_there(self) -> bool:
        """Whether the file is the one that was opened first: in others, ids mean other files."""
        with self._opening:
            if self._spare is None:
                db = connect(self.path, read_only=True, is_shared=True)
                self._spare = _Spare(db, _identity(self.path))
            return _identity(self.path) == self._spare.identity

    def _row(self, statement: str, parameters: tuple) -> tuple | None:
        """The first row of an answer. A disk or a machine in trouble is asked again for a while."""
        begun = time.monotonic()
        while True:
            try:
                return self._ask(statement, parameters)
            except (sqlite3.Error, UserError) as error:
                cause = error.__cause__ if isinstance(error, UserError) else error
                if (
                    not may_pass(cause)
                    or not self.path.exists()
                    or time.monotonic() - begun > _TROUBLE_SECONDS
                ):
                    raise
            warn_waiting(self.path, f"its disk or this machine: {cause}", time.monotonic() - begun)
            time.sleep(_TROUBLE_PAUSE)

    def _ask(self, statement: str, parameters: tuple) -> tuple | None:
        if not self._is_open and not self._is_there():
            spare = self._spare
            if spare is not None and spare.pid == os.getpid():
                with spare.lock:
                    return spare.db.execute(statement, parameters).fetchone()
        return self._db.execute(statement, parameters).fetchone()


def media_files(
    db: sqlite3.Connection, catalog: Path, records: Collection[int]
) -> dict[int, tuple[str, str, tuple[int | None, int | None]]]:
    """Look up root, path below it, and (size, time in nanoseconds) of files by their ids.

    Args:
        db: the open catalog.
        catalog: its path, for errors.
        records: different ids.

    Raises:
        UserError: if another run with other lists has taken one out.
    """
    rows = db.execute(
        "SELECT m.id, s.root, m.path, m.bytes, m.mtime_ns FROM media m"
        " JOIN sources s ON s.id = m.source WHERE m.id IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(records)),),
    )
    files = {record: (root, path, (size, mtime)) for record, root, path, size, mtime in rows}
    if len(files) < len(records):
        raise taken_out(catalog)
    return files


def taken_out(path: Path) -> UserError:
    """The error that a file is gone from the catalog at ``path`` while something uses it."""
    return UserError(
        str(path),
        "the files that were there at the start",
        "one that is gone: another run has read other lists into this catalog",
        "Give runs with other lists a `catalog` of their own, then resume.",
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """What distinguishes files of the same name; None if there is no file."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except OSError:
        return None
