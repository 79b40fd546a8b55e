"""What a source holds, in one line for people."""

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.changes import parse_stored
from omnidali.catalog.database.left_out_table import LISTING, left_out_examples
from omnidali.catalog.listing.scan import SourceScan
from omnidali.catalog.probing.probe import OK
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import NoUsableFilesError
from omnidali.utils.untrusted_text import for_terminal


@dataclass(frozen=True)
class Summary:
    """What a source holds: samples in use, things left out by reason, files probed just now.

    Attributes:
        name: of the source.
        form: what the list was read as, and whether that was recognised or asked for.
        usable: samples.
        refused: counts of what is left out, by reason.
        probed: files probed just now.
        repeated: lines that repeat another.
        examples: a path for each reason, where a file is the reason.
        lost: files that are gone, changed or broken since the run began, and that stay in its plan.
        noted: how many files are damaged, or used in part.
        a_note: path and note of one of them.
        left_out: the table that names each thing left out.
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
    a_note: tuple[str, str | None] = ("", "")
    left_out: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {self.usable:,} samples, read as {self.form}"

        if self.probed:
            text += f", {self.probed:,} files probed now"
        if self.repeated:
            text += f", {self.repeated:,} repeated lines counted once"
        if self.refused:
            reasons = "; ".join(map(self._refusal, self.refused))
            text += f", {sum(self.refused.values()):,} left out ({reasons})"
            text += f", each in {self.left_out}" if self.left_out else ""
        if self.noted:
            example = for_terminal(": ".join(map(str, self.a_note)))
            text += f", {self.noted:,} damaged or used in part (such as {example})"
        if self.lost:
            text += (
                f", {self.lost:,} gone, changed or broken since the run began:"
                " substitutes replace them"
            )

        return text

    def _refusal(self, reason: str) -> str:
        text = f"{self.refused[reason]:,} {reason}"
        if reason in self.examples:
            text += f", such as {for_terminal(self.examples[reason])}"
        return text


def summarise(
    db: sqlite3.Connection,
    source: int,
    scan: SourceScan,
    *,
    probed: int,
    repeated: int,
    lost: int,
    left_out: Path,
) -> Summary:
    """Count what the catalog holds of a source.

    Args:
        db: the open catalog.
        source: its id of the source.
        scan: the source.
        probed: files probed just now.
        repeated: lines that repeat another.
        lost: files that are gone, changed or broken since the run began.
        left_out: the table that names each thing left out.

    Raises:
        NoUsableFilesError: if no sample is usable.
    """
    refused, examples = _count_refused(db, source)
    (usable,) = db.execute(
        "SELECT COALESCE(SUM(LENGTH(data)), 0) / 4 FROM packed"
        " WHERE source = ? AND name = 'labels'",
        (source,),
    ).fetchone()
    (form,) = db.execute("SELECT format FROM sources WHERE id = ?", (source,)).fetchone()
    noted, path, note = db.execute(
        "SELECT COUNT(*), COALESCE(MIN(path), ''), note FROM media"
        " WHERE source = ? AND note <> '' AND +state = ?",
        (source, OK),
    ).fetchone()

    summary = Summary(
        name=scan.name,
        form=f"{form} ({_how_read(scan.config)})",
        usable=usable,
        refused=dict(refused.most_common()),
        probed=probed,
        repeated=repeated,
        examples=examples,
        lost=lost,
        noted=noted,
        a_note=(path, note),
        left_out=str(left_out) if _has_rows(db, source) else "",
    )
    if usable:
        return summary

    # what was read may have been read wrong: the next start reads it again
    db.execute("UPDATE sources SET signature = NULL WHERE id = ?", (source,))
    db.commit()
    expected = f"at least one usable file for kind {scan.config.kind}"
    advice = f"Check the list, and its paths below {scan.root}."
    raise NoUsableFilesError(key_of(scan.name), expected, str(summary), advice)


def _count_refused(db: sqlite3.Connection, source: int) -> tuple[Counter[str], dict[str, str]]:
    """Counts by reason, and a path for each reason where a file is the reason."""
    # two ranges instead of <>: the index finds them, and passes over millions of usable files
    found = [
        row
        for side in "<>"
        for row in db.execute(
            "SELECT state, COUNT(*), MIN(path) FROM media"
            f" WHERE source = ? AND state {side} ? GROUP BY state",
            (source, OK),
        )
    ]
    refused = Counter({state: count for state, count, _ in found})
    left_out, unusable = db.execute(
        "SELECT left_out, unusable FROM sources WHERE id = ?", (source,)
    ).fetchone()
    refused.update(parse_stored(left_out, dict))
    refused.update(parse_stored(unusable, dict))
    examples = {state: path for state, _, path in found}
    return refused, {**left_out_examples(db, source), **examples}


def _has_rows(db: sqlite3.Connection, source: int) -> bool:
    """Whether the catalog names what was left out; one of an older version only counted it."""
    left_out, rows = db.execute(
        "SELECT left_out, (SELECT COUNT(*) FROM left_out l WHERE l.source = s.id AND stage = ?)"
        " FROM sources s WHERE id = ?",
        (LISTING, source),
    ).fetchone()
    return sum(parse_stored(left_out, dict).values()) <= rows


def _how_read(config: MediaConfig) -> str:
    if not config.list:
        return "found"
    return "recognised" if config.format == "auto" else "asked for"
