"""Fill the catalog: read the lists, probe what is new or changed, count what is left out and why."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sqlite3
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.columns import pack
from omnidali.catalog.database.integrity import (
    DamagedCatalogError,
    damage,
    is_damage,
    move_aside,
    only_build,
    trouble,
)
from omnidali.catalog.database.store import COLUMNS, NEW, connect, media_crc, read_packed
from omnidali.catalog.file_span import stamp_of
from omnidali.catalog.listing.scan import list_source
from omnidali.catalog.listing.tars import find_tars
from omnidali.catalog.probing.probe import IRREGULAR, Probe
from omnidali.catalog.probing.probe_pool import Outcome, ProbePool
from omnidali.catalog.probing.sniff import OK, UNREADABLE
from omnidali.config.schema import MediaConfig, key_of
from omnidali.errors import NoUsableFilesError, UserError
from omnidali.utils.text_files import is_text, require_utf8_names
from omnidali.utils.untrusted_text import for_terminal

# files of a source whose size and time are compared at a warm start; of more than that
CHECKED_AT_START = 100_000
SAMPLE_AT_START = 20_000  # these, evenly spread
_PROBED_TOGETHER = 100_000  # files whose paths are in memory while they are probed
_COMMIT_SECONDS = 2.0  # what a killed probe loses at most
# What has changed stays in memory until it is committed: once SQLite writes before that, nobody
# else can read. 512 MiB of 4 KiB each, which is a list of about a million lines.
_UNWRITTEN_PAGES = 1 << 17
_KNOWN = "SELECT id, signature, watched, left_out, root, kind, pattern FROM sources WHERE name = ?"
# columns that plans depend on
_PLANNED = ("width", "height", "frames", "frame_rate", "tick", "timing")


@dataclass(frozen=True)
class Summary:
    """What a source holds: samples in use, things left out by reason, files probed just now.

    Attributes:
        form: what the list was read as, and whether that was recognised or asked for.
        repeated: lines that repeat another.
        examples: a path for each reason, where a file is the reason.
        lost: files that are gone, changed or broken since the run began, and that stay in its plan.
        noted: how many files are damaged, or used in part. a_note: path and note of one of them.
    """

    name: str
    form: str
    usable: int
    refused: Mapping[str, int]
    probed: int
    repeated: int
    examples: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lost: int = 0
    noted: int = 0
    a_note: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        text = f"{self.name}: {self.usable:,} samples, read as {self.form}"
        if self.probed:
            text += f", {self.probed:,} files probed now"
        if self.repeated:
            text += f", {self.repeated:,} repeated lines counted once"
        if self.refused:
            reasons = "; ".join(
                f"{count:,} {reason}"
                + (
                    f", such as {for_terminal(self.examples[reason])}"
                    if reason in self.examples
                    else ""
                )
                for reason, count in self.refused.items()
            )
            text += f", {sum(self.refused.values()):,} left out ({reasons})"
        if self.noted:
            text += f", {self.noted:,} damaged or used in part (such as {for_terminal(': '.join(self.a_note))})"
        if self.lost:
            text += f", {self.lost:,} gone, changed or broken since the run began: substitutes stand for them"
        return text


def build_catalog(
    path: str | Path,
    sources: Mapping[str, MediaConfig],
    data_root: str | Path,
    classes: list[str] | None = None,
    threads: int | None = None,
    progress: bool = True,
    as_begun: bool = False,
    is_current: bool = False,
) -> list[Summary]:
    """Bring the catalog at ``path`` up to date with ``sources``.

    A source whose list has not changed costs a size-and-time check of its files (of an even sample
    above 100,000). A build that was killed goes on where it was; a damaged catalog is moved aside
    and made anew; a second build at the same time waits for the first.

    Args:
        as_begun: for a run that goes on: files that were usable when it began stay so, whatever
            became of them, and no other ones come. The loader finds the faults, as it does in a run
            that nobody stopped.
        is_current: whether :func:`would_change` has just said that nothing changed, so that no file
            is asked again.

    Raises:
        UserError: for missing roots and lists, bad lines, and sources without any usable file.
    """
    require_utf8_names()
    path = Path(path)
    for name, source in sources.items():  # before anything is made
        _root_of(name, source, Path(data_root))
    with only_build(path), ProbePool(threads or len(os.sched_getaffinity(0))) as pool:
        for attempt in range(2):
            try:
                return _build(
                    path, sources, Path(data_root), classes, pool, progress, as_begun, is_current
                )
            except DamagedCatalogError as seen:
                try:
                    if not attempt:
                        move_aside(path, seen)
                        continue
                except OSError:  # others own it
                    pass
                raise damage(path, seen) from None
    raise AssertionError


def _build(
    path: Path,
    sources: Mapping[str, MediaConfig],
    data_root: Path,
    classes: list[str] | None,
    pool: ProbePool,
    progress: bool,
    as_begun: bool,
    is_current: bool,
) -> list[Summary]:
    with writing(path) as db:
        return [
            _build_source(
                db, name, source, data_root, classes, pool, progress, as_begun, is_current
            )
            for name, source in sources.items()
        ]


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The catalog at ``path``, opened to be written and brought up to date.

    Raises:
        UserError: where it cannot be written.
        DamagedCatalogError: if it is not as it was written.
    """
    db = connect(path, upgrades=True)
    db.execute(f"PRAGMA cache_spill = {_UNWRITTEN_PAGES}")
    try:
        yield db
    except sqlite3.Error as error:
        if is_damage(error):
            raise DamagedCatalogError(str(error)) from None
        if "readonly" in str(error):
            raise UserError(
                str(path),
                "a catalog that knows every file, or one that can be written",
                "new or changed files or lists, and no permission to write",
                "Ask its owner to build it again, or let the run have a catalog of its own.",
            ) from None
        raise trouble(path, error, "a catalog that can be written") from None
    finally:
        db.close()


