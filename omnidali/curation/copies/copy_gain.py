"""What a training copy costs in quality and bytes, and how much sooner its clips come."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.video_container import open_video, video_stream
from omnidali.config.schema import ClipConfig, Config
from omnidali.config.sources import SourceConfig
from omnidali.curation.copies.encode import scaled_frames
from omnidali.curation.copies.transcode import CopyResult
from omnidali.curation.table_sample import evenly_spread, plan_of_table
from omnidali.errors import BadSourceError, DecodeError, UserError, start_of
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.heartbeat import report_progress
from omnidali.utils.untrusted_text import say

_SAMPLE = 8  # rows of a source that are compared
_SECONDS = 24.0  # what measuring the loader may take in all
# measurements of each table, alternating; the better one counts, as other work only slows down
_TURNS = 2
_BATCH = 8
_FRAMES = 60  # of a video whose frames are compared
_COUNTS = ("files", "frames", "replaced", "bytes_in", "bytes_out")  # of the rows of a job log


def compare_rates(
    tables: Sequence[SourceTable],
    source: SourceConfig,
    *,
    clip: ClipConfig,
    threads: int,
    seconds: float,
) -> list[float]:
    """Clips a second of the loader on the CPU, over each of the tables.

    Args:
        tables: the same rows of originals and copies.
        source: that they belong to.
        clip: how the clips are made.
        threads: of the loader.
        seconds: for everything together, start and end of the loader aside.

    Raises:
        BadSourceError: if too many files cannot be decoded.
    """
    share = seconds / len(tables) / _TURNS
    best = [0.0] * len(tables)
    for turn in range(_TURNS):
        for number, table in enumerate(tables):
            plan = plan_of_table(table, source, clip, _BATCH, seed=turn)
            best[number] = max(best[number], _rate(plan, source, threads, share))
    return best


def _rate(plan: TrainPlan, source: SourceConfig, threads: int, seconds: float) -> float:
    with FusionIterator(plan, [replace(source, decode="cpu")], threads=threads) as batches:
        # the first, and what was made ready while it was waited for
        for _ in range(1 + batches.prefetch):
            next(batches)
        start = time.perf_counter()
        clips = 0
        while time.perf_counter() - start < seconds:
            clips += len(next(batches))
        return clips / (time.perf_counter() - start)


def compare_brightness(original: Media, copy: Media) -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM of a copy's brightness against the original, scaled alike.

    Raises:
        DecodeError: if one of them gives no frame.
    """
    count = min(copy.frames, _FRAMES)
    frames = zip(
        scaled_frames(original, copy.width, copy.height, count),
        scaled_frames(copy, copy.width, copy.height, count),
        strict=True,
    )
    pairs = [(one.planes[: copy.height], other.planes[: copy.height]) for one, other in frames]
    psnr = np.mean([cv2.PSNR(*pair) for pair in pairs])
    return float(psnr), float(np.mean([ssim(*pair) for pair in pairs]))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two images, uint8 (H, W).

    As Wang et al. 2004 define it, with a Gaussian window of 11 pixels.
    """

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)

    x, y = one.astype(np.float32), other.astype(np.float32)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def decoding_cost(media: Media, is_image: bool, limit: int) -> tuple[float, float]:
    """Milliseconds to open a file, and for each of its first frames on one thread.

    Args:
        media: the file.
        is_image: whether it is an image, for which opening and decoding are one.
        limit: how many frames of a video are decoded at most.
    """
    start = time.perf_counter()
    if is_image:
        cv2.imdecode(np.frombuffer(media.span.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        return 0.0, 1000 * (time.perf_counter() - start)

    count = 0
    with open_video(media.span, media.container) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.thread_count = 1
        opened = time.perf_counter()
        for _ in itertools.islice(container.decode(stream), limit):
            report_progress()
            count += 1
        return 1000 * (opened - start), 1000 * (time.perf_counter() - opened) / max(count, 1)


def write_summary(config: Config, result: CopyResult) -> dict[str, dict]:
    """Write transcode.json into the copy, print a line a source, and return what was written.

    Args:
        config: of the originals.
        result: of the copying.

    Raises:
        UserError: if the file cannot be written.
    """
    seconds = _SECONDS / max(1, sum(name in config.sources for name in result.tables))
    summary = {
        name: {
            **{key: sum(row[key] for row in rows) for key in _COUNTS},
            "failed": [failure for row in rows for failure in row["failed"]],
            **_measure(name, result, config, seconds),
        }
        for name, rows in result.rows.items()
    }

    path = result.layout.out / "transcode.json"
    try:
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            str(path),
            "a file that can be written",
            f"{error.strerror}{start_of(path)}",
            "Make room.",
        ) from None
    for name, row in summary.items():
        say(_line(name, row))
    return summary


def _measure(name: str, result: CopyResult, config: Config, seconds: float) -> dict:
    """Compare a sample of the source's rows with their copies."""
    table, copy = result.tables[name], result.copies[name]
    kept, same = matching_rows(table, copy, np.array(result.lost[name], np.int64))
    measured: dict[str, object] = {"same_rows": same}
    if not same or not len(kept):
        return measured

    chosen = evenly_spread(len(kept), _SAMPLE)
    sample = [table.take(kept[chosen], "sample"), copy.take(chosen, "sample")]
    try:
        if not table.kind.has_images:
            measured |= _quality(*sample)
        if name in config.sources:
            before, after = compare_rates(
                sample,
                config.sources[name],
                clip=config.clip,
                threads=config.loader.threads,
                seconds=seconds,
            )
            measured["clips_per_second_before"] = round(before, 1)
            measured["clips_per_second_after"] = round(after, 1)
    except (DecodeError, BadSourceError) as error:
        measured["not_measured"] = str(error)
    return measured


