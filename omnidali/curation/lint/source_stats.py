"""What a source holds: classes, codecs, sizes, rates, keyframes, hours, bytes, decoding cost."""

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.catalog.probing.probe import OK
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.curation.table_sample import decoded_per_used, evenly_spread
from omnidali.planning.frame_sampling import sample_test, sample_train

_MAX_FILES = 2000  # evenly spread, that keyframes are counted of
_WORDS = 1 << 32  # a random word of the plan is below it

Spread = tuple[float, float, float]  # smallest, median and largest value


@dataclass(frozen=True, kw_only=True)
class MediaStats:
    """Figures of a source, of its usable files alone.

    Attributes:
        name: of the source.
        kind: of its media.
        samples: rows of the list.
        files: number of files.
        classes: int64 (classes,), samples of each class.
        codecs: number of files by codec, the most frequent first.
        containers: number of files by container.
        sizes: number of files by "WIDTHxHEIGHT".
        short_sides: pixels.
        rates: frames a second; None if the kind or its files have none.
        gops: distances of keyframes, in frames; None if the kind has none.
        hours: of video, where the rate is known.
        size: bytes; of folders of frames estimated by their first frames.
        decoded: frames that are decoded for each one that a clip shows; None except for videos of
            the training.
    """

    name: str
    kind: str
    samples: int
    files: int
    classes: np.ndarray
    codecs: dict[str, int]
    containers: dict[str, int]
    sizes: dict[str, int]
    short_sides: Spread
    rates: Spread | None
    gops: Spread | None
    hours: float
    size: int
    decoded: float | None


def compute_media_stats(
    db: sqlite3.Connection,
    table: SourceTable,
    source: MediaConfig,
    *,
    clip: ClipConfig,
    class_count: int,
    seed: int,
) -> MediaStats:
    """Compute the figures of a source from the catalog; nothing is decoded.

    Args:
        db: the catalog.
        table: of the source.
        source: its settings; a plan is made for a training source alone.
        clip: what makes a clip.
        class_count: number of classes.
        seed: of the plan.
    """
    (number,) = db.execute("SELECT id FROM sources WHERE name = ?", (table.name,)).fetchone()
    files, hours, size = db.execute(
        "SELECT COUNT(*), TOTAL(CASE WHEN frame_rate > 0 THEN frames / frame_rate END) / 3600,"
        " SUM(COALESCE(size, bytes)) FROM media WHERE source = ? AND state = ?",
        (number, OK),
    ).fetchone()
    short_sides = _spread(_count_values(db, number, "MIN(width, height)"))
    assert short_sides is not None  # a table has a file at least

    rates = gops = decoded = None
    is_video = not table.kind.has_images
    if is_video:
        rates = _spread(
            _count_values(db, number, "ROUND(frame_rate, 2)", condition="AND frame_rate > 0")
        )
        gops = _gops(db, number)
        if isinstance(source, SourceConfig):
            decoded = decoded_per_used(table, source, clip, seed)

    return MediaStats(
        name=table.name,
        kind=table.kind,
        samples=len(table),
        files=files,
        classes=table.class_items(class_count),
        codecs=count_files(db, number, "codec"),
        containers=count_files(db, number, "container"),
        sizes=count_files(db, number, "width || 'x' || height"),
        short_sides=short_sides,
        rates=rates,
        gops=gops,
        hours=hours if is_video else 0.0,
        size=_size_of_folders(table) if table.kind.is_folder else size or 0,
        decoded=decoded,
    )


def count_files(db: sqlite3.Connection, source: int, column: str) -> dict[str, int]:
    """Number of usable files by the value of an SQL expression, the most frequent first.

    Args:
        db: the catalog.
        source: the source's number in it.
        column: an expression of columns of the table ``media``; never untrusted text.
    """
    return dict(_count_values(db, source, column, order="2 DESC, 1"))


