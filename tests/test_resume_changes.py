"""Resumes of a run whose files or settings have changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.program_runs import CONFIG, run
from helpers.recorder import consumed, small_model
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.testing.numbered_media import write_image
from omnidali.training import model_setup, train
from omnidali.training.hooks import Hooks


@pytest.mark.parametrize("photos", ["sources.photos.list=photos.txt", "sources.photos.list=null"])
def test_files_that_break_between_two_lives_are_substituted(
    media_root, tmp_path, monkeypatch, photos
):
    """A resumed run keeps the plan, and substitutes what is gone, changed or broken."""
    monkeypatch.setattr(model_setup, "build_model", small_model)
    root = tmp_path / "media"
    folders = photos.endswith("null")
    bad = {"3.jpg", "5.jpg", "6.jpg", "video 2.mp4"}
    shutil.copytree(media_root, root)
    # class folders, whose times change with their files
    for path in list((root / "photos").iterdir()) if folders else ():
        folder = root / "photos" / f"class {int(path.stem) % 4}"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(4)))

    def live(name, *options):
        config = load_config(
            str(tmp_path / "c.yaml"),
            [
                f"data_root={root}",
                f"run_dir={tmp_path / name}",
                f"classes={tmp_path / 'classes.txt'}",
                photos,
                "train.batch=8",
                "loader.threads=1",
                "evaluation.every_epochs=100",
                *options,
            ],
        )
        seen = {}  # samples by slot

        def remember(loader):
            for batch in loader:
                seen.update(consumed(batch.samples, loader.plan.tables))
                yield batch

        train.train(config, Ranks(), "auto", hooks=Hooks(wrap_loader=remember))
        return seen

    whole = live("whole", "train.steps=12")
    before = live("killed", "train.steps=4")
    found = {path.name: path for path in root.rglob("*") if path.name in bad}
    found["3.jpg"].unlink()
    found["5.jpg"].write_text("<html>not found</html>")
    write_image(found["6.jpg"], 106, 64, 48)
    found["video 2.mp4"].write_bytes(found["video 2.mp4"].read_bytes()[:100])
    write_image(found["5.jpg"].with_name("new.jpg"), 1, 110, 90)  # a crawler that goes on
    if folders:
        (root / "photos" / "class 2").rename(root / "class 2")
        bad |= {"2.jpg", "6.jpg", "10.jpg"}
    after = live("killed", "train.steps=12")
    assert before.items() <= whole.items() and before.keys() | after.keys() == whole.keys()
    substituted = {slot for slot, row in after.items() if row[6]}
    others = {slot: row for slot, row in after.items() if slot not in substituted}
    assert others.items() <= whole.items()
    replaced = {path for slot in substituted for path in whole[slot][2]}
    assert replaced == bad, "too few steps for all of them"
    assert not any(set(row[2]) & bad for row in after.values())
    rows = [
        json.loads(line)
        for line in (tmp_path / "killed" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert sorted(
        Path(row["path"]).name for row in rows if row["source"] != "evaluation"
    ) == sorted(bad)


def test_resume_takes_optimizer_settings_from_config(media_root, tmp_path, monkeypatch):
    """Momentum and weight decay do not change the order, so a resume may change them."""
    monkeypatch.setattr(model_setup, "build_model", small_model)
    (tmp_path / "c.yaml").write_text(CONFIG)
    options = [
        "--config",
        tmp_path / "c.yaml",
        f"data_root={media_root}",
        f"run_dir={tmp_path / 'run'}",
    ]
    run("train", *options, "train.steps=2")
    run(
        "train",
        *options,
        "--resume",
        "auto",
        "train.steps=4",
        "optimizer.weight_decay=0.25",
        "optimizer.momentum=0.5",
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["optimizer"]
    (group,) = state["param_groups"]
    assert group["weight_decay"] == 0.25 and group["momentum"] == 0.5
    assert all("momentum_buffer" in row for row in state["state"].values())
