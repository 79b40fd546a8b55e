"""A file that is missing is reported at once, before any file is probed, which may take hours."""

import pytest

from helpers.command_world import make_world
from omnidali.catalog import build
from omnidali.cli import main as cli


@pytest.fixture(scope="module")
def world(media_root, tmp_path_factory):
    """Media, a config and a teacher."""
    root = tmp_path_factory.mktemp("missing")
    make_world(root, media_root)
    return root


@pytest.fixture(autouse=True)
def probing_fails(monkeypatch):
    """Let no file be probed."""
    monkeypatch.setattr(build, "probe_new", lambda *_, **__: pytest.fail("a file was probed"))


COMMANDS = {
    "train": [],
    "evaluate": ["--checkpoint", "{root}/teacher.pt"],
    "lint": [],
    "preview": [],
    "filter": ["--out", "{root}/out", "--checkpoint", "{root}/teacher.pt"],
    "dedup": ["--out", "{root}/out"],
    "curate": ["--out", "{root}/out"],
    "ablate": ["--out", "{root}/out"],
    "transcode": ["--out", "{root}/out"],
    "advise": [],
    "motion estimate": ["--out", "{root}/motion.json"],
}
TRAINING = ("train", "curate", "ablate")
# what is missing, the commands that need it, and how they are told of it
MISSING = {
    "pretrained": (TRAINING, ["model.pretrained=no.pt"], "no.pt"),
    "motion file": (
        (*TRAINING, "preview", "transcode"),
        ["sources.photos.inflate=warp", "sources.photos.motion=no.json"],
        "no.json",
    ),
    # the first source would be probed before the second is listed
    "second list": (
        [name for name in COMMANDS if name not in ("evaluate", "lint")],
        ["sources.photos.list=no.txt"],
        "no.txt",
    ),
    "list of the evaluation": (
        [name for name in COMMANDS if name not in ("filter", "lint")],
        ["evaluation.source.list=no.txt"],
        "no.txt",
    ),
    "label map": (
        [name for name in COMMANDS if name not in ("evaluate", "lint")],
        ["sources.photos.labels=no.csv"],
        "no.csv",
    ),
    "class names": (
        [name for name in COMMANDS if name not in ("lint", "evaluate")],
        ["classes=no.names"],
        "no.names",
    ),
    "resumed run": (["train"], ["--resume", "no.pt"], "no.pt"),
    "checkpoint": (["evaluate", "filter", "dedup"], ["--checkpoint", "no.pt"], "no.pt"),
    "one of two teachers": (["filter"], ["--checkpoint", "{root}/teacher.pt", "no.pt"], "no.pt"),
    "network of dedup": (["curate"], ["--dedup", "--checkpoint no.pt"], "no.pt"),
}
CASES = [(what, name) for what, (names, _, _) in MISSING.items() for name in names]


def run(world, name, options):
    words = [*name.split(), "--config", f"{world}/c.yaml", *COMMANDS[name], *options]
    return cli.main([word.replace("{root}", str(world)) for word in words])


@pytest.mark.parametrize("what, name", CASES, ids=[f"{name}: {what}" for what, name in CASES])
def test_missing_file_is_reported_before_any_probe(world, capsys, what, name):
    _, options, file = MISSING[what]
    assert run(world, name, options) == 2
    error = capsys.readouterr().err
    assert file in error and "expected" in error, error


def test_missing_file_is_reported_before_the_demo_makes_its_world(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "model.pretrained=no.pt"]) == 2
    assert "no.pt: expected a checkpoint, got no such file" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_mistake_files_are_probed(world, name):
    """The control: every command gets to its probe."""
    with pytest.raises(pytest.fail.Exception, match="a file was probed"):
        run(world, name, [])
