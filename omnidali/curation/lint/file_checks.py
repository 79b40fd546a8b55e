"""Checks of files and labels by what the catalog holds of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.probe import OK
from omnidali.catalog.summary import Summary
from omnidali.config.schema import EVALUATION, ClipConfig, MediaConfig, ViewsConfig
from omnidali.curation.lint.findings import Issues
from omnidali.curation.lint.source_stats import find_short_rows
from omnidali.utils.text_files import NOT_UTF8

_MISSING = "missing file"  # the state of a file that is not there


def check_left_out(summary: Summary, source: MediaConfig, issues: Issues) -> None:
    """Note the items that reading the list left out, where no single file is the reason."""
    for reason, count in summary.refused.items():
        # a list's lines with such names are issues of their own
        is_known = reason.startswith(NOT_UTF8) and not source.tars
        if reason not in summary.examples and not is_known:
            issues.add(summary.name, "", "left out", f"{count:,} {reason}", count)


def check_files(db: sqlite3.Connection, name: str, source: MediaConfig, issues: Issues) -> None:
    """Look for files that are refused, damaged, not square in their pixels, or of several labels.

    Args:
        db: the catalog.
        name: of the source.
        source: its settings.
        issues: gets what is found.
    """
    (number,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
    for path, state in db.execute(
        "SELECT path, state FROM media WHERE source = ? AND state <> ? ORDER BY id", (number, OK)
    ):
        issues.add(name, path, "missing" if state == _MISSING else "refused", state)

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
        "SELECT m.path, GROUP_CONCAT(DISTINCT e.label) FROM entries e JOIN media m"
        " ON m.id = e.media WHERE e.source = ? GROUP BY e.media, e.unit, e.first, e.last"
        " HAVING COUNT(DISTINCT e.label) > 1",
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
        names: of the classes; None where labels are numbers.
        issues: gets what is found.

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
    highest = max((int(table.labels.max()) for table in training or labelled.values()), default=-1)
    class_names = tuple(names or map(str, range(1 + highest)))

    held_out = labelled.get(EVALUATION)
    if held_out is not None:
        rows = np.flatnonzero(held_out.labels >= len(class_names)).tolist()
        for row in rows:
            detail = (
                f"label {held_out.labels[row]}; the training sources have"
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
        issues: gets what is found.
    """
    # each segment comes from a piece of its own
    if source.pieces == "one_positive_rest_negative":
        return

    for row in find_short_rows(table, clip, views).tolist():
        piece = row if table.starts is None else int(table.starts[row])
        detail = f"{table.frames[piece]} frames"
        issues.add(table.name, _listed_path(table, row, root), "too short", detail)


def _listed_path(table: SourceTable, row: int, root: Path) -> str:
    """The path of a row's first file, as lists name it."""
    return os.path.relpath(table.media(table.first_record(row)).path, os.path.realpath(root))
