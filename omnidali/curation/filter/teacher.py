"""Teachers: recognisers, alone or together, that say what they see in media."""

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.sources import key_of
from omnidali.errors import UserError
from omnidali.models.recognizers import Recognizer
from omnidali.models.trained_model import load_trained
from omnidali.models.weight_names import first_few
from omnidali.planning.resampling import parts_of


@dataclass(frozen=True)
class Teacher:
    """A network that scores media, or several that score together by their mean probability.

    Attributes:
        models: in evaluation mode.
        is_3d: whether they look at several frames at a time.
        digests: of their weights, by model.
        path: of their file, or files.
        name: for people.
        classes: names that a checkpoint carries; empty if none does.
        outputs: how many classes they know.
        multi_label: whether each class has a probability of its own, as they were trained on
            several labels an item.
        hold_outs: by model, (part, parts) by the name of a source of which its training saw all but
            that part.
    """

    models: tuple[Recognizer, ...]
    is_3d: bool
    digests: tuple[str, ...]
    path: str
    name: str
    classes: tuple[str, ...]
    outputs: int
    multi_label: bool
    hold_outs: tuple[Mapping[str, tuple[int, int]], ...]

    @property
    def digest(self) -> str:
        """Of all weights, whatever the order of the models."""
        if len(self.digests) == 1:
            return self.digests[0]
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()

    def juries(self, table: SourceTable) -> list[tuple[tuple[Recognizer, ...], np.ndarray]]:
        """The models that score together, with the rows int64 (n,) of ``table`` that they score.

        A model that held out a part of the source scores that part alone: it agrees with whatever
        label it was trained on, and is fair to what it has never seen (cross-fitting).

        Raises:
            UserError: if no model may score some rows.
        """
        judges = np.ones((len(table), len(self.models)), bool)
        for place, held in enumerate(self.hold_outs):
            if table.name in held:
                part, parts = held[table.name]
                judges[:, place] = parts_of(table.owners(), parts) == part

        orphans = int((~judges.any(axis=1)).sum())
        if orphans:
            raise UserError(
                self.path,
                f"for every item of {key_of(table.name)} a network that was not trained on it",
                f"none for {orphans:,} of {len(table):,}; their parts are held out by no other"
                " network",
                "Name the checkpoints of all parts, or one that has seen nothing of the source.",
            )

        groups, group_of = np.unique(judges, axis=0, return_inverse=True)
        group_of = group_of.reshape(-1)  # some releases of NumPy keep the axis
        return [
            (tuple(itertools.compress(self.models, group)), np.flatnonzero(group_of == number))
            for number, group in enumerate(groups)
        ]

    def match_classes(self, names: Sequence[str], named: bool) -> tuple[str, ...]:
        """Compare the lists' classes with the teacher's; returns a name for each of its outputs.

        Args:
            names: of the lists' classes.
            named: whether they are names, and not their numbers as text.

        Raises:
            UserError: if these are not the teacher's classes.
        """
        if named:
            same = len(names) == self.outputs and self.classes in ((), tuple(names))
            found = tuple(names)
        else:  # a class that no list has is no contradiction then
            same = len(names) <= self.outputs
            found = self.classes or tuple(map(str, range(self.outputs)))

        if not same:
            got = first_few(list(self.classes)) if self.classes else "no names"
            raise UserError(
                self.path,
                f"a teacher for the {len(names)} classes of the lists ({first_few(list(names))})",
                f"one for {self.outputs} ({got})",
                "Use a teacher that was trained on these classes, or correct `classes:` of the"
                " config.",
            )
        return found


def load_teachers(
    checkpoints: Sequence[str | Path],
    clip_len: int,
    multi_label: bool = False,
    trusted: Collection[str] = (),
) -> Teacher:
    """Make one teacher of one checkpoint or several; arguments as of :func:`load_teacher`.

    Raises:
        UserError: if one cannot be read, they do not look at the same clips, or have other classes.
    """
    teachers = [
        load_teacher(checkpoint, clip_len, multi_label, trusted) for checkpoint in checkpoints
    ]
    for other in teachers[1:]:
        _require_same_task(teachers[0], other)

    return replace(
        teachers[0],
        models=tuple(model for teacher in teachers for model in teacher.models),
        digests=tuple(digest for teacher in teachers for digest in teacher.digests),
        path=" + ".join(teacher.path for teacher in teachers),
        name=" + ".join(teacher.name for teacher in teachers),
        classes=next((teacher.classes for teacher in teachers if teacher.classes), ()),
        hold_outs=tuple(held for teacher in teachers for held in teacher.hold_outs),
    )


def load_teacher(
    checkpoint: str | Path,
    clip_len: int,
    multi_label: bool = False,
    trusted: Collection[str] = (),
) -> Teacher:
    """Read a checkpoint of ours or of the reference as a teacher.

    Args:
        checkpoint: a file, or a run folder for its best.pt.
        clip_len: frames of a clip, for networks over clips.
        multi_label: whether it was trained on several labels an item, where its file does not say.
        trusted: functions that a checkpoint may have called; see
            :func:`~omnidali.models.trained_model.build_trained`.

    Raises:
        UserError: if it cannot be read, or is none of our networks.
    """
    trained = load_trained(checkpoint, clip_len, trusted)
    return Teacher(
        models=(trained.network,),
        is_3d=trained.network.is_3d,
        digests=(trained.digest,),
        path=str(checkpoint),
        name=Path(checkpoint).name,
        classes=trained.classes,
        outputs=trained.network.classes,
        multi_label=multi_label if trained.config is None else trained.multi_label,
        hold_outs=(_hold_outs(trained.hold_out, checkpoint),),
    )


_LABELS = {False: "one an item", True: "several an item"}


def _require_same_task(one: Teacher, other: Teacher) -> None:
    kinds = {False: "2D", True: "3D"}
    for what, first, second in (
        ("kind", kinds[one.is_3d], kinds[other.is_3d]),
        ("number of classes", one.outputs, other.outputs),
        ("classes", one.classes, other.classes),
        ("kind of labels", _LABELS[one.multi_label], _LABELS[other.multi_label]),
    ):
        if first and second and first != second:
            raise UserError(
                other.path,
                f"a teacher of the same {what} as {one.path} ({_text(first)})",
                _text(second),
                "Filter with each of them alone.",
            )


def _text(value: object) -> str:
    return first_few(list(value)) if isinstance(value, tuple) else str(value)


def _hold_outs(held: object, checkpoint: str | Path) -> dict[str, tuple[int, int]]:
    """The parts that a checkpoint was not trained on, (part, parts) by source, checked."""
    if isinstance(held, Mapping) and all(
        isinstance(value, (list, tuple))
        and list(map(type, value)) == [int, int]
        and 1 <= value[0] <= value[1]
        for value in held.values()
    ):
        return {str(name): (part, parts) for name, (part, parts) in held.items()}
    raise UserError(
        str(checkpoint),
        "hold_out as `train` writes it",
        str(held),
        "Restore the file from a copy.",
    )
