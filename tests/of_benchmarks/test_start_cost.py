"""The benchmark of the first and the warm start."""

import errno
import json

from benchmarks import __main__ as cli
from benchmarks import start_cost


def test_second_start_probes_nothing(tmp_path, capfd):
    """The second start probes nothing, and the media are gone at the end."""
    command = ["start", "--tree", "40", "--list", "60", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [(row["source"], row["start"], row["photos"], row["probed"]) for row in rows] == [
        ("class folders", "first", 40, 40),
        ("class folders", "warm", 40, 0),
        ("list", "first", 60, 60),
        ("list", "warm", 60, 0),
    ]
    for row in rows:
        assert row["samples"] == row["photos"] and row["catalog_mb"] > 0
        assert row["wall_seconds"] > row["data_seconds"] + row["batch_seconds"] > 0
        assert row["cpu_seconds"] > row["child_cpu_seconds"] >= 0
        # a child that lives shortly may not be seen
        assert row["peak_mb"] > row["child_peak_mb"] >= 0
        assert row["environment"]["versions"]["torch"]
    assert all(row["child_cpu_seconds"] > 0 for row in rows if row["start"] == "first")
    assert all(
        row["child_cpu_seconds"] == row["child_peak_mb"] == 0
        for row in rows
        if row["start"] == "warm"
    )
    assert "| 60 in a list | warm |" in capfd.readouterr().out
    assert not (tmp_path / "media" / "start").exists()


def test_start_without_hard_links_is_refused(tmp_path, monkeypatch, capsys):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(start_cost.os, "link", refuse)
    assert cli.main(["start", "--tree", "4", "--list", "0", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        "hard links" in said
        and "got Operation not permitted. Choose a folder on a local disk" in said
    )
    assert not (tmp_path / "media" / "start").exists()


def test_images_with_more_names_than_a_file_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr(start_cost, "_ORIGINALS", 2)
    monkeypatch.setattr(start_cost, "_LINKS", 3)
    originals = start_cost._write_originals(tmp_path / "originals", 10)
    config = start_cost._make_source(tmp_path / "list", start_cost.LIST, 10, originals)
    assert len(originals) == 4 and all(path.stat().st_nlink <= 1 + 3 for path in originals)
    paths = [line.split()[0] for line in (config.parent / "list.txt").read_text().splitlines()]
    assert len(set(paths)) == 10 and all(
        (config.parent / "photos" / path).exists() for path in paths
    )
