"""Fill the catalog: read the lists, probe what is new or changed, count what is left out and why."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from omnidali.catalog.gate import Refused
from omnidali.catalog.lists import escape_reason, read_list, scan_folder
from omnidali.catalog.probe import Probe, probe_image, probe_video
from omnidali.catalog.store import NEW, OK, connect, pack
from omnidali.config import MediaConfig, key_of
from omnidali.errors import UserError

CHECKED_AT_START = 100_000  # files of a source whose size and time are compared at a warm start
_COMMIT_SECONDS = 2.0  # what a killed probe loses at most


@dataclass(frozen=True)
class Summary:
    """What a source holds: files in use, left out by reason, probed just now; lines that repeat another."""

    name: str
    usable: int
    refused: Mapping[str, int]
    probed: int
    repeated: int

    def __str__(self) -> str:
        text = f"{self.name}: {self.usable:,} files"
        if self.probed:
            text += f", {self.probed:,} probed now"
        if self.repeated:
            text += f", {self.repeated:,} repeated lines counted once"
        if self.refused:
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.refused.items())
            text += f", {sum(self.refused.values()):,} left out ({reasons})"
        return text


def build_catalog(path: str | Path, sources: Mapping[str, MediaConfig], data_root: str | Path,
                  classes: list[str] | None = None, threads: int | None = None, progress: bool = True) -> list[Summary]:
    """Bring the catalog at ``path`` up to date with ``sources``.

    A source whose list has not changed costs a size-and-time check of its files (of an even sample
    above 100,000). A build that was killed goes on where it was.

    Raises:
        UserError: for missing roots and lists, bad lines, and sources without any usable file.
    """
    db = connect(path)
    try:
        threads = threads or len(os.sched_getaffinity(0))
        return [_build_source(db, name, source, Path(data_root), classes, threads, progress)
                for name, source in sources.items()]
    except sqlite3.Error as error:
        raise UserError(str(path), "a catalog that can be written", str(error),
                        "Check the disk and the permissions of the folder.") from None
    finally:
        db.close()


def _build_source(db, name, source: MediaConfig, data_root, classes, threads, progress) -> Summary:
    root = os.path.realpath(data_root / source.root)
    if not os.path.isdir(root):
        raise UserError(f"{key_of(name)}.root", "a folder", f"{root}, which does not exist",
                        "Check root and data_root (on the command line: data_root=DIR).")
    db.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
    row = db.execute("SELECT id, signature, folders FROM sources WHERE name = ?", (name,)).fetchone()
    source_id, old_signature, folders = row
    list_path = data_root / source.list if source.list else None
    signature = _signature(source.kind, root, list_path, json.loads(folders or "[]"), classes)
    repeated = 0
    if signature != old_signature:
        repeated = _read_entries(db, source_id, source.kind, root, list_path, classes)
        folders, = db.execute("SELECT folders FROM sources WHERE id = ?", (source_id,)).fetchone()
        db.execute("UPDATE sources SET signature = ?, fingerprint = NULL WHERE id = ?",
                   (_signature(source.kind, root, list_path, json.loads(folders), classes), source_id))
        db.commit()
    _mark_changed(db, source_id, root)
    probed = _probe_new(db, source_id, name, source.kind, root, threads, progress)
    fingerprint, = db.execute("SELECT fingerprint FROM sources WHERE id = ?", (source_id,)).fetchone()
    if probed or fingerprint is None:
        pack(db, source_id)
    db.commit()
    counts = Counter(dict(db.execute("SELECT state, COUNT(*) FROM media WHERE source = ? GROUP BY state",
                                     (source_id,))))
    usable = counts.pop(OK, 0)
    summary = Summary(name, usable, dict(counts.most_common()), probed, repeated)
    if not usable:
        raise UserError(key_of(name), f"at least one usable {source.kind}", str(summary), "Check root and list.")
    return summary


def _signature(kind: str, root: str, list_path: Path | None, folders: list[str], classes: list[str] | None) -> str:
    """Text that stays the same as long as reading the source again would find the same entries."""
    watched = [str(list_path)] if list_path else folders
    return json.dumps([kind, root, classes, [[path, _stamp(path)] for path in watched]])


def _read_entries(db, source: int, kind: str, root: str, list_path: Path | None, classes) -> int:
    """Make the media rows match the list; return how many lines only repeat another."""
    if list_path:
        entries, folders = read_list(list_path, classes), []
    else:
        entries, folders = scan_folder(Path(root), kind, classes)
    db.execute("CREATE TEMP TABLE IF NOT EXISTS listed (path TEXT, label INTEGER)")
    db.execute("DELETE FROM listed")
    db.executemany("INSERT INTO listed VALUES (?, ?)", entries)
    db.execute("CREATE INDEX IF NOT EXISTS temp.listed_path ON listed (path, label)")
    db.execute("DELETE FROM media WHERE source = ? AND NOT EXISTS"
               " (SELECT 1 FROM listed l WHERE l.path = media.path AND l.label = media.label)", (source,))
    total, = db.execute("SELECT COUNT(*) FROM listed").fetchone()
    db.execute("INSERT OR IGNORE INTO media (source, path, label) SELECT ?, path, label FROM listed"
               " ORDER BY rowid", (source,))
    kept, = db.execute("SELECT COUNT(*) FROM media WHERE source = ?", (source,)).fetchone()
    old = db.execute("SELECT root, kind FROM sources WHERE id = ?", (source,)).fetchone()
    if old != (root, kind):
        db.execute("UPDATE media SET state = ? WHERE source = ?", (NEW, source))
    db.execute("UPDATE sources SET kind = ?, root = ?, folders = ? WHERE id = ?",
               (kind, root, json.dumps(folders), source))
    return total - kept


def _mark_changed(db, source: int, root: str) -> None:
    """Set files back to ``new`` whose size or time is not what it was at the probe."""
    first, last, count = db.execute("SELECT MIN(id), MAX(id), COUNT(*) FROM media WHERE source = ? AND state <> ?",
                                    (source, NEW)).fetchone()
    if not count:
        return
    query = "SELECT id, path, bytes, mtime_ns FROM media WHERE source = ? AND state <> ?"
    if count <= CHECKED_AT_START:
        rows = db.execute(query, (source, NEW)).fetchall()
    else:
        wanted = np.unique(np.linspace(first, last, CHECKED_AT_START).astype(np.int64)).tolist()
        rows = [row for record in wanted
                for row in db.execute(query + " AND id = ?", (source, NEW, record))]
    changed = [(NEW, record) for record, path, size, mtime in rows
               if _stamp(os.path.join(root, path)) != (size, mtime)]
    db.executemany("UPDATE media SET state = ? WHERE id = ?", changed)
    db.commit()


def _stamp(path: str) -> tuple[int | None, int | None]:
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return None, None


def _probe_one(kind: str, root: str, record: int, path: str) -> tuple[int, str, Probe | None, tuple]:
    full, probe, stamp = os.path.join(root, path), None, (None, None)
    state = escape_reason(root, path)
    if state is None:
        stamp = _stamp(full)
        try:
            if os.path.exists(full) and not os.path.isfile(full):  # opening a pipe would wait for ever
                raise Refused("not a regular file")
            probe = (probe_image if kind == "image" else probe_video)(full)
            state = OK
        except Refused as refusal:
            state = str(refusal)
        except OSError as error:
            state = "missing file" if isinstance(error, FileNotFoundError) else f"unreadable: {error.strerror}"
    return record, state, probe, stamp


def _probe_new(db, source: int, name: str, kind: str, root: str, threads: int, progress: bool) -> int:
    """Probe every ``new`` row on a pool of threads; commit as results come in."""
    todo = db.execute("SELECT id, path FROM media WHERE source = ? AND state = ? ORDER BY id", (source, NEW)).fetchall()
    if not todo:
        return 0
    db.execute("UPDATE sources SET fingerprint = NULL WHERE id = ?", (source,))
    waiting, running, last_commit = iter(todo), set(), time.monotonic()
    with ThreadPoolExecutor(threads, thread_name_prefix="probe") as pool, tqdm(
            total=len(todo), desc=f"probe {name}", unit="file", disable=not progress, file=sys.stderr,
            mininterval=1.0 if sys.stderr.isatty() else 30.0) as bar:
        while True:
            for record, path in itertools.islice(waiting, 4 * threads - len(running)):
                running.add(pool.submit(_probe_one, kind, root, record, path))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                record, state, probe, (size, mtime) = future.result()
                known = probe or Probe("", "", 0, 0, 0)
                db.execute("UPDATE media SET state = ?, container = ?, codec = ?, width = ?, height = ?, frames = ?,"
                           " frame_rate = ?, rotation = ?, timing = ?, keyframes = ?, bytes = ?, mtime_ns = ?"
                           " WHERE id = ?",
                           (state, known.container, known.codec, known.width, known.height, known.frames,
                            known.frame_rate, known.rotation, known.timing, known.keyframes, size, mtime, record))
            bar.update(len(done))
            if time.monotonic() - last_commit > _COMMIT_SECONDS:
                db.commit()
                last_commit = time.monotonic()
    db.commit()
    return len(todo)
