"""Findings that follow from the figures of a source: class balance, decoding cost, small files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnidali.config.schema import MediaConfig, SourceConfig
from omnidali.curation.lint.findings import Finding, Level
from omnidali.curation.lint.source_stats import MediaStats

_UNEVEN = 10  # times as many samples in the largest class as in the median one
_SLOW = 8  # frames decoded for each that is used
_MAX_SHOWN = 5  # names of classes


def check_balance(
    stats: MediaStats, source: MediaConfig, class_names: Sequence[str]
) -> list[Finding]:
    """Look for classes without samples, and for a training source with one much larger class."""
    findings = []
    counts = stats.classes
    empty = [class_names[number] for number in np.flatnonzero(counts == 0).tolist()]
    if empty:
        shown = ", ".join([*empty[:_MAX_SHOWN], *(["..."] if len(empty) > _MAX_SHOWN else [])])
        findings.append(
            Finding(
                Level.WARN,
                stats.name,
                f"{len(empty)} of {len(counts)} classes have no sample ({shown})",
                "Add some, or leave it to other sources.",
            )
        )

    median = float(np.median(counts[counts > 0]))
    largest = int(counts.max())
    is_drawn_evenly = isinstance(source, SourceConfig) and source.resample is None
    if is_drawn_evenly and largest > _UNEVEN * median:
        findings.append(
            Finding(
                Level.WARN,
                stats.name,
                f"the largest class has {largest:,} samples, the median one {median:g}",
                "Set resample, such as {power: 0.2}.",
            )
        )
    return findings


def check_cost(stats: MediaStats, crop_size: int) -> list[Finding]:
    """Look for clips that cost many decoded frames, and for files smaller than the crop.

    Args:
        stats: figures of a source.
        crop_size: side of the training crop, pixels.
    """
    findings = []
    if stats.decoded is not None and stats.decoded >= _SLOW:
        assert stats.gops is not None  # of every video
        findings.append(
            Finding(
                Level.WARN,
                stats.name,
                f"{stats.decoded:.1f} frames are decoded for each that is used,"
                f" as keyframes are up to {stats.gops[2]:g} frames apart",
                "Measure with `omnidali advise` whether a training copy helps.",
            )
        )

    if stats.short_sides[1] < crop_size:
        findings.append(
            Finding(
                Level.WARN,
                stats.name,
                f"half of the files have a short side of {stats.short_sides[1]:g}"
                f" or less, which is scaled up to {crop_size} pixels",
                "Lower clip.size if that is not wanted.",
            )
        )
    return findings
