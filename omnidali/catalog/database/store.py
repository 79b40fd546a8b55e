"""The catalog's SQLite file: one row a media file, and packed columns that load as arrays."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from omnidali.catalog.database.connection import BUSY_SECONDS, WaitingConnection, say_waiting
from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    check_length,
    crc_of,
    damage,
    is_damage,
    may_pass,
    trouble,
)
from omnidali.catalog.database.migration import UPGRADED, upgrade
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.image_probe import stretched
from omnidali.catalog.probing.probe import Probe, unpack_numbers, unpack_times
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

VERSION = 5
# bytes of a catalog whose pages are all looked at when it is opened for a build: 0.1 s
_CHECKED_WHOLE = 1 << 26
NEW = "new"  # the state of a file before its probe
CHUNK = 1 << 20  # rows in one packed column piece
_ASKED = 10_000  # files that are asked for at once
# for which a disk that gives errors, or a lack of descriptors, may last
_TROUBLE_SECONDS, _TROUBLE_PAUSE = 60.0, 0.2

# What the plan needs of every row or piece, as narrow as it fits; a codec is its place in the
# sorted list of codecs.
COLUMNS = {
    "labels": np.int32,
    "widths": np.uint16,
    "heights": np.uint16,
    "starts": np.int64,
    "positives": np.int32,
    "records": np.int64,
    "frames": np.int32,
    "codecs": np.uint8,
    "firsts": np.int32,
}
PIECE_COLUMNS = ("records", "frames", "codecs", "firsts")

# media: a row a file, as probed; entries: a row an item of the list, in its order. A file's id is
# never given to another one: a run that reads an older list shall miss a file rather than show
# another's pictures.
_SCHEMA = """
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
    first REAL, last REAL, video TEXT, positive INTEGER);
CREATE INDEX IF NOT EXISTS entries_source ON entries (source, id);
CREATE TABLE IF NOT EXISTS packed (
    source INTEGER, name TEXT, chunk INTEGER, data BLOB, crc INTEGER, PRIMARY KEY (source, name, chunk));
"""
# what the checksum of a file's row covers: all that the probe said, and where the file is
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
_RARE_COLUMNS = {"mirrored": 0, "aspect": 1.0, "note": ""}


def media_crc(root: str, known: Mapping[str, object]) -> int:
    """The checksum of a file's row."""
    rare = [known[name] for name, usual in _RARE_COLUMNS.items() if known[name] != usual]
    return crc_of(root, *(known[name] for name in MEDIA_COLUMNS), *rare)


