"""Loaders side by side: a loader that fails gets a row with its reason."""

import json

import pytest

from benchmarks import __main__ as cli
from benchmarks import compare_loaders
from benchmarks.measure_loader import CODEC, OURS
from benchmarks.workloads import (
    WORKLOADS,
    make_workload_media,
)
from of_benchmarks.small_workloads import shrink_workloads


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_workloads(monkeypatch)


@pytest.mark.slow
def test_each_loader_has_its_row(tmp_path, monkeypatch, capsys):
    """A peer that is there (PyAV always is) and one that is not: each has its row."""
    monkeypatch.setattr(
        compare_loaders, "find_spec", lambda name: None if name == "decord" else name
    )
    assert (
        cli.main(
            [
                "peers",
                "--out",
                str(tmp_path),
                "--repeats",
                "1",
                "--seconds",
                "0.1",
                "--workloads",
                "W2 tsn-8 h264 gop 16",
                "--loaders",
                "omnidali",
                CODEC,
                "pyav",
                "decord",
            ]
        )
        == 0
    )
    rows = {
        row["loader"]: row
        for row in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    }
    assert set(rows) == {OURS, CODEC, "pyav", "decord"}
    assert "not installed (decord)" in rows["decord"]["error"]
    for name in (OURS, CODEC, "pyav"):
        row = rows[name]
        assert (
            0 < row["lowest"] <= row["clips_per_second"] <= row["highest"]
            and row["cpu_ms_per_clip"] > 0
        )
        assert (
            row["resident_mb"] > 50
            and row["seconds_to_first_batch"] > 0
            and row["frames_per_clip"] == 8
        )
        assert row["packets_per_clip"] > 8 and row["environment"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert "| decord | not installed (decord)" in printed and "| pyav |" in printed


def test_failed_loader_gives_its_reason(tmp_path, monkeypatch):
    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_workload_media(tmp_path / "media", [load])
    (tmp_path / "media" / "jpeg" / "3.jpg").unlink()
    bench = compare_loaders._Workbench(load, tmp_path / "media", tmp_path / "bench", 0.1)
    row = compare_loaders._Contender(load, "opencv", {"way": "threads", "jump": 32})
    assert "3.jpg" in bench.run_child(row, 0, False, 6)["error"]