def _build_source(
    db, name, source: MediaConfig, data_root, classes, pool, progress, as_begun, is_current
) -> Summary:
    root = _root_of(name, source, data_root)
    row = db.execute(_KNOWN, (name,)).fetchone()
    if row is None:  # a catalog that cannot be written is good enough where nothing is new
        db.execute("INSERT INTO sources (name) VALUES (?)", (name,))
        row = db.execute(_KNOWN, (name,)).fetchone()
    source_id, repeated = row[0], 0
    listed = _reads_list(row, name, source, root, data_root, classes, as_begun)
    if listed:
        watched, repeated = _read_entries(db, source_id, name, source, root, data_root, classes)
        signature = _signature(source, root, watched, _tars(name, source, root), classes)
        db.execute(
            "UPDATE sources SET signature = ?, watched = ?, fingerprint = NULL, entries_crc = ? WHERE id = ?",
            (signature, json.dumps(watched), _entries_crc(db, source_id), source_id),
        )
        db.commit()
    if not is_current:
        _mark_changed(db, source_id, root, as_begun)
    probed, lost = _probe_new(db, source_id, name, source, root, pool, progress, as_begun)
    fingerprint, crc = db.execute(
        "SELECT fingerprint, entries_crc FROM sources WHERE id = ?", (source_id,)
    ).fetchone()
    if not probed and fingerprint is not None:
        read_packed(db, source_id, fingerprint)  # flipped bits are no error of SQLite's
    else:
        if not listed and crc != _entries_crc(db, source_id):
            raise DamagedCatalogError("the entries of the list changed")
        pack(db, source_id, by_video=source.kind == "untrimmed", keep_all=source.pieces == "all")
    db.commit()
    return _summarise(db, source_id, name, source, data_root, probed, repeated, lost)


