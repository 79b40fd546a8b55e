"""The table of the loaders on one workload."""

from collections.abc import Sequence

from benchmarks.measure_loader import OURS
from omnidali.utils.untrusted_text import for_markdown


def loader_table(records: Sequence[dict], workload: str) -> str:
    """The records of one workload in Markdown, fastest first."""
    rows = sorted(
        (record for record in records if record["workload"] == workload),
        key=lambda record: -record.get("clips_per_second", 0),
    )
    ours = next(
        (record.get("clips_per_second") for record in rows if record["loader"] == OURS), None
    )
    lines = [
        f"**{for_markdown(workload)}**",
        "",
        "| loader | clips/s, median (lowest to highest) | ratio | CPU ms | first batch | memory |"
        " setting |",
        "|---|---|---|---|---|---|---|",
        *(_line(record, ours) for record in rows),
    ]
    return "\n".join(lines)


def _line(record: dict, ours: float | None) -> str:
    loader = for_markdown(record["loader"])
    if "error" in record:
        return f"| {loader} | {for_markdown(record['error'])} | | | | | |"
    rate = record["clips_per_second"]
    ratio = f"{ours / rate:.2f}" if ours and record["loader"] != OURS else ""
    settings = ", ".join(f"{key}={value}" for key, value in record["settings"].items())
    return (
        f"| {loader} | {rate:.1f} ({record['lowest']:.1f} to {record['highest']:.1f}) | {ratio} |"
        f" {record['cpu_ms_per_clip']:.1f} | {record['seconds_to_first_batch']:.2f} s |"
        f" {record['resident_mb']:.0f} MB | {for_markdown(settings)} |"
    )
