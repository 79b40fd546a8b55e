"""Find problems in a config's lists and media before a training does."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.verify import recheck
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig
from omnidali.curation.lint.file_checks import (
    check_balance,
    check_cost,
    check_files,
    check_labels,
    check_left_out,
    check_lengths,
)
from omnidali.curation.lint.findings import Finding, Issues, Level, writing_issues
from omnidali.curation.lint.leak_checks import check_equal_files, check_video_ids
from omnidali.curation.lint.lint_report import write_tables
from omnidali.curation.lint.list_checks import check_list_lines
from omnidali.curation.lint.source_stats import MediaStats, compute_media_stats
from omnidali.curation.source_selection import choose_sources
from omnidali.errors import ConfigError, NoUsableFilesError, UserError
from omnidali.loading.class_names import find_names
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.untrusted_text import say


def lint(
    config: Config,
    out: str | Path | None = None,
    names: Collection[str] = (),
    decodes: bool = False,
    sample: int | None = None,
    take: Callable[[], None] = lambda: None,
) -> int:
    """Check sources; print the findings, the worst first, and write the report and its tables.

    The catalog is built as a training would build it; nothing else is changed. Errors of one source
    do not hide those of another. Leaks are looked for where the evaluation source is among
    ``names``.

    Args:
        config: names the sources.
        out: folder; by default ``lint`` in the run folder.
        names: of the sources, ``evaluation`` among them; none: all.
        decodes: whether to decode whole files, too, and to write into the catalog what differs.
        sample: how many files of each source are decoded at most, evenly spread; None: all.
        take: called before anything is written, once every refusal is past.

    Returns:
        The number of errors: what would stop a training or spoil its results.

    Raises:
        UserError: for unknown sources, and a folder that cannot be written.
    """
    chosen = choose_sources(config, names)
    sources = {name: source for name, source in config.all_sources.items() if name in chosen}
    out = Path(out or Path(config.run_dir, "lint"))
    take()

    with writing_to(out), writing_issues(out / "issues.csv") as issues:
        class_names, tables, findings = _read_sources(config, sources, issues, decodes, sample)
        tables, stats, labels = _check_tables(config, sources, tables, class_names, issues)
        for name in sources:
            findings += issues.findings(name)
        for figures in stats:
            findings += check_balance(figures, sources[figures.name], labels)
            findings += check_cost(figures, config.clip.size)
        findings += _good_news(tables, findings, issues)
        findings.sort(key=lambda finding: list(Level).index(finding.level))  # the worst first
        write_tables(out, stats, findings, labels)

    counts = Counter(finding.level for finding in findings)
    summary = f"{counts[Level.ERROR]} errors, {counts[Level.WARN]} warnings"
    say(*findings, f"{summary}: {out / 'report.md'}")
    return counts[Level.ERROR]


def _read_sources(
    config: Config,
    sources: Mapping[str, MediaConfig],
    issues: Issues,
    decodes: bool,
    sample: int | None,
) -> tuple[list[str] | None, dict[str, SourceTable], list[Finding]]:
    """Read lists and media into the catalog.

    Returns:
        The names of the classes, None if labels are numbers; the tables of the sources that can
        be used; and the errors of the others.
    """
    class_names = None
    naming_errors: list[Finding] = []
    try:
        class_names = find_names(config)
        if class_names and class_names.note:
            say(class_names.note)
    except UserError as error:
        naming_errors = _errors_as_findings("classes", error)

    tables: dict[str, SourceTable] = {}
    findings = []
    reader = CatalogReader(config.catalog_path)
    for name, source in sources.items():
        try:
            if _read_source(
                config,
                name,
                source,
                names=class_names,
                words_are_fine=bool(naming_errors),
                decodes=decodes,
                sample=sample,
                issues=issues,
            ):
                tables[name] = reader.table(name)
        except UserError as error:
            findings += _errors_as_findings(name, error)
            if isinstance(error, NoUsableFilesError):
                with contextlib.closing(connect(config.catalog_path, read_only=True)) as db:
                    check_files(db, name, source, issues)

    # The names may come from the target's list, whose error is known then.
    known = {finding.text for finding in findings}
    findings += [error for error in naming_errors if error.text not in known]
    return class_names, tables, findings


def _read_source(
    config: Config,
    name: str,
    source: MediaConfig,
    *,
    names: list[str] | None,
    words_are_fine: bool,
    decodes: bool,
    sample: int | None,
    issues: Issues,
) -> bool:
    """Read a list and its media into the catalog, and look for problems in them.

    Args:
        config: names the catalog, and the folder that list and root start from.
        name: of the source.
        source: its settings.
        names: of the classes; None if labels are numbers, or the names cannot be read.
        words_are_fine: whether labels may be any word, as the names cannot be read.
        decodes: whether to decode whole files.
        sample: how many files at most; None: all.
        issues: receives the findings.

    Returns:
        Whether the catalog holds the source now.

    Raises:
        UserError: for what would stop a training.
    """
    catalog = Path(config.catalog_path)
    data_root = Path(config.data_root)
    if not check_list_lines(
        name,
        source,
        data_root,
        names=names,
        issues=issues,
        words_are_fine=words_are_fine,
        multi_label=config.multi_label,
    ):
        return False

    (summary,) = build_catalog(
        catalog, {name: source}, data_root, names, multi_label=config.multi_label
    )
    say(summary)
    if decodes and _decode_files(catalog, name, source, sample, issues):
        (summary,) = build_catalog(
            catalog, {name: source}, data_root, names, multi_label=config.multi_label
        )
    with contextlib.closing(connect(catalog, read_only=True)) as db:
        check_left_out(db, name, issues)
    return True


def _decode_files(
    catalog: Path, name: str, source: MediaConfig, sample: int | None, issues: Issues
) -> bool:
    """Decode whole files; returns whether any of them is not what the catalog said."""
    count, differences = recheck(catalog, name, source, sample)
    for difference in differences:
        if difference.changes_frames:
            issues.add(name, difference.path, "other frames", difference.detail)
        elif not difference.is_known:
            issues.add(name, difference.path, "not decoded", difference.detail)
    say(
        f"{name}: {count:,} files decoded whole, {len(differences):,} are not what the catalog said"
    )
    return bool(differences)


def _check_tables(
    config: Config,
    sources: Mapping[str, MediaConfig],
    tables: dict[str, SourceTable],
    names: list[str] | None,
    issues: Issues,
) -> tuple[dict[str, SourceTable], list[MediaStats], tuple[str, ...]]:
    """Check what the catalog holds of the sources, and compare them with each other.

    Returns:
        The tables with correct labels, the figures of each, and the names of the classes.
    """
    if not tables:
        return {}, [], ()

    roots = {name: Path(config.data_root, source.root) for name, source in sources.items()}
    stats = []
    with contextlib.closing(connect(config.catalog_path, read_only=True)) as db:
        for name in tables:
            check_files(db, name, sources[name], issues)
        tables, class_names = check_labels(tables, roots, names, issues)

        for name, table in tables.items():
            views = config.evaluation.validation if name == EVALUATION else None
            check_lengths(table, sources[name], roots[name], config.clip, views, issues)
            stats.append(
                compute_media_stats(
                    db,
                    table,
                    sources[name],
                    clip=config.clip,
                    class_count=len(class_names),
                    seed=config.seed,
                )
            )

        compared = {name: sources[name] for name in tables}
        check_equal_files(
            db, CatalogReader(config.catalog_path), compared, issues, config.loader.hang_seconds
        )
        check_video_ids(db, compared, issues)
    return tables, stats, class_names


def _good_news(
    tables: Mapping[str, SourceTable], findings: list[Finding], issues: Issues
) -> list[Finding]:
    """A line for each source without findings, and one if the evaluation does not leak."""
    troubled = {finding.source for finding in findings}
    good = [
        Finding(
            Level.OK,
            name,
            f"{len(table):,} samples, and nothing wrong with them",
            "Nothing is to be done.",
        )
        for name, table in tables.items()
        if name not in troubled
    ]

    has_leak = any(problem.startswith("leak") for _, problem in issues.counts)
    if EVALUATION in tables and len(tables) > 1 and not has_leak:
        good.append(
            Finding(
                Level.OK,
                EVALUATION,
                "no file or video of it is in the training sources",
                "For near copies run `omnidali dedup`.",
            )
        )
    return good


def _errors_as_findings(source: str, error: UserError) -> list[Finding]:
    """An error that would stop a training, in its own words."""
    errors = error.errors if isinstance(error, ConfigError) else (error,)
    return [Finding(Level.ERROR, source, str(one).rstrip("."), "") for one in errors]
