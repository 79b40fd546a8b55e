"""The benchmark of the probe."""

import json
from pathlib import Path

from benchmarks import __main__ as cli
from benchmarks import probe_cost


def test_probe_cost_beside_another_checkout(tmp_path, monkeypatch, capsys):
    """Beside another checkout, here the same one."""
    monkeypatch.setattr(
        probe_cost, "_MEDIA", {"a.mp4": {"frames": 20}, "b.avi": {"frames": 20, "codec": "mpeg4"}}
    )
    monkeypatch.setattr(probe_cost, "_TURNS", 1)
    command = ["probe", "--out", str(tmp_path)]
    assert cli.main([*command, "--against", str(Path(__file__).parents[2])]) == 0
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [row["media"] for row in rows] == ["a.mp4", "b.avi"]
    assert all(row["ours_ms"] > 0 and row["theirs_ms"] > 0 and row["ratio"] > 0 for row in rows)
    assert cli.main([*command, "--against", str(tmp_path)]) == 2
    assert "--against: expected the folder of a checkout" in capsys.readouterr().err
