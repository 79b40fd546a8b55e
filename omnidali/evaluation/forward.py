"""Run a network over every item of a source once, with all its views, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from omnidali.catalog.database.store import SourceTable
from omnidali.config.schema import Config, MediaConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.loading.data import rank_options
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import EvaluationPlan


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
    title: str = "evaluate",
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The outputs of ``network`` for this rank's items, averaged over their views, batch after
    batch.

    Every rank yields equally often.

    Args:
        network: (N, 3, T, H, W) to (N, D). clip_len: frames that it takes at a time, None for any
            number.
        views: clips and crops of an item. title: of the progress bar.

    Yields:
        rows: int64 (n,), of the table. outputs: float64 (n, D). decoded: bool (n,), False for items
            that could not be and whose outputs mean nothing.

    Raises:
        RuntimeError: if an item was not seen exactly as often as it has views.
    """
    plan, seen = EvaluationPlan(table, config.clip, views, config.evaluation.batch), None
    with (
        FusionIterator(plan, [source], **rank_options(config, ranks)) as batches,
        tqdm(
            total=batches.end,
            desc=title,
            unit="batch",
            disable=None if ranks.is_main else True,
            leave=False,
        ) as bar,
    ):
        for batch in batches:
            (group,) = batch.groups
            clips = _one_clip_a_row(group.clips, clip_len)
            repeats = len(clips) // len(group)
            with autocast:
                outputs = network(clips).float()
            rows, places = np.unique(group.slot.cpu().numpy(), return_inverse=True)
            counts = repeats * np.bincount(places)
            seen = seen or int(counts[0])
            if (counts != seen).any():
                raise RuntimeError(
                    f"items were seen {counts.min()} to {counts.max()} times, not {seen} times"
                )
            sums = torch.zeros(len(rows), outputs.shape[1], dtype=torch.float64)
            sums.index_add_(
                0, torch.from_numpy(places).repeat_interleave(repeats), outputs.double().cpu()
            )
            decoded = np.ones(len(rows), bool)
            decoded[places[~group.valid.cpu().numpy()]] = False
            inside = rows < len(table)  # what is behind it only fills the last step
            yield rows[inside], (sums.numpy() / counts[:, None])[inside], decoded[inside]
            bar.update()


def allow_again(config: Config, items: int) -> Config:
    """The config for a pass over ``items`` that have failed before among others: they may fail in a
    row once more.
    """
    return replace(
        config,
        loader=replace(config.loader, max_bad_in_a_row=config.loader.max_bad_in_a_row + items),
    )


def _one_clip_a_row(clips: torch.Tensor, clip_len: int | None) -> torch.Tensor:
    """Split (N, 3, clips * L, H, W) into (N * clips, 3, L, H, W) for networks that take one clip at
    a time.
    """
    count, channels, frames, height, width = clips.shape
    if clip_len is None or frames <= clip_len:
        return clips
    return (
        clips.permute(0, 2, 3, 4, 1)
        .reshape(-1, clip_len, height, width, channels)
        .permute(0, 4, 1, 2, 3)
    )
