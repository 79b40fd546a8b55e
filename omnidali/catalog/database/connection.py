"""Connections to the catalog that wait for other processes, instead of failing where one has it
locked.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omnidali.utils.log import LOG

T = TypeVar("T")
BUSY_SECONDS = 1.0  # that SQLite itself waits: so long a Ctrl-C is not noticed
# A connection that reads and wants to write is refused at once where another one writes, as each
# would wait for the other's end. Our own writers never do that for long.
_REFUSED_SECONDS = 60.0
_FIRST_TOLD, _TOLD_AGAIN = 10.0, 60.0  # seconds of waiting after which a line says so
_PAUSE = 0.1
_BUSY = 5  # SQLite's numbers
_ROLLBACK_NEEDED = 776

# when this process last said what it waits for; its threads wait together
_told: dict[str, float] = {}
_telling = threading.Lock()


class WaitingConnection(sqlite3.Connection):
    """Waits for locks of other processes, without end, and says so about once a minute.

    What a writer that was killed has left half done keeps others out, too; whoever may write takes
    it back.

    Attributes:
        path: of the catalog.
    """

    path: str = ""

    def execute(self, *arguments) -> sqlite3.Cursor:
        return self._wait(lambda: super(WaitingConnection, self).execute(*arguments))

    def executemany(self, statement: str, rows) -> sqlite3.Cursor:
        # it could not be begun again; only temporary tables are filled so
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
                needs_rollback = _number(error) == _ROLLBACK_NEEDED
                if not needs_rollback and not is_locked(error):
                    raise
                if time.monotonic() - tried < BUSY_SECONDS / 2:
                    refused += _PAUSE
                    time.sleep(_PAUSE)
                if refused > _REFUSED_SECONDS:
                    raise
                if needs_rollback:
                    _take_back(self.path)
            say_waiting(self.path, "another process, which has it locked", time.monotonic() - begun)


def open_to_copy(path: str | Path) -> sqlite3.Connection:
    """Open a catalog of any version for ``backup``, once nobody has it locked."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, factory=WaitingConnection)
    db.path = str(path)
    # `backup` itself would wait without a word
    db.execute("SELECT 1 FROM sqlite_master").fetchone()
    return db


def is_locked(error: BaseException) -> bool:
    """Whether an error only says that another process has the file locked."""
    return isinstance(error, sqlite3.OperationalError) and (
        _number(error) & 0xFF == _BUSY or "database is locked" in str(error)
    )


def say_waiting(path: str | Path, what: str, seconds: float) -> None:
    """Say what this process has waited for, for so many seconds; once a minute, however many
    threads wait.
    """
    if seconds < _FIRST_TOLD:
        return
    with _telling:
        now = time.monotonic()
        if now - _told.get(str(path), -_TOLD_AGAIN) < _TOLD_AGAIN:
            return
        _told[str(path)] = now
    LOG.warning("%s: waiting for %s (%.0f s by now)", path, what, seconds)


def _number(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0)


def _take_back(path: str) -> None:
    """Let SQLite undo what a killed writer began: a connection that only reads may not."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(
            sqlite3.connect(
                f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS
            )
        ) as writer,
    ):
        writer.execute("SELECT 1 FROM sqlite_master").fetchone()