def matching_rows(
    table: SourceTable, copy: SourceTable, lost: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Find the rows whose files have copies.

    Args:
        table: of the originals.
        copy: of the copies.
        lost: catalog ids of the originals without a copy.

    Returns:
        The rows of ``table``, and whether these are the rows of ``copy``, one by one.
    """
    first = table.records if table.starts is None else table.records[table.starts[:-1]]
    kept = np.flatnonzero(~np.isin(first, lost))
    same = len(kept) == len(copy)
    if same and not len(lost):  # pieces of part files shift if one of them is lost
        columns = ("labels", "frames", "firsts", "starts", "positives")
        same = all(np.array_equal(getattr(table, key), getattr(copy, key)) for key in columns)
    if table.label_sets is not None and copy.label_sets is not None:
        ours, theirs = table.label_sets.take(kept), copy.label_sets
        return kept, same and np.array_equal(ours.values, theirs.values)
    return kept, same and np.array_equal(table.labels[kept], copy.labels)


def _quality(table: SourceTable, copy: SourceTable) -> dict[str, float]:
    """Medians over the sample: a copy of one colour has no error, which no mean survives."""
    values = [
        call_isolated(
            compare_brightness,
            table.media(table.first_record(row)),
            copy.media(copy.first_record(row)),
        )
        for row in range(len(table))
    ]
    psnr, similarity = np.median(np.array(values, float), axis=0).tolist()
    return {"psnr": round(psnr, 2), "ssim": round(similarity, 4)}


def _line(name: str, row: dict) -> str:
    if not row["files"]:
        return f"{name}: its files are those of another source"

    ratio = row["bytes_out"] / max(row["bytes_in"], 1)
    text = (
        f"{name}: {row['files']:,} files, {_size(row['bytes_in'])} became {_size(row['bytes_out'])}"
        f" ({ratio:.2f} times)"
    )
    if "psnr" in row:
        text += f", PSNR {row['psnr']:.1f} dB, SSIM {row['ssim']:.3f}"
    if "clips_per_second_after" in row:
        before, after = row["clips_per_second_before"], row["clips_per_second_after"]
        text += f", {before:,.0f} clips/s became {after:,.0f} ({after / before:.1f} times)"
    if row["replaced"]:
        text += f", {row['replaced']:,} frames did not decode and were replaced by the next one"
    if row["failed"]:
        examples = {reason: path for path, reason in row["failed"]}
        reasons = "; ".join(
            f"{count:,} {reason}, such as {examples[reason]}"
            for reason, count in Counter(reason for _, reason in row["failed"]).most_common()
        )
        text += f", {len(row['failed']):,} failed ({reasons})"
    if not row["same_rows"]:
        text += "; the copy's samples are NOT those of the original, so clips cannot be compared"
    if "not_measured" in row:
        text += f"; not measured: {row['not_measured']}"
    return text


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
