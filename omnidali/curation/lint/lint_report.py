"""The tables of a check: ``report.md``, ``classes.csv`` and ``sources.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.curation.lint.findings import LEVELS, Verdict
from omnidali.curation.lint.source_stats import Survey
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.untrusted_text import for_markdown

_SHOWN = 5  # codecs, sizes and the like of a source in the report; the CSV has all


def write_tables(
    out: Path, surveys: Sequence[Survey], verdicts: Sequence[Verdict], class_names: Sequence[str]
) -> None:
    """Write the three files.

    Raises:
        OSError: if one cannot be written.
    """
    rows = [_row(found) for found in surveys]
    write_whole(
        out / "sources.csv",
        table_lines([list(rows[0]) if rows else ["source"], *(list(row.values()) for row in rows)]),
    )
    counts = [
        [number, name, *(int(found.classes[number]) for found in surveys)]
        for number, name in enumerate(class_names)
    ]
    write_whole(
        out / "classes.csv",
        table_lines([["label", "class", *(found.name for found in surveys)], *counts]),
    )
    write_whole(out / "report.md", _report(surveys, verdicts))


def _row(found: Survey) -> dict[str, object]:
    counts = found.classes
    return {
        "source": found.name,
        "kind": found.kind,
        "samples": found.samples,
        "files": found.files,
        "classes": int((counts > 0).sum()),
        "classes_without": int((counts == 0).sum()),
        "class_min": int(counts.min()),
        "class_median": float(np.median(counts)),
        "class_max": int(counts.max()),
        "codecs": _named(found.codecs),
        "containers": _named(found.containers),
        "sizes": _named(found.sizes),
        **_three("short_side", found.short_sides),
        **_three("frame_rate", found.rates),
        **_three("gop", found.gops),
        "hours": round(found.hours, 4),
        "bytes": found.size,
        "decoded_per_used": None if found.decoded is None else round(found.decoded, 2),
    }


def _three(name: str, values: Sequence[float] | None) -> dict[str, object]:
    return dict(zip((f"{name}_min", f"{name}_median", f"{name}_max"), values or (None,) * 3))


def _report(surveys: Sequence[Survey], verdicts: Sequence[Verdict]) -> str:
    lines = [
        "# Lists and media",
        "",
        "Each file and line that is meant stands in `issues.csv`.",
        "",
    ]
    for level in LEVELS:
        mine = [verdict for verdict in verdicts if verdict.level == level]
        if mine:
            lines += [f"## {level}", "", *map(_point, mine), ""]
    if surveys:
        lines += [
            "## Sources",
            "",
            "| | " + " | ".join(for_markdown(found.name) for found in surveys) + " |",
            "|---" * (1 + len(surveys)) + "|",
        ]
        columns = [_facts(found) for found in surveys]
        lines += [
            f"| {fact} | " + " | ".join(for_markdown(column[fact]) for column in columns) + " |"
            for fact in columns[0]
        ]
        lines += [
            "",
            "Three figures are the smallest, the middle and the largest. A GOP is the way from a keyframe to"
            " the next: a clip costs the frames that it shows and those before them up to the keyframe, which"
            " `decoded per frame used` counts over the first clips of the plan. `omnidali advise` measures"
            " what that takes, and what training copies would bring.",
            "",
        ]
    return "\n".join(lines)


def _point(verdict: Verdict) -> str:
    return f"- {for_markdown(verdict.source)}: {for_markdown(verdict.found, None)}. {verdict.advice}".rstrip()


def _facts(found: Survey) -> dict[str, str]:
    counts = found.classes
    return {
        "kind": found.kind,
        "samples": f"{found.samples:,}",
        "files": f"{found.files:,}",
        "classes with samples": f"{int((counts > 0).sum())} of {len(counts)}",
        "samples of a class": _spread((counts.min(), np.median(counts), counts.max())),
        "codecs": _named(found.codecs, _SHOWN),
        "containers": _named(found.containers, _SHOWN),
        "sizes": _named(found.sizes, _SHOWN),
        "short side, pixels": _spread(found.short_sides),
        "frames a second": _spread(found.rates),
        "GOP, frames": _spread(found.gops),
        "decoded per frame used": "" if found.decoded is None else f"{found.decoded:.1f}",
        "hours": f"{found.hours:,.2f}" if found.hours else "",
        "MB": f"{found.size / 1e6:,.1f}",
    }


def _spread(values: Sequence[float] | None) -> str:
    return "" if values is None else " / ".join(f"{value:g}" for value in values)


def _named(counts: Mapping[str, int], most: int | None = None) -> str:
    """``h264 12, vp9 3``."""
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join(
        shown + ([f"{len(counts) - most} others"] if most and len(counts) > most else [])
    )
