"""What becomes of a source's items: the scores in the catalog, and the rules over them."""

from dataclasses import replace

import numpy as np

from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.teacher_scores import ScoreStore
from omnidali.config.sources import key_of
from omnidali.curation.filter.filter_report import FilteredSource
from omnidali.curation.filter.rules import Rules, TeacherScores, apply_rules, scores_of_queries
from omnidali.curation.filter.scoring import ScoringTask
from omnidali.curation.filter.set_rules import apply_set_rules, scores_of_sets
from omnidali.errors import UserError


def judge_items(catalog: str, task: ScoringTask, rules: Rules) -> FilteredSource:
    """What becomes of a source's items; a few thousand scores are in memory at a time."""
    table = task.table
    if table.label_sets is not None:
        return _judge_sets(catalog, task, rules, table.label_sets)
    # an item without a label is asked about the class that the teacher finds most probable
    labels = table.labels.copy()
    chunks = []
    with ScoreStore(catalog, task.scorer) as store:
        for rows, logs in store.read(table):
            given = labels[rows]
            labels[rows] = np.where(given < 0, logs.argmax(axis=1), given)
            chunks.append(scores_of_queries(logs, labels[rows]))
    table = replace(table, labels=labels)
    task = replace(task, table=table)
    scores = TeacherScores.joined(chunks)
    # a piece of a video about one class does not become a video about another
    if table.kind.has_pieces:
        rules = replace(rules, relabel=False)
    return FilteredSource(
        task, scores, apply_rules(scores, table.labels, rules, classes=len(task.scorer.classes))
    )


def _judge_sets(catalog: str, task: ScoringTask, rules: Rules, labels: LabelSets) -> FilteredSource:
    """What becomes of a source's items that may have several labels."""
    values = labels.values.copy()
    chunks = []
    with ScoreStore(catalog, task.scorer) as store:
        for rows, logs in store.read(task.table):
            span = slice(labels.starts[rows[0]], labels.starts[rows[-1] + 1])
            part = labels.take(rows)
            best = logs.argmax(axis=1)[part.rows]
            values[span] = np.where(part.values < 0, best, part.values)
            chunks.append(scores_of_sets(logs, replace(part, values=values[span])))
    scores = TeacherScores.joined(chunks)

    if task.table.kind.has_pieces:
        rules = replace(rules, relabel=False)
    labels = replace(labels, values=values)
    items, outcome = apply_set_rules(scores, labels, rules, len(task.scorer.classes))
    table = replace(task.table, labels=outcome.labels, label_sets=labels)
    return FilteredSource(replace(task, table=table), items, outcome)


def require_queries(table: SourceTable, relabel: bool) -> None:
    """Refuse items without a label, unless the teacher gives them one.

    Args:
        table: of a source.
        relabel: whether the teacher gives labels.

    Raises:
        UserError: naming the source.
    """
    unlabelled = int((table.labels < 0).sum())
    if not unlabelled:
        return
    if not relabel:
        raise UserError(
            key_of(table.name),
            "labels, which the rules ask the teacher about",
            f"{unlabelled:,} items without one",
            "Add --relabel: the teacher's best class becomes the label, if it passes the rules.",
        )
    if table.kind.has_pieces:
        raise UserError(
            key_of(table.name),
            "a label for every long video, as its pieces may show several classes",
            f"{unlabelled:,} without one",
            "Cut them into clips, and list these as kind: video.",
        )


def require_kept(source: FilteredSource, rules: Rules) -> None:
    """Refuse rules that no item of a source passes.

    Raises:
        UserError: with the best probabilities.
    """
    if source.outcome.kept.any():
        return
    best = np.sort(source.scores.probability[source.scores.decoded])[::-1][:5]
    shown = ", ".join(f"{value:.3f}" for value in best) or "none: nothing decodes"
    raise UserError(
        key_of(source.task.table.name),
        f"items that pass the rule ({rules})",
        f"none of {len(source.task.table):,}; the best probabilities are {shown}",
        "Lower the threshold, use another --rule or teacher, or leave the source out with"
        " --sources.",
    )
