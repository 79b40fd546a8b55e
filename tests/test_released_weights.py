"""The table of released weights: the names of the published tables, and where their files lie."""

import importlib.util
from pathlib import Path

import pytest

from omnidali.cli import main as cli
from omnidali.config.convert import build_config
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.models.released_weights import RELEASED

# The digits of the release's files, by what tells them apart.
DIGITS = {
    "tsn_r50_1x1x3_100e_kinetics400_rgb": "e508be42",
    "tsn_imagenet_pretrained_r50_omni_1x1x3_kinetics400_rgb": "54192355",
    "tsn_1G1B_pretrained_r50_without_omni_1x1x3_kinetics400_rgb": "c133dd49",
    "tsn_1G1B_pretrained_r50_omni_1x1x3_kinetics400_rgb": "2863fed0",
    "slowonly_r50_4x16x1_256e_kinetics400_rgb": "a69556c6",
    "slowonly_r50_omni_4x16x1_kinetics400_rgb": "51b1f7ea",
    "slowonly_r101_without_omni_8x8x1_kinetics400_rgb": "0c730aef",
    "slowonly_r101_omni_8x8x1_kinetics400_rgb": "b5dbb701",
    "tsn_r50_1x1x8_100e_minikinetics_rgb": "b4eaf92b",
    "tsn_r50_1x1x8_100e_minikinetics_googleimage_rgb": "23966b4b",
    "tsn_r50_1x1x8_100e_minikinetics_webimage_rgb": "66f5e046",
    "tsn_r50_1x1x8_100e_minikinetics_insvideo_rgb": "011f984d",
    "tsn_r50_1x1x8_100e_minikinetics_kineticsraw_rgb": "59f5d064",
    "tsn_r50_1x1x8_100e_minikinetics_omnisource_rgb": "0f56ef51",
    "slowonly_r50_8x8x1_256e_minikinetics_rgb": "168eb098",
    "slowonly_r50_8x8x1_256e_minikinetics_googleimage_rgb": "7da6dfc3",
    "slowonly_r50_8x8x1_256e_minikinetics_webimage_rgb": "c36616e9",
    "slowonly_r50_8x8x1_256e_minikinetics_insvideo_rgb": "e2890e8d",
    "slowonly_r50_8x8x1_256e_minikinetics_kineticsraw_rgb": "62974bac",
    "slowonly_r50_8x8x1_256e_minikinetics_omnisource_rgb": "284cfd3b",
}


def test_all_files_of_the_release_have_names():
    ours = {
        name.removeprefix("mmaction2/"): weights.digits
        for name, weights in RELEASED.items()
        if name.startswith("mmaction2/")
    }
    assert ours == DIGITS


def recipe_for(name):
    """The shipped config with the settings of a released recogniser."""
    if "minikinetics" in name:
        return f"minikinetics/{name.partition('_')[0]}_omnisource"
    if name.startswith("tsn"):
        return "k400/tsn_r50_3seg"
    return "k400/slowonly_r101_8x8" if "r101" in name else "k400/slowonly_r50_4x16"


def test_clips_and_views_are_those_of_the_recipe():
    shipped = {config: load_config(config, []) for config in set(map(recipe_for, DIGITS))}
    for name in DIGITS:
        wanted = shipped[recipe_for(name)]
        errors = []
        ours = build_config(Config, RELEASED[f"mmaction2/{name}"].recipe, errors)
        assert not errors and ours.evaluation.test == wanted.evaluation.test
        assert (ours.model.name, ours.model.depth) == (wanted.model.name, wanted.model.depth)
        for key in ("clip_len", "frame_interval", "num_clips"):
            assert getattr(ours.clip, key) == getattr(wanted.clip, key)


def test_files_of_torchvision_are_those_that_it_loads_itself():
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    source = Path(spec.origin).with_name("models").joinpath("resnet.py").read_text()
    ours = {
        name: weights.url for name, weights in RELEASED.items() if name.startswith("torchvision/")
    }
    assert len(ours) == 6
    for name, url in ours.items():
        number = name.removeprefix("torchvision/resnet").removesuffix("_v2")
        weights = source.partition(f"class ResNet{number}_Weights(")[2].partition("\nclass ")[0]
        version = weights.partition("IMAGENET1K_V2 = ")[::2][name.endswith("_v2")]
        assert f'url="{url}"' in version, name


def test_help_lists_every_name(capsys):
    assert cli.main(["help", "weights"]) == 0
    out = capsys.readouterr().out
    for name, weights in RELEASED.items():
        assert f"\n{name}\n    {weights}\n    {weights.url}\n" in out
