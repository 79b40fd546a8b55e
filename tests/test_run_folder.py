"""Starts and resumes: what they print and write, and what a refused one leaves alone."""

import json
import os
import shutil
import time

import pytest

from helpers.crashing import calling
from helpers.recorder import small_model
from helpers.running import (
    HELD_OUT,
    run,
    step_of,
)
from omnidali.catalog import changes
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation import evaluate
from omnidali.models.build import build_model
from omnidali.models.checkpoint_file import (
    load_checkpoint,
    save_checkpoint,
)
from omnidali.training import model_setup, run_folder
from omnidali.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_network")


def test_resume_prints_what_it_found(options, tmp_path):
    code, out, _ = run(*options, "train.steps=4", "auto")
    assert code == 0 and f"no checkpoint in {tmp_path / 'run'}: training begins at step 0\n" in out
    code, out, _ = run(*options, "train.steps=6", "auto")
    last = tmp_path / "run/checkpoints/last.pt"
    assert f"resumed from {last}, saved after step 4 ({time.strftime('%Y-')}" in out
    assert "s ago)\n" in out
    code, out, _ = run(*options, "train.steps=6", "auto")
    assert code == 0 and f"resumed from {last}, saved after step 6 (" in out


def files_of(folder):
    """The contents of all files below a folder, by path."""
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def rewritten(media_root, folder):
    """Write a list with other contents; returns the setting that names it."""
    (folder / "clips.txt").write_text(
        "".join((media_root / "clips.txt").read_text().splitlines(True)[:-2])
    )
    return [f"sources.clips.list={folder / 'clips.txt'}"]


