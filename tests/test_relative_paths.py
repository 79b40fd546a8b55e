"""A message about a relative path names the folder that it starts from."""

import pytest

from helpers.command_world import make_world
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.errors import UserError, start_of


@pytest.fixture(scope="module")
def world(media_root, tmp_path_factory):
    """A current folder with media, a config with relative paths, a teacher and other files."""
    root = tmp_path_factory.mktemp("relative")
    make_world(root, media_root, start="")
    (root / "below").mkdir()
    (root / "below/on_top.yaml").write_text("base: none.yaml\n")
    (root / "file").write_text("a file\n")
    (root / "full").mkdir()
    (root / "full/thesis.txt").write_text("a year's work\n")
    return root


HERE, DATA = "the current folder {world}", "data_root {world}/media"
WARP = "sources.photos.inflate=warp"
# command line, the value as it was given, and what it is relative to
CASES = {
    "config": ("lint --config none.yaml", "none.yaml", HERE),
    "base": (
        "lint --config below/on_top.yaml",
        "none.yaml",
        "the folder of the config {world}/below",
    ),
    "checkpoint of evaluate": ("evaluate --checkpoint none.pt", "none.pt", HERE),
    "run folder without checkpoint": ("evaluate --checkpoint full", "full", HERE),
    "run folder of the config": ("evaluate", "run", HERE),
    "checkpoint of filter": ("filter --checkpoint none.pt --out out", "none.pt", HERE),
    "checkpoint of dedup": ("dedup --checkpoint none.pt --out out", "none.pt", HERE),
    "checkpoint of export": ("export --checkpoint none.pt --out w.pth", "none.pt", HERE),
    "pretrained weights": ("train --dry-run 1 model.pretrained=none.pt", "none.pt", HERE),
    "resume": ("train --resume none.pt", "none.pt", HERE),
    "run_dir": ("train run_dir=file/run", "file/run", HERE),
    "catalog": ("info --catalog none.sqlite", "none.sqlite", HERE),
    "catalog of the config": ("info catalog=none.sqlite", "none.sqlite", HERE),
    "out below a file": ("preview --out file/out", "file/out", HERE),
    "out of another command": ("preview --out full", "full", HERE),
    "out of an export": ("export --checkpoint teacher.pt --out file/w.pth", "file/w.pth", HERE),
    "out of the motion": ("motion estimate --out file", "file", HERE),
    "out of the motion below a file": ("motion estimate --out file/m.json", "file/m.json", HERE),
    "out of the demo": ("demo --only-data full", "full", HERE),
    "root": ("preview sources.clips.root=none", "none", DATA),
    "root that is a file": ("preview sources.clips.root=clips.txt", "clips.txt", DATA),
    "list": ("preview sources.photos.list=none.txt", "none.txt", DATA),
    "list of the target": ("preview sources.clips.list=none.txt", "none.txt", DATA),
    "list of the evaluation": ("preview evaluation.source.list=none.txt", "none.txt", DATA),
    "labels": ("preview sources.photos.labels=none.txt", "none.txt", DATA),
    "classes": ("preview classes=none.txt", "none.txt", DATA),
    "motion": (f"preview {WARP} sources.photos.motion=none.json", "none.json", DATA),
    "list of lint": ("lint sources.photos.list=none.txt", "none.txt", DATA),
    "labels of lint": ("lint sources.photos.labels=none.txt", "none.txt", DATA),
    "list of a window": (
        "dedup --out out --window 2 sources.photos.kind=untrimmed sources.photos.list=none.txt",
        "none.txt",
        "the current folder {world}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_relative_path_is_shown_with_its_folder(world, monkeypatch, capsys, case):
    line, value, folder = CASES[case]
    words = line.split()
    if not {"--config", "--catalog", "export", "demo"} & set(words):
        words += ["--config", "c.yaml"]
    monkeypatch.chdir(world)
    code = cli.main(words)
    said = capsys.readouterr()
    text = "".join(said) if words[0] == "lint" else said.err
    assert code == (1 if "of lint" in case else 2)
    shown = [row for row in text.splitlines() if value in row]
    assert any(f"(relative to {folder.format(world=world)})" in row for row in shown), text


def test_tars_are_shown_with_their_folder(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    words = ["preview", "--config", "c.yaml", "sources.photos.list=null"]
    assert cli.main([*words, "sources.photos.tars=none.tar"]) == 2
    assert f"got no none.tar in {world}/media/photos." in capsys.readouterr().err


def test_absolute_path_needs_no_folder(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    assert cli.main(["evaluate", "--config", "c.yaml", "--checkpoint", f"{world}/none.pt"]) == 2
    assert "(relative to" not in capsys.readouterr().err
    assert start_of("/data/list.txt", "/data") == ""


def test_deleted_current_folder_is_no_other_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match=r"got no such file \(relative to the current folder\)"):
        load_config("c.yaml")
