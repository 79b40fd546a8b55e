"""Checks for leaks of the evaluation into the training, and for copies with other labels."""

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.probe import OK
from omnidali.config.sources import EVALUATION, MediaConfig
from omnidali.curation.exact_duplicates import find_exact_duplicates
from omnidali.curation.lint.findings import Issues
from omnidali.media_kind import MediaKind

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_KINETICS_NAME = re.compile(r"([A-Za-z0-9_-]{11})_\d{6}_\d{6}")
# A word, a number, or a word with a number, such as video_00012.
_COUNTING_NAME = re.compile(r"[A-Za-z]*[ _-]*\d*[ _-]*")
# of an entry: its label, or all of them as one text
LABELS = "CASE WHEN e.labels = '' THEN e.label ELSE REPLACE(e.labels, ',', '+') END"
_MIN_LENGTH = 6  # characters of a name that can identify a video


class _File(NamedTuple):
    """A file of a group of equal ones, with the lowest and the highest of its labels.

    Of an item with several labels all are one text.
    """

    source: str
    path: str
    lowest: int | str
    highest: int | str


def check_equal_files(
    db: sqlite3.Connection,
    reader: CatalogReader,
    sources: Mapping[str, MediaConfig],
    issues: Issues,
    hang_seconds: float,
) -> None:
    """Look for files with equal bytes: leaks, contradicting labels and copies.

    Args:
        db: the catalog.
        reader: of the same catalog.
        sources: those to compare, by name.
        issues: receives the findings.
        hang_seconds: without a byte, after which a file is not compared.
    """
    name_of = {
        number: name
        for name, number in db.execute("SELECT name, id FROM sources")
        if name in sources
    }

    def note_unread(record: int, reason: str) -> None:
        source, path = db.execute(
            "SELECT source, path FROM media WHERE id = ?", (record,)
        ).fetchone()
        issues.add(name_of[source], path, "not compared", reason)

    kinds = {number: sources[name].media_kind for number, name in name_of.items()}
    for group in find_exact_duplicates(db, reader, kinds, hang_seconds, unread=note_unread):
        rows = db.execute(
            f"SELECT m.source, m.path, MIN({LABELS}), MAX({LABELS}) FROM media m JOIN entries e"
            " ON e.media = m.id WHERE m.id IN (SELECT value FROM json_each(?)) GROUP BY m.id",
            (json.dumps(group),),
        )
        _check_group([_File(name_of[source], *row) for source, *row in rows], sources, issues)


def _check_group(files: list[_File], sources: Mapping[str, MediaConfig], issues: Issues) -> None:
    held_out = [file.path for file in files if file.source == EVALUATION]
    rest = [file for file in files if file.source != EVALUATION]
    labels = {
        label
        for file in rest
        # a long video may show several classes
        if not sources[file.source].media_kind.has_pieces
        for label in (file.lowest, file.highest)
    }

    firsts: dict[str, str] = {}  # path of a source's first file of the group
    for file in rest:
        if held_out:
            issues.add(file.source, file.path, "leak by content", f"equals {held_out[0]}")
        if firsts and len(labels) > 1:
            listed = " and ".join(sorted(map(str, labels), key=lambda text: (len(text), text)))
            detail = f"equals {rest[0].path} of {rest[0].source}, labels {listed}"
            issues.add(file.source, file.path, "two labels", detail)
        elif file.source in firsts:
            issues.add(file.source, file.path, "copy", f"equals {firsts[file.source]}")
        firsts.setdefault(file.source, file.path)


def check_video_ids(
    db: sqlite3.Connection, sources: Mapping[str, MediaConfig], issues: Issues
) -> None:
    """Look for training videos whose file name is that of an evaluation video.

    Args:
        db: the catalog.
        sources: those to compare, by name.
        issues: receives the findings.
    """
    kinds = {
        name: source.media_kind
        for name, source in sources.items()
        if not source.media_kind.is_still
    }
    if EVALUATION not in kinds:
        return

    held_out = {
        video: path for video, path, _ in read_video_ids(db, EVALUATION, kinds.pop(EVALUATION))
    }
    for name, kind in kinds.items():
        for video, path, is_id in read_video_ids(db, name, kind):
            if video in held_out:
                problem = "leak by video id" if is_id else "same name"
                issues.add(name, path, problem, f"{video}, as {held_out[video]}")


def video_id(path: str) -> tuple[str, bool] | None:
    """Find what the name of a file says about its video.

    Returns:
        The stem of the name, of Kinetics' ``id_000010_000020`` the id, and whether it looks like
        an id that no other video has; None for names that only count.

    >>> video_id("train/dQw4w9WgXcQ_000010_000020.mp4")
    ('dQw4w9WgXcQ', True)
    >>> video_id("a/video_00012.mp4") is None
    True
    """
    stem = os.path.splitext(os.path.basename(path.rstrip("/").rpartition(":")[2]))[0]
    kinetics = _KINETICS_NAME.fullmatch(stem)
    if kinetics:
        return kinetics[1], True
    if _COUNTING_NAME.fullmatch(stem) or len(stem) < _MIN_LENGTH:
        return None
    return stem, _YOUTUBE_ID.fullmatch(stem) is not None


def read_video_ids(
    db: sqlite3.Connection, source: str, kind: MediaKind
) -> Iterator[tuple[str, str, bool]]:
    """Yield the id, the path, and whether it looks like an id, of a source's usable videos.

    The pieces of a long video have the id and path of the whole video.

    Args:
        db: the catalog.
        source: name of the source.
        kind: of its media.
    """
    path = "CASE WHEN e.video <> '' THEN e.video ELSE m.path END" if kind.has_pieces else "m.path"
    rows = db.execute(
        f"SELECT DISTINCT {path} FROM entries e JOIN media m ON m.id = e.media"
        " WHERE e.source = (SELECT id FROM sources WHERE name = ?) AND m.state = ?",
        (source, OK),
    )
    for (path,) in rows:
        found = video_id(path)
        if found:
            name, is_id = found
            yield name, path, is_id
