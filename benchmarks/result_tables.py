"""RESULTS.md's tables of throughput and of starts, and a chart, made from the records alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.loader_table import loader_table
from benchmarks.measure_loader import CODEC, OURS, TWO_RANKS
from benchmarks.start_cost import start_table
from benchmarks.workloads import DENSE_COPY, FAST_COPY
from omnidali.errors import UserError, start_of
from omnidali.utils.plots import bar_chart, write_png
from omnidali.utils.untrusted_text import for_markdown

BEGIN = "<!-- throughput: made by `python -m benchmarks report` -->"
END = "<!-- end of throughput -->"
BEGIN_STARTS = "<!-- starts: made by `python -m benchmarks report` -->"
END_STARTS = "<!-- end of starts -->"
_REFERENCE = ("mmaction2", "decord")  # what users of the reference implementation have
# a budget of one core in milliseconds
_DECODE_MS = 0.30  # decode a frame of H.264 at 340x256
_RETURN_MS = 0.40  # the pixels of a returned frame
_CHARTED = (
    "W1 jpeg",
    "W2 tsn-8 h264 gop 250",
    "W2 tsn-8 h264 gop 16",
    "W3 slowonly-8x8 h264 gop 16",
)


def write_results(records: str | Path, results: str | Path, chart: str | Path) -> str:
    """Write the newest record of every row between the marks in a file, and draw the chart.

    Args:
        records: JSON lines.
        results: Markdown file with the marks.
        chart: PNG to write.

    Returns:
        The text of the tables of throughput.

    Raises:
        UserError: if there are no records, or no marks.
    """
    newest, starts = _read_records(Path(records))
    rows = list(newest.values())
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    tables = [loader_table(rows, name) for name in workloads]
    text = "\n\n".join([summary(rows, workloads), *copies(rows), *tables])
    _replace_between(Path(results), BEGIN, END, text)
    if starts:
        _replace_between(Path(results), BEGIN_STARTS, END_STARTS, start_table(starts))
    write_png(Path(chart), _draw(rows))
    return text


def _read_records(records: Path) -> tuple[dict[tuple[str, str], dict], list[dict]]:
    """The newest record of each workload and loader, and all records of starts."""
    if not records.exists():
        raise UserError(
            str(records),
            "records of measurements",
            f"no such file{start_of(records)}",
            "Run `python -m benchmarks peers` first.",
        )

    newest: dict[tuple[str, str], dict] = {}
    starts = []
    for line in records.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("bench") == "loader" and "loader" in row:
            newest[row["workload"], row["loader"]] = row
        elif row.get("bench") == "start":
            starts.append(row)

    if not newest:
        raise UserError(
            str(records),
            "records of `python -m benchmarks loader` or `peers`",
            "none",
            "Run one of them first.",
        )
    return newest, starts


def _replace_between(results: Path, begin: str, end: str, text: str) -> None:
    """Write ``text`` between two marks."""
    before, first, rest = results.read_text(encoding="utf-8").partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise UserError(
            str(results),
            f"a line {begin} and a line {end}",
            "none",
            "Put them where the tables belong.",
        )
    results.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def summary(rows: Sequence[dict], workloads: Sequence[str]) -> str:
    """Our loader beside the best other one, the reference's loaders, and the limits."""
    lines = [
        "| workload | ours, clips/s | best other | ours / best other |"
        " ours / faster of mmaction2, decord | of the codec alone | of the budget |"
        " CPU ms, ours / least other |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in workloads:
        members = {
            row["loader"]: row for row in rows if row["workload"] == name and "error" not in row
        }
        if OURS in members:
            lines.append(f"| {for_markdown(name)} | {' | '.join(_summary_cells(members))} |")
    return "\n".join(lines)


def _summary_cells(members: Mapping[str, dict]) -> list[str]:
    """The cells of a workload, with the records by loader."""
    ours = members[OURS]
    rate = ours["clips_per_second"]
    others = {name: row for name, row in members.items() if name not in (OURS, CODEC, TWO_RANKS)}
    best = max(others.values(), key=lambda row: row["clips_per_second"], default=None)
    known = [others[name]["clips_per_second"] for name in _REFERENCE if name in others]
    limit = _budget_limit(ours)
    cells = [f"{rate:.1f}", "", "", "", "", "", f"{ours['cpu_ms_per_clip']:.1f}"]

    if best is not None:
        least = min(row["cpu_ms_per_clip"] for row in others.values())
        cells[1] = f"{for_markdown(best['loader'])} {best['clips_per_second']:.1f}"
        cells[2] = f"**{rate / best['clips_per_second']:.2f}**"
        cells[6] += f" / {least:.1f}"
    if known:
        cells[3] = f"{rate / max(known):.2f}"
    if CODEC in members:
        cells[4] = f"{rate / members[CODEC]['clips_per_second']:.2f}"
    if limit:
        cells[5] = f"{rate / limit:.2f}"
    return cells


def copies(rows: Sequence[dict]) -> list[str]:
    """The gain of a training copy: ours on it beside the reference's loaders on a dense copy."""
    found = {(row["workload"], row["loader"]): row for row in rows if "error" not in row}
    lines = []
    for name in ("W2 tsn-8", "W3 slowonly-8x8"):
        ours = found.get((f"{name} {FAST_COPY}", OURS))
        dense = [row for other in _REFERENCE if (row := found.get((f"{name} {DENSE_COPY}", other)))]
        if not (ours and dense):
            continue

        theirs = max(dense, key=lambda row: row["clips_per_second"])
        rate = ours["clips_per_second"]
        best = theirs["clips_per_second"]
        size = ""
        if "mb" in ours and "mb" in theirs:
            size = f", for {ours['mb'] / theirs['mb']:.2f} times the bytes"
        lines.append(
            f"{name}: ours on files made as by `transcode --recipe fast` {rate:.1f} clips/s,"
            f" {for_markdown(theirs['loader'])} on x264 medium with GOP 16 {best:.1f}:"
            f" **{rate / best:.2f} times**{size}."
        )
    return lines


def _budget_limit(row: dict) -> float | None:
    """Clips a second that all cores could give, by the budget of a core; H.264 only."""
    if "packets_per_clip" not in row or "h264" not in row["workload"]:
        return None
    milliseconds = row["packets_per_clip"] * _DECODE_MS + row["frames_per_clip"] * _RETURN_MS
    return 1000 * row["environment"]["cores"] / milliseconds


def _draw(rows: Sequence[dict]) -> np.ndarray:
    bars = {}
    for name in _CHARTED:
        members = [
            row
            for row in rows
            if row["workload"] == name
            and "error" not in row
            and row["loader"] not in (CODEC, TWO_RANKS)
        ]

        fastest = max((row["clips_per_second"] for row in members), default=1)
        for row in sorted(members, key=lambda row: -row["clips_per_second"]):
            median, *dots = (
                100 * row[field] / fastest for field in ("clips_per_second", "lowest", "highest")
            )
            bars[f"{name.replace(' h264', '')}: {row['loader']}"] = median, dots
    title = "clips per second, % of the fastest median; dots: lowest and highest"
    return bar_chart(bars, title, full=125)
