"""Sizes that follow the network, and the settings of external networks."""

import pytest

from helpers import tiny_networks  # noqa: F401  (functions of it are named below)
from omnidali.config.load import dump_config, load_config
from omnidali.distributed.ranks import Ranks
from omnidali.errors import ConfigError, UserError
from omnidali.models import build
from omnidali.models.build import check_network
from omnidali.training import forewarnings

BASE = """
sources: {photos: {kind: image}, clips: {kind: video}}
train: {steps: 3}
evaluation: {source: {kind: video}}
"""
VIT = "model={backbone: timm/vit_tiny_patch16_224}"
R3D = "model.name=torchvision/r3d_18"
TINY = "helpers.tiny_networks"


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    return lambda *overrides: load_config(path, overrides)


def sizes(config):
    views = [config.evaluation.validation, config.evaluation.test]
    return config.clip.size, *((one.size, one.short_side) for one in views)


@pytest.mark.parametrize(
    "overrides, wanted",
    [
        ((), (224, (256, 256), (256, 256))),
        (["clip.size=null", "evaluation.test.size=null"], (224, (256, 256), (256, 256))),
        ([VIT], (224, (224, 256), (224, 256))),
        (["model={backbone: timm/efficientnet_b4}"], (320, (320, 366), (320, 366))),
        ([VIT, "model.options.img_size=64"], (64, (64, 73), (64, 73))),
        ([R3D], (112, (112, 128), (112, 128))),
        ([R3D, "clip.size=96", "evaluation.test.size=200"], (96, (112, 128), (200, 200))),
        ([R3D, "evaluation.test.short_side=140"], (112, (112, 128), (112, 140))),
        ([R3D, "clip={size: 96}", "clip.size=null"], (112, (112, 128), (112, 128))),
        (
            ["model={name: transformers/vivit, options: {image_size: 96}}"],
            (96, (96, 110), (96, 110)),
        ),
        ([f"model.backbone={TINY}:maps"], (224, (256, 256), (256, 256))),
    ],
)
def test_sizes_follow_the_network_unless_they_are_set(load, tmp_path, overrides, wanted):
    config = load(*overrides)
    assert sizes(config) == wanted
    written = tmp_path / "written.yaml"
    written.write_text(dump_config(config))
    assert load_config(written) == config


def test_all_mistakes_of_a_config_are_reported_with_that_of_the_network(load):
    with pytest.raises(ConfigError) as caught:
        load("model.backbone=timm/resnet81", "train.epochs=0", "optimizer.lr=-1")
    for word in ("Did you mean timm/resnet", "train.epochs", "optimizer.lr"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.name=tsm"], "one of tsn, slowonly, torchvision/NAME, .* Did you mean 'tsn'?"),
        (["model.name=timm/resnet18"], "write model.name=tsn model.backbone=timm/resnet18"),
        (["model.backbone=transformers/videomae"], "write model.name=transformers/videomae,"),
        (["model.backbone=resnet50"], "one of timm/NAME, torchvision/NAME, package.module"),
        (["model.backbone=resnet50"], "Did you mean 'timm/resnet50'"),
        (["model.backbone=tim/resnet50"], "Did you mean 'timm/resnet50'"),
        (["model.name=r3d_18"], "Did you mean 'torchvision/r3d_18'"),
        (["model.name=transformer/vivit"], "Did you mean 'transformers/vivit'"),
        (["model.name=slowonly", f"model.backbone={TINY}:maps"], "model.backbone: .* Remove it"),
        (["model.pretrained=true"], "as this network is ours, got true"),
        (["model.options.width=3"], "model.options: expected an external network, got our tsn"),
        ([VIT, "model.options.pretrained=true"], "model.options.pretrained: .* model.pretrained"),
        ([VIT, "model.mean=[0.5, 0.5, 0.5]"], "mean and std, or neither, got one of them"),
        (
            [VIT, "model.mean=[0, 0, 0]", "model.std=[1, 0, 1]"],
            "model.std: expected a number above",
        ),
        ([VIT, "model.options=3"], "model.options: expected .* got the number 3"),
        ([R3D, "model.sync_norm=true"], "for networks over clips no image as a single frame"),
    ],
)
def test_settings_that_do_not_fit_are_refused(load, overrides, message):
    with pytest.raises(UserError, match=message):
        load(*overrides)


def test_pretrained_is_text_or_a_truth_value(load):
    assert load(VIT, "model.pretrained=true").model.pretrained is True
    assert load("model.pretrained=weights/r50.pth").model.pretrained == "weights/r50.pth"
    assert load("model.pretrained=false").model.pretrained is False
    with pytest.raises(UserError, match="expected text, true or false, or null, got the number 3"):
        load("model={pretrained: 3}")


def test_options_keep_nulls_and_lists(load):
    given = {"width": None, "stages": [1, 2], "deep": {"a": False}}
    config = load(f"model={{backbone: {TINY}:maps, options: {given}}}".replace("None", "null"))
    assert dict(config.model.options) == given


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            [VIT, "clip.size=96"],
            "clip.size: .* such as its own, 224, got .* clip.size=224, or null",
        ),
        ([VIT, "evaluation.validation.size=96"], "evaluation.validation.size: .* its own, 224"),
        (
            [f"model.name={TINY}:EightFrames", "clip={clip_len: 8, size: 32}"],
            "sources.photos.inflate: expected clips of several frames, .* Set it to still",
        ),
    ],
)
def test_network_that_cannot_train_on_the_config_is_refused(load, overrides, message):
    views = "evaluation.validation={size: 32, short_side: 32}"
    config = load(*([views] if "clip={clip_len: 8, size: 32}" in overrides else []), *overrides)
    with pytest.raises(UserError, match=message):
        check_network(config)


def test_external_network_is_made_once_before_the_data_are_read(load, monkeypatch):
    made = []
    make = build.make_network
    monkeypatch.setattr(build, "make_network", lambda *a, **k: made.append(0) or make(*a, **k))
    monkeypatch.setattr(forewarnings, "_SLOW_STEP", 0.0)  # a step is measured, too
    config = load(f"model.backbone={TINY}:maps", "clip.size=32", "optimizer.frozen_stages=1")
    (warning,) = forewarnings.check_and_warn(config, Ranks())
    assert f"for a {TINY}:maps" in warning and len(made) == 1


def test_network_that_can_train_is_not_refused(load):
    check_network(load())
    check_network(load(f"model.backbone={TINY}:frame_logits", "clip.size=32"))
    check_network(load(f"model.name={TINY}:clip_logits", "clip={size: 32, clip_len: 4}"))
    single = load(f"model.name={TINY}:create_csn", "model.options.model_num_class=7")
    check_network(single)  # its classes are compared with the data's later
