"""Connections to the catalog that wait for other processes.

A plain SQLite connection fails if another process has the file locked.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    check_length,
    is_damage,
    trouble,
)
from omnidali.catalog.database.sql_schema import SCHEMA, UPGRADED, VERSION, upgrade
from omnidali.errors import UserError
from omnidali.utils.log import LOG

T = TypeVar("T")
# that SQLite itself waits, during which Ctrl-C has no effect
BUSY_SECONDS = 1.0
# A connection that reads and wants to write is refused at once if another one writes, as each
# would wait for the other's end. Our own writers never do that for long.
_REFUSED_SECONDS = 60.0
_FIRST_WARNED = 10.0  # seconds of waiting
_WARNED_AGAIN = 60.0
_PAUSE = 0.1
_BUSY = 5  # SQLite's numbers
_ROLLBACK_NEEDED = 776
# bytes of a catalog whose pages are all looked at when it is opened for a build: 0.1 s
_CHECKED_WHOLE = 1 << 26
# What has changed stays in memory until it is committed: once SQLite writes before that, nobody
# else can read. 512 MiB of 4 KiB each, which is a list of about a million lines.
_UNWRITTEN_PAGES = 1 << 17

# when this process last warned about each path that it waits for; its threads wait together
_warned: dict[str, float] = {}
_warning = threading.Lock()


class WaitingConnection(sqlite3.Connection):
    """Waits for locks of other processes, without end, and warns about once a minute.

    What a writer that was killed has left half done keeps others out, too; the first one that may
    write takes it back.

    Attributes:
        path: of the catalog.
    """

    path: str = ""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        return self._wait(lambda: super(WaitingConnection, self).execute(*arguments))

    def executemany(self, statement: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        # a generator could not begin again; only temporary tables are filled by one
        if not isinstance(rows, (list, tuple)):
            return super().executemany(statement, rows)
        return self._wait(lambda: super(WaitingConnection, self).executemany(statement, rows))

    def executescript(self, script: str) -> sqlite3.Cursor:
        return self._wait(lambda: super(WaitingConnection, self).executescript(script))

    def commit(self) -> None:
        self._wait(super().commit)

    def _wait(self, work: Callable[[], T]) -> T:
        begun = time.monotonic()
        refused = 0.0
        while True:
            tried = time.monotonic()
            try:
                return work()
            except sqlite3.OperationalError as error:
                number = getattr(error, "sqlite_errorcode", 0)
                needs_rollback = number == _ROLLBACK_NEEDED
                is_locked = number & 0xFF == _BUSY or "database is locked" in str(error)
                if not needs_rollback and not is_locked:
                    raise

                if time.monotonic() - tried < BUSY_SECONDS / 2:
                    refused += _PAUSE
                    time.sleep(_PAUSE)
                if refused > _REFUSED_SECONDS:
                    raise

                if needs_rollback:
                    _take_back(self.path)
            warn_waiting(
                self.path, "another process, which has it locked", time.monotonic() - begun
            )


def connect(
    path: str | Path, read_only: bool = False, upgrades: bool = False, is_shared: bool = False
) -> sqlite3.Connection:
    """Open the catalog file, making its tables if it is new. This waits for locks of others.

    Args:
        path: of the catalog.
        read_only: whether nothing may be written; then the file must exist.
        upgrades: whether to bring a catalog of an older version up to date, for a build that
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
        db = sqlite3.connect(
            _uri(path, mode="ro" if read_only else "rwc"),
            uri=True,
            timeout=BUSY_SECONDS,
            factory=WaitingConnection,
            check_same_thread=not is_shared,
        )
        db.path = str(path)

        (version,) = db.execute("PRAGMA user_version").fetchone()
        _check_version(path, version, upgrades)
        if version in UPGRADED:
            upgrade(db, path)

        if read_only:
            return db
        if version == 0:
            db.executescript(SCHEMA)
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


def _check_version(path: Path, version: int, upgrades: bool) -> None:
    if version in (0, VERSION) or (version in UPGRADED and upgrades):
        return
    raise UserError(
        str(path),
        f"a catalog of version {VERSION}",
        f"version {version}",
        "Start the training, or `omnidali lint`, which brings it up to date."
        if version in UPGRADED
        else "Delete the file; it is rebuilt from the media.",
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the catalog at ``path`` to write to it, brought up to date.

    Raises:
        UserError: if it cannot be written.
        DamagedCatalogError: if it is not as it was written.
    """
    with contextlib.closing(connect(path, upgrades=True)) as db:
        db.execute(f"PRAGMA cache_spill = {_UNWRITTEN_PAGES}")
        try:
            yield db
        except sqlite3.Error as error:
            if is_damage(error):
                raise DamagedCatalogError(str(error)) from None
            if "readonly" in str(error):
                raise UserError(
                    str(path),
                    "a catalog that knows every file, or one that can be written",
                    "new or changed files or lists, and no permission to write",
                    "Ask its owner to build it again, or let the run have a catalog of its own.",
                ) from None
            raise trouble(path, error, "a catalog that can be written") from None


def open_to_copy(path: str | Path) -> sqlite3.Connection:
    """Open a catalog of any version for ``backup``, once nobody has it locked."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, factory=WaitingConnection)
    db.path = str(path)
    # `backup` itself would wait without a word
    db.execute("SELECT 1 FROM sqlite_master").fetchone()
    return db


def warn_waiting(path: str | Path, what: str, seconds: float) -> None:
    """Warn that this process has waited for so long; once a minute, however many threads wait.

    Args:
        path: of the catalog.
        what: it waits for.
        seconds: of waiting so far.
    """
    if seconds < _FIRST_WARNED:
        return
    with _warning:
        now = time.monotonic()
        if now - _warned.get(str(path), -_WARNED_AGAIN) < _WARNED_AGAIN:
            return
        _warned[str(path)] = now
    LOG.warning("%s: waiting for %s (%.0f s by now)", path, what, seconds)


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _take_back(path: str) -> None:
    """Let SQLite undo what a killed writer began: a connection that only reads may not."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(
            sqlite3.connect(_uri(Path(path), mode="rw"), uri=True, timeout=BUSY_SECONDS)
        ) as writer,
    ):
        writer.execute("SELECT 1 FROM sqlite_master").fetchone()
