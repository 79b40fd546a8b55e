"""Checks of files, labels and figures of a source by what the catalog holds of them."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.build import REPEATED
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.missing_hint import MISSING
from omnidali.catalog.probing.probe import OK
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig
from omnidali.curation.lint.findings import Finding, Issues, Level
from omnidali.curation.lint.leak_checks import LABELS
from omnidali.curation.lint.source_stats import MediaStats, find_short_rows
from omnidali.utils.text_files import NOT_UTF8

_UNEVEN = 10  # times as many samples in the largest class as in the median one
_SLOW = 8  # frames decoded for each that is used
_MAX_SHOWN = 5  # names of classes


def check_left_out(db: sqlite3.Connection, name: str, issues: Issues) -> None:
    """Note what reading a source left out: lines, members of tars, and what lies in folders.

    Args:
        db: the catalog.
        name: of the source.
        issues: receives the findings.
    """
    for path, reason, place, detail in db.execute(
        "SELECT l.path, l.reason, l.place, l.detail FROM left_out l JOIN sources s"
        " ON s.id = l.source WHERE s.name = ? AND l.reason <> ? ORDER BY l.rowid",
        (name, REPEATED),  # which the check of the list has found
    ):
        problem = "not UTF-8" if reason.startswith(NOT_UTF8) else "left out"
        facts = [place] if problem == "not UTF-8" else [reason, detail, place]
        issues.add(name, path, problem, ", ".join(filter(None, facts)))


def check_files(db: sqlite3.Connection, name: str, source: MediaConfig, issues: Issues) -> None:
    """Look for files that are refused, damaged, not square in their pixels, or of several labels.

    Args:
        db: the catalog.
        name: of the source.
        source: its settings.
        issues: receives the findings.
    """
    (number,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
    for path, state in db.execute(
        "SELECT path, state FROM media WHERE source = ? AND state <> ? ORDER BY id", (number, OK)
    ):
        issues.add(name, path, "missing" if state.startswith(MISSING) else "refused", state)

    for path, note in db.execute(
        "SELECT path, note FROM media WHERE source = ? AND note <> '' AND state = ? ORDER BY id",
        (number, OK),
    ):
        issues.add(name, path, "damaged", note)

    if source.pixel_aspect == "ignore":
        for path, aspect in db.execute(
            "SELECT path, aspect FROM media WHERE source = ? AND aspect <> 1 AND state = ?"
            " ORDER BY id",
            (number, OK),
        ):
            issues.add(name, path, "pixels", f"{aspect:.4g} times as wide as high")

    for path, labels in db.execute(
        f"SELECT m.path, GROUP_CONCAT(DISTINCT {LABELS}) FROM entries e JOIN media m"
        " ON m.id = e.media WHERE e.source = ? GROUP BY e.media, e.unit, e.first, e.last"
        f" HAVING COUNT(DISTINCT {LABELS}) > 1",
        (number,),
    ):
        issues.add(name, path, "two labels", f"labels {labels.replace(',', ' and ')}")


def check_labels(
    tables: Mapping[str, SourceTable],
    roots: Mapping[str, Path],
    names: list[str] | None,
    issues: Issues,
) -> tuple[dict[str, SourceTable], tuple[str, ...]]:
    """Look for items without a label, and for labels that no training source has.

    Args:
        tables: of the sources, by name.
        roots: of the sources, by name.
        names: of the classes; None if labels are numbers.
        issues: receives the findings.

    Returns:
        The tables with correct labels, and the names of the classes, which may be numbers.
    """
    labelled = {}
    for name, table in tables.items():
        rows = np.flatnonzero(table.labels < 0).tolist()
        for row in rows:
            issues.add(name, _listed_path(table, row, roots[name]), "label", "in no class folder")
        if not rows:
            labelled[name] = table

    training = [table for name, table in labelled.items() if name != EVALUATION]
    highest = max((table.highest_label for table in training or labelled.values()), default=-1)
    class_names = tuple(names or map(str, range(1 + highest)))

    held_out = labelled.get(EVALUATION)
    if held_out is not None:
        rows = held_out.rows_above(len(class_names)).tolist()
        for row in rows:
            detail = (
                f"label {max(held_out.labels_at(row))}; the training sources have"
                f" {len(class_names)} classes"
            )
            issues.add(EVALUATION, _listed_path(held_out, row, roots[EVALUATION]), "label", detail)
        if rows:
            del labelled[EVALUATION]
    return labelled, class_names


def check_lengths(
    table: SourceTable,
    source: MediaConfig,
    root: Path,
    clip: ClipConfig,
    views: ViewsConfig | None,
    issues: Issues,
) -> None:
    """Look for videos that are too short for their clips.

    Args:
        table: of the source.
        source: its settings.
        root: its folder.
        clip: what makes a clip.
        views: of an evaluation; None for a training source.
        issues: receives the findings.
    """
    # each segment comes from a piece of its own
    if source.pieces == "one_positive_rest_negative":
        return

    for row in find_short_rows(table, clip, views).tolist():
        piece = row if table.starts is None else int(table.starts[row])
        issues.add(
            table.name, _listed_path(table, row, root), "too short", f"{table.frames[piece]} frames"
        )


def check_balance(
    stats: MediaStats, source: MediaConfig, class_names: Sequence[str]
) -> Iterator[Finding]:
    """Look for classes without samples, and for a training source with one much larger class."""
    counts = stats.classes
    empty = [class_names[number] for number in np.flatnonzero(counts == 0).tolist()]
    if empty:
        shown = ", ".join([*empty[:_MAX_SHOWN], *(["..."] if len(empty) > _MAX_SHOWN else [])])
        yield Finding(
            Level.WARN,
            stats.name,
            f"{len(empty)} of {len(counts)} classes have no sample ({shown})",
            "Add some, or leave it to other sources.",
        )

    median = float(np.median(counts[counts > 0]))
    largest = int(counts.max())
    is_drawn_evenly = isinstance(source, SourceConfig) and source.resample is None
    if is_drawn_evenly and largest > _UNEVEN * median:
        yield Finding(
            Level.WARN,
            stats.name,
            f"the largest class has {largest:,} samples, the median one {median:g}",
            "Set resample, such as {power: 0.2}.",
        )


def check_cost(stats: MediaStats, crop_size: int) -> Iterator[Finding]:
    """Look for clips that cost many decoded frames, and for files smaller than the crop.

    Args:
        stats: figures of a source.
        crop_size: side of the training crop, pixels.
    """
    if stats.decoded and stats.gops and stats.decoded >= _SLOW:
        yield Finding(
            Level.WARN,
            stats.name,
            f"{stats.decoded:.1f} frames are decoded for each that is used,"
            f" as keyframes are up to {stats.gops[2]:g} frames apart",
            "Measure with `omnidali advise` whether a training copy helps.",
        )

    if stats.short_sides[1] < crop_size:
        yield Finding(
            Level.WARN,
            stats.name,
            f"half of the files have a short side of {stats.short_sides[1]:g}"
            f" or less, which is scaled up to {crop_size} pixels",
            "Lower clip.size if that is not wanted.",
        )


def _listed_path(table: SourceTable, row: int, root: Path) -> str:
    """The path of a row's first file, as lists name it."""
    return os.path.relpath(table.media(table.first_record(row)).path, os.path.realpath(root))
