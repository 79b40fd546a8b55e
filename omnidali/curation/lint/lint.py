"""Look for what is wrong with a config's lists and media, before a training does."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from omnidali.catalog.build import Summary, build_catalog
from omnidali.catalog.database.store import CatalogReader, SourceTable, connect
from omnidali.catalog.probing.sniff import OK
from omnidali.catalog.verify import recheck
from omnidali.config.schema import EVALUATION, Config, MediaConfig
from omnidali.curation.dedup.exact_duplicates import find_equal, named_videos
from omnidali.curation.lint import findings
from omnidali.curation.lint.findings import ERROR, WARN, Issues, Verdict, sort_verdicts
from omnidali.curation.lint.lint_report import write_tables
from omnidali.curation.lint.list_checks import check_list, check_names
from omnidali.curation.lint.source_stats import Survey, survey, too_short
from omnidali.curation.source_selection import all_sources, choose_sources
from omnidali.errors import ConfigError, NoUsableFilesError, UserError
from omnidali.loading.data import find_names
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.text_files import NOT_UTF8
from omnidali.utils.untrusted_text import say

MISSING = "missing file"  # the state of a file that is not there
_UNEVEN = 10  # times as many samples in the largest class as in the middle one
_SLOW = 8  # frames decoded for each that is used


def lint(
    config: Config,
    out: str | Path | None = None,
    names: Collection[str] = (),
    decodes: bool = False,
    sample: int | None = None,
    take: Callable[[], None] = lambda: None,
) -> int:
    """Check sources, print verdicts, the worst first, and write ``report.md``, ``issues.csv``,
    ``classes.csv`` and ``sources.csv``.

    The catalog is built as a training would; nothing else is changed. A source with errors hides no
    other one's. Leaks are looked for where the evaluation source is among ``names``.

    Args:
        out: folder; by default ``lint`` in the run folder. names: of the sources, ``evaluation``
            among them; none: all.
        decodes: whether to decode files whole, too, and write into the catalog what they turn out
            to be.
        sample: how many files of each source are decoded at most, evenly spread; None: all.
        take: called before anything is written, once nothing is refused any more.

    Returns:
        The number of errors: what would stop a training or spoil its results.

    Raises:
        UserError: for unknown sources, and a folder that cannot be written.
    """
    chosen = choose_sources(config, names)
    out = Path(out or Path(config.run_dir, "lint"))
    take()
    with writing_to(out), Issues(out / "issues.csv") as issues:
        check = _Check(config, chosen, issues, decodes, sample)
        surveys, verdicts = check.run()
        write_tables(out, surveys, verdicts, check.class_names)
    say(*verdicts)
    counts = Counter(verdict.level for verdict in verdicts)
    say(f"{counts[ERROR]} errors, {counts[WARN]} warnings: {out / 'report.md'}")
    return counts[ERROR]


class _Check:
    """One look at the sources ``chosen`` of a config.

    Attributes:
        class_names: as far as they are known. tables: of the sources that can be used.
    """

    def __init__(
        self, config: Config, chosen: list[str], issues: Issues, decodes: bool, sample: int | None
    ):
        self._config, self._issues = config, issues
        self._decodes, self._sample = decodes, sample
        self._sources = {
            name: source for name, source in all_sources(config).items() if name in chosen
        }
        self._root = Path(config.data_root)
        self.class_names: tuple[str, ...] = ()
        self.tables: dict[str, SourceTable] = {}

    def run(self) -> tuple[list[Survey], list[Verdict]]:
        """Everything there is to say."""
        verdicts, surveys, names, unnamed = [], [], None, []
        try:
            names = find_names(self._config)
        except UserError as error:  # numbers are labels without names, too
            unnamed = _told("classes", error)
        reader = CatalogReader(self._config.catalog_path)
        for name, source in self._sources.items():
            try:
                check_names(name, source, self._root, self._issues)
                if check_list(
                    name, source, self._root, names, self._issues, words_are_fine=bool(unnamed)
                ):
                    (summary,) = build_catalog(
                        self._config.catalog_path, {name: source}, self._root, names
                    )
                    say(summary)
                    if self._decodes and self._decode(name, source):
                        (summary,) = build_catalog(
                            self._config.catalog_path, {name: source}, self._root, names
                        )
                    self.tables[name] = reader.table(name)
                    self._unusable(summary)
            except UserError as error:
                verdicts += _told(name, error)
                if isinstance(error, NoUsableFilesError):
                    with contextlib.closing(
                        connect(self._config.catalog_path, read_only=True)
                    ) as db:
                        self._files(db, name)
        # the target's list may be what the names come from
        told = {verdict.found for verdict in verdicts}
        verdicts += [verdict for verdict in unnamed if verdict.found not in told]
        if self.tables:
            db = connect(self._config.catalog_path, read_only=True)
            try:
                numbers = dict(db.execute("SELECT name, id FROM sources"))
                for name in self.tables:
                    self._files(db, name)
                self._name_classes(names)
                for name, table in self.tables.items():
                    self._short(table, self._sources[name])
                    surveys.append(
                        survey(
                            db,
                            numbers[name],
                            table,
                            self._sources[name],
                            self._config.clip,
                            len(self.class_names),
                            self._config.seed,
                            name != EVALUATION,
                        )
                    )
                self._equal(db, reader, numbers)
                self._named(db, numbers)
            finally:
                db.close()
        for name in self._sources:
            verdicts += self._issues.verdicts(name)
        for found in surveys:
            verdicts += self._balance(found) + self._cost(found)
        return surveys, sort_verdicts(verdicts + self._good(verdicts))

    def _name_classes(self, names: list[str] | None) -> None:
        """Class names, or numbers; labels that no training source has are errors of the evaluation."""
        for table in self.tables.values():
            for row in np.flatnonzero(table.labels < 0).tolist():
                self._issues.add(table.name, self._path(table, row), "label", "in no class folder")
        self.tables = {
            name: table for name, table in self.tables.items() if (table.labels >= 0).all()
        }
        training = [table for name, table in self.tables.items() if name != EVALUATION] or list(
            self.tables.values()
        )
        count = (
            len(names)
            if names
            else 1 + max((int(table.labels.max()) for table in training), default=-1)
        )
        held_out = self.tables.get(EVALUATION)
        if held_out is not None and (held_out.labels >= count).any():
            for row in np.flatnonzero(held_out.labels >= count).tolist():
                self._issues.add(
                    EVALUATION,
                    self._path(held_out, row),
                    "label",
                    f"label {held_out.labels[row]}; the training sources have {count} classes",
                )
            del self.tables[EVALUATION]
        self.class_names = tuple(names or map(str, range(count)))

    def _decode(self, name: str, source: MediaConfig) -> bool:
        """Decode whole files, and note what they are not; returns whether the catalog learned
        something.
        """
        catalog = Path(self._config.catalog_path)
        count, differences = recheck(catalog, name, source, self._sample)
        for difference in differences:
            if difference.changes_frames:
                self._issues.add(name, difference.path, "other frames", difference.detail)
            elif not difference.is_known:
                self._issues.add(name, difference.path, "not decoded", difference.detail)
        say(
            f"{name}: {count:,} files decoded whole, {len(differences):,} are not what the catalog said"
        )
        return bool(differences)

    def _unusable(self, summary: Summary) -> None:
        """What the list's reading left out, without a file that is to blame."""
        told_by_name = not self._sources[summary.name].tars
        for reason, count in summary.refused.items():
            if reason not in summary.examples and not (
                told_by_name and reason.startswith(NOT_UTF8)
            ):
                self._issues.add(summary.name, "", "left out", f"{count:,} {reason}", count)

    def _files(self, db: sqlite3.Connection, name: str) -> None:
        """Files that are refused, and those that stand under several labels."""
        (number,) = db.execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
        for path, state in db.execute(
            "SELECT path, state FROM media WHERE source = ? AND state <> ? ORDER BY id",
            (number, OK),
        ):
            self._issues.add(name, path, "missing" if state == MISSING else "refused", state)
        for path, note in db.execute(
            "SELECT path, note FROM media WHERE source = ? AND note <> '' AND state = ?"
            " ORDER BY id",
            (number, OK),
        ):
            self._issues.add(name, path, "damaged", note)
        if self._sources[name].pixel_aspect == "ignore":
            for path, aspect in db.execute(
                "SELECT path, aspect FROM media WHERE source = ? AND aspect <> 1 AND state = ?"
                " ORDER BY id",
                (number, OK),
            ):
                self._issues.add(name, path, "pixels", f"{aspect:.4g} times as wide as high")
        for path, labels in db.execute(
            "SELECT m.path, GROUP_CONCAT(DISTINCT e.label) FROM entries e JOIN media m ON m.id = e.media"
            " WHERE e.source = ? GROUP BY e.media, e.unit, e.first, e.last HAVING COUNT(DISTINCT e.label) > 1",
            (number,),
        ):
            self._issues.add(name, path, "two labels", f"labels {labels.replace(',', ' and ')}")

    def _short(self, table: SourceTable, source: MediaConfig) -> None:
        # each segment comes from a piece of its own
        if source.pieces == "one_positive_rest_negative":
            return
        views = self._config.evaluation.validation if table.name == EVALUATION else None
        for row in too_short(table, self._config.clip, views).tolist():
            piece = row if table.starts is None else int(table.starts[row])
            self._issues.add(
                table.name, self._path(table, row), "too short", f"{table.frames[piece]} frames"
            )

    def _path(self, table: SourceTable, row: int) -> str:
        """The file that a row begins with, as lists name it."""
        root = os.path.realpath(self._root / self._sources[table.name].root)
        return os.path.relpath(table.media(table.first_record(row)).path, root)

    def _equal(
        self, db: sqlite3.Connection, reader: CatalogReader, numbers: dict[str, int]
    ) -> None:
        """Leaks, contradictions and copies by content."""
        name_of = {numbers[name]: name for name in self.tables}

        def unread(record: int, reason: str) -> None:
            source, path = db.execute(
                "SELECT source, path FROM media WHERE id = ?", (record,)
            ).fetchone()
            self._issues.add(name_of[source], path, "not compared", reason)

        kinds = {number: self._sources[name].kind for number, name in name_of.items()}
        for group in find_equal(db, reader, kinds, self._config.loader.hang_seconds, unread):
            rows = db.execute(
                "SELECT m.source, m.path, MIN(e.label), MAX(e.label) FROM media m JOIN entries e"
                " ON e.media = m.id WHERE m.id IN (SELECT value FROM json_each(?)) GROUP BY m.id",
                (json.dumps(group),),
            ).fetchall()
            files = [(name_of[source], path, {low, high}) for source, path, low, high in rows]
            held_out = next((path for name, path, _ in files if name == EVALUATION), None)
            rest = [file for file in files if file[0] != EVALUATION]
            # a long video may show several classes
            labels = set().union(
                *(labels for name, _, labels in rest if self._sources[name].kind != "untrimmed")
            )
            firsts: dict[str, str] = {}  # file of the group that a source has first
            for name, path, _ in rest:
                if held_out is not None:
                    self._issues.add(name, path, "leak by content", f"equals {held_out}")
                if firsts and len(labels) > 1:
                    self._issues.add(
                        name,
                        path,
                        "two labels",
                        f"equals {rest[0][1]} of {rest[0][0]}, labels "
                        + " and ".join(map(str, sorted(labels))),
                    )
                elif name in firsts:
                    self._issues.add(name, path, "copy", f"equals {firsts[name]}")
                firsts.setdefault(name, path)

    def _named(self, db: sqlite3.Connection, numbers: dict[str, int]) -> None:
        """Leaks by the ids and names of videos."""
        if EVALUATION not in self.tables or self._sources[EVALUATION].kind == "image":
            return
        held_out = {
            found: path
            for found, path, _ in named_videos(
                db, numbers[EVALUATION], self._sources[EVALUATION].kind
            )
        }
        for name in self.tables:
            if name == EVALUATION or self._sources[name].kind == "image":
                continue
            for found, path, is_id in named_videos(db, numbers[name], self._sources[name].kind):
                if found in held_out:
                    self._issues.add(
                        name,
                        path,
                        "leak by video id" if is_id else "same name",
                        f"{found}, as {held_out[found]}",
                    )

    def _balance(self, found: Survey) -> list[Verdict]:
        verdicts, counts = [], found.classes
        empty = [self.class_names[number] for number in np.flatnonzero(counts == 0)]
        if empty:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            verdicts.append(
                Verdict(
                    WARN,
                    found.name,
                    f"{len(empty)} of {len(counts)} classes have no sample ({shown})",
                    "Add some, or leave it to other sources.",
                )
            )
        middle, most = float(np.median(counts[counts > 0])), int(counts.max())
        source = self._sources[found.name]
        if found.name != EVALUATION and most > _UNEVEN * middle and source.resample is None:
            verdicts.append(
                Verdict(
                    WARN,
                    found.name,
                    f"the largest class has {most:,} samples, the middle one {middle:g}",
                    "Set resample, such as {power: 0.2}.",
                )
            )
        return verdicts

    def _cost(self, found: Survey) -> list[Verdict]:
        verdicts = []
        if found.decoded is not None and found.decoded >= _SLOW:
            verdicts.append(
                Verdict(
                    WARN,
                    found.name,
                    f"{found.decoded:.1f} frames are decoded for each that is used,"
                    f" as keyframes are up to {found.gops[2]:g} frames apart",
                    "Measure with `omnidali advise` whether a training copy helps.",
                )
            )
        size = self._config.clip.size
        if found.short_sides[1] < size:
            verdicts.append(
                Verdict(
                    WARN,
                    found.name,
                    f"half of the files have a short side of {found.short_sides[1]:g}"
                    f" or less, which is scaled up to {size} pixels",
                    "Lower clip.size if that is not wanted.",
                )
            )
        return verdicts

    def _good(self, verdicts: list[Verdict]) -> list[Verdict]:
        """A line for each source without an error or a warning, and one for each look that found no
        leak.
        """
        good, troubled = [], {verdict.source for verdict in verdicts}
        for name, table in self.tables.items():
            if name not in troubled:
                good.append(
                    Verdict(
                        findings.OK,
                        name,
                        f"{len(table):,} samples, and nothing wrong with them",
                        "Nothing is to be done.",
                    )
                )
        leaks = sum(
            count
            for (_, problem), count in self._issues.counts.items()
            if problem.startswith("leak")
        )
        if EVALUATION in self.tables and len(self.tables) > 1 and not leaks:
            good.append(
                Verdict(
                    findings.OK,
                    EVALUATION,
                    "no file or video of it is in the training sources",
                    "For near copies run `omnidali dedup`.",
                )
            )
        return good


def _told(source: str, error: UserError) -> list[Verdict]:
    """An error that would stop a training, in its own words."""
    errors = error.errors if isinstance(error, ConfigError) else (error,)
    return [Verdict(ERROR, source, str(one).rstrip("."), "") for one in errors]