def _root_of(name: str, source: MediaConfig, data_root: Path) -> str:
    """The real path of a source's root.

    Raises:
        UserError: if it is no folder.
    """
    root = os.path.realpath(data_root / source.root)
    if not os.path.isdir(root):
        raise UserError(
            f"{key_of(name)}.root",
            "a folder",
            f"{root}, which does not exist",
            "Check root and data_root (on the command line: data_root=DIR).",
        )
    if not is_text(root):
        raise UserError(
            f"{key_of(name)}.root",
            "a folder with a name in UTF-8",
            f"{root}, which is not",
            "Rename it, or move the data.",
        )
    return root


def _reads_list(
    row: tuple,
    name: str,
    source: MediaConfig,
    root: str,
    data_root: Path,
    classes: list[str] | None,
    as_begun: bool,
) -> bool:
    """Whether a source's list is to be read, as it is new or changed; ``row`` is what the catalog
    knows of it.
    """
    _, old_signature, watched, left_out, *old = row
    watched = _plain(watched or "[]")
    if old != [root, source.kind, source.pattern]:
        return True
    if as_begun and old_signature is not None:
        now = _signature(source, root, watched, [], classes)
        return _asked(old_signature, source, data_root) != _asked(now, source, data_root)
    return _signature(
        source, root, watched, _tars(name, source, root), classes
    ) != old_signature or any(
        reason.startswith(UNREADABLE) for reason in _plain(left_out or "{}")
    )  # which may pass


def would_change(
    path: Path, sources: Mapping[str, MediaConfig], data_root: Path, classes: list[str] | None
) -> bool | None:
    """Whether :func:`build_catalog` would write to the catalog of a run that goes on.

    It would where lists or media have changed. None where there is no good one, which is built
    anew, and for one of an older version: bringing it up to date may take hours, and harms nobody.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(connect(path, read_only=True)) as db:
            for name, source in sources.items():
                row = db.execute(_KNOWN, (name,)).fetchone()
                root = _root_of(name, source, data_root)
                if row is None or _reads_list(
                    row, name, source, root, data_root, classes, as_begun=True
                ):
                    return True
                (new,) = db.execute(
                    "SELECT COUNT(*) FROM media WHERE source = ? AND state = ?", (row[0], NEW)
                ).fetchone()
                if new or _find_changed(db, row[0], root, as_begun=True):
                    return True
        return False
    except (UserError, DamagedCatalogError, sqlite3.Error):
        return None


def _plain(text: str) -> object:
    """What the catalog holds as JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        raise DamagedCatalogError("a text that is not as it was written") from None


def _entries_crc(db, source: int) -> int:
    crc = 0
    for row in db.execute(
        "SELECT media, label, unit, first, last, video, positive FROM entries WHERE source = ?"
        " ORDER BY id",
        (source,),
    ):
        crc = zlib.crc32(repr(row).encode("utf-8", "surrogatepass"), crc)
    return crc


def _summarise(
    db,
    source_id: int,
    name: str,
    source: MediaConfig,
    data_root: Path,
    probed: int,
    repeated: int,
    lost: int,
) -> Summary:
    # two ranges instead of <>: millions of usable files are not looked at
    found = [
        row
        for side in "<>"
        for row in db.execute(
            f"SELECT state, COUNT(*), MIN(path) FROM media WHERE source = ? AND state {side} ? GROUP BY state",
            (source_id, OK),
        )
    ]
    counts, examples = Counter({row[0]: row[1] for row in found}), {row[0]: row[2] for row in found}
    form, left_out, unusable = db.execute(
        "SELECT format, left_out, unusable FROM sources WHERE id = ?", (source_id,)
    ).fetchone()
    counts.update(_plain(left_out))
    counts.update(_plain(unusable))
    (usable,) = db.execute(
        "SELECT COALESCE(SUM(LENGTH(data)), 0) / 4 FROM packed WHERE source = ? AND name = 'labels'",
        (source_id,),
    ).fetchone()
    how = (
        "recognised"
        if source.format == "auto" and source.list
        else "asked for"
        if source.list
        else "found"
    )
    noted, *a_note = db.execute(
        "SELECT COUNT(*), COALESCE(MIN(path), ''), note FROM media WHERE source = ? AND note <> ''"
        " AND +state = ?",
        (source_id, OK),
    ).fetchone()
    summary = Summary(
        name,
        f"{form} ({how})",
        usable,
        dict(counts.most_common()),
        probed,
        repeated,
        examples,
        lost,
        noted,
        tuple(a_note),
    )
    if not usable:  # what was read so may have been read wrong: the next start reads it again
        db.execute("UPDATE sources SET signature = NULL WHERE id = ?", (source_id,))
        db.commit()
        raise NoUsableFilesError(
            key_of(name),
            f"at least one usable file for kind {source.kind}",
            str(summary),
            f"Check the list, and its paths below {os.path.realpath(data_root / source.root)}.",
        )
    return summary


