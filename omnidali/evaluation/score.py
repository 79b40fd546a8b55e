"""Score every item of a source exactly ``views`` times, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from omnidali.catalog.database.store import SourceTable
from omnidali.config.schema import Config, MediaConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.forward import run_over
from omnidali.loading.data import QUARANTINE


def score_items(
    model: torch.nn.Module,
    table: SourceTable,
    source: MediaConfig,
    views: ViewsConfig,
    config: Config,
    ranks: Ranks,
    autocast: torch.autocast,
    stop: Callable[[], bool] = lambda: False,
) -> np.ndarray | None:
    """Mean score of every item over its views.

    Args:
        model: ours; it is put into evaluation mode and back.
        views: clips, crops and whether logits (``score``) or probabilities (``prob``) are averaged.
            TSN averages the features of an item's frames, which for its linear head is the same as
            logits.
        autocast: context of the forward pass.
        stop: asked after every batch, on each rank for itself, whether to abandon the evaluation.

    Returns:
        float64 array (items, classes), the same on every rank; NaN for items that cannot be
            decoded. None on all if
        any rank has abandoned it.

    Raises:
        UserError: if a score is not finite, or no item can be decoded.
        RuntimeError: if an item was not scored exactly as often as it has views.
    """
    was_training = model.training
    model.eval()
    network = (
        model if views.average == "score" else lambda clips: model(clips).float().softmax(dim=1)
    )
    # the last column counts
    scores = np.zeros((len(table), model.cls_head.fc_cls.out_features + 1))
    for rows, outputs, decoded in run_over(
        network, model.clip_len, table, source, views, config, ranks, autocast
    ):
        if stop():
            scores.fill(np.nan)  # so that the sum tells all ranks
            break
        scores[rows[decoded]] = np.pad(outputs[decoded], ((0, 0), (0, 1)), constant_values=1)
    model.train(was_training)
    scores = ranks.sum(torch.from_numpy(scores).to(ranks.device)).cpu().numpy()
    scores, scored = scores[:, :-1], scores[:, -1]
    if np.isnan(scored).any():
        return None
    if not scored.any():
        raise UserError(
            "evaluation.source",
            "items that can be decoded",
            "none",
            f"See {QUARANTINE} in the run folder.",
        )
    if (scored > 1).any():
        raise RuntimeError(f"items were scored by up to {int(scored.max())} ranks, not by one")
    bad = int((~np.isfinite(scores[scored > 0])).any(axis=1).sum())
    if bad:
        raise UserError(
            "evaluation",
            "finite scores",
            f"{bad} of {len(scores)} items without",
            "The weights or statistics are damaged, or train.precision is too short; try fp32.",
        )
    scores[scored == 0] = np.nan
    return scores
