"""What sources leave out: kept in the catalog, and written to a table for people at every start."""

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.database.sql_schema import NEW
from omnidali.catalog.listing.left_out import LeftOutItem
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.catalog.probing.probe import OK
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.log import LOG

# The stages that leave something out, but for the probe: its own table has the reasons.
LISTING = "list"
PIECES = "pieces"
_TRIAL = ".trial-"  # part of the name of a trial's copy of a catalog


class LeftOutRow(NamedTuple):
    """A row of the table.

    Attributes:
        source: name of the source.
        path: below its root.
        list: file that names the path, or empty.
        line: of that file, or empty.
        reason: the same words for all of a kind.
        detail: what differs from item to item.
    """

    source: str
    path: str
    list: str
    line: str
    reason: str
    detail: str


def clear_left_out(db: sqlite3.Connection, source: int, stage: str) -> None:
    """Forget what a stage has left out of the source with this id."""
    db.execute("DELETE FROM left_out WHERE source = ? AND stage = ?", (source, stage))


def write_left_out(
    db: sqlite3.Connection, source: int, stage: str, items: Sequence[LeftOutItem]
) -> None:
    """Keep what a stage leaves out.

    Args:
        db: the open catalog.
        source: its id of the source.
        stage: one of the above.
        items: that are left out.
    """
    db.executemany(
        "INSERT INTO left_out (source, stage, path, reason, place, detail)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(source, stage, item.path, item.reason, item.where, item.detail) for item in items],
    )


def left_out_examples(db: sqlite3.Connection, source: int) -> dict[str, str]:
    """A path for each reason for which something is left out of the source with this id."""
    rows = db.execute(
        "SELECT reason, MIN(path) FROM left_out WHERE source = ? GROUP BY reason", (source,)
    )
    return dict(rows.fetchall())


def read_left_out(db: sqlite3.Connection) -> Iterator[LeftOutRow]:
    """Yield what all sources of the catalog leave out, in the order of their lists."""
    sources = db.execute("SELECT id, name, watched FROM sources ORDER BY id").fetchall()
    for source, name, watched in sources:
        for path, place, reason, detail in db.execute(
            "SELECT path, place, reason, detail FROM left_out WHERE source = ? ORDER BY rowid",
            (source,),
        ):
            of, _, line = place.rpartition(", line ")
            yield LeftOutRow(name, path, of, line, reason, detail)

        lists = json.loads(watched or "[]")
        for path, line, number, state in db.execute(
            "SELECT m.path, e.line, e.list, m.state FROM entries e JOIN media m ON m.id = e.media"
            " WHERE e.source = ? AND m.state NOT IN (?, ?) ORDER BY e.id",
            (source, OK, NEW),
        ):
            of = lists[number] if line and number < len(lists) else ""
            yield LeftOutRow(name, path, of, str(line or ""), state, "")


def left_out_path(catalog: Path) -> Path:
    """Where the table of a catalog lies: beside it, also for a trial's copy.

    >>> left_out_path(Path("runs/a/catalog.sqlite")).name
    'catalog.left_out.csv'
    """
    name = catalog.name.partition(_TRIAL)[0]
    return catalog.with_name(f"{Path(name).stem}.left_out.csv")


def update_left_out_csv(db: sqlite3.Connection, catalog: Path) -> None:
    """Write the table of all that is left out, if it is older than the catalog.

    There is none where nothing is left out. It is for people: a disk that does not take it stops
    nothing.

    Args:
        db: the open catalog.
        catalog: its path.
    """
    path = left_out_path(catalog)
    written, changed = stamp_of(str(path))[1], stamp_of(str(catalog))[1]
    if written is not None and changed is not None and written > changed and not db.in_transaction:
        return

    rows = read_left_out(db)
    try:
        first = next(rows, None)
        if first is None and written is not None:
            path.unlink(missing_ok=True)
        elif first is not None:
            write_whole(path, table_lines(itertools.chain([LeftOutRow._fields, first], rows)))
    except OSError as error:
        LOG.warning("%s: cannot be written (%s)", path, error.strerror or error)
