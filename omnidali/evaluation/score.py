"""Run a network over every item of a source once, with all its views, on any number of ranks, and
score the items.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import Config, ViewsConfig
from omnidali.config.sources import MediaConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import QUARANTINE, rank_options
from omnidali.loading.trial_outcome import Trial, hold_trial
from omnidali.models.probabilities import to_probabilities
from omnidali.models.recognizers import Recognizer
from omnidali.planning.evaluation_plan import EvaluationPlan


def score_items(
    model: Recognizer,
    table: SourceTable,
    source: MediaConfig,
    views: ViewsConfig,
    config: Config,
    ranks: Ranks,
    autocast: torch.autocast,
    trial: Trial | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> np.ndarray | None:
    """Mean score of every item over its views.

    Args:
        model: is put into evaluation mode and back.
        table: the items.
        source: decoders of the items.
        views: clips, crops and whether logits (``score``) or probabilities (``prob``) are averaged.
            TSN averages the features of an item's frames, which for its linear head is the same as
            logits.
        config: clip length and interval, batch, options of the loader, and whether probabilities
            are those of several labels an item.
        ranks: that share the items.
        autocast: context of the forward pass.
        trial: that includes the source; None: one is held.
        stop: whether to abandon the evaluation; called after every batch, on each rank for itself.

    Returns:
        float64 (items, classes), the same on every rank; NaN for items that cannot be decoded. None
        on all ranks if any has abandoned it.

    Raises:
        UserError: if a score is not finite, or no item can be decoded.
        RuntimeError: if an item was not scored exactly as often as it has views.
    """

    was_training = model.training
    model.eval()
    is_mean = views.average == "score"
    network = model if is_mean else _giving_probabilities(model, config.multi_label)
    # The last column counts the ranks that scored the item.
    table_scores = np.zeros((len(table), model.classes + 1))
    for rows, outputs, decoded in run_over(
        network,
        model.clip_len,
        table=table,
        source=source,
        views=views,
        config=config,
        ranks=ranks,
        autocast=autocast,
        trial=trial,
    ):
        if stop():
            table_scores.fill(np.nan)  # the sum makes it known to all ranks
            break
        table_scores[rows[decoded]] = np.pad(outputs[decoded], ((0, 0), (0, 1)), constant_values=1)
    model.train(was_training)

    return _check_scores(ranks.sum(torch.from_numpy(table_scores).to(ranks.device)).cpu().numpy())


def as_probabilities(scores: np.ndarray, average: str, multi_label: bool) -> np.ndarray:
    """The probabilities of items from their mean scores.

    Args:
        scores: (items, classes) of :func:`score_items`.
        average: what is averaged over views: logits (``score``) or probabilities (``prob``).
        multi_label: as in :func:`~omnidali.models.probabilities.to_probabilities`.

    Returns:
        float64 (items, classes); NaN for items without a score.
    """
    if average == "prob":
        return scores
    return to_probabilities(torch.from_numpy(scores), multi_label).numpy()


def _giving_probabilities(
    model: Recognizer, multi_label: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda clips: to_probabilities(model(clips), multi_label)


def _check_scores(table_scores: np.ndarray) -> np.ndarray | None:
    """The scores (items, classes) without the last column, which counts the ranks that scored."""
    scores = table_scores[:, :-1]
    ranks_scored = table_scores[:, -1]
    if np.isnan(ranks_scored).any():
        return None
    if not ranks_scored.any():
        raise UserError(
            "evaluation.source",
            "items that can be decoded",
            "none",
            f"See {QUARANTINE} in the run folder.",
        )
    if (ranks_scored > 1).any():
        raise RuntimeError(f"items were scored by up to {ranks_scored.max():.0f} ranks, not by one")

    bad = int((~np.isfinite(scores[ranks_scored > 0])).any(axis=1).sum())
    if bad:
        raise UserError(
            "evaluation",
            "finite scores",
            f"{bad} of {len(scores)} items without",
            "The weights or statistics are damaged, or train.precision is too short; try fp32.",
        )
    scores[ranks_scored == 0] = np.nan
    return scores


@torch.inference_mode()
def run_over(
    network: Callable[[torch.Tensor], torch.Tensor],
    clip_len: int | None,
    table: SourceTable,
    source: MediaConfig,
    views: ViewsConfig,
    config: Config,
    ranks: Ranks,
    autocast: torch.autocast,
    trial: Trial | None = None,
    title: str = "evaluate",
    progress: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield a network's outputs for this rank's items, averaged over their views, by batch.

    Every rank yields equally often.

    Args:
        network: (N, 3, T, H, W) to (N, D).
        clip_len: frames that it takes at a time, None for any number.
        table: the items.
        source: decoders of the items.
        views: clips and crops of an item.
        config: clip length and interval, batch, and options of the loader.
        ranks: that share the items.
        autocast: context of the forward pass.
        trial: that includes the source; None: one is held.
        title: of the progress bar.
        progress: whether there is one, on a terminal.

    Yields:
        Rows of the table, int64 (n,); outputs, float64 (n, D); whether the item was decoded, bool
        (n,): if not, its outputs mean nothing.

    Raises:
        RuntimeError: if an item was not seen exactly as often as it has views.
    """
    plan = EvaluationPlan(table, config.clip, views, config.evaluation.batch)
    options = rank_options(config, ranks)
    options["trial"] = trial or hold_trial([(table, source)], ranks, config.loader)
    seen = None
    hidden = None if ranks.is_main and progress else True  # None: on a terminal only
    with (
        FusionIterator(plan, [source], **options) as batches,
        tqdm(total=batches.end, desc=title, unit="batch", disable=hidden, leave=False) as bar,
    ):
        for batch in batches:
            (group,) = batch.groups
            with autocast:
                outputs = network(_one_clip_a_row(group.clips, clip_len)).float()

            rows, places = np.unique(group.slot.cpu().numpy(), return_inverse=True)
            means, counts = _mean_over_views(outputs, places)
            seen = seen or int(counts[0])
            _require_equal(counts, seen)
            decoded = ~np.isin(np.arange(len(rows)), places[~group.valid.cpu().numpy()])
            inside = rows < len(table)  # rows past the end only fill up the last step
            yield rows[inside], means[inside], decoded[inside]
            bar.update()


