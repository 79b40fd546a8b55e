"""A teacher's filter: score crawled sources once, apply rules as often as one likes, write the
lists that remain.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.catalog.database.teacher_scores import ScoreStore
from omnidali.config.schema import EVALUATION, Config, MediaConfig, key_of
from omnidali.curation.filter.filter_report import Part, write_reports
from omnidali.curation.filter.rules import Opinion, Rules, judge, opinion_of
from omnidali.curation.filter.scoring import (
    Task,
    Teacher,
    load_teachers,
    make_task,
    score,
    source_to_score,
)
from omnidali.curation.list_writer import check_list, write_config, write_list
from omnidali.curation.source_selection import all_sources, choose_crawled
from omnidali.curation.windows import check_window
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say


@dataclass(frozen=True)
class Filtering:
    """What is asked for.

    Attributes:
        names: of the sources, ``evaluation`` among them; none: all training sources but the target.
        rules: what an item has to pass. window: seconds of a piece of long videos that are cut into
            windows; None: see :func:`~omnidali.curation.filter.scoring.source_to_score`.
        score_only: whether no list is written. keep_negatives: whether long videos stay without a
            positive piece.
    """

    names: tuple[str, ...] = ()
    rules: Rules = Rules()
    window: float | None = None
    score_only: bool = False
    keep_negatives: bool = False


def filter_sources(
    config: Config,
    checkpoints: Sequence[str | Path],
    out: str | Path,
    asked: Filtering,
    ranks: Ranks = Ranks(),
    take: Callable[[], None] = lambda: None,
) -> dict[str, dict]:
    """Score the sources, and write lists, tables, pictures and a config into ``out``.

    Args:
        checkpoints: of the teacher; several are asked together.
        take: called on all ranks before anything but the catalog is written, once everything was
            checked that can be.

    Returns:
        For each source counts of items, kept, dropped, unreadable and scored now, and items a
            second.

    Raises:
        UserError: for a teacher of other classes, a window that no source takes, a source of which
            nothing is kept, and a folder or catalog that cannot be written.
    """
    out = Path(os.path.abspath(out))
    chosen = choose_crawled(config, asked.names, lists=not asked.score_only)
    sources = {name: all_sources(config)[name] for name in chosen}
    check_window(asked.window, sources, config.data_root)
    teacher = load_teachers(checkpoints, config.clip.clip_len)
    scored = {
        name: source_to_score(teacher, source, config.data_root, asked.window)
        for name, source in sources.items()
    }
    target = next(iter(config.sources))
    training = {
        name: replace(scored.get(name, config.sources[name]), fraction=1.0, hold_out=None)
        for name in config.sources
        if name in scored or name == target
    }
    # faults are named in `out`: the run folder may be that of a training
    config_here = replace(
        config,
        catalog=config.catalog_path,
        run_dir=str(out),
        sources=MappingProxyType(training),
        evaluation=replace(config.evaluation, source=scored.get(EVALUATION)),
    )
    data = open_data(config_here, ranks)
    if ranks.is_main:
        say(*data.summary)
    names = teacher.agree(data.class_names, data.named)
    if (
        ranks.is_main
        and teacher.is_3d
        and any(source.kind == "image" for source in scored.values())
    ):
        say(
            "a 3D teacher sees a photo as a clip that stands still; a 2D one is the better judge of photos"
        )
    tables = {table.name: table for table in (*data.tables, data.evaluation) if table is not None}
    tasks = {
        name: make_task(teacher, tables[name], source, config_here, names)
        for name, source in scored.items()
    }
    parted = [name for name in tasks if any(name in held for held in teacher.hold_outs)]
    for name in parted:
        teacher.juries(tasks[name].table)  # which refuses items that nobody judges
    take()
    for name in parted if ranks.is_main else ():
        say(f"{name}: networks that held out a part of it judge that part alone")
    for name, task in tasks.items() if ranks.is_main and not teacher.is_3d else ():
        if scored[name].kind == "untrimmed":
            frames = task.views.num_clips * task.clip.clip_len
            say(
                f"{name}: a 2D teacher looks at {frames} frame{'s' * (frames > 1)} of every piece; a 3D one is the"
                " better judge of long videos"
            )
    rows = {name: _score(teacher, task, config_here, ranks) for name, task in tasks.items()}
    if not asked.score_only:
        rows = ranks.on_main(
            lambda: _write(config, config_here, out, asked, sources, tasks, names, rows)
        )
    if ranks.is_main:
        write_record(
            out,
            {
                "filter": rows,
                "checkpoint": teacher.path,
                "digest": teacher.digest,
                "rules": None if asked.score_only else str(asked.rules),
                "ranks": ranks.world,
            },
        )
    return rows


def _score(teacher: Teacher, task: Task, config: Config, ranks: Ranks) -> dict:
    count, seconds = score(teacher, task, config, ranks)
    row = {
        "items": len(task.table),
        "scored": count,
        "items_per_second": round(count / seconds, 1) if count else None,
    }
    if ranks.is_main:
        speed = f" ({row['items_per_second']:,} a second)" if count else ""
        say(f"{task.table.name}: {len(task.table):,} items, {count:,} scored now{speed}")
    return row


def _write(
    config: Config,
    config_here: Config,
    out: Path,
    asked: Filtering,
    sources: Mapping[str, MediaConfig],
    tasks: Mapping[str, Task],
    names: Collection[str],
    rows: dict[str, dict],
) -> dict[str, dict]:
    """Judge all sources, and write everything that ``out`` gets; returns the rows with what was
    kept.
    """
    parts = {
        name: _judge(config_here.catalog_path, task, asked.rules, len(names))
        for name, task in tasks.items()
    }
    for part in parts.values():
        _refuse_nothing(part, asked.rules)
    for name, part in parts.items():
        check_list(config_here.catalog_path, name, sources[name], part.verdict.kept)
    new: dict[str, MediaConfig] = {}
    with writing_to(out):
        for name, part in parts.items():
            source = replace(sources[name], window_seconds=part.task.source.window_seconds)
            new[name], samples = write_list(
                out,
                config_here.catalog_path,
                name,
                source,
                part.verdict.kept,
                part.verdict.labels,
                np.ones_like(part.verdict.kept) if asked.keep_negatives else None,
            )
            counts = {
                "kept": int(part.verdict.kept.sum()),
                "dropped": int((~part.verdict.kept).sum()),
                "unreadable": int((~part.opinion.decoded).sum()),
                "relabelled": int(part.relabelled.sum()),
                "samples": samples,
            }
            rows[name] = {**rows[name], **counts}
        write_reports(out, parts, tuple(names), asked.rules, config_here, rows)
        write_config(out, config, new, names)
    for name, part in parts.items():
        _tell(name, part, names, rows[name])
    return rows


def _judge(catalog: str, task: Task, rules: Rules, classes: int) -> Part:
    """What the scores of a source come to, a few thousand items at a time."""
    table: SourceTable = task.table
    found = []
    with ScoreStore(catalog, task.scorer) as store:
        for places, logs in store.read(table):
            found.append(opinion_of(logs, table.labels[places]))
    opinion = Opinion(
        *(
            np.concatenate([getattr(part, name) for part in found])
            for name in ("probability", "rank", "other", "other_probability")
        )
    )
    # a piece of a video about one class does not become a video about another
    if table.kind == "untrimmed":
        rules = replace(rules, relabel=False)
    return Part(task, opinion, judge(opinion, table.labels, rules, classes))


def _refuse_nothing(part: Part, rules: Rules) -> None:
    if part.verdict.kept.any():
        return
    best = np.sort(part.opinion.probability[part.opinion.decoded])[::-1][:5]
    shown = ", ".join(f"{value:.3f}" for value in best) or "none: nothing decodes"
    raise UserError(
        key_of(part.task.table.name),
        f"items that pass the rule ({rules})",
        f"none of {len(part.task.table):,}; the best probabilities are {shown}",
        "Lower the threshold, use another --rule or teacher, or leave the source out with --sources.",
    )


def _tell(name: str, part: Part, names: Collection[str], row: dict) -> None:
    text = f"{name}: kept {row['kept']:,} of {row['items']:,} ({100 * row['kept'] / row['items']:.1f} %)"
    if row["samples"] != row["kept"]:
        text += f" as pieces of {row['samples']:,} videos"
    text += f", dropped {row['dropped']:,}"
    text += f", relabelled {row['relabelled']:,}" if row["relabelled"] else ""
    say(text + (f"; {row['unreadable']:,} do not decode" if row["unreadable"] else ""))
    for label, listed, kept in part.classes(len(names)):
        if listed and not kept:
            best = part.best(label)
            say(
                f"WARNING: {name}: nothing is kept of class {label} ({list(names)[label]}), {listed:,} items,"
                f" best probability {best:.3f}",
                error=True,
            )
