"""Score sources with a teacher: checkpoints of recognisers, every item once, on any number of
ranks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omnidali.catalog.database.listed_items import flatten, list_format, read_items
from omnidali.catalog.database.store import SourceTable
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.config.schema import ClipConfig, Config, MediaConfig, ViewsConfig, key_of
from omnidali.curation.windows import FRAME_SECONDS, WHOLE_FILES, in_pieces
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.forward import allow_again, run_over
from omnidali.models.architecture import tell_architecture
from omnidali.models.checkpoint_file import load_checkpoint, load_weights
from omnidali.models.digest import digest_of
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import SlowOnly, build_model
from omnidali.models.weights import best_weights, some
from omnidali.planning.resampling import parts_of

_SMALLEST = 1e-30  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Teacher:
    """A network whose opinion of media is asked, or several that are asked together.

    Attributes:
        models: in evaluation mode. is_3d: whether they look at several frames at a time.
        digests: of their weights, by model. path: of their file, or files. name: for people.
        classes: names that the checkpoint carries; empty where it carries none. outputs: their
            number.
        hold_outs: by model, (part, parts) by the name of a source of which its training saw all but
            that part.
    """

    models: tuple[torch.nn.Module, ...]
    is_3d: bool
    digests: tuple[str, ...]
    path: str
    name: str
    classes: tuple[str, ...]
    outputs: int
    hold_outs: tuple[Mapping[str, tuple[int, int]], ...]

    @property
    def digest(self) -> str:
        """Of all weights, whatever the order of the models."""
        if len(self.digests) == 1:
            return self.digests[0]
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()

    @property
    def clip_len(self) -> int | None:
        """Frames that the models take at a time; None: any number."""
        return self.models[0].clip_len

    def juries(self, table: SourceTable) -> list[tuple[tuple[torch.nn.Module, ...], np.ndarray]]:
        """Who judges what: models, and the rows int64 (n,) of a source's table that all of them and
        no others judge.

        A model that held out a part of the source judges that part alone: it agrees with whatever
        label it was trained on, and is fair to what it has never seen (cross-fitting).

        Raises:
            UserError: if nobody judges some rows.
        """
        judges = np.ones((len(table), len(self.models)), bool)
        held_out = {
            place: held[table.name]
            for place, held in enumerate(self.hold_outs)
            if table.name in held
        }
        part_of = {
            parts: parts_of(table.owners(), parts)
            for parts in {parts for _, parts in held_out.values()}
        }
        for place, (part, parts) in held_out.items():
            judges[:, place] = part_of[parts] == part
        orphans = int((~judges.any(axis=1)).sum())
        if orphans:
            raise UserError(
                self.path,
                f"for every item of {key_of(table.name)} a network that was not trained on it",
                f"none for {orphans:,} of {len(table):,}; their parts are held out by no other network",
                "Name the checkpoints of all parts, or one that has seen nothing of the source.",
            )
        groups, group_of = np.unique(judges, axis=0, return_inverse=True)
        group_of = group_of.reshape(-1)  # some releases of numpy keep the axis
        return [
            (tuple(itertools.compress(self.models, group)), np.flatnonzero(group_of == number))
            for number, group in enumerate(groups)
        ]

    def agree(self, names: Sequence[str], named: bool) -> tuple[str, ...]:
        """Class names for the teacher's outputs.

        Args:
            names: of the lists' classes. named: whether they are names, not their numbers as text.

        Raises:
            UserError: if these are not the teacher's classes.
        """
        if not named:  # then a class that no list has is no contradiction
            same, found = (
                len(names) <= self.outputs,
                self.classes or tuple(map(str, range(self.outputs))),
            )
        else:
            same, found = (
                len(names) == self.outputs and self.classes in ((), tuple(names)),
                tuple(names),
            )
        if not same:
            got = some(list(self.classes)) if self.classes else "no names"
            raise UserError(
                self.path,
                f"a teacher for the {len(names)} classes of the lists ({some(list(names))})",
                f"one for {self.outputs} ({got})",
                "Use a teacher that was trained on these classes, or correct `classes:` of the config.",
            )
        return found


class Ensemble(torch.nn.Module):
    """Several recognisers in one; (N, 3, T, H, W) to the logarithm of their mean probabilities (N,
    classes).

    It stands for logits: where views are averaged by score, these logarithms are.

    OmniSource's best teacher is an ensemble (Fig. 6). All look at the same clips, which are decoded
    once.
    """

    def __init__(self, models: Sequence[torch.nn.Module]):
        super().__init__()
        self.models = torch.nn.ModuleList(models)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        logs = torch.stack([model(clips).float().log_softmax(dim=1) for model in self.models])
        return logs.logsumexp(dim=0) - math.log(len(self.models))


@dataclass(frozen=True)
class Task:
    """What a teacher looks at in a source.

    Attributes:
        table: a row an item or piece. source, clip, views: of the loader. scorer: what the scores
            are kept under.
    """

    table: SourceTable
    source: MediaConfig
    clip: ClipConfig
    views: ViewsConfig
    scorer: Scorer


def load_teachers(checkpoints: Sequence[str | Path], clip_len: int) -> Teacher:
    """One teacher of one checkpoint or several; arguments and errors as those of
    :func:`load_teacher`.

    Raises:
        UserError: if they do not look at the same clips, or have other classes.
    """
    first, *others = teachers = [load_teacher(checkpoint, clip_len) for checkpoint in checkpoints]
    for other in others:
        for what, one, another in (
            ("kind", *("3D" if teacher.is_3d else "2D" for teacher in (first, other))),
            ("number of classes", first.outputs, other.outputs),
            ("classes", first.classes, other.classes),
        ):
            if one != another and one and another:
                raise UserError(
                    other.path,
                    f"a teacher of the same {what} as {first.path} ({_text(one)})",
                    _text(another),
                    "Filter with each of them alone.",
                )
    if not others:
        return first
    path, name = (
        " + ".join(getattr(teacher, of) for teacher in teachers) for of in ("path", "name")
    )
    classes = next((teacher.classes for teacher in teachers if teacher.classes), ())
    models, digests, hold_outs = (
        sum((getattr(teacher, of) for teacher in teachers), ())
        for of in ("models", "digests", "hold_outs")
    )
    return Teacher(models, first.is_3d, digests, path, name, classes, first.outputs, hold_outs)


def load_teacher(checkpoint: str | Path, clip_len: int) -> Teacher:
    """Read a checkpoint of ours or of the reference; its tensors tell the network.

    Args:
        checkpoint: file, or run folder for its best.pt. clip_len: frames of a clip, for SlowOnly.

    Raises:
        UserError: if it cannot be read, or is none of our networks.
    """
    state = load_checkpoint(checkpoint, inside="best.pt")
    weights = best_weights(state)
    architecture = tell_architecture(weights, checkpoint)
    model = build_model(architecture.config, architecture.classes, clip_len)
    load_weights(model, {**state, "state_dict": weights}, str(checkpoint))
    # of what was exported, and the reference's
    meta = state.get("meta") if isinstance(state.get("meta"), dict) else {}
    classes = state.get("classes") or meta.get("CLASSES") or ()
    classes = (
        tuple(classes)
        if len(classes) == architecture.classes
        and all(isinstance(name, str) for name in classes)
        and not _are_numbers(classes)
        else ()
    )
    held = _hold_outs(state.get("hold_out") or meta.get("hold_out") or {}, checkpoint)
    return Teacher(
        (model.eval(),),
        isinstance(model, SlowOnly),
        (digest_of(weights),),
        str(checkpoint),
        Path(checkpoint).name,
        classes,
        architecture.classes,
        (held,),
    )


def source_to_score(
    teacher: Teacher, source: MediaConfig, data_root: str, window: float | None
) -> MediaConfig:
    """The source with all of its pieces, cut as the teacher looks at them.

    Args:
        window: seconds of a piece, where videos are cut into windows; None: 1 for a 2D teacher,
            else as configured.
    """
    return in_pieces(source, data_root, window or (None if teacher.is_3d else FRAME_SECONDS))


def make_task(
    teacher: Teacher, table: SourceTable, source: MediaConfig, config: Config, names: Sequence[str]
) -> Task:
    """How ``teacher`` looks at the items of a source: the config's clips and views, or a frame in a
    window.
    """
    clip, views = config.clip, config.evaluation.test
    if source.kind == "untrimmed":
        if not teacher.is_3d and _is_short(config.catalog_path, table.name, source):
            clip, views = replace(clip, clip_len=1, frame_interval=1), replace(views, num_clips=1)
        table = flatten(config.catalog_path, table)
    settings = {
        "clip_len": clip.clip_len,
        "frame_interval": clip.frame_interval,
        **dataclasses.asdict(views),
        "precision": config.train.precision,
    }
    juries = sorted(
        (digest, *held[table.name])
        for digest, held in zip(teacher.digests, teacher.hold_outs)
        if table.name in held
    )
    if juries:  # the same weights without a word of what they held out judge otherwise
        settings["held_out"] = juries
    scorer = Scorer(teacher.digest, teacher.name, tuple(names), json.dumps(settings))
    return Task(table, source, clip, views, scorer)


def score(teacher: Teacher, task: Task, config: Config, ranks: Ranks) -> tuple[int, float]:
    """Score what has no score yet, and keep it in the catalog.

    Returns:
        How many items were scored now, and in how many seconds.

    Raises:
        UserError: if the catalog cannot be written, a score is not finite, or nobody judges an
            item, see :meth:`Teacher.juries`; what was committed stays.
        BadSourceError: if more files fail than the config's limits let through.
    """
    table, path, started = task.table, config.catalog_path, time.monotonic()

    def find() -> tuple[np.ndarray, int]:
        with ScoreStore(path, task.scorer) as store:
            return store.missing(table)

    rows, tried = ranks.on_main(find)
    if not len(rows):
        return 0, 0.0
    todo = table.take(rows, "without a score")
    parts = [(models, todo.take(places, "of a jury")) for models, places in teacher.juries(todo)]
    layout = torch.channels_last_3d if teacher.is_3d else torch.channels_last
    for model in teacher.models:
        model.to(ranks.device, memory_format=layout)
    settings = allow_again(replace(config, clip=task.clip), tried)
    batches = (
        (part, found)
        for models, part in parts
        for found in run_over(
            _network(models, task.views.average),
            teacher.clip_len,
            part,
            task.source,
            task.views,
            settings,
            ranks,
            make_autocast(config.train.precision, ranks.device),
            f"score {table.name}",
        )
    )
    if not ranks.is_main:
        for _, found in batches:
            ranks.gather(found)
        return ranks.on_main(lambda: None)
    scored = 0
    with ScoreStore(path, task.scorer) as store:
        for part, found in batches:
            for places, outputs, decoded in ranks.gather(found):
                if not np.isfinite(outputs[decoded]).all():
                    raise UserError(
                        teacher.path,
                        "finite scores",
                        f"others in {key_of(table.name)}",
                        "Its weights are damaged, or train.precision is too short; try fp32.",
                    )
                store.add(part, places, _logs(outputs, task.views.average), decoded)
                scored += int(decoded.sum())
    return ranks.on_main(lambda: (scored, time.monotonic() - started))


def _is_short(catalog: str, name: str, source: MediaConfig) -> bool:
    """Whether the pieces of a source are windows of which one frame tells enough, maybe those of an
    earlier command.
    """
    form = list_format(catalog, name)
    return form in WHOLE_FILES or (
        form in ("parts", "parts_json")
        and source.window_seconds <= FRAME_SECONDS
        and all(item.unit for item in read_items(catalog, name))
    )


def _hold_outs(held: object, checkpoint: str | Path) -> dict[str, tuple[int, int]]:
    """What a checkpoint says of the parts that it was not trained on, checked."""
    try:
        read = {str(name): (int(part), int(parts)) for name, (part, parts) in held.items()}
        if all(1 <= part <= parts for part, parts in read.values()):
            return read
    except (AttributeError, TypeError, ValueError):
        pass
    raise UserError(
        str(checkpoint),
        "hold_out as train.py writes it",
        _text(held),
        "Restore the file from a copy.",
    )


def _text(value: object) -> str:
    return some(list(value)) if isinstance(value, tuple) else str(value)


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether these only stand for names that nobody gave."""
    return list(names) == list(map(str, range(len(names))))


def _network(
    models: Sequence[torch.nn.Module], average: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Clips (N, 3, T, H, W) to logits (N, classes), or to probabilities, as the views' average
    wants them.
    """
    model = models[0] if len(models) == 1 else Ensemble(models).eval()

    def network(clips: torch.Tensor) -> torch.Tensor:
        missing = (models[0].clip_len or 1) // clips.shape[2]
        # a photo stands still
        outputs = model(clips.repeat_interleave(missing, dim=2) if missing > 1 else clips)
        return outputs.float().softmax(dim=1) if average == "prob" else outputs

    return network


def _logs(outputs: np.ndarray, average: str) -> np.ndarray:
    """Log-probabilities (n, classes) from mean logits, or from mean probabilities."""
    if average == "prob":
        return np.log(np.maximum(outputs, _SMALLEST))
    return torch.from_numpy(outputs).log_softmax(dim=1).numpy()