@dataclass(frozen=True)
class Media:
    """What a decoder needs of one file, member of a tar, or folder of frames.

    Fields are those of :class:`~omnidali.catalog.probing.probe.Probe`, with the path for people, the span
    for reading, and size and time (nanoseconds) of the file, or of its tar, at the probe. ``width``
    and ``height`` are those of the plan; they differ from the stored ones, ``stored``, where a
    source is asked to stretch pixels that are not square.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    frames: int
    rotation: int
    timing: bytes
    keyframes: bytes
    packets: bytes
    stamp: tuple[int | None, int | None]
    span: FileSpan
    mirrored: bool = False
    stored: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, path: str, span: FileSpan, probe: Probe) -> Media:
        """A file that was just probed, without a catalog."""
        status = os.stat(span.path)
        same = {
            field.name: getattr(probe, field.name)
            for field in fields(cls)
            if field.name not in ("path", "stamp", "span", "stored")
        }
        return cls(
            path=path,
            **same,
            stamp=(status.st_size, status.st_mtime_ns),
            span=span,
            stored=(probe.width, probe.height),
        )

    @property
    def frame_times(self) -> np.ndarray | None:
        """Every frame's timestamp in presentation order, in stream ticks; None where the file has
        none.
        """
        return unpack_times(self.timing, self.frames)

    def frame(self, number: int) -> Media:
        """The image of one frame of a folder of frames, 0 being the first that the folder holds."""
        first = int(unpack_numbers(self.timing)[0])
        path = os.path.join(self.path, self.container.format(first + number))
        return replace(self, path=path, container=self.codec.partition(":")[0], span=FileSpan(path))


@dataclass(frozen=True, repr=False)
class SourceTable:
    """The usable rows of one source, in the order of its list, as arrays.

    A row is a sample of the list: N of them. What is decoded are its pieces: P of them, one a row
    unless ``starts`` says otherwise, which it does for long videos.

    Attributes:
        labels: int32 (N,), -1 for unlabelled. widths, heights: uint16 (N,), upright pixels.
        records: int64 (P,), catalog ids of the files. frames: int32 (P,), length of the piece.
            codecs: uint8 (P,), places in ``codec_names``.
        firsts: int32 (P,), frame of the file that the piece begins with; None: all begin with the
            first.
        starts: int64 (N + 1,), the pieces of row i are starts[i] to starts[i + 1] (exclusive),
            those that show the class first; None: one piece a row. positives: int32 (N,), how many
            of them do.
        fingerprint: text that changes with any row, its order, label, size or length.
        taken_from: rows of the whole source, where these are a part of it.
        irregular: paths of a few files whose frames timestamps do not tell, and how many there are.
        stretches: whether pixels that are not square are stretched.
    """

    name: str
    kind: MediaKind
    records: np.ndarray
    labels: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    frames: np.ndarray
    codecs: np.ndarray
    firsts: np.ndarray | None = None
    starts: np.ndarray | None = None
    positives: np.ndarray | None = None
    codec_names: tuple[str, ...] = ()
    fingerprint: str = ""
    taken_from: int | None = None
    irregular: tuple[tuple[str, ...], int] = ((), 0)
    stretches: bool = False
    _reader: CatalogReader | None = field(default=None)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def source_rows(self) -> int:
        """How many rows the source has, of which these may be a part."""
        return self.taken_from or len(self)

    def __repr__(self) -> str:
        pieces = "" if self.starts is None else f", {len(self.records):,} pieces"
        codecs = ", ".join(self.codec_names)
        return f"SourceTable({self.name}, {self.kind}, {len(self):,} rows{pieces}, codecs {codecs})"

    def media(self, record: int) -> Media:
        """Everything the catalog knows of the file with this catalog id."""
        return self._reader.media(int(record), self.stretches)

    def media_at(self, path: str) -> Media | None:
        """The same of the file with this path, as in :attr:`Media.path`; None where the catalog has
        no such file.
        """
        record = self._reader.find_record(self.name, path)
        return None if record is None else self.media(record)

    def first_record(self, row: int) -> int:
        """The catalog id of a row's first piece."""
        return int(self.records[row if self.starts is None else self.starts[row]])

    def owners(self) -> Iterator[str]:
        """Yield what each row is of: the path of its file below the source's root, or the long
        video of its part files.

        All lists below the same root agree on it, and so do a long video and its pieces, where they
        are rows of their own; files that were cut or moved have other names.

        Raises:
            UserError: if another run with other lists has taken a file out of the catalog.
        """
        records = self.records if self.starts is None else self.records[self.starts[:-1]]
        return self._reader.owners(self.name, records)

    def take(self, rows: np.ndarray, note: str) -> SourceTable:
        """The table of these rows alone; ``note`` says in the fingerprint how they were chosen."""
        pieces, starts = rows, None
        if self.starts is not None:
            counts = np.diff(self.starts)[rows]
            starts = np.concatenate([[0], np.cumsum(counts)])
            pieces = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        columns = {
            name: getattr(self, name)[pieces if name in PIECE_COLUMNS else rows]
            for name in COLUMNS
            if name != "starts" and getattr(self, name) is not None
        }
        return replace(
            self,
            **columns,
            starts=starts,
            fingerprint=f"{self.fingerprint} {note}",
            taken_from=self.source_rows,
        )


