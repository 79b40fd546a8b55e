"""A training copy beside its originals: what it costs in quality and bytes, and how much sooner
clips come.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omnidali.catalog.database.store import SourceTable
from omnidali.config.schema import ClipConfig, Config, SourceConfig
from omnidali.curation.copies.copy_quality import compare_pictures
from omnidali.curation.copies.transcode import Copied
from omnidali.errors import BadSourceError, DecodeError, UserError
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.camera_motion import load_motion
from omnidali.planning.plan import TrainPlan
from omnidali.processes import child_pool as children
from omnidali.utils.untrusted_text import say

_SAMPLE = 8  # rows of a source that are compared
_SECONDS = 24.0  # what measuring the loader may take in all
# measurements of each table, alternating; the better one counts, as other work only slows down
_TURNS = 2
_BATCH = 8


def compare_rates(
    tables: Sequence[SourceTable], source: SourceConfig, config: Config, seconds: float
) -> list[float]:
    """Clips a second of the loader on the CPU over each of the tables, with the config's clips.

    Args:
        seconds: for everything together, start and end of the loader aside.

    Raises:
        BadSourceError: if too many files cannot be decoded.
    """
    plain = replace(source, weight=1.0, batch=None, resample=None, decode="cpu")
    rates = [
        [
            _rate(
                table,
                plain,
                config.clip,
                turn,
                config.loader.threads,
                seconds / len(tables) / _TURNS,
            )
            for table in tables
        ]
        for turn in range(_TURNS)
    ]
    return [max(rate) for rate in zip(*rates)]


def plan_of(table: SourceTable, source: SourceConfig, clip: ClipConfig, seed: int) -> TrainPlan:
    """A plan over one table alone."""
    return TrainPlan([table], [source], clip, _BATCH, seed, motions={0: load_motion(None, False)})


def _rate(
    table: SourceTable,
    source: SourceConfig,
    clip: ClipConfig,
    seed: int,
    threads: int,
    seconds: float,
) -> float:
    with FusionIterator(plan_of(table, source, clip, seed), [source], threads=threads) as batches:
        # the first, and what was made ready while it was waited for
        for _ in range(1 + batches.prefetch):
            next(batches)
        start, clips = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            clips += len(next(batches))
        return clips / (time.perf_counter() - start)


def write_summary(config: Config, copied: Copied) -> dict:
    """Write transcode.json into the copy, print a line a source, and return what was written.

    Args:
        config: of the originals.
    """
    known = [name for name in copied.tables if name in config.sources]
    told = {}
    for name, rows in copied.rows.items():
        sums = {
            key: sum(row[key] for row in rows)
            for key in ("frames", "replaced", "bytes_in", "bytes_out")
        }
        failed = [failure for row in rows for failure in row["failed"]]
        told[name] = {"files": sum(row["files"] for row in rows), **sums, "failed": failed}
        kept, same = matching_rows(
            copied.tables[name], copied.copies[name], np.array(copied.lost[name], np.int64)
        )
        chosen = (
            np.unique(np.linspace(0, len(kept) - 1, _SAMPLE).astype(np.int64))
            if same
            else np.zeros(0, np.int64)
        )
        told[name]["same_rows"] = same
        if not len(chosen):
            continue
        sample = (
            copied.tables[name].take(kept[chosen], "sample"),
            copied.copies[name].take(chosen, "sample"),
        )
        try:
            if sample[0].kind in ("video", "untrimmed"):
                told[name] |= _quality(*sample)
            if name in known:
                rates = compare_rates(sample, config.sources[name], config, _SECONDS / len(known))
                told[name] |= dict(
                    zip(
                        ("clips_per_second_before", "clips_per_second_after"),
                        (round(rate, 1) for rate in rates),
                    )
                )
        except (DecodeError, BadSourceError) as error:
            told[name]["not_measured"] = str(error)
    path = copied.layout.out / "transcode.json"
    try:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            str(path), "a file that can be written", str(error.strerror), "Make room."
        ) from None
    for name, row in told.items():
        say(_line(name, row))
    return told


def matching_rows(
    table: SourceTable, copy: SourceTable, lost: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The rows of ``table`` whose files have copies, and whether these are the rows of ``copy``,
    one by one.

    Args:
        lost: catalog ids of the originals without a copy.
    """
    first = table.records if table.starts is None else table.records[table.starts[:-1]]
    kept = np.flatnonzero(~np.isin(first, lost))
    same = len(kept) == len(copy)
    if same and not len(lost):  # pieces of part files shift where one of them is lost
        columns = ("labels", "frames", "firsts", "starts", "positives")
        same = all(np.array_equal(getattr(table, key), getattr(copy, key)) for key in columns)
    return kept, same and np.array_equal(table.labels[kept], copy.labels)


def _quality(table: SourceTable, copy: SourceTable) -> dict[str, float]:
    """Medians over the sample: a picture of one colour comes out without any error, which no mean
    survives.
    """
    values = np.median(
        [
            children.call(
                compare_pictures,
                table.media(table.first_record(row)),
                copy.media(copy.first_record(row)),
            )
            for row in range(len(table))
        ],
        axis=0,
    )
    return {"psnr": round(values[0], 2), "ssim": round(values[1], 4)}


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
        text += f", {row['replaced']:,} frames did not come out and the next stands for them"
    if row["failed"]:
        reasons = Counter(reason for _, reason in row["failed"])
        examples = {reason: path for path, reason in row["failed"]}
        text += (
            f", {len(row['failed']):,} failed ("
            + "; ".join(
                f"{count:,} {reason}, such as {examples[reason]}"
                for reason, count in reasons.most_common()
            )
            + ")"
        )
    if not row["same_rows"]:
        text += "; the copy's samples are NOT those of the original, so clips cannot be compared"
    return text + (f"; not measured: {row['not_measured']}" if "not_measured" in row else "")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
