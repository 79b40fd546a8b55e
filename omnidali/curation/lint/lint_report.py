"""The files of a check: ``report.md``, ``classes.csv`` and ``sources.csv``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.curation.lint.findings import Finding, Level
from omnidali.curation.lint.source_stats import MediaStats
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.untrusted_text import for_markdown

_MAX_SHOWN = 5  # codecs, sizes and the like of a source in the report; the CSV has all


def write_tables(
    out: Path,
    sources: Sequence[MediaStats],
    findings: Sequence[Finding],
    class_names: Sequence[str],
) -> None:
    """Write the three files.

    Args:
        out: folder that gets them.
        sources: figures of each source.
        findings: of all sources, the worst first.
        class_names: in label order.

    Raises:
        OSError: if one cannot be written.
    """
    rows = [_csv_row(stats) for stats in sources]
    header = list(rows[0]) if rows else ["source"]
    write_whole(out / "sources.csv", table_lines([header, *(list(row.values()) for row in rows)]))

    header = ["label", "class", *(stats.name for stats in sources)]
    counts = [
        [number, name, *(int(stats.classes[number]) for stats in sources)]
        for number, name in enumerate(class_names)
    ]
    write_whole(out / "classes.csv", table_lines([header, *counts]))

    write_whole(out / "report.md", _report(sources, findings))


def _csv_row(stats: MediaStats) -> dict[str, object]:
    counts = stats.classes
    return {
        "source": stats.name,
        "kind": stats.kind,
        "samples": stats.samples,
        "files": stats.files,
        "classes": int((counts > 0).sum()),
        "classes_without": int((counts == 0).sum()),
        "class_min": int(counts.min()),
        "class_median": float(np.median(counts)),
        "class_max": int(counts.max()),
        "codecs": _counts_text(stats.codecs),
        "containers": _counts_text(stats.containers),
        "sizes": _counts_text(stats.sizes),
        **_three_columns("short_side", stats.short_sides),
        **_three_columns("frame_rate", stats.rates),
        **_three_columns("gop", stats.gops),
        "hours": round(stats.hours, 4),
        "bytes": stats.size,
        "decoded_per_used": None if stats.decoded is None else round(stats.decoded, 2),
    }


def _three_columns(name: str, values: Sequence[float] | None) -> dict[str, float | None]:
    low, median, high = values or (None, None, None)
    return {f"{name}_min": low, f"{name}_median": median, f"{name}_max": high}


def _report(sources: Sequence[MediaStats], findings: Sequence[Finding]) -> str:
    lines = ["# Lists and media", "", "`issues.csv` names each of the files and lines.", ""]
    for level in Level:
        points = [
            f"- {for_markdown(finding.source)}: {for_markdown(finding.text, None)}."
            f" {finding.advice}".rstrip()
            for finding in findings
            if finding.level == level
        ]
        if points:
            lines += [f"## {level}", "", *points, ""]
    if sources:
        lines += _source_table(sources)
    return "\n".join(lines)


def _source_table(sources: Sequence[MediaStats]) -> list[str]:
    columns = [_facts(stats) for stats in sources]
    facts = [
        f"| {fact} | " + " | ".join(for_markdown(column[fact]) for column in columns) + " |"
        for fact in columns[0]
    ]

    return [
        "## Sources",
        "",
        "| | " + " | ".join(for_markdown(stats.name) for stats in sources) + " |",
        "|---" * (1 + len(sources)) + "|",
        *facts,
        "",
        "Three figures are the smallest, the median and the largest. A GOP reaches from a keyframe"
        " to the next one: to show a frame, a decoder decodes all frames from the keyframe before"
        " it. `decoded per frame used` counts these over the first clips of the plan."
        " `omnidali advise` measures the time that they take, and what a training copy would gain.",
        "",
    ]


def _facts(stats: MediaStats) -> dict[str, str]:
    counts = stats.classes
    return {
        "kind": stats.kind,
        "samples": f"{stats.samples:,}",
        "files": f"{stats.files:,}",
        "classes with samples": f"{int((counts > 0).sum())} of {len(counts)}",
        "samples of a class": _spread_text((counts.min(), np.median(counts), counts.max())),
        "codecs": _counts_text(stats.codecs, _MAX_SHOWN),
        "containers": _counts_text(stats.containers, _MAX_SHOWN),
        "sizes": _counts_text(stats.sizes, _MAX_SHOWN),
        "short side, pixels": _spread_text(stats.short_sides),
        "frames a second": _spread_text(stats.rates),
        "GOP, frames": _spread_text(stats.gops),
        "decoded per frame used": "" if stats.decoded is None else f"{stats.decoded:.1f}",
        "hours": f"{stats.hours:,.2f}" if stats.hours else "",
        "MB": f"{stats.size / 1e6:,.1f}",
    }


def _spread_text(values: Sequence[float] | None) -> str:
    return " / ".join(f"{value:g}" for value in values or ())


def _counts_text(counts: Mapping[str, int], most: int | None = None) -> str:
    """Counts by name, such as ``h264 12, vp9 3``."""
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    if len(shown) < len(counts):
        shown.append(f"{len(counts) - len(shown)} others")
    return ", ".join(shown)
