"""What the copies of a sample cost and bring."""

import pytest

from helpers.copies import CONFIG, make_world, settings, write
from omnidali.cli import main as cli
from omnidali.curation.copies import advise as advice


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(advice, "_SECONDS", 0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def test_advise_prints_every_copy_and_one_sentence_a_source(tmp_path, capsys, world):
    sets = settings(world, tmp_path)
    lines = CONFIG.splitlines(keepends=True)
    write(
        tmp_path / "c.yaml",
        "".join(line for line in lines if not line.startswith(("  windows", "  tars"))),
    )
    assert (
        cli.main(
            [
                "advise",
                "--config",
                str(tmp_path / "c.yaml"),
                "--sample",
                "2",
                *sets,
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    assert {len(row) for row in rows} == {len(advice._HEAD)}
    assert [row[1] for row in rows if row[0] == "clips"] == [
        "original",
        "fast",
        "access",
        "small",
        "intra",
    ]
    assert [row[1] for row in rows if row[0] == "photos"] == ["original", "copy"]
    assert [row[4] for row in rows if row[0] == "clips"][1:] == ["8", "14", "14", "1"]
    sentences = [line for line in lines if line.startswith("`")]
    assert [line.split("`")[1] for line in sentences] == ["clips", "pieces", "photos", "folders"]


def test_advice_names_the_fastest_and_the_smallest_copy():
    rows = [
        {"as": name, "rate": rate, "bytes": size}
        for name, rate, size in (
            ("original", 10, 100),
            ("fast", 30, 50),
            ("small", 28, 30),
            ("intra", 31, 90),
        )
    ]
    assert (
        advice.advise_on("x", rows)
        == "`x`: `omnidali transcode --recipe small` would make it 2.8 times as fast for 0.30"
        " times the bytes."
    )
    assert (
        advice.advise_on("x", [*rows[:3], {**rows[3], "rate": 40}])
        == "`x`: `omnidali transcode --recipe intra` would make it 4.0 times as fast for 0.90"
        " times the bytes, `--recipe small` 2.8 times as fast for 0.30 times the bytes."
    )
    assert (
        advice.advise_on("x", [rows[0], {**rows[1], "rate": 11}])
        == "`x`: no copy would help; the best is 1.10 times as fast."
    )
