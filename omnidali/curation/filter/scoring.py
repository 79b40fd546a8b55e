"""Score sources with a teacher: every item once, on any number of ranks."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from omnidali.catalog.database.listed_items import flatten, list_format, read_items
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.config.schema import ClipConfig, Config, ViewsConfig
from omnidali.config.sources import MediaConfig, key_of
from omnidali.curation.filter.teacher import Teacher
from omnidali.curation.source_selection import FRAME_SECONDS, WHOLE_FILES
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.score import allow_again, run_over
from omnidali.loading.trial_outcome import hold_trial
from omnidali.models.precision import make_autocast
from omnidali.models.probabilities import to_log_probabilities, to_probabilities
from omnidali.models.recognizers import Recognizer, memory_format

_SMALLEST = 1e-30  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class ScoringTask:
    """What a teacher looks at in a source.

    Attributes:
        table: a row an item or piece.
        source: of the loader, as clip and views.
        clip: how frames are sampled.
        views: clips and crops of an item.
        scorer: what the catalog keeps the scores under.
    """

    table: SourceTable
    source: MediaConfig
    clip: ClipConfig
    views: ViewsConfig
    scorer: Scorer


def make_task(
    teacher: Teacher, table: SourceTable, source: MediaConfig, config: Config, names: Sequence[str]
) -> ScoringTask:
    """Decide how ``teacher`` looks at the items of a source.

    It sees the config's clips and views, or one frame of a short piece.
    """
    clip, views = config.clip, config.evaluation.test
    if source.media_kind.has_pieces:
        if not teacher.is_3d and _is_short(config.catalog_path, table.name, source):
            clip = replace(clip, clip_len=1, frame_interval=1)
            views = replace(views, num_clips=1)
        table = flatten(config.catalog_path, table)

    settings: dict[str, object] = {
        "clip_len": clip.clip_len,
        "frame_interval": clip.frame_interval,
        **views.identity,
        "precision": config.train.precision,
    }
    if teacher.multi_label:  # the same weights have other scores
        settings["multi_label"] = True
    # the same weights have other scores if they say nothing of what they were trained on
    held_out = sorted(
        (digest, *held[table.name])
        for digest, held in zip(teacher.digests, teacher.hold_outs, strict=True)
        if table.name in held
    )
    if held_out:
        settings["held_out"] = held_out
    return ScoringTask(
        table=table,
        source=source,
        clip=clip,
        views=views,
        scorer=Scorer(teacher.digest, teacher.name, tuple(names), json.dumps(settings)),
    )


def score(teacher: Teacher, task: ScoringTask, config: Config, ranks: Ranks) -> tuple[int, float]:
    """Score what has no score yet, and keep it in the catalog.

    Returns:
        How many items were scored now, and in how many seconds.

    Raises:
        UserError: if the catalog cannot be written, a score is not finite, or no model may score an
            item, see :meth:`Teacher.juries`; what was committed stays.
        BadSourceError: if more files fail than the config's limits allow.
    """
    started = time.monotonic()

    def find_missing() -> tuple[np.ndarray, int]:
        with ScoreStore(config.catalog_path, task.scorer) as store:
            return store.missing(task.table)

    rows, tried = ranks.on_main(find_missing)
    if not len(rows):
        return 0, 0.0

    missing = task.table.take(rows, "without a score")
    scored = 0
    with (
        ScoreStore(config.catalog_path, task.scorer)
        if ranks.is_main
        else contextlib.nullcontext() as store
    ):
        for part, outcome in _outcomes(teacher, task, missing, allow_again(config, tried), ranks):
            for places, outputs, decoded in ranks.gather(outcome):  # none but on the main rank
                if not np.isfinite(outputs[decoded]).all():
                    raise UserError(
                        teacher.path,
                        "finite scores",
                        f"others in {key_of(task.table.name)}",
                        "Its weights are damaged, or train.precision is too short; try fp32.",
                    )
                assert store is not None
                logs = _logs(outputs, task.views.average, teacher.multi_label)
                store.add(part, places, logs, decoded)
                scored += int(decoded.sum())
    return ranks.on_main(lambda: (scored, time.monotonic() - started))


def _outcomes(
    teacher: Teacher, task: ScoringTask, missing: SourceTable, config: Config, ranks: Ranks
) -> Iterator[tuple[SourceTable, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Yield rows of ``missing`` as a table, and what :func:`run_over` yields of that table."""
    for model in teacher.models:
        # torch's hints know no memory_format here
        model.to(  # type: ignore[call-overload]
            ranks.device, memory_format=memory_format(model)
        )

    trial = hold_trial([(missing, task.source)], ranks, config.loader)
    for models, rows in teacher.juries(missing):
        part = missing.take(rows, "of a jury")
        for outcome in run_over(
            _network(models, task.views.average, teacher.multi_label),
            teacher.models[0].clip_len,
            part,
            source=task.source,
            views=task.views,
            config=replace(config, clip=task.clip),
            ranks=ranks,
            autocast=make_autocast(config.train.precision, ranks.device),
            trial=trial,
            title=f"score {part.name}",
        ):
            yield part, outcome


def _is_short(catalog: str, name: str, source: MediaConfig) -> bool:
    """Whether one frame is enough of a source's pieces, as they are windows of a second.

    An earlier command may have made them.
    """
    form = list_format(catalog, name)
    return form in WHOLE_FILES or (
        form in ("parts", "parts_json")
        and source.window_seconds <= FRAME_SECONDS
        and all(item.unit for item in read_items(catalog, name))
    )


def _network(
    models: Sequence[Recognizer], average: str, multi_label: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Clips (N, 3, T, H, W) to logits (N, classes), or to probabilities if these are averaged."""
    clip_len = models[0].clip_len or 1

    def network(clips: torch.Tensor) -> torch.Tensor:
        repeats = clip_len // clips.shape[2]
        if repeats > 1:  # an image stands still
            clips = clips.repeat_interleave(repeats, dim=2)
        outputs = _mean_logits(models, clips, multi_label)
        return to_probabilities(outputs, multi_label) if average == "prob" else outputs

    return network


def _mean_logits(
    models: Sequence[Recognizer], clips: torch.Tensor, multi_label: bool
) -> torch.Tensor:
    """The logits (N, classes) of the models' mean probabilities, or of the only model.

    The best teacher of OmniSource is such an ensemble (Fig. 6). The clips are decoded once.
    """
    if len(models) == 1:
        return models[0](clips)
    logits = [model(clips).float() for model in models]
    logs = torch.stack([to_log_probabilities(part, multi_label) for part in logits])
    mean = logs.logsumexp(dim=0) - math.log(len(models))
    if not multi_label:
        return mean
    # 1 - sigmoid(x) is sigmoid(-x)
    others = torch.stack([to_log_probabilities(-part, multi_label) for part in logits])
    return mean - (others.logsumexp(dim=0) - math.log(len(models)))


def _logs(outputs: np.ndarray, average: str, multi_label: bool) -> np.ndarray:
    """Log-probabilities (n, classes) from mean logits, or from mean probabilities."""
    if average == "prob":
        return np.log(np.maximum(outputs, _SMALLEST))
    return to_log_probabilities(torch.from_numpy(outputs), multi_label).numpy()
