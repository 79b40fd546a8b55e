"""The benchmark of excerpts."""

import json

import pytest

from benchmarks import __main__ as cli
from of_benchmarks.small_workloads import shrink_workloads


@pytest.mark.parametrize("kind, has_dali", [("vp9-gop8", True), ("h264-gop8", False)])
def test_excerpt_cost_beside_the_whole_file(kind, has_dali, tmp_path, monkeypatch):
    shrink_workloads(monkeypatch)
    assert cli.main(["excerpts", "--out", str(tmp_path), "--media", kind]) == 0
    (row,) = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert row["media"] == kind and row["packets"] >= 8
    assert row["excerpt_ms"] > 0 and row["cpu_ms"] > 0
    assert ("dali_tsn_8_excerpt_ms" in row) == has_dali
    if has_dali:
        assert row["dali_last_frame_excerpt_ms"] < row["dali_last_frame_whole_file_ms"]
