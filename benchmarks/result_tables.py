"""RESULTS.md's tables of throughput and of starts, and a chart, made from the records alone."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.compare_loaders import table
from benchmarks.measure_loader import CODEC, OURS, TWO_RANKS
from benchmarks.start_cost import table as table_of_starts
from benchmarks.workloads import DENSE_COPY, FAST_COPY
from omnidali.errors import UserError
from omnidali.utils.plots import bar_chart, write_picture
from omnidali.utils.untrusted_text import for_markdown

BEGIN, END = (
    "<!-- throughput: made by `python -m benchmarks report` -->",
    "<!-- end of throughput -->",
)
BEGIN_STARTS, END_STARTS = (
    "<!-- starts: made by `python -m benchmarks report` -->",
    "<!-- end of starts -->",
)
_REFERENCE = ("mmaction2", "decord")  # what users of the reference implementation have
# a budget of one core in milliseconds: decoding a frame of H.264 at 340x256; the pixels of a
# returned one
_DECODE_MS, _RETURN_MS = 0.30, 0.40
_CHARTED = (
    "W1 jpeg",
    "W2 tsn-8 h264 gop 250",
    "W2 tsn-8 h264 gop 16",
    "W3 slowonly-8x8 h264 gop 16",
)


def report(records: str | Path, results: str | Path, chart: str | Path) -> str:
    """Write the newest record of every row between the marks in ``results``, and the chart; returns
    the text.

    Raises:
        UserError: if there are no records, or no marks.
    """
    records, results = Path(records), Path(results)
    if not records.exists():
        raise UserError(
            str(records),
            "records of measurements",
            "no such file",
            "Run `python -m benchmarks peers` first.",
        )
    newest: dict[tuple, dict] = {}
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
    rows = list(newest.values())
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    text = "\n\n".join(
        [summary(rows, workloads), *copies(rows), *(table(rows, name) for name in workloads)]
    )
    _put(results, BEGIN, END, text)
    if starts:
        _put(results, BEGIN_STARTS, END_STARTS, table_of_starts(starts))
    write_picture(Path(chart), _draw(rows))
    return text


def _put(results: Path, begin: str, end: str, text: str) -> None:
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


def summary(rows: list[dict], workloads: list[str]) -> str:
    """Ours against the best of the others, against what users of the reference have, and against
    the limits.
    """
    lines = [
        "| workload | ours, clips/s | best other | ours / best other | ours / faster of mmaction2, decord |"
        " of the codec alone | of the budget | CPU ms, ours / least other |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in workloads:
        members = {
            row["loader"]: row for row in rows if row["workload"] == name and "error" not in row
        }
        if OURS not in members:
            continue
        ours = members.pop(OURS)
        codec, rate = members.get(CODEC), ours["clips_per_second"]
        others = {name: row for name, row in members.items() if name not in (CODEC, TWO_RANKS)}
        best = max(others.values(), key=lambda row: row["clips_per_second"], default=None)
        known = [others[other]["clips_per_second"] for other in _REFERENCE if other in others]
        limit = _limit(ours)
        lines.append(
            " | ".join(
                [
                    f"| {for_markdown(name)}",
                    f"{rate:.1f}",
                    f"{for_markdown(best['loader'])} {best['clips_per_second']:.1f}"
                    if best
                    else "",
                    f"**{rate / best['clips_per_second']:.2f}**" if best else "",
                    f"{rate / max(known):.2f}" if known else "",
                    f"{rate / codec['clips_per_second']:.2f}" if codec else "",
                    f"{rate / limit:.2f}" if limit else "",
                    f"{ours['cpu_ms_per_clip']:.1f} / {min(row['cpu_ms_per_clip'] for row in others.values()):.1f} |"
                    if others
                    else f"{ours['cpu_ms_per_clip']:.1f} |",
                ]
            )
        )
    return "\n".join(lines)


def copies(rows: list[dict]) -> list[str]:
    """What a training copy brings: ours on it against what users of the reference have on their
    dense one.
    """
    found, lines = {(row["workload"], row["loader"]): row for row in rows if "error" not in row}, []
    for name in ("W2 tsn-8", "W3 slowonly-8x8"):
        ours = found.get((f"{name} {FAST_COPY}", OURS))
        dense = [row for other in _REFERENCE if (row := found.get((f"{name} {DENSE_COPY}", other)))]
        if ours and dense:
            theirs = max(dense, key=lambda row: row["clips_per_second"])
            rate, best = ours["clips_per_second"], theirs["clips_per_second"]
            size = (
                f", for {ours['mb'] / theirs['mb']:.2f} times the bytes"
                if "mb" in ours and "mb" in theirs
                else ""
            )
            lines.append(
                f"{name}: ours on files made as by `transcode --recipe fast` {rate:.1f} clips/s,"
                f" {for_markdown(theirs['loader'])} on x264 medium with GOP 16 {best:.1f}:"
                f" **{rate / best:.2f} times**{size}."
            )
    return lines


def _limit(row: dict) -> float | None:
    """Clips a second that all cores could give, by the budget of a core; H.264 only."""
    if "packets_per_clip" not in row or "h264" not in row["workload"]:
        return None
    return (
        1000
        * row["environment"]["cores"]
        / (row["packets_per_clip"] * _DECODE_MS + row["frames_per_clip"] * _RETURN_MS)
    )


def _draw(rows: list[dict]):
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
    return bar_chart(
        bars, "clips per second, % of the fastest median; dots: lowest and highest", full=125
    )
