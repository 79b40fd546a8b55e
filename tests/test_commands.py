"""The command line, the numbers in generated media, and the examples of the README."""

import itertools
import re
from pathlib import Path

import pytest
import torch
import yaml

import omnidali
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.testing.numbered_media import BITS, numbered_image, read_numbers, write_video

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "file, frame, size", [(0, 0, (340, 256)), (1234, 299, (96, 64)), (2**BITS - 1, 1365, (64, 96))]
)
def test_painted_numbers_are_read_back(file, frame, size):
    image = numbered_image(file, frame, *size)
    width, height = size
    short = min(size)
    top = (height - short) // 2
    left = (width - short) // 2
    assert read_numbers(image[top : top + short, left : left + short]) == (file, frame)


def test_demo_refuses_foreign_folders(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["demo", "--only-data", str(tmp_path)]) == 2
    assert "expected an empty folder or a demo world" in capsys.readouterr().err


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def program_with(text):
    """The only program in Python that holds a text."""
    (code,) = [code for code in blocks("python") if text in code]
    return code


class EnoughError(Exception):
    pass


def test_readme_loop_runs(monkeypatch, media_root, tmp_path):
    code = program_with("import load_config, open_data, open_loader")
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    (tmp_path / "c.yaml").write_text(
        "sources:\n  clips: {kind: video, root: clips, list: clips.txt}\n"
        "  photos: {kind: image, root: photos, list: photos.txt}\n"
        "clip: {num_clips: 2, size: 32}\ntrain: {batch: 4, steps: 3}\n"
    )
    config = load_config(tmp_path / "c.yaml", [f"data_root={media_root}", f"run_dir={tmp_path}"])
    monkeypatch.setattr(omnidali, "load_config", lambda path: config, raising=False)
    network, calls = omnidali.build_model(config.model, 4, 1), []

    def model(clips):
        calls.append(clips)
        if len(calls) == 3:
            raise EnoughError
        return network(clips)

    with pytest.raises(EnoughError):
        exec(code, {"torch": torch, "model": model})
    assert network.cls_head.fc_cls.weight.grad.abs().sum() > 0


def test_readme_hook_sees_every_batch(monkeypatch, media_root, tmp_path, capsys):
    code = program_with("import Hooks")
    (tmp_path / "c.yaml").write_text(
        "sources:\n  clips: {kind: video, root: clips, list: clips.txt}\n"
        "clip: {num_clips: 2, size: 32}\nmodel: {depth: 18}\ntrain: {batch: 4, steps: 9}\n"
    )
    monkeypatch.chdir(tmp_path)
    given = []

    def load(name, settings):
        given.append(name)
        return load_config(tmp_path / "c.yaml", [*settings, f"data_root={media_root}"])

    monkeypatch.setattr(omnidali, "load_config", load, raising=False)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert given == ["demo"]
    shown = [line for line in lines if line.endswith("[(4, 3, 2, 32, 32)]")]
    assert [line.split()[0] for line in shown] == ["0", "1"]


def test_readme_reads_frames(tmp_path, monkeypatch):
    code = program_with("read_frames")
    write_video(
        tmp_path / "video.avi", 7, frames=12, width=112, height=80, codec="mpeg4", b_frames=2
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["frames"].shape == (2, 80, 112, 3)
    assert [read_numbers(frame[:, 16:96]) for frame in names["frames"]] == [(7, 0), (7, 11)]


def test_readme_configs_are_valid(tmp_path):
    data, joint = (text for text in blocks("yaml") if "sources:" in text and "train:" in text)
    for text, names in (
        (data, ["target", "photos", "shards", "folders", "long"]),
        (joint, ["target", "web"]),
    ):
        (tmp_path / "c.yaml").write_text(text)
        assert list(load_config(tmp_path / "c.yaml").sources) == names
    assert yaml.safe_load(data)["classes"] == "classes.txt"


def test_readme_names_every_recipe():
    rows = re.search(r"### Recipes\n(.*?)\n\n\w", README, re.S).group(1)
    named = set()
    for pattern in re.findall(r"`([\w/{},.]+\.yaml)`", rows):
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        named |= {"".join(choice) for choice in itertools.product(*parts)}
    shipped = {
        str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert named == {path for path in shipped if not path.startswith(("parts", "demo", "small"))}


def test_readme_names_every_list_format():
    assert all(f"`{name}`" in README for name in FORMATS)


def test_readme_commands_name_things_that_exist():
    programs = [(ROOT / name).read_text() for name in ("train.py", "evaluate.py")]
    text = "\n".join([*blocks("bash"), *programs])
    for path in re.findall(r"[\w/]+\.(?:py|yaml)", text):
        assert (ROOT / path).exists(), path
    for line in re.findall(r"train\.py (.*)", text):
        assert cli.main(["train", *line.split(), "--print-config"]) == 0
    for setting in re.findall(r"evaluate\.py .*", text):
        overrides = re.findall(r"\S+=\S+", setting)
        load_config(ROOT / re.search(r"configs/\S+", setting).group(), overrides)


def test_public_names_exist():
    for name in omnidali.__all__:
        assert getattr(omnidali, name).__doc__


def test_docstring_examples():
    import doctest
    import importlib
    import pkgutil

    tried = 0
    for package in ("omnidali", "pipelines"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            result = doctest.testmod(importlib.import_module(module.name))
            assert result.failed == 0, module.name
            tried += result.attempted
    assert tried >= 8
