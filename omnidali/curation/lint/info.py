"""What a catalog holds, shown as it is: nothing is probed or built."""

import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path

from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.integrity import DamagedCatalogError, damage
from omnidali.catalog.database.sql_schema import NEW, VERSION
from omnidali.catalog.probing.probe import OK
from omnidali.config.schema import Config
from omnidali.curation.lint.source_stats import count_files
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import FILE, UserError, start_of
from omnidali.loading.failures.quarantine import RECOVERED
from omnidali.loading.open_loader import QUARANTINE
from omnidali.utils.untrusted_text import for_terminal

SCORES = "scores"  # the table of teacher scores, where a filter has written one
_MAX_SHOWN = 8  # codecs, sizes and reasons of a source
_MAX_FAULTS = 20  # lines of the quarantine


def describe_catalog(path: str | Path, config: Config | None = None) -> dict[str, object]:
    """Describe a catalog in plain values, for JSON.

    Args:
        path: the catalog's file; the quarantine of a command lies beside it.
        config: names the run folder, whose quarantine is shown, too, and the sources that the
            catalog should hold.

    Raises:
        UserError: if there is no catalog, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            str(path),
            "a catalog",
            f"no file{start_of(path)}",
            "Run `omnidali lint` or a training, which make it.",
        )
    try:
        with contextlib.closing(connect(path, read_only=True)) as db:
            sources, scores = _read_catalog(db, path)
    except UserError:
        raise
    except (sqlite3.Error, DamagedCatalogError, ValueError) as error:
        raise damage(path, error) from None

    folders = {path.parent}
    absent: list[str] = []
    if config is not None:
        folders.add(Path(config.run_dir))
        known = {source["name"] for source in sources}
        absent = [name for name in config.all_sources if name not in known]
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


def _read_catalog(db: sqlite3.Connection, path: Path) -> tuple[list[dict[str, object]], int | None]:
    """A description of each source, and the number of teacher scores; None without their table."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "sources" not in tables:
        raise UserError(str(path), "a catalog", "another file of SQLite's", "Check the path.")

    scores = None
    if SCORES in tables:
        (scores,) = db.execute(f"SELECT COUNT(*) FROM {SCORES}").fetchone()
    rows = db.execute(
        "SELECT id, name, kind, root, format, fingerprint, left_out, unusable FROM sources"
        " ORDER BY id"
    )
    return [_describe_source(db, *row) for row in rows], scores


def _describe_source(
    db: sqlite3.Connection,
    number: int,
    name: str,
    kind: str,
    root: str,
    form: str,
    fingerprint: str | None,
    left_out: str | None,
    unusable: str | None,
) -> dict[str, object]:
    """A description of a source, given its row; what was left out is JSON of counts by reason."""
    states = dict(
        db.execute(
            "SELECT state, COUNT(*) FROM media WHERE source = ? GROUP BY 1 ORDER BY 2 DESC, 1",
            (number,),
        ).fetchall()
    )
    (samples,) = db.execute(
        "SELECT COALESCE(SUM(LENGTH(data)), 0) / 4 FROM packed"
        " WHERE source = ? AND name = 'labels'",
        (number,),
    ).fetchone()
    size, frames = db.execute(
        "SELECT COALESCE(SUM(COALESCE(size, bytes)), 0), COALESCE(SUM(frames), 0) FROM media"
        " WHERE source = ? AND state = ?",
        (number, OK),
    ).fetchone()

    (unlabelled,) = db.execute(
        "SELECT COUNT(*) FROM entries WHERE source = ? AND label < 0", (number,)
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
        "unlabelled": unlabelled,
        "files": states.get(OK, 0),
        "not_probed": states.get(NEW, 0),
        "refused": dict(refused.most_common()),
        "codecs": count_files(db, number, "codec"),
        "containers": count_files(db, number, "container"),
        "sizes": count_files(db, number, "width || 'x' || height"),
        "bytes": size,
        "frames": frames,
        "fingerprint": fingerprint,
    }


def _quarantined(path: Path) -> list[dict[str, str]]:
    """The lines of a quarantine file, without those of files that have recovered since."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        try:
            known = json.loads(line)
            row = {key: str(known[key]) for key in ("source", "path", "state", "reason")}
            row["trouble"] = str(known.get("trouble", FILE))
        except (ValueError, KeyError, TypeError):  # cut off by a kill
            continue
        of_file = rows.setdefault((row["source"], row["path"]), [])
        if row["state"] == RECOVERED:
            of_file.clear()
        else:
            of_file.append(row)
    return [row for of_file in rows.values() for row in of_file]


def format_catalog(found: dict) -> str:
    """The values of :func:`describe_catalog` as lines of text for a terminal."""
    lines = [f"{found['catalog']}: version {found['version']}, {found['bytes'] / 1e6:,.1f} MB"]
    for source in found["sources"]:
        lines += _source_lines(source)
    lines += [f"{name}: not in the catalog yet" for name in found["absent"]]
    scores = "none" if found["scores"] is None else f"{found['scores']:,}"
    lines.append(f"teacher scores: {scores}")

    faults = found["quarantine"]
    lines.append(f"quarantine: {len(faults):,} lines" if faults else "quarantine: nothing")
    for fault in faults[:_MAX_FAULTS]:
        fields = (
            fault["source"],
            fault["path"],
            fault["state"],
            str(Cause(fault["reason"], fault["trouble"])),
        )
        lines.append("  " + ": ".join(for_terminal(text) for text in fields))
    if len(faults) > _MAX_FAULTS:
        lines.append(f"  and {len(faults) - _MAX_FAULTS:,} others")
    return "\n".join(for_terminal(line, None) for line in lines)


def _source_lines(source: dict) -> list[str]:
    lines = [
        f"{source['name']}: {source['samples']:,} samples of kind {source['kind']}, read as"
        f" {source['format']} below {source['root']}",
        f"  {source['files']:,} files, {source['frames']:,} frames,"
        f" {source['bytes'] / 1e6:,.1f} MB",
    ]
    if source["unlabelled"]:
        lines.append(f"  {source['unlabelled']:,} items have no label")
    if source["not_probed"]:
        lines.append(f"  {source['not_probed']:,} files are not probed yet: the next start does it")

    for title in ("refused", "codecs", "containers", "sizes"):
        counts = source[title]
        texts = [f"{count:,} {for_terminal(str(name))}" for name, count in counts.items()]
        if len(texts) > _MAX_SHOWN:
            texts[_MAX_SHOWN:] = [f"{len(texts) - _MAX_SHOWN} others"]
        if texts:
            lines.append(f"  {title}: {', '.join(texts)}")
    lines.append(f"  fingerprint: {source['fingerprint'] or 'none, as it is not complete'}")
    return lines
