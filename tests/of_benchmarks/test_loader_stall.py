"""The benchmark of the training loop with three feeds."""

import json

import pytest

from benchmarks import __main__ as cli
from helpers.program_runs import CONFIG


@pytest.mark.slow
def test_every_feed_has_its_rate(media_root, tmp_path, capsys):
    """The real loop, fed three ways; none of them leaves a run folder behind."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert (
        cli.main(
            [
                "train",
                "--config",
                str(tmp_path / "c.yaml"),
                "--out",
                str(tmp_path / "out"),
                "--repeats",
                "1",
                "--steps",
                "6",
                "--precisions",
                "fp32",
                f"data_root={media_root}",
            ]
        )
        == 0
    )
    rows = {
        one["feed"]: one
        for one in map(json.loads, (tmp_path / "out" / "records.jsonl").read_text().splitlines())
    }
    assert set(rows) == {"synthetic", "cached", "real"} and rows["synthetic"]["stall"] == 0
    for one in rows.values():
        assert one["clips_per_second"] > 0
        assert one["stall"] == pytest.approx(
            1 - one["clips_per_second"] / rows["synthetic"]["clips_per_second"], abs=0.2
        )
    assert str(media_root) not in json.dumps(rows) and "| fp32 | real |" in capsys.readouterr().out
