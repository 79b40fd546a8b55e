"""Files decoded whole and compared with what the catalog believes of them; the catalog learns what
differs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from omnidali.catalog.build import write_probe, writing
from omnidali.catalog.database.columns import pack
from omnidali.catalog.database.integrity import only_build
from omnidali.catalog.probing.image_probe import Probe
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe_pool import ProbePool
from omnidali.catalog.probing.sniff import OK, UNREADABLE
from omnidali.config.schema import MediaConfig

TOO_SLOW = "takes more than"  # how the state of a file begins that a worker gave up
_KNOWN = (
    "id",
    "path",
    "archive",
    "offset",
    "size",
    "codec",
    "width",
    "height",
    "frames",
    "packets",
    "note",
    "bytes",
    "mtime_ns",
)


@dataclass(frozen=True)
class Difference:
    """A file that is not what the catalog said.

    Attributes:
        changes_frames: whether its frames have other numbers from now on.
        is_known: whether it was looked at to the end, and the catalog says so now.
    """

    path: str
    detail: str
    changes_frames: bool = False
    is_known: bool = True


def recheck(
    catalog: Path,
    name: str,
    source: MediaConfig,
    sample: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[int, list[Difference]]:
    """Decode the usable files of a source; returns how many, and what differs.

    Args:
        sample: how many files at most, evenly spread over the list; None: all.

    Raises:
        UserError: if the catalog cannot be written.
    """
    with writing(catalog) as db:  # whether it can be written, before hours of decoding
        db.execute("BEGIN IMMEDIATE")
        db.rollback()
        number, root = db.execute("SELECT id, root FROM sources WHERE name = ?", (name,)).fetchone()
        rows = _chosen(db, number, sample)
    found = list(_decode(name, source, root, rows, threads, progress))
    known = [
        (row, state, probe, stamp)
        for row, state, probe, stamp, difference in found
        if difference.is_known
    ]
    if known:
        with only_build(catalog), writing(catalog) as db:
            for row, state, probe, stamp in known:
                write_probe(db, root, row, state, probe, stamp)
            pack(db, number, by_video=source.kind == "untrimmed", keep_all=source.pieces == "all")
            db.commit()
    return len(rows), sorted((entry[-1] for entry in found), key=lambda difference: difference.path)


def _decode(
    name: str, source: MediaConfig, root: str, rows: list[dict], threads: int | None, progress: bool
) -> Iterator[tuple]:
    """Yield (row, state, probe, stamp, difference) of the files that are not what the catalog says."""
    known = {row["id"]: row for row in rows}
    places = [tuple(row[column] for column in _KNOWN[:5]) for row in rows]
    with (
        ProbePool(threads or len(os.sched_getaffinity(0))) as pool,
        tqdm(
            total=len(rows),
            desc=f"decode {name}",
            unit="file",
            disable=not progress,
            file=sys.stderr,
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        ) as bar,
    ):
        for record, state, probe, stamp in pool.probe(source, root, places, decodes_all=True):
            bar.update()
            difference = _compare(known[record], state, probe, stamp)
            if difference is not None:
                yield known[record], state, probe, stamp, difference


def _chosen(db, source: int, sample: int | None) -> list[dict]:
    """What the catalog knows of the files to look at."""
    ids = [
        record
        for (record,) in db.execute(
            "SELECT id FROM media WHERE source = ? AND state = ? ORDER BY id", (source, OK)
        )
    ]
    if sample is not None and sample < len(ids):
        ids = [ids[place] for place in np.linspace(0, len(ids) - 1, sample).astype(int).tolist()]
    return [
        dict(zip(_KNOWN, row))
        for row in db.execute(
            f"SELECT {', '.join(_KNOWN)} FROM media WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(ids),),
        )
    ]


def _compare(row: dict, state: str, probe: Probe | None, stamp: tuple) -> Difference | None:
    """What differs between the catalog and the decoder; None if nothing does that was not known."""
    if stamp != (row["bytes"], row["mtime_ns"]):
        return Difference(row["path"], "changed since it was probed: look again", is_known=False)
    if probe is None:
        return Difference(row["path"], state, is_known=not state.startswith((UNREADABLE, TOO_SLOW)))
    details = []
    if (probe.width, probe.height) != (row["width"], row["height"]):
        details.append(
            f"{row['width']}x{row['height']} by its header, {probe.width}x{probe.height} when decoded"
        )
    numbering = _numbering(row, probe)
    details += [numbering] if numbering else []
    if probe.note and probe.note != row["note"]:
        details.append(probe.note)
    return (
        Difference(row["path"], "; ".join(details), changes_frames=bool(numbering))
        if details
        else None
    )


def _numbering(row: dict, probe: Probe) -> str:
    """In what the frames differ; nothing where they are the same."""
    if probe.frames != row["frames"]:
        return f"{row['frames']:,} frames by its header, {probe.frames:,} when decoded"
    if not row["packets"] or not probe.packets:
        return ""
    old, new = (PacketIndex.unpack(data).packet_of for data in (row["packets"], probe.packets))
    differs = np.flatnonzero(old != new)
    return f"frames come in another order from frame {differs[0]} on" if len(differs) else ""
