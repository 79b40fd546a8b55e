"""What a source is made of: classes, codecs, sizes, rates, keyframes, hours, bytes, and what its
clips cost.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.catalog.probing.probe import unpack_numbers
from omnidali.catalog.probing.sniff import OK
from omnidali.config.schema import ClipConfig, SourceConfig, ViewsConfig
from omnidali.planning.frame_sampling import frames_decoded, sample_test, sample_train
from omnidali.planning.plan import TrainPlan

_LOOKED_AT = 2000  # files whose keyframes are counted, evenly spread; every file's size and rate is
_DRAWN = 64  # clips whose decoding is counted
_WORDS = 1 << 32  # a random word of the plan is below it


@dataclass(frozen=True)
class Survey:
    """Figures of a source.

    Attributes:
        samples: usable rows of the list. files: usable files. classes: int64 (classes,), samples of
            each.
        codecs, containers, sizes: files by codec, container, and "WIDTHxHEIGHT", the most frequent
            first.
        short_sides, rates, gops: smallest, middle and largest short side in pixels, frames a
            second, and distance of keyframes in frames; None where a source has none.
        hours: of video, where the rate is known. size: bytes; of folders of frames by their first
            frames.
        decoded: frames that are decoded for each one that a clip shows; None but for videos of the
            training.
    """

    name: str
    kind: str
    samples: int
    files: int
    classes: np.ndarray
    codecs: dict[str, int]
    containers: dict[str, int]
    sizes: dict[str, int]
    short_sides: tuple[float, float, float]
    rates: tuple[float, float, float] | None
    gops: tuple[float, float, float] | None
    hours: float
    size: int
    decoded: float | None


def survey(
    db: sqlite3.Connection,
    number: int,
    table: SourceTable,
    source: SourceConfig,
    clip: ClipConfig,
    class_count: int,
    seed: int,
    training: bool,
) -> Survey:
    """Look at the usable files of a source through the catalog; nothing is decoded.

    Args:
        db: the catalog. number: of the source therein. training: whether a plan draws clips from
            it.
    """

    def counted(column: str) -> dict[str, int]:
        return dict(
            db.execute(
                f"SELECT {column}, COUNT(*) FROM media WHERE source = ? AND state = ? GROUP BY 1"
                " ORDER BY 2 DESC, 1",
                (number, OK),
            ).fetchall()
        )

    def spread(column: str, condition: str = "") -> tuple[float, float, float] | None:
        return _spread(
            db.execute(
                f"SELECT {column}, COUNT(*) FROM media WHERE source = ? AND state = ? {condition}"
                " GROUP BY 1",
                (number, OK),
            ).fetchall()
        )

    files, hours, size = db.execute(
        "SELECT COUNT(*), TOTAL(CASE WHEN frame_rate > 0 THEN frames / frame_rate END) / 3600,"
        " SUM(COALESCE(size, bytes)) FROM media WHERE source = ? AND state = ?",
        (number, OK),
    ).fetchone()
    videos = table.kind in ("video", "untrimmed")
    return Survey(
        table.name,
        table.kind,
        len(table),
        files,
        np.bincount(table.labels, minlength=class_count),
        counted("codec"),
        counted("container"),
        counted("width || 'x' || height"),
        spread("MIN(width, height)"),
        spread("ROUND(frame_rate, 2)", "AND frame_rate > 0") if videos else None,
        _gops(db, number) if videos else None,
        hours if videos else 0.0,
        _frames_size(table) if table.kind == "frames" else size or 0,
        _decoded(table, source, clip, seed) if videos and training else None,
    )


def _spread(rows: Iterable[tuple[float, int]]) -> tuple[float, float, float] | None:
    """Smallest, middle and largest of values that are given with their counts."""
    rows = sorted(rows)
    if not rows:
        return None
    values, ends = [value for value, _ in rows], np.cumsum([count for _, count in rows])
    return values[0], values[int(np.searchsorted(ends, (ends[-1] + 1) // 2))], values[-1]


def _gops(db: sqlite3.Connection, number: int) -> tuple[float, float, float] | None:
    """Distances of keyframes, of an even sample of the files."""
    ids = [
        record
        for (record,) in db.execute(
            "SELECT id FROM media WHERE source = ? AND state = ? ORDER BY id", (number, OK)
        )
    ]
    chosen = [
        ids[place] for place in np.unique(np.linspace(0, len(ids) - 1, _LOOKED_AT).astype(int))
    ]
    rows = db.execute(
        "SELECT keyframes, frames FROM media WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(chosen),),
    )
    # some files name no keyframe at all, or not the first
    gaps = [
        np.diff(np.unique(np.concatenate([[0], unpack_numbers(keys), [frames]])))
        for keys, frames in rows
    ]
    values, counts = np.unique(np.concatenate(gaps), return_counts=True)
    return _spread(zip(values.tolist(), counts.tolist()))


def _frames_size(table: SourceTable) -> int:
    """Bytes of folders of frames, as if each of a folder's frames were as large as its first."""
    records, places = np.unique(table.records, return_index=True)
    chosen = np.unique(np.linspace(0, len(records) - 1, _LOOKED_AT).astype(int))
    total = 0
    for place in chosen:
        media = table.media(records[place])
        try:
            total += os.path.getsize(media.frame(0).path) * media.frames
        except OSError:
            continue
    return round(total * len(records) / len(chosen))


