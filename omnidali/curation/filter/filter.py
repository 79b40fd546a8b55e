"""A teacher's filter: score crawled sources once, then write the lists that any rules keep."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig
from omnidali.curation.filter.filter_report import FilteredSource, write_filter_report
from omnidali.curation.filter.judging import judge_items, require_kept, require_queries
from omnidali.curation.filter.rules import Rules
from omnidali.curation.filter.scoring import ScoringTask, make_task, score
from omnidali.curation.filter.teacher import Teacher, load_teachers
from omnidali.curation.filter.teacher_check import (
    LabelledSource,
    TeacherCheck,
    check_teacher,
    open_labelled,
)
from omnidali.curation.list_writer import check_list_paths, write_config, write_list
from omnidali.curation.source_selection import (
    FRAME_SECONDS,
    check_window,
    choose_crawled,
    with_all_pieces,
)
from omnidali.distributed.ranks import Ranks
from omnidali.loading.data import open_data
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say


@dataclass(frozen=True, repr=False)
class _Prepared:
    """What is known before anything is scored.

    Attributes:
        config: to score with.
        teacher: that scores.
        tasks: by source.
        tables: of all sources that were opened, by name.
        class_names: a name for each output of the teacher.
        first_label: the number that lists give to the first class.
        listed_names: what lists call the classes, where numbers in them are names.
    """

    config: Config
    teacher: Teacher
    tasks: dict[str, ScoringTask]
    tables: dict[str, SourceTable]
    class_names: tuple[str, ...]
    first_label: int
    listed_names: tuple[str, ...] | None


def filter_sources(
    config: Config,
    checkpoints: Sequence[str | Path],
    out: str | Path,
    *,
    names: Collection[str],
    rules: Rules,
    window: float | None,
    score_only: bool,
    keep_negatives: bool,
    ranks: Ranks,
    take: Callable[[], None],
) -> dict[str, dict]:
    """Score the sources, and write lists, tables, plots and a config into ``out``.

    Args:
        config: names the sources, and the clips and views that the teacher looks at.
        checkpoints: of the teacher; the scores of several are combined.
        out: folder for the results.
        names: of the sources, ``evaluation`` among them; none: all training sources but the target.
        rules: what an item has to pass.
        window: seconds of the windows of long videos; None: 1 for a 2D teacher, else as configured.
        score_only: write no list.
        keep_negatives: keep long videos without a positive piece.
        ranks: all of them call this.
        take: called on all ranks after all checks, before anything but the catalog is written.

    Returns:
        For each source: items, kept, dropped, unreadable and scored now, and items a second.

    Raises:
        UserError: for other classes, unused windows, nothing to keep, files that are not writable.
    """
    out = Path(os.path.abspath(out))
    prepared = _prepare(
        config,
        checkpoints,
        out=out,
        names=names,
        window=window,
        lists=not score_only,
        relabel=score_only or rules.relabel,
        ranks=ranks,
    )
    labelled = open_labelled(config, prepared.config, prepared.tables, ranks)
    take()

    check = _check(prepared, labelled, ranks)
    counts = {
        name: _score(prepared.teacher, task, prepared.config, ranks)
        for name, task in prepared.tasks.items()
    }
    if not score_only:
        write = partial(_write_results, out, prepared, counts, config=config, rules=rules)
        counts = ranks.on_main(lambda: write(check=check, keep_negatives=keep_negatives))
    if ranks.is_main:
        used = None if score_only else str(rules)
        _write_record(out, prepared.teacher, check, filter=counts, rules=used, ranks=ranks.world)
    return counts


def _write_record(out: Path, teacher: Teacher, check: TeacherCheck, **facts: object) -> None:
    """Leave in the folder what was done with which teacher."""
    judge = {"checkpoint": teacher.path, "digest": teacher.digest, "check": check.as_row()}
    write_record(out, {**judge, **facts})


def _prepare(
    config: Config,
    checkpoints: Sequence[str | Path],
    *,
    out: Path,
    names: Collection[str],
    window: float | None,
    lists: bool,
    relabel: bool,
    ranks: Ranks,
) -> _Prepared:
    """Open the sources and the teacher; nothing but the catalog is written.

    ``relabel``: whether items without a label may be among them.
    """
    chosen = choose_crawled(config, names, lists=lists)
    sources = {name: config.all_sources[name] for name in chosen}
    check_window(window, sources, config.data_root, multi_label=config.multi_label)
    teacher = load_teachers(
        checkpoints, config.clip.clip_len, config.multi_label, trusted=config.model.functions
    )
    window = window or (None if teacher.is_3d else FRAME_SECONDS)
    sources = {
        name: with_all_pieces(source, config.data_root, window, multi_label=config.multi_label)
        for name, source in sources.items()
    }

    config = _scoring_config(config, sources, out)
    data = open_data(config, ranks, labelled=False)
    if ranks.is_main:
        say(*data.summary)
    class_names = teacher.match_classes(data.class_names, data.named)
    tables = {table.name: table for table in (*data.tables, data.evaluation) if table is not None}
    for name in sources:
        require_queries(tables[name], relabel)
    tasks = {
        name: make_task(teacher, tables[name], source, config, class_names)
        for name, source in sources.items()
    }
    for task in tasks.values():
        teacher.juries(task.table)  # refuses items that no network may score
    return _Prepared(
        config,
        teacher,
        tasks,
        tables=tables,
        class_names=class_names,
        first_label=data.first_label,
        listed_names=data.listed_names,
    )


def _scoring_config(config: Config, sources: Mapping[str, MediaConfig], out: Path) -> Config:
    """A config of the sources that are scored, whole.

    Args:
        config: of the command.
        sources: that are scored, by name.
        out: folder for the results.
    """
    training: dict[str, SourceConfig] = {}
    target = next(iter(config.sources))  # it may give the names of the classes
    for name in config.sources:
        if name in sources or name == target:
            source = sources.get(name, config.sources[name])
            assert isinstance(source, SourceConfig)
            training[name] = replace(source, fraction=1.0, hold_out=None)
    return replace(
        config,
        catalog=config.catalog_path,
        run_dir=str(out),  # faults are named there: the run folder may be that of a training
        sources=MappingProxyType(training),
        evaluation=replace(config.evaluation, source=sources.get(EVALUATION)),
    )


def _remarks(teacher: Teacher, tasks: Mapping[str, ScoringTask]) -> Iterator[str]:
    """Notes for the user on how the teacher sees the sources."""
    if teacher.is_3d and any(task.table.kind.is_still for task in tasks.values()):
        yield (
            "a 3D teacher sees an image as a clip that stands still; a 2D one is the better judge"
            " of images"
        )
    for name, task in tasks.items():
        if any(name in held for held in teacher.hold_outs):
            yield f"{name}: networks that held out a part of it judge that part alone"
        if task.table.kind.has_pieces and not teacher.is_3d:
            frames = task.views.num_clips * task.clip.clip_len
            yield (
                f"{name}: a 2D teacher looks at {frames} frame{'s' * (frames > 1)} of every piece;"
                " a 3D one is the better judge of long videos"
            )


def _check(prepared: _Prepared, labelled: LabelledSource, ranks: Ranks) -> TeacherCheck:
    """Check the teacher; prints how it sees the sources, and what came of the check."""
    if ranks.is_main:
        for remark in _remarks(prepared.teacher, prepared.tasks):
            say(remark)
    check = check_teacher(
        prepared.teacher,
        labelled,
        config=prepared.config,
        names=prepared.class_names,
        scored=sum(len(task.table) for task in prepared.tasks.values()),
        ranks=ranks,
    )
    if ranks.is_main:
        say(check)
        for warning in check.warnings():
            say(f"WARNING: {warning}", error=True)
    return check


def _score(teacher: Teacher, task: ScoringTask, config: Config, ranks: Ranks) -> dict:
    """Score a source; returns the first of its counts."""
    scored, seconds = score(teacher, task, config, ranks)
    rate = round(scored / seconds, 1) if scored else None
    if ranks.is_main:
        speed = f" ({rate:,} a second)" if rate is not None else ""
        say(f"{task.table.name}: {len(task.table):,} items, {scored:,} scored now{speed}")
    return {"items": len(task.table), "scored": scored, "items_per_second": rate}


def _write_results(
    out: Path,
    prepared: _Prepared,
    counts: Mapping[str, dict],
    *,
    config: Config,
    rules: Rules,
    check: TeacherCheck,
    keep_negatives: bool,
) -> dict[str, dict]:
    """Apply the rules, and write everything that ``out`` gets; adds to the counts what was kept."""
    catalog, sources = prepared.config.catalog_path, config.all_sources
    filtered = {name: judge_items(catalog, task, rules) for name, task in prepared.tasks.items()}
    for name, source in filtered.items():
        require_kept(source, rules)
        check_list_paths(
            catalog, name, sources[name], source.outcome.kept, multi_label=config.multi_label
        )

    lists: dict[str, MediaConfig] = {}
    all_counts: dict[str, dict] = {}
    with writing_to(out):
        for name, source in filtered.items():
            outcome = source.outcome
            lists[name], samples = write_list(
                out,
                catalog,
                name,
                replace(sources[name], window_seconds=source.task.source.window_seconds),
                kept=outcome.kept,
                labels=outcome.labels,
                label_sets=outcome.label_sets,
                stays=np.ones_like(outcome.kept) if keep_negatives else None,
                first_label=prepared.first_label,
                names=prepared.listed_names,
            )
            all_counts[name] = {
                **counts[name],
                "kept": int(outcome.kept.sum()),
                "dropped": int((~outcome.kept).sum()),
                "unreadable": int((~source.scores.decoded).sum()),
                "relabelled": int(source.relabelled.sum()),
                "samples": samples,
            }
        write_filter_report(
            out, filtered, all_counts, rules=rules, check=check, config=prepared.config
        )
        class_names = next(iter(filtered.values())).class_names
        write_config(out, config, lists, class_names, first_label=prepared.first_label)

    for name, source in filtered.items():
        _print_result(name, source, all_counts[name])
    return all_counts


def _print_result(name: str, source: FilteredSource, counts: dict) -> None:
    kept, items = counts["kept"], counts["items"]
    text = f"{name}: kept {kept:,} of {items:,} ({100 * kept / items:.1f} %)"
    if counts["samples"] != kept:
        text += f" as pieces of {counts['samples']:,} videos"
    text += f", dropped {counts['dropped']:,}"
    if counts["relabelled"]:
        text += f", relabelled {counts['relabelled']:,}"
    if counts["unreadable"]:
        text += f"; {counts['unreadable']:,} do not decode"
    say(text)

    if favourite := source.favourite():
        say(f"WARNING: {name}: the teacher predicts {favourite}", error=True)
    for label, listed, kept_of_class in source.classes():
        if listed and not kept_of_class:
            say(
                f"WARNING: {name}: nothing is kept of class {label} ({source.class_names[label]}),"
                f" {listed:,} items, best probability {source.best(label):.3f}",
                error=True,
            )
