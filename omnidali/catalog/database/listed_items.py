"""The items that a list named, in the order of the catalog's rows.

Commands that write lists again read them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.integrity import reporting_damage
from omnidali.catalog.database.listed_files import read_listed_files, spans
from omnidali.catalog.database.source_table import COLUMNS, SourceTable
from omnidali.catalog.probing.probe import OK


class ListedItem(NamedTuple):
    """A usable file or piece.

    Attributes:
        path: relative to the source's root.
        label: of the list.
        unit: as in :class:`~omnidali.catalog.listing.list_formats.Entry`.
        first: as in the entry, but windows in seconds.
        last: as in the entry, but windows in seconds, the last with the remainder.
        video: that it is a piece of, or empty.
        number: of the piece in its video, also counting files that are missing.
        positive: whether it shows its class.
        record: catalog id of the file to decode.
        begin: frame of the file that it begins with.
        frames: how many there are to decode.
        codec: of the file.
        width: upright pixels.
        height: upright pixels.
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


def read_items(catalog: str | Path, name: str) -> Iterator[ListedItem]:
    """Yield the items of a source: its table's rows in order, or a long video's listed pieces.

    Args:
        catalog: path of the catalog.
        name: of the source.

    Raises:
        UserError: if the catalog is damaged.
    """
    with _opened(catalog, name) as (db, source):
        usable = read_listed_files(db, source)
        video = None
        number = 0
        for label, unit, of, state in db.execute(
            "SELECT e.label, e.unit, e.video, m.state FROM entries e"
            " LEFT JOIN media m ON m.id = e.media WHERE e.source = ? ORDER BY e.id",
            (source,),
        ):
            number = number + 1 if video == (of, label) else 0
            video = (of, label)
            if state != OK:
                continue
            file = next(usable)
            if file.positive is None:  # removed
                continue

            for window, begin, frames in spans(file, Counter()):
                item = ListedItem(
                    path=file.path,
                    label=label,
                    unit=unit,
                    first=file.first,
                    last=file.last,
                    video=of,
                    number=number,
                    positive=bool(file.positive),
                    record=file.record,
                    begin=begin,
                    frames=frames,
                    codec=file.codec,
                    width=file.width,
                    height=file.height,
                )
                if unit == "windows":
                    # as much as spans adds to the last
                    end = window + (1 if begin + frames < file.frames else 1.5)
                    item = item._replace(
                        first=window * file.last, last=end * file.last, number=window
                    )
                yield item


def count_pieces(catalog: str | Path, name: str) -> dict[tuple[str, int], int]:
    """Count the pieces of each (video, label) in a list, missing and removed ones among them."""
    with _opened(catalog, name) as (db, source):
        rows = db.execute(
            "SELECT video, label, COUNT(*) FROM entries WHERE source = ? GROUP BY video, label",
            (source,),
        )
        return {(video, label): count for video, label, count in rows}


def removed_pieces(catalog: str | Path, name: str) -> dict[tuple[str, int], list[int]]:
    """The numbers of the pieces that were removed, of each (video, label) that has some."""
    removed: dict[tuple[str, int], list[int]] = {}
    with _opened(catalog, name) as (db, source):
        for video, label, number in db.execute(
            "SELECT video, label, number FROM (SELECT id, video, label, positive, ROW_NUMBER() OVER"
            " (PARTITION BY video, label ORDER BY id) - 1 AS number FROM entries WHERE source = ?)"
            " WHERE positive IS NULL ORDER BY id",
            (source,),
        ):
            removed.setdefault((video, label), []).append(number)
    return removed


def list_format(catalog: str | Path, name: str) -> str:
    """The format that the list of a source was read as."""
    with _opened(catalog, name) as (db, source):
        return db.execute("SELECT format FROM sources WHERE id = ?", (source,)).fetchone()[0]


def flatten(catalog: str | Path, table: SourceTable) -> SourceTable:
    """Make a table with a row for each listed piece of the long videos of ``table``.

    The rows are in the order of :func:`read_items`.
    """
    codec_places = {name: number for number, name in enumerate(table.codec_names)}
    rows = [
        (
            item.label,
            item.width,
            item.height,
            item.record,
            item.frames,
            codec_places[item.codec],
            item.begin,
        )
        for item in read_items(catalog, table.name)
    ]

    columns = np.array(rows, np.int64).reshape(-1, 7).T
    return replace(
        table,
        labels=columns[0].astype(COLUMNS["labels"]),
        widths=columns[1].astype(COLUMNS["widths"]),
        heights=columns[2].astype(COLUMNS["heights"]),
        records=columns[3].astype(COLUMNS["records"]),
        frames=columns[4].astype(COLUMNS["frames"]),
        codecs=columns[5].astype(COLUMNS["codecs"]),
        firsts=columns[6].astype(COLUMNS["firsts"]),
        starts=None,
        positives=None,
        fingerprint=f"{table.fingerprint} pieces",
    )


@contextmanager
def _opened(catalog: str | Path, name: str) -> Iterator[tuple[sqlite3.Connection, int]]:
    """The open catalog, and its id of the source ``name``."""
    with reporting_damage(Path(catalog)), closing(connect(catalog, read_only=True)) as db:
        (source,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
        yield db, source
