"""Score every item of a source exactly ``views`` times, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from omnidali.catalog.store import SourceTable
from omnidali.config import Config, MediaConfig, ViewsConfig
from omnidali.errors import UserError
from omnidali.loading.data import QUARANTINE, rank_options
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import EvaluationPlan
from omnidali.ranks import Ranks


@torch.inference_mode()
def score_items(model: torch.nn.Module, table: SourceTable, source: MediaConfig, views: ViewsConfig, config: Config,
                ranks: Ranks, autocast: torch.autocast, stop: Callable[[], bool] = lambda: False) -> np.ndarray | None:
    """Mean score of every item over its views.

    Args:
        model: ours; it is put into evaluation mode and back.
        views: clips, crops and whether logits (``score``) or probabilities (``prob``) are averaged. TSN
            averages the features of an item's frames, which for its linear head is the same as logits.
        autocast: context of the forward pass.
        stop: asked before every batch, on each rank for itself, whether to abandon the evaluation.

    Returns:
        float64 array (items, classes), the same on every rank; NaN for items that cannot be decoded. None on all if
        any rank has abandoned it.

    Raises:
        UserError: if a score is not finite, or no item can be decoded.
        RuntimeError: if an item was not scored exactly as often as it has views.
    """
    was_training = model.training
    model.eval()
    plan = EvaluationPlan(table, config.clip, views, config.evaluation.batch)
    classes = model.cls_head.fc_cls.out_features
    total = torch.zeros(len(table), classes + 1, dtype=torch.float64)  # the last column counts views
    expected = None
    with FusionIterator(plan, [source], **rank_options(config, ranks)) as batches, \
            tqdm(total=batches.end, desc="evaluate", unit="batch", disable=None if ranks.is_main else True,
                 leave=False) as bar:
        for batch in batches:
            if stop():
                total.fill_(torch.nan)  # so that the sum tells all ranks
                break
            group, = batch.groups
            clips = _one_clip_a_row(group.clips, model.clip_len)
            repeats = len(clips) // len(group)
            with autocast:
                logits = model(clips).float()
            scores = logits.softmax(dim=1) if views.average == "prob" else logits
            scores = torch.cat([scores, torch.ones_like(scores[:, :1])], dim=1).double().cpu()
            valid = group.valid.cpu().repeat_interleave(repeats)
            total.index_add_(0, group.slot.cpu().repeat_interleave(repeats)[valid], scores[valid])
            expected = repeats * len(group) // config.evaluation.batch
            bar.update()
    model.train(was_training)
    total = ranks.sum(total.to(ranks.device)).cpu()
    counts = total[:, -1]
    if bool(counts.isnan().any()):
        return None
    scored = counts > 0
    if not bool(scored.any()):
        raise UserError("evaluation.source", "items that can be decoded", "none",
                        f"See {QUARANTINE} in the run folder.")
    if not bool((counts[scored] == expected).all()):
        raise RuntimeError(f"items were scored {int(counts.min())} to {int(counts.max())} times, not {expected} times")
    scores = (total[:, :-1] / counts[:, None]).numpy()
    finite = np.isfinite(scores).all(axis=1)
    if not finite[scored.numpy()].all():
        bad = int((~finite[scored.numpy()]).sum())
        raise UserError("evaluation", "finite scores", f"{bad} of {len(scores)} items without",
                        "The weights or statistics are damaged, or train.precision is too short; try fp32.")
    return scores


def _one_clip_a_row(clips: torch.Tensor, clip_len: int | None) -> torch.Tensor:
    """Split (N, 3, clips * L, H, W) into (N * clips, 3, L, H, W) for networks that take one clip at a time."""
    count, channels, frames, height, width = clips.shape
    if clip_len is None or frames <= clip_len:
        return clips
    return clips.permute(0, 2, 3, 4, 1).reshape(-1, clip_len, height, width, channels).permute(0, 4, 1, 2, 3)