def _count_values(
    db: sqlite3.Connection, source: int, column: str, *, condition: str = "", order: str = "1"
) -> list[tuple]:
    return db.execute(
        f"SELECT {column}, COUNT(*) FROM media WHERE source = ? AND state = ? {condition}"
        f" GROUP BY 1 ORDER BY {order}",
        (source, OK),
    ).fetchall()


def _spread(counts: Iterable[tuple[float, int]]) -> Spread | None:
    """Smallest, median and largest of values that are given with their counts."""
    counts = sorted(counts)
    if not counts:
        return None
    values = [value for value, _ in counts]
    ends = np.cumsum([count for _, count in counts])
    median = values[int(np.searchsorted(ends, (ends[-1] + 1) // 2))]
    return values[0], median, values[-1]


def _gops(db: sqlite3.Connection, source: int) -> Spread | None:
    """Distances of keyframes in an even sample of the files."""
    ids = db.execute(
        "SELECT id FROM media WHERE source = ? AND state = ? ORDER BY id", (source, OK)
    ).fetchall()
    chosen = [ids[place][0] for place in evenly_spread(len(ids), _MAX_FILES)]
    rows = db.execute(
        "SELECT keyframes, frames FROM media WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(chosen),),
    )

    # Some files name no keyframe at all, or not the first one.
    gaps = [
        np.diff(np.unique(np.concatenate([[0], unpack_numbers(keyframes), [frames]])))
        for keyframes, frames in rows
    ]
    values, counts = np.unique(np.concatenate(gaps), return_counts=True)
    return _spread(zip(values.tolist(), counts.tolist(), strict=True))


def _size_of_folders(table: SourceTable) -> int:
    """Bytes of folders of frames, as if all frames of a folder were as large as its first one."""
    records = np.unique(table.records)
    chosen = evenly_spread(len(records), _MAX_FILES)
    total = 0
    for record in records[chosen]:
        media = table.media(record)
        try:
            total += os.path.getsize(media.frame(0).path) * media.frames
        except OSError:
            continue
    return round(total * len(records) / len(chosen))


def find_short_rows(
    table: SourceTable, clip: ClipConfig, views: ViewsConfig | None = None
) -> np.ndarray:
    """Find the rows whose clips must repeat frames, as their video or all pieces are too short.

    Args:
        table: of a source.
        clip: what makes a clip.
        views: of an evaluation; None for the clips of the training.

    Returns:
        int64 (n,), rows of the table.
    """
    if table.kind.is_still:
        return np.zeros(0, np.int64)

    lengths, places = np.unique(table.frames, return_inverse=True)
    is_short = _repeats_frames(lengths, clip, views)[places]
    if table.starts is None:
        return np.flatnonzero(is_short)

    # A row is short if none of its pieces that show the class is long enough; without such
    # pieces, all of its pieces count.
    assert table.positives is not None
    long_before = np.concatenate([[0], np.cumsum(~is_short)])
    starts = table.starts[:-1]
    ends = np.where(table.positives > 0, starts + table.positives, table.starts[1:])
    return np.flatnonzero(long_before[ends] == long_before[starts])


def _repeats_frames(lengths: np.ndarray, clip: ClipConfig, views: ViewsConfig | None) -> np.ndarray:
    """bool (n,): whether the clips of videos of so many frames repeat one, or begin alike."""
    if views is None:
        clips = clip.num_clips
        # as evenly spread as random offsets can be
        words = ((np.arange(clips) + 0.5) / clips * _WORDS).astype(np.uint64)
        frames = sample_train(
            lengths, np.tile(words, (len(lengths), 1)), clip.clip_len, clip.frame_interval, clips
        )
    else:
        clips = views.num_clips
        frames = sample_test(
            lengths,
            clip.clip_len,
            interval=clip.frame_interval,
            clips=clips,
            positions=views.positions,
        )

    frames = frames.reshape(len(lengths), clips, clip.clip_len)
    inside = np.diff(np.sort(frames, axis=2), axis=2) == 0
    begins = np.diff(np.sort(frames[:, :, 0], axis=1), axis=1) == 0
    return inside.any(axis=(1, 2)) | begins.any(axis=1)
