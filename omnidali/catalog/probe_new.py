"""Probe the files that are new or changed, and write the results to the catalog."""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.sql_schema import NEW, media_crc
from omnidali.catalog.listing.scan import SourceScan
from omnidali.catalog.probing.probe import IRREGULAR, OK, UNREADABLE, Probe
from omnidali.catalog.probing.probe_child import ProbeRequest, ProbeResult
from omnidali.catalog.probing.probe_pool import ProbePool

_PROBED_TOGETHER = 100_000  # files whose paths are in memory while they are probed
_COMMIT_SECONDS = 2.0  # what a killed probe loses at most
# columns that plans depend on
_PLANNED = ("width", "height", "frames", "frame_rate", "tick", "timing")


def probe_new(
    db: sqlite3.Connection,
    source: int,
    scan: SourceScan,
    pool: ProbePool,
    *,
    progress: bool,
    as_begun: bool,
) -> tuple[int, int]:
    """Probe every ``new`` row, and those that the disk did not give; commit as results come in.

    Args:
        db: the open catalog.
        source: its id of the source.
        scan: the source.
        pool: probes.
        progress: whether to show a bar.
        as_begun: whether a run is resumed, whose plan must not change.

    Returns:
        How many were probed, without those that the disk again does not give; and how many of them
            stay as they were, as they cannot be used as planned.
    """
    again = "" if as_begun else f"{UNREADABLE}:*"
    rows = db.execute(
        "SELECT id FROM media WHERE source = ? AND (state = ? OR state GLOB ?) ORDER BY id",
        (source, NEW, again),
    )
    todo = np.fromiter((record for (record,) in rows), np.int64)
    if not len(todo):
        return 0, 0

    planned = _planned_values(db, source) if as_begun else {}
    probed = 0
    lost = 0
    last_commit = time.monotonic()
    with progress_bar(len(todo), f"probe {scan.name}", progress) as bar:
        for file, result in _probe_in_parts(db, todo, scan, pool):
            bar.update()
            if file["state"] != NEW and result.state.startswith(UNREADABLE):
                continue
            if not probed:
                db.execute("UPDATE sources SET fingerprint = NULL WHERE id = ?", (source,))
            probed += 1

            lost += not _keep_result(db, scan.root, file, result, planned)
            if time.monotonic() - last_commit > _COMMIT_SECONDS:
                db.commit()
                last_commit = time.monotonic()
    db.commit()
    return probed, lost


def _keep_result(
    db: sqlite3.Connection,
    root: str,
    file: sqlite3.Row,
    result: ProbeResult,
    planned: Mapping[int, list],
) -> bool:
    """Write what a probe found; False if the file cannot be used as planned and stays as it was."""
    probe = result.probe
    values = [getattr(probe, name, None) for name in _PLANNED]
    if planned.get(result.record, values) != values:
        db.execute("UPDATE media SET state = ? WHERE id = ?", (OK, result.record))
        return False

    write_probe(db, root, dict(file), result)
    if file["is_upgraded"] and probe and probe.codec.endswith(IRREGULAR):
        _forget_scores(db, os.path.join(root, file["path"]))
    return True


def write_probe(
    db: sqlite3.Connection, root: str, place: Mapping[str, object], result: ProbeResult
) -> None:
    """Write what a probe found.

    Args:
        db: the open catalog.
        root: real path of the source's folder.
        place: path, archive, offset and size of the file in the catalog.
        result: of the probe.
    """
    probe = result.probe or Probe("", "", 0, 0, 0)
    columns = {
        **vars(probe),
        "mirrored": int(probe.mirrored),
        "bytes": result.stamp[0],
        "mtime_ns": result.stamp[1],
        "state": result.state,
    }
    columns["crc"] = media_crc(root, {**place, **columns})
    db.execute(
        f"UPDATE media SET {', '.join(f'{name} = :{name}' for name in columns)} WHERE id = :id",
        {**columns, "id": result.record},
    )


def progress_bar(total: int, what: str, is_shown: bool) -> tqdm:
    """A bar of files on stderr, rarely renewed if that is a log.

    Args:
        total: number of files.
        what: happens to them.
        is_shown: whether it is shown at all.
    """
    return tqdm(
        total=total,
        desc=what,
        unit="file",
        disable=not is_shown,
        file=sys.stderr,
        mininterval=1.0 if sys.stderr.isatty() else 30.0,
    )


def _probe_in_parts(
    db: sqlite3.Connection, records: np.ndarray, scan: SourceScan, pool: ProbePool
) -> Iterator[tuple[sqlite3.Row, ProbeResult]]:
    """Probe the files with these ids; yield each with its outcome.

    A part is finished before the next one is read: the paths of millions of files would take
    gigabytes.
    """
    for begin in range(0, len(records), _PROBED_TOGETHER):
        rows = db.execute(
            # upgraded: never probed, or only by the version before
            "SELECT id, path, archive, offset, size, state, packets IS NULL AS is_upgraded"
            " FROM media WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(records[begin : begin + _PROBED_TOGETHER].tolist()),),
        )
        rows.row_factory = sqlite3.Row
        files = {row["id"]: row for row in rows}
        requests = [ProbeRequest(*file[:5]) for file in files.values()]
        for result in pool.probe(scan.config, scan.root, requests):
            yield files[result.record], result


def _planned_values(db: sqlite3.Connection, source: int) -> dict[int, list[object]]:
    """What plans depend on, of the ``new`` rows that were usable at their last probe."""
    rows = db.execute(
        f"SELECT id, {', '.join(_PLANNED)} FROM media WHERE source = ? AND state = ?"
        " AND codec <> '' AND packets IS NOT NULL",
        (source, NEW),
    )
    return {record: values for record, *values in rows}


def _forget_scores(db: sqlite3.Connection, path: str) -> None:
    """Drop a file's scores by teachers: they may have seen other frames under its numbers."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'scores'").fetchone():
        db.execute(
            "DELETE FROM scores WHERE teacher IN (SELECT id FROM teachers) AND path = ?", (path,)
        )
