"""Samples of a source's table: evenly spread places, and what a training decodes of it."""

from dataclasses import replace

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.planning.camera_motion import load_motion
from omnidali.planning.frame_sampling import frames_decoded
from omnidali.planning.train_plan import TrainPlan

_PLANNED_CLIPS = 64  # that decoded frames are counted of


def evenly_spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the numbers below ``count``: int64 (n,), ascending."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def plan_of_table(
    table: SourceTable, source: SourceConfig, clip: ClipConfig, batch: int, seed: int
) -> TrainPlan:
    """A plan over one table alone, every row of it as likely."""
    alone = replace(source, weight=1.0, batch=None, resample=None)
    motions = {0: load_motion(None, per_class=False)}
    return TrainPlan([table], [alone], clip, batch=batch, seed=seed, motions=motions)


def decoded_per_used(
    table: SourceTable, source: SourceConfig, clip: ClipConfig, seed: int
) -> float:
    """How many frames of videos a training decodes for each that it uses, over its first clips."""
    (samples,) = plan_of_table(table, source, clip, _PLANNED_CLIPS, seed)(0)

    decoded = 0
    for pieces, frames in zip(samples.pieces, samples.frames, strict=True):
        records = np.repeat(table.records[pieces], len(frames) // len(pieces))
        for record in np.unique(records).tolist():
            keyframes = unpack_numbers(table.media(record).keyframes)
            decoded += frames_decoded(frames[records == record], keyframes)
    return decoded / samples.frames.size