def _require_equal(counts: np.ndarray, seen: int) -> None:
    """Raise RuntimeError unless all items were seen equally often."""
    if (counts != seen).any():
        raise RuntimeError(
            f"items were seen {counts.min()} to {counts.max()} times, not {seen} times"
        )


def _mean_over_views(outputs: torch.Tensor, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means float64 (items, D), and counts, of outputs (n * clips, D) of items int (n,)."""
    repeats = len(outputs) // len(places)
    counts = repeats * np.bincount(places)
    sums = torch.zeros(len(counts), outputs.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(places).repeat_interleave(repeats), outputs.double().cpu())
    return sums.numpy() / counts[:, None], counts


def _one_clip_a_row(clips: torch.Tensor, clip_len: int | None) -> torch.Tensor:
    """Split (N, 3, clips * L, H, W) into (N * clips, 3, L, H, W) for networks of L frames."""
    count, channels, frames, height, width = clips.shape
    if clip_len is None or frames <= clip_len:
        return clips
    return (
        clips.permute(0, 2, 3, 4, 1)
        .reshape(-1, clip_len, height, width, channels)
        .permute(0, 4, 1, 2, 3)
    )


def allow_again(config: Config, items: int) -> Config:
    """A config with which ``items``, which have failed before, may fail in a row once more."""
    loader = replace(config.loader, max_bad_in_a_row=config.loader.max_bad_in_a_row + items)
    return replace(config, loader=loader)
