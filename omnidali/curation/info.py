"""What a catalog holds, shown as it is: nothing is probed or built."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

from omnidali.catalog.database.integrity import DamagedCatalogError, damage
from omnidali.catalog.database.store import NEW, VERSION, connect
from omnidali.catalog.probing.sniff import OK
from omnidali.config.schema import Config
from omnidali.curation.source_selection import all_sources
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import FILE, UserError
from omnidali.loading.data import QUARANTINE
from omnidali.loading.failures.quarantine import RECOVERED
from omnidali.utils.untrusted_text import for_terminal

SCORES = "scores"  # the table of teacher scores, where a filter has written one
_SHOWN = 8  # codecs, sizes and reasons of a source
_FAULTS = 20  # lines of the quarantine


def describe_catalog(path: str | Path, config: Config | None = None) -> dict[str, object]:
    """Plain values of everything there is to say, for JSON.

    Args:
        path: the catalog's file, beside which the quarantine of a command lies. config: names the
            run folder, whose quarantine is shown, too, and the sources that the catalog should
            hold.

    Raises:
        UserError: if there is no catalog, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            str(path), "a catalog", "no file", "Run `omnidali lint` or a training, which make it."
        )
    try:
        db = connect(path, read_only=True)
        try:
            tables = {
                name
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            if "sources" not in tables:
                raise UserError(
                    str(path), "a catalog", "another file of SQLite's", "Check the path."
                )
            scores = (
                db.execute(f"SELECT COUNT(*) FROM {SCORES}").fetchone()[0]
                if SCORES in tables
                else None
            )
            sources = [
                _source(db, row)
                for row in db.execute(
                    "SELECT id, name, kind, root, format, fingerprint, left_out, unusable FROM sources ORDER BY id"
                )
            ]
        finally:
            db.close()
    except (sqlite3.Error, DamagedCatalogError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise damage(path, error) from None
    known = {source["name"] for source in sources}
    absent = (
        [name for name in all_sources(config) if name not in known] if config is not None else []
    )
    # of a run, of a command
    folders = {Path(config.run_dir), path.parent} if config is not None else {path.parent}
    return {
        "catalog": str(path),
        "version": VERSION,
        "bytes": path.stat().st_size,
        "sources": sources,
        "absent": absent,
        "scores": scores,
        "quarantine": [
            line for folder in sorted(folders) for line in _quarantined(folder / QUARANTINE)
        ],
    }


def _source(db: sqlite3.Connection, row: tuple) -> dict[str, object]:
    number, name, kind, root, form, fingerprint, left_out, unusable = row

    def counted(column: str, condition: str = "AND state = 'ok'") -> dict[str, int]:
        return dict(
            db.execute(
                f"SELECT {column}, COUNT(*) FROM media WHERE source = ? {condition} GROUP BY 1"
                " ORDER BY 2 DESC, 1",
                (number,),
            ).fetchall()
        )

    states = counted("state", "")
    (samples,) = db.execute(
        "SELECT COALESCE(SUM(LENGTH(data)), 0) / 4 FROM packed WHERE source = ? AND name = 'labels'",
        (number,),
    ).fetchone()
    size, frames = db.execute(
        "SELECT COALESCE(SUM(COALESCE(size, bytes)), 0), COALESCE(SUM(frames), 0) FROM media"
        " WHERE source = ? AND state = ?",
        (number, OK),
    ).fetchone()
    refused = Counter({state: count for state, count in states.items() if state not in (OK, NEW)})
    for text in (left_out, unusable):
        refused.update(json.loads(text or "{}"))
    return {
        "name": name,
        "kind": kind,
        "root": root,
        "format": form,
        "samples": samples,
        "files": states.get(OK, 0),
        "not_probed": states.get(NEW, 0),
        "refused": dict(refused.most_common()),
        "codecs": counted("codec"),
        "containers": counted("container"),
        "sizes": counted("width || 'x' || height"),
        "bytes": size,
        "frames": frames,
        "fingerprint": fingerprint,
    }


def _quarantined(path: Path) -> list[dict[str, str]]:
    """The lines of a quarantine, but for files that have recovered since; none where there is no
    file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            row = {key: str(row[key]) for key in ("source", "path", "state", "reason")} | {
                "trouble": str(row.get("trouble", FILE))
            }
        except (ValueError, KeyError, TypeError):  # cut off by a kill
            continue
        of_file = rows.setdefault((row["source"], row["path"]), [])
        if row["state"] == RECOVERED:
            of_file.clear()
        else:
            of_file.append(row)
    return [row for of_file in rows.values() for row in of_file]


def show_catalog(found: dict) -> str:
    """The values of :func:`describe_catalog` as lines of text for a terminal."""
    lines = [f"{found['catalog']}: version {found['version']}, {found['bytes'] / 1e6:,.1f} MB"]
    for source in found["sources"]:
        lines += [
            f"{source['name']}: {source['samples']:,} samples of kind {source['kind']}, read as"
            f" {source['format']} below {source['root']}",
            f"  {source['files']:,} files, {source['frames']:,} frames, {source['bytes'] / 1e6:,.1f} MB",
        ]
        if source["not_probed"]:
            lines.append(
                f"  {source['not_probed']:,} files are not probed yet: the next start does it"
            )
        for title in ("refused", "codecs", "containers", "sizes"):
            values = list(source[title].items())
            more = [f"{len(values) - _SHOWN} others"] if len(values) > _SHOWN else []
            if values:
                lines.append(
                    f"  {title}: "
                    + ", ".join(
                        [f"{count:,} {for_terminal(str(name))}" for name, count in values[:_SHOWN]]
                        + more
                    )
                )
        lines.append(f"  fingerprint: {source['fingerprint'] or 'none, as it is not complete'}")
    lines += [f"{name}: not in the catalog yet" for name in found["absent"]]
    lines.append(
        "teacher scores: " + ("none" if found["scores"] is None else f"{found['scores']:,}")
    )
    faults = found["quarantine"]
    lines.append(f"quarantine: {len(faults):,} lines" if faults else "quarantine: nothing")
    for fault in faults[:_FAULTS]:
        cause = str(Cause(fault["reason"], fault["trouble"]))
        lines.append(
            "  "
            + ": ".join(map(for_terminal, (fault["source"], fault["path"], fault["state"], cause)))
        )
    if len(faults) > _FAULTS:
        lines.append(f"  and {len(faults) - _FAULTS:,} others")
    return "\n".join(for_terminal(line, None) for line in lines)