REFUSED = {
    "batch": lambda *_: ["train.batch=7"],
    "seed": lambda *_: ["seed=5"],
    "model": lambda *_: ["model.depth=34"],
    "clip": lambda *_: ["clip.size=48"],
    "sources": lambda *_: ["sources.photos.weight=3"],
    "list": rewritten,
    "root": lambda root, folder: [f"data_root={folder}"],
    "evaluation": lambda *_: ["evaluation={source: {kind: video, root: shorts, list: gone.txt}}"],
    "pretrained": lambda *_: ["model.pretrained=gone.pth"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_resume_changes_nothing(options, tmp_path, media_root, name, monkeypatch):
    if name == "model":

        def build(config, *given, **_):
            if config.depth == 18:
                return small_model(config, *given)
            return build_model(config, *given)

        monkeypatch.setattr(model_setup, "build_model", build)
    assert run(*options, "train.steps=4")[0] == 0
    before = files_of(tmp_path / "run")
    code, _, err = run(*options, "train.steps=6", *REFUSED[name](media_root, tmp_path), "auto")
    assert code == 2, err
    assert files_of(tmp_path / "run").keys() == before.keys()
    changed = [
        str(path) for path, data in files_of(tmp_path / "run").items() if data != before[path]
    ]
    assert not changed, err
    assert run(*options, "train.steps=6", "auto")[0] == 0 and step_of(tmp_path / "run") == 6


REFUSED_AT_ONCE = {
    "sync_norm": ["model.sync_norm=true"],
    "precision": ["train.precision=fp8"],
    "batch": ["train.batch=7", "train.mixup=intra"],
    "pretrained": ["model.pretrained=gone.pth"],
}


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_refused_first_start_leaves_no_folder(options, tmp_path, name):
    code, _, err = run(*options, *REFUSED_AT_ONCE[name])
    assert code == 2, err
    assert not (tmp_path / "run").exists()


def test_first_start_refused_by_its_data_leaves_only_the_catalog(options, tmp_path, media_root):
    """What was probed is worth keeping."""
    (tmp_path / "shorts.txt").write_text(
        (media_root / "shorts.txt").read_text().replace(" 3", " 9")
    )
    held_out = (
        f"evaluation={{source: {{kind: video, root: shorts, list: {tmp_path / 'shorts.txt'}}}}}"
    )
    code, _, err = run(*options, held_out)
    assert code == 2 and "evaluation.source: expected labels below 4" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "catalog.sqlite",
        "catalog.sqlite.lock",
    }


@pytest.mark.parametrize("how", ["gone", "touched"])
def test_refused_resume_over_changed_media_changes_nothing(options, tmp_path, media_root, how):
    """Nor does it lose what the catalog knows of a file that is gone."""
    shutil.copytree(media_root, tmp_path / "media")
    options = [*options, f"data_root={tmp_path / 'media'}"]
    assert run(*options, "train.steps=4")[0] == 0
    before = files_of(tmp_path / "run")
    clip = tmp_path / "media/clips/class 1/video 1.mp4"
    if how == "gone":
        clip.unlink()
    else:
        os.utime(clip)
    code, _, err = run(*options, "train.steps=6", "seed=5", "auto")
    assert code == 2 and "resume: expected the plan" in err
    assert files_of(tmp_path / "run") == before
    code, out, err = run(*options, "train.steps=6", "auto")
    assert code == 0, err
    assert ("1 gone, changed or broken since the run began" in out) == (how == "gone")


def test_resume_reads_time_of_each_file_once(options, monkeypatch):
    """A network disk takes a millisecond for each."""
    assert run(*options, "train.steps=4")[0] == 0
    real = changes.stamp_of
    asked = []

    def stamp_of(path):
        asked.append(path)
        return real(path)

    monkeypatch.setattr(changes, "stamp_of", stamp_of)
    assert run(*options, "train.steps=6", "auto")[0] == 0
    media = [path for path in asked if not path.endswith(".txt")]
    assert len(media) == 23 and len(set(media)) == 23  # 9 clips and 14 photos


def test_start_that_cannot_write_all_files_writes_none(options, tmp_path, monkeypatch):
    assert run(*options, "train.steps=4")[0] == 0
    before = files_of(tmp_path / "run")
    real = run_folder.write_whole

    def write(path, text):
        if path.name.startswith("environment"):
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(run_folder, "write_whole", write)
    code, _, err = run(*options, "train.steps=6", "auto")
    assert code == 2 and "a folder that can be written, got No space left on device" in err
    assert files_of(tmp_path / "run") == before


def test_run_that_ends_just_before_the_lock_is_not_overwritten(options, tmp_path, monkeypatch):
    real = run_folder.RunLock

    def late(folder):
        monkeypatch.setattr(run_folder, "RunLock", real)
        assert run(*options, "train.steps=4")[0] == 0
        return real(folder)

    monkeypatch.setattr(run_folder, "RunLock", late)
    code, _, err = run(*options, "train.steps=8", "seed=3")
    assert code == 2 and "a folder without checkpoints, got a run with last.pt" in err
    assert step_of(tmp_path / "run") == 4


def test_resume_accepts_same_list_under_another_name(options, tmp_path, media_root):
    assert run(*options, "train.steps=4")[0] == 0
    (tmp_path / "same.txt").write_text((media_root / "clips.txt").read_text())
    before = (tmp_path / "run/catalog.sqlite").read_bytes()
    code, _, err = run(
        *options, "train.steps=6", f"sources.clips.list={tmp_path / 'same.txt'}", "auto"
    )
    assert code == 0, err
    assert not list((tmp_path / "run").glob("*trial*"))
    assert (tmp_path / "run/catalog.sqlite").read_bytes() != before


def test_each_resume_writes_its_config_and_prints_changes(options, tmp_path):
    run(*options, "train.steps=4")
    first = (tmp_path / "run/config.yaml").read_text()
    changed = ["model.dropout=0.1", "train.ema=0.9", "sources.photos.loss_weight=0.5"]
    code, out, _ = run(*options, "train.steps=6", *changed, "auto")
    assert code == 0
    for line in (
        "model.dropout: 0.4 became 0.1",
        "train.ema: none became 0.9",
        "train.steps: 4 became 6",
        "sources.photos.loss_weight: 1.0 became 0.5",
    ):
        assert f"{line}\n" in out
    assert "optimizer.lr" not in out and "accumulate" not in out
    assert (tmp_path / "run/config.yaml").read_text() == first
    assert "dropout: 0.1" in (tmp_path / "run/config-4.yaml").read_text()
    assert json.loads((tmp_path / "run/environment-4.json").read_text())["versions"]["torch"]

    _, out, _ = run(*options, "train.steps=6", *changed, "auto")
    assert "became" not in out


def test_checkpoint_without_config_is_compared_with_config_files(options, tmp_path):
    """As those of version 0.1 are."""
    run(*options, "train.steps=4")
    path = tmp_path / "run/checkpoints/last.pt"
    state = load_checkpoint(path)
    del state["config"]
    del state["digest"]
    save_checkpoint(path, state)
    _, out, _ = run(*options, "train.steps=6", "model.dropout=0.1", "auto")
    assert "model.dropout: 0.4 became 0.1\n" in out


@pytest.mark.parametrize("name", ["last.pt", "previous.pt", "best.pt", "last.pt.part"])
def test_folder_in_place_of_checkpoint_is_refused_before_first_step(options, tmp_path, name):
    (tmp_path / "run/checkpoints" / name).mkdir(parents=True)
    code, _, err = run(*options, "auto")
    assert code == 2
    assert f"{name}: expected a file, or nothing yet, got a folder. Move it away." in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_run_holds_its_folder(options):
    refused, scored = [], []

    def before(step):
        if step == 3:
            refused.append(run(*options, "auto"))
            scored.append(
                evaluate.evaluate(load_config(options[1], [*options[2:], HELD_OUT]), Ranks())
            )

    code, _, err = run(
        *options, "train.steps=4", "train.checkpoint_every=2", wrap_loader=calling(before)
    )
    assert code == 0 and refused[0][0] == 2, err
    assert (
        f"a folder that no other run is writing to, got one of process {os.getpid()}"
        in refused[0][2]
    )
    assert scored[0]["items"] == 5  # reading beside a run is allowed
    assert run(*options, "train.steps=6", "auto")[0] == 0  # and lets it go


def test_run_in_current_folder_is_not_overwritten(options, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save_checkpoint(folder / "checkpoints" / "last.pt", {"state_dict": {}, "loader": {"step": 1}})
    names = [
        "mine.mp4.part",
        "config.yaml.part",
        "checkpoints/last.pt.part",
        "checkpoints/step-9.pt.part",
        "checkpoints/theirs.pt.part",
    ]
    for name in names:
        (folder / name).write_bytes(b"half")
    monkeypatch.chdir(folder)
    config = load_config(options[1], [*options[2:], "run_dir=."])
    with pytest.raises(
        UserError, match="expected a folder without checkpoints, got a run with last.pt"
    ):
        RunFolder(config, Ranks(), "none")
    assert all((folder / name).exists() for name in names)
    for resume in ("auto", "checkpoints/last.pt", ".", str(folder)):
        with RunFolder(config, Ranks(), resume) as run_folder:
            assert all((folder / name).exists() for name in names) or resume != "auto"
            run_folder.begin(config, {"loader": {"step": 1}})
    assert [name for name in names if (folder / name).exists()] == [
        "mine.mp4.part",
        "checkpoints/theirs.pt.part",
    ]
