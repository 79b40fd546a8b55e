"""Decode files whole and compare them with the catalog, which learns what differs."""

import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnidali.catalog.database.columns import write_columns
from omnidali.catalog.database.connection import writing
from omnidali.catalog.database.integrity import only_build
from omnidali.catalog.probe_new import progress_bar, write_probe
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import OK, UNREADABLE, Probe
from omnidali.catalog.probing.probe_child import ProbeRequest, ProbeResult
from omnidali.catalog.probing.probe_pool import ProbePool
from omnidali.config.sources import MediaConfig

TOO_SLOW = "takes more than"  # how the state of a file that the probe gave up begins


@dataclass(frozen=True)
class Difference:
    """A file that is not what the catalog said.

    Attributes:
        path: below the source's root.
        detail: what differs.
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
    *,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[int, list[Difference]]:
    """Decode the usable files of a source; return how many, and what differs.

    Args:
        catalog: its path.
        name: of the source.
        source: its config.
        sample: how many files at most, evenly spread over the list; None: all.
        threads: processes that decode; none: one for each core.
        progress: whether to show a bar.

    Raises:
        UserError: if the catalog cannot be written.
    """
    with writing(catalog) as db:  # whether it can be written, before hours of decoding
        db.execute("BEGIN IMMEDIATE")
        db.rollback()
        number, root = db.execute("SELECT id, root FROM sources WHERE name = ?", (name,)).fetchone()
        files = _choose(db, number, sample)

    with (
        ProbePool(threads or len(os.sched_getaffinity(0))) as pool,
        progress_bar(len(files), f"decode {name}", progress) as bar,
    ):
        requests = [ProbeRequest(*file[:5]) for file in files.values()]
        found = []
        for result in pool.probe(source, root, requests, decodes_all=True):
            bar.update()
            difference = _compare(files[result.record], result)
            if difference is not None:
                found.append((result, difference))

    known = [result for result, difference in found if difference.is_known]
    if known:
        with only_build(catalog), writing(catalog) as db:
            for result in known:
                write_probe(db, root, dict(files[result.record]), result)
            write_columns(
                db,
                number,
                by_video=source.media_kind.has_pieces,
                keep_all=source.pieces == "all",
            )
            db.commit()
    return len(files), sorted(
        (difference for _, difference in found), key=lambda difference: difference.path
    )


def _choose(db: sqlite3.Connection, source: int, sample: int | None) -> dict[int, sqlite3.Row]:
    """The rows of the files to look at, by their ids."""
    records = [
        record
        for (record,) in db.execute(
            "SELECT id FROM media WHERE source = ? AND state = ? ORDER BY id", (source, OK)
        )
    ]
    if sample is not None and sample < len(records):
        places = np.linspace(0, len(records) - 1, sample).astype(int)
        records = [records[place] for place in places.tolist()]

    rows = db.execute(
        "SELECT id, path, archive, offset, size, width, height, frames, packets, note, bytes,"
        " mtime_ns FROM media WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(records),),
    )
    rows.row_factory = sqlite3.Row
    return {row["id"]: row for row in rows}


def _compare(file: sqlite3.Row, result: ProbeResult) -> Difference | None:
    """Damage that the decoder finds and the catalog does not know; None if there is nothing."""
    path = file["path"]
    if result.stamp != (file["bytes"], file["mtime_ns"]):
        return Difference(path, "changed since it was probed: look again", is_known=False)
    probe = result.probe
    if probe is None:
        passes = result.state.startswith((UNREADABLE, TOO_SLOW))
        return Difference(path, result.state, is_known=not passes)

    other_frames = _compare_frames(file, probe)
    details = [other_frames]
    if (probe.width, probe.height) != (file["width"], file["height"]):
        header = f"{file['width']}x{file['height']} by its header"
        details.insert(0, f"{header}, {probe.width}x{probe.height} when decoded")
    if probe.note != file["note"]:
        details.append(probe.note)
    if not any(details):
        return None
    return Difference(path, "; ".join(filter(None, details)), changes_frames=bool(other_frames))


def _compare_frames(file: sqlite3.Row, probe: Probe) -> str:
    """What differs in the frames; empty if they are the same."""
    if probe.frames != file["frames"]:
        return f"{file['frames']:,} frames by its header, {probe.frames:,} when decoded"
    if not file["packets"] or not probe.packets:
        return ""
    old = PacketIndex.unpack(file["packets"]).packet_of
    new = PacketIndex.unpack(probe.packets).packet_of
    differs = np.flatnonzero(old != new)
    return f"frames come in another order from frame {differs[0]} on" if len(differs) else ""
