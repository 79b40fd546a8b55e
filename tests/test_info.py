"""omnidali info: a catalog is shown and left alone."""

import json
import shutil
import sqlite3

import pytest

from helpers.lint_world import CLEAN, lint_lists, make_lint_world
from omnidali.cli import main as cli


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_lint_world(tmp_path_factory.mktemp("world"))


def test_info_shows_a_catalog_and_leaves_it_unchanged(world, tmp_path, capsys):
    lint_lists(world, tmp_path / "run", images=CLEAN["images"] + "page.jpg 1\ngone.jpg 0\n")
    capsys.readouterr()
    catalog = tmp_path / "run/catalog.sqlite"
    fault = {"source": "images", "path": "1.jpg", "state": "failed", "reason": "cut off"}
    (tmp_path / "run/quarantine.jsonl").write_text(json.dumps(fault | {"step": 3}) + "\n{cut of")
    before = catalog.read_bytes()
    assert cli.main(["info", "--catalog", str(catalog), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    images = found["sources"][1]
    assert [source["name"] for source in found["sources"]] == ["videos", "images", "evaluation"]
    assert (images["kind"], images["samples"], images["files"], images["codecs"]) == (
        "image",
        2,
        2,
        {"jpeg": 2},
    )
    assert images["refused"] == {"missing file": 1, "not a photo: a web page": 1}
    assert found["scores"] is None and found["quarantine"] == [fault | {"trouble": "file"}]
    assert cli.main(["info", "--catalog", str(catalog)]) == 0
    shown = capsys.readouterr().out
    assert "images: 2 samples of kind image" in shown and images["fingerprint"] in shown
    assert "quarantine: 1 lines\n  images: 1.jpg: failed: file: cut off\n" in shown
    assert catalog.read_bytes() == before
    with sqlite3.connect(catalog) as db:
        db.execute("CREATE TABLE scores (media INTEGER, score REAL)")
        db.executemany("INSERT INTO scores VALUES (?, ?)", [(1, 0.5), (2, 0.25)])
    cli.main(["info", "--catalog", str(catalog), "--json"])
    assert json.loads(capsys.readouterr().out)["scores"] == 2


def test_info_names_sources_that_the_catalog_lacks(world, tmp_path, capsys):
    shutil.copytree(
        world, tmp_path / "run", ignore=lambda *_: ["train", "val", "images", "train.txt"]
    )
    options = [
        "info",
        "--config",
        str(world / "c.yaml"),
        "sources.web={kind: image}",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert cli.main(options) == 0
    assert (
        "\nweb: not in the catalog yet\nteacher scores: none\nquarantine: nothing\n"
        in capsys.readouterr().out
    )
    faults = [
        {"source": "images", "path": f"{n}.jpg", "state": "failed", "reason": "cut off"}
        for n in range(2)
    ]
    (tmp_path / "other").mkdir()
    # one beside the catalog, as commands leave it, and one in the run folder
    for folder, fault in zip(("run", "other"), faults, strict=True):
        (tmp_path / folder / "quarantine.jsonl").write_text(json.dumps(fault) + "\n")
    elsewhere = [*options[:-1], f"run_dir={tmp_path / 'other'}"]
    assert cli.main([*elsewhere, f"catalog={tmp_path / 'run/catalog.sqlite'}"]) == 0
    assert (
        "quarantine: 2 lines\n  images: 1.jpg: failed: file: cut off\n  images: 0.jpg: "
        in capsys.readouterr().out
    )
    (tmp_path / "other/quarantine.jsonl").unlink()
    (tmp_path / "other").rmdir()
    assert cli.main(elsewhere) == 2
    assert (
        "expected a catalog, got no file" in capsys.readouterr().err
        and not (tmp_path / "other").exists()
    )
    (tmp_path / "text.sqlite").write_bytes(b"SQLite format 3\0" + bytes(200))
    assert cli.main(["info", "--catalog", str(tmp_path / "text.sqlite")]) == 2
