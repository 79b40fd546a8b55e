"""What a list named, piece by piece, in the order of the catalog's rows: for commands that write
lists again.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omnidali.catalog.database.columns import ENTRIES, ListedFile, spans
from omnidali.catalog.database.integrity import DamagedCatalogError, damage
from omnidali.catalog.database.store import COLUMNS, SourceTable, connect
from omnidali.catalog.probing.sniff import OK


class Item(NamedTuple):
    """A usable file or piece.

    Attributes:
        path: relative to the source's root. label: of the list. unit, first, last: as in
            :class:`~omnidali.catalog.listing.list_formats.Entry`, but windows in seconds, the last with the
            remainder.
        video: that it is a piece of, or empty. number: of the piece in its video, also counting
            files that are missing.
        positive: whether it shows its class.
        record, begin, frames, codec, width, height: what there is to decode.
    """

    path: str
    label: int
    unit: str
    first: float
    last: float
    video: str
    number: int
    positive: bool
    record: int
    begin: int
    frames: int
    codec: str
    width: int
    height: int


def read_items(catalog: str | Path, name: str) -> Iterator[Item]:
    """The items of a source: those of its table's rows in order, or of a long video's listed
    pieces.

    Raises:
        UserError: if the catalog is damaged.
    """
    try:
        db = connect(catalog, read_only=True)
        (source,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
        usable = map(ListedFile._make, db.execute(ENTRIES, (source, OK)))
        video, number = None, 0
        for label, unit, of, state in db.execute(
            "SELECT e.label, e.unit, e.video, m.state FROM entries e LEFT JOIN media m ON m.id = e.media"
            " WHERE e.source = ? ORDER BY e.id",
            (source,),
        ):
            number = number + 1 if video == (of, label) else 0
            video = (of, label)
            if state != OK:
                continue
            row = next(usable)
            if row.positive is None:  # removed
                continue
            for window, begin, frames in spans(row, Counter()):
                first, last, place = row.first, row.last, number
                if unit == "windows":
                    # as much as spans adds to the last
                    end = window + (1 if begin + frames < row.frames else 1.5)
                    first, last, place = window * row.last, end * row.last, window
                yield Item(
                    row.path,
                    label,
                    unit,
                    first,
                    last,
                    of,
                    place,
                    bool(row.positive),
                    row.record,
                    begin,
                    frames,
                    row.codec,
                    row.width,
                    row.height,
                )
        db.close()
    except (sqlite3.Error, DamagedCatalogError) as error:
        raise damage(Path(catalog), error) from None


def count_pieces(catalog: str | Path, name: str) -> dict[tuple[str, int], int]:
    """How many pieces the list names of each (video, label), missing files and removed ones among
    them.
    """
    db = connect(catalog, read_only=True)
    try:
        return {
            (video, label): count
            for video, label, count in db.execute(
                "SELECT video, label, COUNT(*) FROM entries WHERE source = (SELECT id FROM sources WHERE name = ?)"
                " GROUP BY video, label",
                (name,),
            )
        }
    finally:
        db.close()


def removed_pieces(catalog: str | Path, name: str) -> dict[tuple[str, int], list[int]]:
    """The numbers of the pieces that were removed, of each (video, label) that has some."""
    db = connect(catalog, read_only=True)
    try:
        removed: dict[tuple[str, int], list[int]] = {}
        for video, label, number in db.execute(
            "SELECT video, label, number FROM (SELECT id, video, label, positive, ROW_NUMBER() OVER (PARTITION BY"
            " video, label ORDER BY id) - 1 AS number FROM entries WHERE source = (SELECT id FROM sources"
            " WHERE name = ?)) WHERE positive IS NULL ORDER BY id",
            (name,),
        ):
            removed.setdefault((video, label), []).append(number)
        return removed
    finally:
        db.close()


def list_format(catalog: str | Path, name: str) -> str:
    """What the list of a source was read as."""
    db = connect(catalog, read_only=True)
    try:
        return db.execute("SELECT format FROM sources WHERE name = ?", (name,)).fetchone()[0]
    finally:
        db.close()


def flatten(catalog: str | Path, table: SourceTable) -> SourceTable:
    """The table of long videos with a row for each listed piece, in the order of
    :func:`read_items`.
    """
    place = {name: number for number, name in enumerate(table.codec_names)}
    columns: dict[str, list[int]] = {
        "labels": [],
        "widths": [],
        "heights": [],
        "records": [],
        "frames": [],
        "codecs": [],
        "firsts": [],
    }
    for item in read_items(catalog, table.name):
        values = (
            item.label,
            item.width,
            item.height,
            item.record,
            item.frames,
            place[item.codec],
            item.begin,
        )
        for column, value in zip(columns.values(), values):
            column.append(value)
    arrays = {name: np.array(values, COLUMNS[name]) for name, values in columns.items()}
    return replace(
        table, **arrays, starts=None, positives=None, fingerprint=f"{table.fingerprint} pieces"
    )
