"""``--config`` and ``base`` name a file, or a config that is shipped."""

import os
import subprocess
import sys

import pytest

from conftest import SMALL
from omnidali.cli import main as cli
from omnidali.config.files import find_config, shipped_names, shipped_path
from omnidali.config.load import config_files, load_config
from omnidali.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["tsn_omni", "tsn_omni.yaml", "k400/tsn_r50_3seg"])
def test_name_of_a_shipped_config_is_found(folder, name):
    config = load_config(name, ["train.steps=7", "train.epochs=null"])
    assert config.train.steps == 7
    assert find_config(name) == config_files(name)[0] == shipped_path(name.removesuffix(".yaml"))


def test_every_shipped_config_is_found():
    assert {"demo", "tsn_omni", "minikinetics/tsn_omnisource"} <= set(shipped_names())
    for name in shipped_names():
        load_config(name)


@pytest.mark.parametrize("name", ["tsn_omni", "tsn_omni.yaml"])
def test_a_file_wins_and_a_folder_does_not(folder, name):
    (folder / name).mkdir()
    assert load_config(name).sources.keys() != {"clips", "photos"}
    (folder / name).rmdir()
    (folder / name).write_text(SMALL + "train: {steps: 5}\n")
    assert load_config(name).sources.keys() == {"clips", "photos"}
    assert config_files(name)[0].samefile(folder / name)


def test_base_is_a_file_beside_the_config_or_a_shipped_config(folder):
    (folder / "below").mkdir()
    (folder / "below/mine.yaml").write_text("base: tsn_omni\nseed: 5\n")
    assert load_config("below/mine.yaml").sources.keys() == load_config("tsn_omni").sources.keys()
    (folder / "tsn_omni").write_text("seed: [")  # not beside the config
    assert load_config("below/mine.yaml").seed == 5
    (folder / "below/tsn_omni").write_text(SMALL + "train: {steps: 5}\n")
    assert load_config("below/mine.yaml").sources.keys() == {"clips", "photos"}


@pytest.mark.parametrize(
    "name, advice",
    [
        ("configs/tsn_omni.yaml", "Did you mean the shipped tsn_omni?"),
        ("./configs/k400/tsn_r50_3seg.yaml", "Did you mean the shipped k400/tsn_r50_3seg?"),
        ("tsn_r50_3seg", "Did you mean the shipped k400/tsn_r50_3seg?"),
        ("tsn_onmi", "Did you mean the shipped tsn_omni"),
        ("mine.yaml", "Check the path; `omnidali help configs` lists the shipped ones."),
        ("../configs/tsn_omni", "Did you mean the shipped tsn_omni?"),
    ],
)
def test_missing_config_names_folder_and_nearest(folder, capsys, name, advice):
    assert cli.main(["train", "--config", name, "--print-config"]) == 2
    error = capsys.readouterr().err
    assert (
        f"{name}: expected a config file, or the name of a shipped one, got no such file" in error
    )
    assert f"(relative to the current folder {folder}). {advice}" in error


def test_name_does_not_leave_the_shipped_configs(folder):
    with pytest.raises(UserError):
        load_config("../configs/tsn_omni")
    with pytest.raises(UserError):
        load_config(f"{shipped_path('tsn_omni')}".removesuffix(".yaml"))


def test_config_from_a_pipe_is_read(folder):
    """A shell's `<(...)` is no regular file."""
    (folder / "c.yaml").write_text(SMALL + "train: {steps: 5}\n")
    program = f"{sys.executable} -m omnidali"
    done = subprocess.run(
        ["bash", "-c", f"{program} train --config <(cat c.yaml) --print-config seed=4"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seed: 4" in done.stdout


def test_unreadable_config_is_refused(folder, capsys):
    (folder / "c.yaml").write_bytes(b"\xff")
    assert cli.main(["train", "--config", "c.yaml", "--print-config"]) == 2
    error = capsys.readouterr().err
    assert "c.yaml: expected a readable config file, got" in error
    assert f"(relative to the current folder {folder})" in error


def test_command_takes_its_folder_again_with_a_shipped_config(folder, capsys, media_root):
    """The mark in the folder names the config that is meant, from any current folder."""
    (folder / "elsewhere").mkdir()
    out = folder / "out"
    command = ["preview", "--config", "demo", "--out", str(out), f"data_root={media_root}"]
    sources = "{videos: {kind: video, root: clips, list: clips.txt}}"
    command += [
        "classes=null",
        "evaluation.source=null",
        f"run_dir={folder}/run",
        f"sources={sources}",
    ]
    command += ["train.steps=1", "train.epochs=null", "--samples", "1"]
    assert cli.main(command) == 0, capsys.readouterr().err
    os.chdir(folder / "elsewhere")
    assert cli.main(command) == 0, capsys.readouterr().err
