"""Class names of other projects' checkpoints, compared with those of the data of an evaluation."""

import pytest
import torch

from helpers.recorder import small_model
from omnidali.config.load import load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.evaluate import evaluate
from omnidali.testing.numbered_media import write_image

CONFIG = """
data_root: .
sources: {pics: {kind: image, root: pics}}
evaluation:
  source: {kind: image, root: pics}
  test: {num_clips: 1, crops: center, size: 32, short_side: 40}
model: {name: tsn, depth: 18}
clip: {size: 32}
loader: {threads: 1}
device: cpu
train: {steps: 1}
"""


@pytest.fixture
def evaluated(tmp_path, monkeypatch, small_network):
    """Evaluate a network of three classes on two class folders, or on a list of numbers."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("long_jump", "swim")):
        write_image(tmp_path / f"pics/{name}/{number}.jpg", number, 64, 48)
    (tmp_path / "list.txt").write_text("long_jump/0.jpg 0\nswim/1.jpg 2\n")
    (tmp_path / "c.yaml").write_text(CONFIG)

    def work(entries, *settings):
        options = [f"run_dir={tmp_path / 'run'}", *settings]
        config = load_config(str(tmp_path / "c.yaml"), options)
        model = small_model(config.model, 3, 1)
        with torch.no_grad():
            model.cls_head.fc_cls.bias[:] = torch.tensor([9.0, 0.0, 0.0])  # the first class wins
        torch.save({"state_dict": model.state_dict(), **entries}, tmp_path / "a.pth")
        return evaluate(config, Ranks(), str(tmp_path / "a.pth"))

    return work


def test_names_of_a_checkpoint_label_class_folders(evaluated):
    """The folders alone would give ``swim`` the second label, and be two classes."""
    result = evaluated({"meta": {"CLASSES": ["swim", "run", "long jump"]}})
    assert result["top1"] == 50  # the swimming
    with pytest.raises(UserError, match="swim"):
        evaluated({"meta": {"dataset_meta": {"classes": ["dive", "run", "long jump"]}}})


def test_names_of_a_checkpoint_are_compared_with_a_file_of_names(evaluated, tmp_path):
    settings = ("evaluation.source.list=list.txt", "classes=names.txt")
    (tmp_path / "names.txt").write_text("long_jump\nrun\nswim\n")
    assert evaluated({"meta": {"CLASSES": ["long jump", "run", "swim"]}}, *settings)["items"] == 2
    with pytest.raises(UserError, match=r"the checkpoint's classes \(run, long jump, swim"):
        evaluated({"meta": {"CLASSES": ["run", "long jump", "swim"]}}, *settings)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["of another data set"], ["0", "1", "2"]])
def test_numbers_of_lists_need_no_names(evaluated, names):
    entries = {"meta": {"CLASSES": names}}
    settings = ("evaluation.source.list=list.txt", "sources.pics.list=list.txt")
    assert evaluated(entries, *settings)["top1"] == 50
