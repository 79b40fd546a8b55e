"""A refused start changes nothing: neither earlier results, nor the run folder, nor the media."""

import shutil

import pytest

from helpers.command_world import make_world, write_network
from omnidali.cli import main as cli
from omnidali.experiments import curate


@pytest.fixture(scope="module")
def world(media_root, tmp_path_factory):
    """Media, a config, a teacher, and one of other classes."""
    root = tmp_path_factory.mktemp("refusals")
    make_world(root, media_root)
    write_network(root, "other.pt", 2)
    (root / "earlier").mkdir()
    (root / "earlier/thesis.txt").write_text("a year's work")
    return root


def tree(root):
    """Every path below with the bytes of files, without catalogs and their folders."""
    paths = [
        path
        for path in root.rglob("*")
        if "catalog.sqlite" not in path.name and path not in (root / "run", root / "out")
    ]
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in paths
    }


COMMANDS = {
    "lint": [],
    "preview": [],
    "filter": ["--checkpoint", "{root}/teacher.pt"],
    "dedup": [],
    "transcode": [],
    "motion estimate": [],
    "curate": [],
    "ablate": [],
}
REFUSALS = [
    *(
        (name, more)
        for name in COMMANDS
        for more in (
            ["seed=-1"],
            ["sources.clips.list=no.txt"],
            ["sources.clips.root=nowhere"],
            ["--out", "{root}/earlier"],
            ["--out", "{root}/media"],
            ["--out", "{root}/media/photos/new"],
        )
        # lint reports such mistakes instead
        if not (name == "lint" and "sources.clips" in str(more))
        # the output is a file here, which no list names
        and not (name == "motion estimate" and more[-1].endswith("new"))
    ),
    *(
        (name, ["--sources", "nobody"])
        for name in ("lint", "preview", "filter", "dedup", "transcode")
    ),
    ("lint", ["--sample", "0"]),
    ("preview", ["--step", "4"]),
    ("preview", ["--samples", "0"]),
    ("filter", ["--checkpoint", "{root}/no.pt"]),
    ("filter", ["--checkpoint", "{root}/c.yaml"]),
    ("filter", ["--checkpoint", "{root}/other.pt"]),
    ("filter", ["--top", "2"]),
    ("filter", ["--window", "2"]),
    ("filter", ["--rule", "best"]),
    ("dedup", ["--checkpoint", "{root}/no.pt"]),
    ("dedup", ["--threshold", "0.9"]),
    ("dedup", ["--window", "2"]),
    ("dedup", ["evaluation.source=null"]),
    ("transcode", ["--short-side", "2"]),
    ("transcode", ["sources.photos.inflate=warp", "sources.photos.motion=no.json"]),
    ("motion estimate", ["--interval", "0"]),
    ("motion estimate", ["--source", "photos"]),
    ("motion estimate", ["--videos", "0"]),
    ("motion estimate", ["--out", "{root}/media/clips.txt"]),
    ("motion estimate", ["--out", "{root}/c.yaml"]),
    ("curate", ["--filter", "--keep 0.2"]),
    ("curate", ["--dedup", "--out else"]),
    ("curate", ["--ranks", "0"]),
    ("ablate", ["--seeds", "0", "0"]),
    ("ablate", ["--fractions", "2"]),
]


@pytest.mark.parametrize(
    "name, more", REFUSALS, ids=[f"{name} {' '.join(more)}" for name, more in REFUSALS]
)
def test_refused_start_changes_nothing(world, capsys, monkeypatch, name, more):
    monkeypatch.setattr(
        curate, "run_program", lambda *_, **__: pytest.fail("a program was started")
    )
    words = [
        *name.split(),
        "--config",
        f"{world}/c.yaml",
        "--out",
        f"{world}/out",
        *COMMANDS[name],
        *more,
    ]
    before = tree(world)
    code = cli.main([word.replace("{root}", str(world)) for word in words])
    assert code == 2, capsys.readouterr()
    assert tree(world) == before


EXPORTS = {"unknown ending": "weights.bin", "folder": "run", "its own": "run/checkpoints/last.pt"}


@pytest.mark.parametrize("case", EXPORTS)
def test_refused_export_changes_nothing(world, tmp_path, case):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(world / "teacher.pt", tmp_path / "run/checkpoints/last.pt")
    before = tree(tmp_path)
    for checkpoint in ("run", "run/checkpoints/last.pt", "none.pt"):
        if case == "its own" and checkpoint == "none.pt":
            continue
        assert (
            cli.main(
                [
                    "export",
                    "--checkpoint",
                    str(tmp_path / checkpoint),
                    "--out",
                    str(tmp_path / EXPORTS[case]),
                ]
            )
            == 2
        )
        assert tree(tmp_path) == before
    assert (
        cli.main(
            [
                "export",
                "--checkpoint",
                str(tmp_path / "none.pt"),
                "--out",
                str(tmp_path / "new/w.pth"),
            ]
        )
        == 2
    )
    assert tree(tmp_path) == before


def test_filter_that_keeps_nothing_leaves_earlier_lists(world, tmp_path, capsys):
    command = [
        "filter",
        "--config",
        f"{world}/c.yaml",
        "--checkpoint",
        f"{world}/teacher.pt",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*command, "--threshold", "0.000001"]) == 0
    before = tree(tmp_path)
    assert cli.main([*command, "--threshold", "1"]) == 2
    assert "expected items that pass the rule" in capsys.readouterr().err
    assert tree(tmp_path) == before