def connect(
    path: str | Path, read_only: bool = False, upgrades: bool = False, is_shared: bool = False
) -> sqlite3.Connection:
    """Open the catalog file, making its tables if it is new. Where another process has it locked,
    this waits.

    Args:
        upgrades: whether to bring a catalog of the version before up to date, for a build that
            completes it.
        is_shared: whether several threads use the connection, one after the other.

    Raises:
        UserError: if it cannot be opened, is no catalog or comes from another version.
        DamagedCatalogError: if it is a catalog whose pages are lost or wrong.
    """
    path = Path(path)
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        check_length(path)
        mode = "ro" if read_only else "rwc"
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            factory=WaitingConnection,
            check_same_thread=not is_shared,
        )
        db.path = str(path)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == UPGRADED and not upgrades:
            raise UserError(
                str(path),
                f"a catalog of version {VERSION}",
                f"version {version}",
                "Start the training, or `omnidali lint`, which brings it up to date.",
            )
        if version not in (0, UPGRADED, VERSION):
            raise UserError(
                str(path),
                f"a catalog of version {VERSION}",
                f"version {version}",
                "Delete the file; it is rebuilt from the media.",
            )
        if version == UPGRADED:
            upgrade(db, path)
        if not read_only:
            if version == 0:
                db.executescript(_SCHEMA)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif path.stat().st_size <= _CHECKED_WHOLE:
                (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
                if found != "ok":
                    raise DamagedCatalogError(found.splitlines()[0])
        return db
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise DamagedCatalogError(str(error)) from None
        if "not a database" in str(error):
            raise UserError(
                str(path),
                "a catalog file that can be opened",
                str(error),
                "Give the run another `catalog`; this file is of something else.",
            ) from None
        raise trouble(path, error) from error


def read_packed(db: sqlite3.Connection, source: int, fingerprint: str) -> dict[str, list[bytes]]:
    """The packed columns of a source in their pieces.

    Raises:
        DamagedCatalogError: if they, or the fingerprint, are not those that were written.
    """
    packed: dict[str, list[bytes]] = {}
    for name, chunk, data, crc in db.execute(
        "SELECT name, chunk, data, crc FROM packed WHERE source = ? ORDER BY name, chunk", (source,)
    ):
        if crc != crc_of(source, name, chunk, data) or chunk != len(packed.setdefault(name, [])):
            raise DamagedCatalogError(f"column {ascii(name)} changed")
        packed[name].append(data)
    if packed.pop("fingerprint", None) != [f"{fingerprint} of {sum(map(len, packed.values()))}"]:
        raise DamagedCatalogError("the fingerprint changed")
    return packed


def taken_out(path: Path) -> UserError:
    """The mistake that a file is gone from the catalog at ``path`` while something makes use of it."""
    return UserError(
        str(path),
        "the files that were there at the start",
        "one that is gone: another run has read other lists into this catalog",
        "Give runs with other lists a `catalog` of their own, then resume.",
    )


def media_files(
    db: sqlite3.Connection, catalog: Path, records: Collection[int]
) -> dict[int, tuple[str, str, tuple]]:
    """Root, path below it, and (size, time in nanoseconds) of the files with these different ids in
    ``catalog``.

    Raises:
        UserError: if another run with other lists has taken one out.
    """
    rows = db.execute(
        "SELECT m.id, s.root, m.path, m.bytes, m.mtime_ns FROM media m JOIN sources s ON s.id = m.source"
        " WHERE m.id IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(records)),),
    )
    files = {record: (root, path, (size, mtime)) for record, root, path, size, mtime in rows}
    if len(files) < len(records):
        raise taken_out(catalog)
    return files


@dataclass
class _Spare:
    """A connection for the threads that come when the file has been deleted, or another one has
    taken its name.

    SQLite cannot open a file again that has no name. Whoever uses ``db`` holds ``lock``.
    """

    db: sqlite3.Connection
    identity: tuple[int, int] | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    pid: int = field(default_factory=os.getpid)


def _identity(path: Path) -> tuple[int, int] | None:
    """What makes a file another one, though it has the same name; None where there is no file."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except OSError:
        return None


class CatalogReader:
    """Read-only access for many threads: tables of sources, and media by record.

    It goes on where the catalog is deleted, or another one takes its place.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._local = threading.local()
        self._opening = threading.Lock()
        self._spare: _Spare | None = None

    @property
    def _db(self) -> sqlite3.Connection:
        # connections must not cross threads or forks
        if getattr(self._local, "pid", None) != os.getpid():
            if not self._is_there():
                raise UserError(
                    str(self.path),
                    "the catalog that the run began with",
                    "another file, or none: the catalog was deleted while the run used it",
                    "Start again with --resume auto; it is rebuilt.",
                )
            self._local.db, self._local.pid = connect(self.path, read_only=True), os.getpid()
        return self._local.db

    def _is_there(self) -> bool:
        """Whether the file is the one that this process opened first: in another one, ids belong to
        other files.
        """
        with self._opening:
            now = _identity(self.path)
            if self._spare is None:
                self._spare = _Spare(
                    connect(self.path, read_only=True, is_shared=True), _identity(self.path)
                )
                return True
            return now == self._spare.identity

    def _row(self, statement: str, parameters: tuple) -> tuple | None:
        """The first row of an answer. A disk or a machine in trouble is asked again for a while."""
        begun = time.monotonic()
        while True:
            try:
                if getattr(self._local, "pid", None) == os.getpid() or self._is_there():
                    return self._db.execute(statement, parameters).fetchone()
                if self._spare.pid == os.getpid():
                    with self._spare.lock:
                        return self._spare.db.execute(statement, parameters).fetchone()
                return self._db.execute(statement, parameters).fetchone()
            except (sqlite3.Error, UserError) as error:
                cause = error.__cause__ if isinstance(error, UserError) else error
                if (
                    not may_pass(cause)
                    or not self.path.exists()
                    or time.monotonic() - begun > _TROUBLE_SECONDS
                ):
                    raise
            say_waiting(self.path, f"its disk or this machine: {cause}", time.monotonic() - begun)
            time.sleep(_TROUBLE_PAUSE)

    def table(self, name: str) -> SourceTable:
        """Load the usable rows of the source ``name``.

        Raises:
            UserError: if the catalog does not hold it.
        """
        try:
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
            packed = read_packed(self._db, source, fingerprint)
        except (sqlite3.Error, DamagedCatalogError) as error:
            raise damage(self.path, error) from None
        names = tuple(json.loads(packed.pop("codec_names")[0]))
        paths, count = json.loads(packed.pop("irregular", ["[[], 0]"])[0])
        columns = {}
        while packed:
            column, pieces = packed.popitem()
            columns[column] = np.concatenate(
                [np.frombuffer(data, COLUMNS[column]) for data in pieces]
            )
        return SourceTable(
            name,
            MediaKind(kind),
            **columns,
            codec_names=names,
            fingerprint=fingerprint,
            irregular=(tuple(paths), count),
            stretches=pixel_aspect == "apply",
            _reader=self,
        )

    def owners(self, name: str, records: np.ndarray) -> Iterator[str]:
        """See :meth:`SourceTable.owners`; of files of the source ``name``."""
        try:
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
        except (sqlite3.Error, DamagedCatalogError) as error:
            raise damage(self.path, error) from None

    def find_record(self, name: str, path: str) -> int | None:
        """The catalog id of the file at a path of the source ``name``."""
        try:
            source = self._row("SELECT id, root FROM sources WHERE name = ?", (name,))
            if source is None:
                return None
            below = os.path.join(source[1], "")
            names = [path, path[len(below) :]] if path.startswith(below) else [path]
            row = self._row(
                f"SELECT id FROM media WHERE source = ? AND path IN ({', '.join('?' * len(names))})",
                (source[0], *names),
            )
            return None if row is None else row[0]
        except (sqlite3.Error, DamagedCatalogError) as error:
            raise damage(self.path, error) from None

    def media(self, record: int, stretches: bool = False) -> Media:
        """What a decoder needs of the file with this catalog id; ``stretches`` as in
        :class:`SourceTable`.

        Raises:
            UserError: if another run with other lists has taken it out.
        """
        try:
            row = self._row(
                f"SELECT s.root, m.crc, m.{', m.'.join((*MEDIA_COLUMNS, *_RARE_COLUMNS))}"
                " FROM media m JOIN sources s ON s.id = m.source WHERE m.id = ?",
                (record,),
            )
        except (sqlite3.Error, DamagedCatalogError) as error:
            raise damage(self.path, error) from None
        if row is None:
            raise taken_out(self.path)
        root, crc, *values = row
        known = dict(zip((*MEDIA_COLUMNS, *_RARE_COLUMNS), values))
        if crc is not None and crc != media_crc(root, known):
            raise damage(self.path, f"the row of {ascii(values[0])} changed")
        path = os.path.join(root, known["path"])
        span = (
            FileSpan(path)
            if known["archive"] is None
            else FileSpan(os.path.join(root, known["archive"]), known["offset"], known["size"])
        )
        stored = known["width"], known["height"]
        if stretches:
            known["width"], known["height"] = stretched(*stored, known["aspect"])
        known["mirrored"] = bool(known["mirrored"])
        same = {
            field.name: known[field.name]
            for field in fields(Media)
            if field.name not in ("path", "stamp", "span", "stored")
        }
        return Media(
            path=path, **same, stamp=(known["bytes"], known["mtime_ns"]), span=span, stored=stored
        )
