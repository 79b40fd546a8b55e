"""Training switches: exact over a resume and on several ranks, and what changing them reports."""

import json

import pytest
import torch

from helpers.running import assert_same, options_of, run, weights
from omnidali.models.checkpoint_file import load_checkpoint

pytestmark = pytest.mark.usefixtures("small_network")

AUGMENT = [
    "train.augment.color_jitter={brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}",
    "train.augment.randaugment={count: 2, magnitude: 10, magnitude_std: 1.5}",
    "train.augment.erasing={probability: 0.5, boxes: 2}",
]
ADAMW = ["optimizer.name=adamw", "optimizer.lr=0.001", "optimizer.decay_norms=false"]
PARTS = ["optimizer.lr_factors={backbone: 0.5, head: 2}", "optimizer.layer_decay=0.7"]
SWITCHES = {
    "optimizer": [*ADAMW, *PARTS, "train.label_smoothing=0.1"],
    "frozen": ["optimizer.frozen_stages=1", "train.ema=0.9"],
    "pixels": ["train.mixup=cross", "train.batch=8", "train.label_smoothing=0.1", *AUGMENT],
}
LONG = ["train.steps=6"]
HALF = ["train.steps=4"]


def optimizer_rows(folder):
    state = load_checkpoint(folder / "checkpoints" / "last.pt")["optimizer"]["state"]
    return {f"{number} {key}": value for number, row in state.items() for key, value in row.items()}


@pytest.fixture(scope="module")
def plain():
    """The weights of runs without a switch, by their batch, once one has made them."""
    return {}


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_is_exact_over_a_resume_and_does_something(options, tmp_path, plain, name):
    switch = SWITCHES[name]
    assert run(*options, f"run_dir={tmp_path}/whole", *switch, *LONG)[0] == 0
    for steps in (HALF, LONG):
        code, _, err = run(*options, *switch, *steps, "auto")
        assert code == 0, err
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert_same(optimizer_rows(tmp_path / "whole"), optimizer_rows(tmp_path / "run"))

    batch = tuple(word for word in switch if word.startswith("train.batch"))
    if batch not in plain:
        assert run(*options, f"run_dir={tmp_path}/plain", *batch, *LONG)[0] == 0
        plain[batch] = weights(tmp_path / "plain")
    last = "cls_head.fc_cls.weight"
    assert not torch.equal(weights(tmp_path / "whole")[last], plain[batch][last])


def test_frozen_stages_of_a_run_stay_as_they_began(options, tmp_path):
    """In the network and in its average, whose statistics follow it."""
    assert run(*options, "optimizer.frozen_stages=1", "train.ema=0.5", *HALF)[0] == 0
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    for part in (state["state_dict"], state["ema"]):
        assert (part["backbone.conv1.bn.running_mean"] == 0).all()
        assert (part["backbone.layer1.0.conv1.bn.running_mean"] != 0).any()
    assert torch.equal(
        state["ema"]["backbone.conv1.conv.weight"],
        state["state_dict"]["backbone.conv1.conv.weight"],
    )


def test_switches_are_exact_on_two_ranks(warm, media_root, tmp_path):
    """All at once: the second half on two ranks ends with the bits of a whole run on two."""
    switches = [*ADAMW, *PARTS, *AUGMENT, "optimizer.frozen_stages=1", "train.label_smoothing=0.1"]
    for folder, lives in (("whole", [LONG]), ("resumed", [HALF, LONG])):
        (tmp_path / folder).mkdir()
        for number, steps in enumerate(lives):
            ranks = warm.start_ranks(
                tmp_path / folder / str(number),
                "train",
                *options_of(media_root, tmp_path / folder),
                *(*switches, *steps),
                *("--resume", "auto"),
                world=2,
            )
            for process in ranks:
                assert process.wait() == 0, process.output
    assert_same(weights(tmp_path / "whole/run"), weights(tmp_path / "resumed/run"))


def test_pictures_show_augmented_clips(options, tmp_path):
    erased = "train.augment.erasing={probability: 1, area: [0.5, 0.6], mode: const}"
    assert run(*options, f"run_dir={tmp_path}/plain", *HALF)[0] == 0
    assert run(*options, erased, *HALF)[0] == 0
    name = "pictures/step0-clips.png"
    assert (tmp_path / "plain" / name).read_bytes() != (tmp_path / "run" / name).read_bytes()


CHANGES = {
    "optimizer.name=adamw": "optimizer.name: sgd became adamw",
    "optimizer.lr_factors={head: 2}": "optimizer.lr_factors: {} became {'head': 2.0}",
    "optimizer.frozen_stages=1": "optimizer.frozen_stages: 0 became 1",
    "optimizer.layer_decay=0.5": "optimizer.layer_decay: 1.0 became 0.5",
    "train.label_smoothing=0.1": "train.label_smoothing: 0.0 became 0.1",
    "train.augment.randaugment.count=1": "train.augment.randaugment.count: 0 became 1",
    "train.max_hours=100": "train.max_hours: none became 100.0",
    "logger=csv": "logger: [] became ['csv']",
}


def test_resume_names_each_changed_switch(options, tmp_path):
    assert run(*options, *HALF)[0] == 0
    code, out, err = run(*options, *CHANGES, "train.steps=6", "auto")
    assert code == 0, err
    for line in CHANGES.values():
        assert line in out
    assert "the averages of adamw begin anew" in out

    # and back: a factor that is gone is named, and weights that were frozen begin without averages
    code, out, err = run(*options, "optimizer.name=adamw", "train.steps=8", "auto")
    assert code == 0, err
    assert "optimizer.lr_factors: {'head': 2.0} became {}" in out
    assert "begin anew" not in out
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 8


def test_wrong_stage_is_refused_before_the_data_are_read(options, tmp_path):
    code, _, err = run(*options, "optimizer.lr_factors.layer9=0.1", *HALF)
    assert code == 2 and "Did you mean layer1?" in err
    assert not (tmp_path / "run/catalog.sqlite").exists()
