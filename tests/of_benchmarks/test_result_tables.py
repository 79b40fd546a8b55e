"""RESULTS.md's tables come from the newest records."""

import json

from benchmarks.measure_loader import CODEC, OURS
from benchmarks.result_tables import BEGIN, BEGIN_STARTS, END, END_STARTS, summary, write_results


def row(loader, rate, workload="W2 tsn-8 h264 gop 16", **more):
    return {
        "bench": "loader",
        "workload": workload,
        "loader": loader,
        "settings": {},
        "clips_per_second": rate,
        "lowest": rate,
        "highest": rate,
        "cpu_ms_per_clip": 100 / rate,
        "seconds_to_first_batch": 1.0,
        "resident_mb": 100,
        "packets_per_clip": 60,
        "frames_per_clip": 8,
        "environment": {"cores": 2},
        **more,
    }


def start_row(photos, start, wall):
    return {
        "bench": "start",
        "source": "list",
        "photos": photos,
        "start": start,
        "wall_seconds": wall,
        "data_seconds": 1.0,
        "batch_seconds": 0.1,
        "cpu_seconds": 2.0,
        "child_cpu_seconds": 0.5,
        "peak_mb": 500.0,
        "child_peak_mb": 20.0,
        "catalog_mb": 1.5,
        "probed": 0,
        "samples": photos,
    }


def test_write_results_twice_gives_the_same(tmp_path):
    rows = [
        row(OURS, 1.0),
        row(OURS, 50.0),
        row("decord", 20.0, cpu_ms_per_clip=1.0),
        row("torchcodec", 40.0),
        row(CODEC, 60.0),
        {
            "bench": "loader",
            "workload": "W2 tsn-8 h264 gop 16",
            "loader": "spdl",
            "settings": {},
            "error": "broke",
        },
        {"bench": "plan", "rows": 5},
        {"what": "another program's record"},
        *(
            start_row(photos, start, wall)
            for photos, start, wall in [
                (9, "first", 50.0),
                (9, "first", 40.0),
                (9, "warm", 3.0),
                (5000, "first", 70.0),
            ]
        ),
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "R.md").write_text(
        f"above\n{BEGIN}\nold\n{END}\n{BEGIN_STARTS}\nold\n{END_STARTS}\nbelow\n"
    )
    for _ in range(2):  # a second time gives the same
        write_results(tmp_path / "records.jsonl", tmp_path / "R.md", tmp_path / "chart.png")
        text = (tmp_path / "R.md").read_text()
        assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
        # the newest record of a row; 2 cores / (60 * 0.30 + 8 * 0.40) ms
        limit = 2000 / (60 * 0.30 + 8 * 0.40)
        assert (
            "| W2 tsn-8 h264 gop 16 | 50.0 | torchcodec 40.0 | **1.25** | 2.50 | 0.83 |"
            f" {50 / limit:.2f} | 2.0 / 1.0 |"
        ) in text
        lines = [line for line in text.splitlines() if " in a list |" in line]
        assert [line.split("|")[1:4] for line in lines] == [
            [" 9 in a list ", " first ", " 40.0 s "],
            [" 9 in a list ", " warm ", " 3.0 s "],
            [" 5,000 in a list ", " first ", " 70.0 s "],
        ]
        assert "| spdl | broke |" in text and (tmp_path / "chart.png").stat().st_size > 1000
    # nothing of ours to compare
    assert "W1" not in summary([row("decord", 1.0, "W1 jpeg")], ["W1 jpeg"])
