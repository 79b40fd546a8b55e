"""Whether a teacher knows anything of its classes, asked before it scores for hours.

It predicts labelled items. One that is no better than a guess, or that has one answer to
everything, keeps and drops by chance: it was trained on other classes or in another order of them,
sees other clips than in its training, or has learnt nothing.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.teacher_scores import ScoreStore
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, key_of
from omnidali.curation.filter.rules import TeacherScores, scores_of_queries
from omnidali.curation.filter.scoring import make_task, score
from omnidali.curation.filter.set_rules import likeliest_queries
from omnidali.curation.filter.teacher import Teacher
from omnidali.curation.table_sample import evenly_spread
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.utils.untrusted_text import say

_MAX_ITEMS = 400  # of a check: enough to tell an accuracy of 5 % from one of 1 %
_MIN_ITEMS = 100  # else no more are checked than are scored, so that the check takes less time
_UNLIKELY = 0.01  # probability below which a result is not taken for chance
_NEGLIGIBLE = 1e-12  # share of a sum
_ANY_NUMBER = 1 << 30


class Favourite(NamedTuple):
    """A class that a teacher gives to most items of other classes.

    Attributes:
        label: of the class.
        share: of the items of other classes that get it, 0 to 1.
    """

    label: int
    share: float

    def describe(self, names: Sequence[str]) -> str:
        """What the teacher predicts, in words; ``names`` are those of the classes."""
        return f"{names[self.label]} for {100 * self.share:.0f} % of the items of other classes"


@dataclass(frozen=True)
class TeacherCheck:
    """What a teacher says of labelled items.

    Attributes:
        source: name of their source.
        items: how many decode.
        correct: how many of them have the label first.
        chance: share that would be correct if its answers had nothing to do with the labels.
        can_tell: whether there are enough items to tell knowledge from chance.
        favourite: the class that it gives to most items of others, in words; or empty.
    """

    source: str
    items: int
    correct: int
    chance: float
    can_tell: bool
    favourite: str = ""

    def __str__(self) -> str:
        if not self.items:
            return f"teacher: not checked, as nothing labelled of {key_of(self.source)} decodes"
        return (
            f"teacher: correct for {self.correct:,} of {self.items:,} items of"
            f" {key_of(self.source)} ({100 * self.correct / self.items:.1f} %);"
            f" chance would give {100 * self.chance:.1f} %"
        )

    def as_row(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self)

    def warnings(self) -> Iterator[str]:
        """Yield a line for each reason not to filter with this teacher."""
        if self.is_guess:
            yield (
                f"the teacher is no better than chance on {key_of(self.source)}, and so is what it"
                " keeps. Check its classes and their order, and that `clip` and"
                " `evaluation.test` are those that it was trained for"
            )
        if self.favourite:
            yield f"the teacher predicts {self.favourite} in {key_of(self.source)}"

    @property
    def is_guess(self) -> bool:
        """Whether chance explains what is right."""
        tail = binomial_tail(self.correct, self.items, self.chance)
        return self.can_tell and tail > _UNLIKELY


class LabelledSource(NamedTuple):
    """A source whose labels are correct.

    Attributes:
        table: of the source.
        source: its settings.
    """

    table: SourceTable
    source: MediaConfig


def open_labelled(
    config: Config, scoring_config: Config, tables: Mapping[str, SourceTable], ranks: Ranks
) -> LabelledSource:
    """The source that a teacher is checked on: the held-out one, or the target without one.

    Args:
        config: of the user.
        scoring_config: that the tables were opened with.
        tables: by name, those of the target and of the sources to be filtered.
        ranks: all of them call this.
    """
    target = next(iter(config.sources))
    known = scoring_config.all_sources
    held_out = config.evaluation.source
    if EVALUATION in tables:
        return LabelledSource(tables[EVALUATION], known[EVALUATION])

    if held_out is not None:
        sources = MappingProxyType({target: scoring_config.sources[target]})
        try:
            data = open_data(
                replace(scoring_config, sources=sources, evaluation=config.evaluation),
                ranks,
                labelled=False,
            )
        except UserError as error:  # without it, everything but the check is possible
            if ranks.is_main:
                say(f"the teacher is checked on {key_of(target)}, as {error}", error=True)
        else:
            assert data.evaluation is not None
            if ranks.is_main:
                say(data.summary[-1])
            return LabelledSource(data.evaluation, held_out)
    return LabelledSource(tables[target], known[target])


def check_teacher(
    teacher: Teacher,
    labelled: LabelledSource,
    *,
    config: Config,
    names: Sequence[str],
    scored: int,
    ranks: Ranks,
) -> TeacherCheck:
    """Let a teacher predict some labelled items, spread over their classes.

    It sees the views with which it filters. Its scores stay in the catalog, so that a second check
    costs nothing.

    Args:
        teacher: to check.
        labelled: of :func:`open_labelled`.
        config: to score with.
        names: of the teacher's classes.
        scored: how many items are to be filtered.
        ranks: all of them call this.

    Raises:
        UserError: if the catalog cannot be written, or a score is not finite.
    """
    # a network may not judge what it was trained on, but that is what it should know
    unrestricted = replace(teacher, hold_outs=tuple({} for _ in teacher.models))
    table, source = labelled
    task = make_task(unrestricted, table, source, config, names)
    most = min(_MAX_ITEMS, max(_MIN_ITEMS, scored))
    rows = _spread(task.table.labels, most, len(names))
    if not len(rows):
        return TeacherCheck(table.name, items=0, correct=0, chance=0.0, can_tell=False)
    sample = task.table.take(rows, "for a check")
    task = replace(task, table=sample)

    # files that fail are no fault of the teacher
    loader = replace(config.loader, max_bad_ratio=1.0, max_bad_in_a_row=_ANY_NUMBER)
    score(unrestricted, task, replace(config, loader=loader), ranks)

    def read() -> TeacherCheck:
        with ScoreStore(config.catalog_path, task.scorer) as store:
            logs = np.concatenate([found for _, found in store.read(sample)])
        if sample.label_sets is None:
            scores, labels = scores_of_queries(logs, sample.labels), sample.labels
        else:  # it is right if its class is one of them
            scores, labels = likeliest_queries(logs, sample.label_sets)
        return judge_teacher(table.name, scores, labels, names)

    return ranks.on_main(read)


def judge_teacher(
    source: str, scores: TeacherScores, labels: np.ndarray, names: Sequence[str]
) -> TeacherCheck:
    """Compare a teacher's answers with labels.

    Args:
        source: name of the items' source.
        scores: of n items.
        labels: int (n,), the correct ones.
        names: of the classes.
    """
    labels = labels[scores.decoded]
    predicted = predictions(scores, labels)
    given = np.bincount(predicted, minlength=len(names)) / max(1, len(labels))
    true = np.bincount(labels, minlength=len(names)) / max(1, len(labels))
    chance = min(1.0, float((given * true).sum()))
    favourite = find_favourite(predicted, labels, len(names))
    return TeacherCheck(
        source=source,
        items=len(labels),
        correct=int((predicted == labels).sum()),
        chance=chance,
        # even chance could not get all of them right
        can_tell=binomial_tail(len(labels), len(labels), chance) <= _UNLIKELY,
        favourite=favourite.describe(names) if favourite else "",
    )


def predictions(scores: TeacherScores, labels: np.ndarray) -> np.ndarray:
    """The most probable classes of the items that decode: int (n,).

    Args:
        scores: of the items.
        labels: int (n,), the query classes of those that decode.
    """
    return np.where(scores.rank[scores.decoded] == 0, labels, scores.other[scores.decoded])


def find_favourite(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Favourite | None:
    """The class that is given to most items of other classes, if there is one.

    "Most" is more than half of the way from chance, 1 / classes, to all; so a class that is
    frequent among the labels is none.

    Args:
        predicted: int (n,), the teacher's answers.
        labels: int (n,), the correct ones, or the queries of a crawl.
        classes: how many there are.

    >>> find_favourite(np.zeros(60, int), np.arange(60) % 3, 3)
    Favourite(label=0, share=1.0)
    >>> find_favourite(np.arange(60) % 3, np.arange(60) % 3, 3)
    """
    if not len(predicted) or classes < 2:
        return None
    label = int(np.bincount(predicted, minlength=classes).argmax())
    others = predicted[labels != label]
    if not len(others):
        return None

    count = int((others == label).sum())
    share = count / len(others)
    if share <= (1 + 1 / classes) / 2:
        return None
    is_chance = binomial_tail(count, len(others), 1 / classes) > _UNLIKELY
    return None if is_chance else Favourite(label, share)


def binomial_tail(count: int, items: int, share: float) -> float:
    """The probability of at least ``count`` hits among ``items`` that each hit with ``share``.

    >>> binomial_tail(2, 2, 0.5), binomial_tail(0, 10, 0.1), round(binomial_tail(60, 100, 0.5), 4)
    (0.25, 1.0, 0.0284)
    """
    if count <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    total = 0.0
    for hits in range(count, items + 1):
        term = math.exp(
            math.lgamma(items + 1)
            - math.lgamma(hits + 1)
            - math.lgamma(items - hits + 1)
            + hits * math.log(share)
            + (items - hits) * math.log1p(-share)
        )
        total += term
        if hits > share * items and term < _NEGLIGIBLE * total:  # as are all that follow, together
            break
    return min(1.0, total)


def _spread(labels: np.ndarray, most: int, classes: int) -> np.ndarray:
    """At most ``most`` rows, spread over the labels that are classes: int64 (n,), ascending."""
    known = np.flatnonzero((labels >= 0) & (labels < classes))
    by_class = known[np.argsort(labels[known], kind="stable")]
    return np.sort(by_class[evenly_spread(len(by_class), most)])