def _decoded(table: SourceTable, source: SourceConfig, clip: ClipConfig, seed: int) -> float:
    """Frames decoded for each that a clip shows, over the first clips of a plan of this source
    alone.
    """
    plan = TrainPlan(
        [table], [replace(source, weight=1.0, batch=None, resample=None)], clip, _DRAWN, seed
    )
    (samples,) = plan(0)
    decoded = 0
    for pieces, frames in zip(samples.pieces, samples.frames):
        records = np.repeat(table.records[pieces], len(frames) // len(pieces))
        for record in np.unique(records).tolist():
            keys = unpack_numbers(table.media(record).keyframes)
            decoded += frames_decoded(frames[records == record], keys)
    return decoded / samples.frames.size


def too_short(table: SourceTable, clip: ClipConfig, views: ViewsConfig | None = None) -> np.ndarray:
    """Rows of a table whose clips must repeat frames, because their video or all pieces of it are
    too short.

    Args:
        views: of an evaluation; None for the clips of the training.
    """
    if table.kind == "image":
        return np.zeros(0, np.int64)
    lengths, places = np.unique(table.frames, return_inverse=True)
    clips = clip.num_clips if views is None else views.num_clips
    if views is None:  # as evenly as random offsets may lie
        words = ((np.arange(clips) + 0.5) / clips * _WORDS).astype(np.uint64)
        frames = sample_train(
            lengths, np.tile(words, (len(lengths), 1)), clip.clip_len, clip.frame_interval, clips
        )
    else:
        frames = sample_test(lengths, clip.clip_len, clip.frame_interval, clips)
    each = np.sort(frames.reshape(len(lengths), clips, clip.clip_len), axis=2)
    begins = np.sort(frames.reshape(len(lengths), clips, clip.clip_len)[:, :, 0], axis=1)
    repeats = (np.diff(each, axis=2) == 0).any(axis=(1, 2)) | (np.diff(begins, axis=1) == 0).any(
        axis=1
    )
    short = repeats[places]
    if table.starts is None:
        return np.flatnonzero(short)
    long_enough = np.concatenate([[0], np.cumsum(~short)])  # of the pieces before each
    shown = table.starts[:-1] + table.positives
    ends = np.where(table.positives > 0, shown, table.starts[1:])
    return np.flatnonzero(long_enough[ends] == long_enough[table.starts[:-1]])