def _signature(
    source: MediaConfig, root: str, watched: list[str], tars: list[str], classes: list[str] | None
) -> str:
    """Text that stays the same as long as reading the source again would find the same entries."""
    settings = [
        getattr(source, field.name)
        for field in dataclasses.fields(MediaConfig)
        if field.name != "decode"
    ]
    return json.dumps([settings, root, classes, tars, [[path, stamp_of(path)] for path in watched]])


def _asked(signature: str, source: MediaConfig, data_root: Path) -> tuple:
    """What of a signature the user decides on: not the files that come to folders and tars, and go."""
    settings, root, classes, _, watched = _plain(signature)
    lists = [str(data_root / path) for path in (source.list, source.labels) if path]
    return settings, root, classes, [[path, stamp] for path, stamp in watched if path in lists]


def _tars(name: str, source: MediaConfig, root: str) -> list[str]:
    return find_tars(Path(root), source.tars, f"{key_of(name)}.tars") if source.tars else []


def _read_entries(
    db,
    source_id: int,
    name: str,
    source: MediaConfig,
    root: str,
    data_root: Path,
    classes: list[str] | None,
) -> tuple[list[str], int]:
    """Make media and entries match the list; return the files to watch, and how many lines repeat
    another.
    """
    left_out: Counter = Counter()
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS listed (path TEXT, label INTEGER, unit TEXT, first REAL, last REAL,"
        " video TEXT, positive INTEGER, archive TEXT, offset INTEGER, size INTEGER)"
    )
    db.execute("DELETE FROM listed")
    form, entries, watched = list_source(name, source, root, data_root, classes, left_out)
    db.executemany("INSERT INTO listed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entries)
    (total,) = db.execute("SELECT COUNT(*) FROM listed").fetchone()
    db.execute("CREATE INDEX IF NOT EXISTS temp.listed_path ON listed (path)")
    old = db.execute(
        "SELECT root, kind, pattern FROM sources WHERE id = ?", (source_id,)
    ).fetchone()
    if old != (root, source.kind, source.pattern):
        db.execute("DELETE FROM media WHERE source = ?", (source_id,))
    # members of a tar have no time of their own: they are probed again where they moved
    db.execute(
        "DELETE FROM media WHERE source = ? AND NOT EXISTS (SELECT 1 FROM listed l WHERE l.path = media.path"
        " AND l.archive IS media.archive AND l.offset IS media.offset AND l.size IS media.size"
        " AND l.positive IS NOT NULL)",
        (source_id,),
    )
    db.execute(
        "INSERT OR IGNORE INTO media (source, path, archive, offset, size) SELECT ?, path, archive, offset, size"
        " FROM listed WHERE positive IS NOT NULL ORDER BY rowid",
        (source_id,),
    )
    db.execute("DELETE FROM entries WHERE source = ?", (source_id,))
    order = (
        "MIN(l.rowid) OVER (PARTITION BY l.video, l.label), l.rowid"
        if source.kind == "untrimmed"
        else "l.rowid"
    )
    # a removed piece whose file nobody needs is an entry all the same: the numbers of the others
    # count it
    db.execute(
        "INSERT INTO entries (source, media, label, unit, first, last, video, positive)"
        " SELECT ?, COALESCE(m.id, 0), l.label, l.unit, l.first, l.last, l.video, l.positive FROM listed l"
        " LEFT JOIN media m ON m.source = ? AND m.path = l.path WHERE l.rowid IN"
        f" (SELECT MIN(rowid) FROM listed GROUP BY path, label, unit, first, last) ORDER BY {order}",
        (source_id, source_id),
    )
    (kept,) = db.execute("SELECT COUNT(*) FROM entries WHERE source = ?", (source_id,)).fetchone()
    db.execute(
        "UPDATE sources SET kind = ?, root = ?, pattern = ?, format = ?, left_out = ?, pixel_aspect = ?"
        " WHERE id = ?",
        (
            source.kind,
            root,
            source.pattern,
            form,
            json.dumps(left_out),
            source.pixel_aspect,
            source_id,
        ),
    )
    return watched, total - kept


def _mark_changed(db, source: int, root: str, as_begun: bool) -> None:
    """Set files back to ``new`` whose size or time is not what it was at the probe; ``as_begun``:
    usable ones alone.
    """
    changed = _find_changed(db, source, root, as_begun)
    db.executemany("UPDATE media SET state = ? WHERE id = ?", [(NEW, record) for record in changed])
    db.commit()


def _find_changed(db, source: int, root: str, as_begun: bool) -> list[int]:
    """The catalog ids of those files."""
    usable = [
        np.frombuffer(data, COLUMNS["records"])
        for (data,) in db.execute(
            "SELECT data FROM packed WHERE source = ? AND name = 'records' ORDER BY chunk",
            (source,),
        )
    ]
    refused = np.array(
        [
            record
            for side in "<>"
            for (record,) in db.execute(
                f"SELECT id FROM media WHERE source = ? AND state {side} ? AND state <> ?",
                (source, OK, NEW),
            )
        ],
        np.int64,
    )
    rows = []
    for records in (
        np.concatenate(usable) if usable else np.zeros(0, np.int64),
        *(() if as_begun else (refused,)),
    ):
        if len(records) > CHECKED_AT_START:
            records = records[np.linspace(0, len(records) - 1, SAMPLE_AT_START).astype(np.int64)]
        rows += db.execute(
            "SELECT id, COALESCE(archive, path), bytes, mtime_ns, archive FROM media WHERE id IN"
            " (SELECT value FROM json_each(?))",
            (json.dumps(records.tolist()),),
        ).fetchall()
    # a tar has many members
    stamp = functools.lru_cache(maxsize=1000)(lambda path: stamp_of(os.path.join(root, path)))
    return [
        record
        for record, path, size, mtime, archive in rows
        if (stamp(path)[1] != mtime if archive else stamp(path) != (size, mtime))
    ]


def _probe_new(
    db,
    source: int,
    name: str,
    config: MediaConfig,
    root: str,
    pool: ProbePool,
    progress: bool,
    as_begun: bool,
) -> tuple[int, int]:
    """Probe every ``new`` row, and those that the disk did not give, in the pool; commit as results
    come in.

    Returns:
        How many were probed, without those that the disk again does not give; with ``as_begun`` how
            many of them stay
        as they were, as they cannot be used as planned.
    """
    again = "" if as_begun else f"{UNREADABLE}:*"
    todo = np.fromiter(
        (
            record
            for (record,) in db.execute(
                "SELECT id FROM media WHERE source = ? AND (state = ? OR state GLOB ?) ORDER BY id",
                (source, NEW, again),
            )
        ),
        np.int64,
    )
    if not len(todo):
        return 0, 0
    planned, probed, lost = _planned(db, source) if as_begun else {}, 0, 0
    last_commit = time.monotonic()
    with tqdm(
        total=len(todo),
        desc=f"probe {name}",
        unit="file",
        disable=not progress,
        file=sys.stderr,
        mininterval=1.0 if sys.stderr.isatty() else 30.0,
    ) as bar:
        for file, (record, state, probe, (size, mtime)) in _probe_in_parts(
            db, todo, config, root, pool
        ):
            bar.update()
            if file.state != NEW and state.startswith(UNREADABLE):
                continue
            if not probed:
                db.execute("UPDATE sources SET fingerprint = NULL WHERE id = ?", (source,))
            probed += 1
            if record in planned and (
                probe is None or planned[record] != [getattr(probe, name) for name in _PLANNED]
            ):
                # the rest stays as it was
                db.execute("UPDATE media SET state = ? WHERE id = ?", (OK, record))
                lost += 1
            else:
                write_probe(db, root, file.place, state, probe, (size, mtime))
                if file.is_upgraded and probe is not None and probe.codec.endswith(IRREGULAR):
                    _forget_scores(db, root, file.path)
            if time.monotonic() - last_commit > _COMMIT_SECONDS:
                db.commit()
                last_commit = time.monotonic()
    db.commit()
    return probed, lost


class _Unprobed(NamedTuple):
    """A row that is to be probed; ``is_upgraded``: it was never probed, or only by the version
    before.
    """

    id: int
    path: str
    archive: str | None
    offset: int | None
    size: int | None
    state: str
    is_upgraded: int

    @property
    def place(self) -> dict[str, object]:
        return dict(zip(self._fields[:5], self))


def _probe_in_parts(
    db, todo: np.ndarray, config: MediaConfig, root: str, pool: ProbePool
) -> Iterator[tuple[_Unprobed, Outcome]]:
    """Probe the files with these ids; yields each with what became of it.

    A part is finished before the next one is read: the paths of millions of files would take
    gigabytes.
    """
    for begin in range(0, len(todo), _PROBED_TOGETHER):
        ids = todo[begin : begin + _PROBED_TOGETHER].tolist()
        files = {
            row[0]: _Unprobed._make(row)
            for row in db.execute(
                "SELECT id, path, archive, offset, size, state, packets IS NULL FROM media WHERE id IN"
                " (SELECT value FROM json_each(?)) ORDER BY id",
                (json.dumps(ids),),
            )
        }
        for outcome in pool.probe(config, root, [file[:5] for file in files.values()]):
            yield files[outcome[0]], outcome


def write_probe(
    db,
    root: str,
    place: Mapping[str, object],
    state: str,
    probe: Probe | None,
    stamp: tuple[int | None, int | None],
) -> None:
    """Write what a probe found.

    Args:
        place: id, path, archive, offset and size of the file in the catalog. stamp: its size and
            time at the probe.
    """
    known = probe or Probe("", "", 0, 0, 0)
    columns = {
        **vars(known),
        "mirrored": int(known.mirrored),
        "bytes": stamp[0],
        "mtime_ns": stamp[1],
    }
    columns |= {"state": state, "crc": media_crc(root, {**place, **columns})}
    db.execute(
        f"UPDATE media SET {', '.join(f'{name} = :{name}' for name in columns)} WHERE id = :id",
        {**columns, "id": place["id"]},
    )


def _forget_scores(db, root: str, path: str) -> None:
    """Drop what teachers said of a file: they may have seen other frames under its numbers."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'scores'").fetchone():
        db.execute(
            "DELETE FROM scores WHERE teacher IN (SELECT id FROM teachers) AND path = ?",
            (os.path.join(root, path),),
        )


def _planned(db, source: int) -> dict[int, list]:
    """What plans depend on, of the ``new`` rows that were usable when they were probed the last
    time.
    """
    return {
        record: values
        for record, *values in db.execute(
            f"SELECT id, {', '.join(_PLANNED)} FROM media WHERE source = ? AND state = ? AND codec <> ''"
            " AND packets IS NOT NULL",
            (source, NEW),
        )
    }
