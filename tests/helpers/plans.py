"""Tables without files, and planned samples as plain values that tests compare."""

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.media_kind import MediaKind


def made_up_table(rows, kind="video", name="t", classes=7):
    rng = np.random.default_rng(rows)
    return SourceTable(
        name,
        MediaKind(kind),
        np.arange(rows),
        rng.integers(0, classes, rows).astype(np.int32),
        rng.integers(50, 500, rows).astype(np.uint16),
        rng.integers(50, 500, rows).astype(np.uint16),
        rng.integers(1, 400, rows).astype(np.int32) if kind == "video" else np.ones(rows, np.int32),
        np.zeros(rows, np.uint8),
        codec_names=("h264",),
        fingerprint="f",
    )


def flat(planned):
    """What is planned, by slot, as plain values."""
    return {
        int(slot): (s.source, int(draw), int(row), frames.tolist(), box.tolist(), flip.tolist())
        for s in planned
        for slot, draw, row, frames, box, flip in zip(
            s.slots, s.draws, s.rows, s.frames, s.boxes, s.flips, strict=True
        )
    }


def table_with(codecs, kind="video"):
    return SourceTable(
        "web", MediaKind(kind), *[np.zeros(1, np.int64)] * 6, codec_names=tuple(codecs)
    )
