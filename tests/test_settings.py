"""Configs: every mistake told at once, with place, expectation, value and advice."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from omnidali.config.load import dump_config, load_config, to_plain
from omnidali.config.schema import Config
from omnidali.errors import ConfigError, UserError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "parts")
GOLDEN = ROOT / "tests" / "golden" / "recipes.yaml"
SMALL = "sources: {k: {kind: video}}\ntrain: {steps: 5}\n"


def name_of(path):
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


def load(tmp_path, text, *overrides):
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", overrides)


@pytest.mark.parametrize(
    "text, told",
    [
        (
            "sources: {k: {kind: video, wieght: 2}}\ntrain: {steps: 5}",
            "got the unknown key 'wieght'. Did you mean 'weight'?",
        ),
        (SMALL + "sedd: 1", "sedd: expected one of data_root"),
        (
            SMALL + "optimizer: {lr: 1e-3}",
            "optimizer.lr: expected a number, got the text '1e-3'. YAML reads this as text; write 0.001.",
        ),
        (SMALL + "clip: {size: big}", "clip.size: expected a whole number, got the text 'big'."),
        (SMALL + "clip: {size: 2.5}", "clip.size: expected a whole number, got the number 2.5."),
        (SMALL + "clip: {size: true}", "got the truth value True"),
        (
            SMALL + "clip: {area: 0.5}",
            "clip.area: expected a list of 2 numbers, got the number 0.5.",
        ),
        (
            SMALL + "clip: {crop: centre}",
            "clip.crop: expected one of random_resized, multi_scale, center, got the text "
            "'centre'. Did you mean 'center'?",
        ),
        (SMALL + "model: {depth: 51}", "expected one of 18, 34, 50, 101, got the number 51"),
        (SMALL + "clip: 3", "clip: expected keys and values, got the number 3."),
        (SMALL + "sources: {a: {}}", "every key once (first on line 1), got 'sources' again"),
        ("sources: {k: {kind: video, kind: image}}\ntrain: {steps: 5}", "got 'kind' again"),
        (
            "sources: {k: {weight: 2}}\ntrain: {steps: 5}",
            "sources.k.kind: expected one of video, image, untrimmed, frames, got nothing",
        ),
        (
            "sources: {k: {kind: video, weight: 0}}\ntrain: {steps: 5}",
            "sources.k.weight: expected a number above 0, got 0.",
        ),
        ("sources: {k: {kind: video, weight: -2}}\ntrain: {steps: 5}", "got -2"),
        ("sources: {k: {kind: video, weight: .nan}}\ntrain: {steps: 5}", "got nan"),
        ("train: {steps: 5}", "sources: expected at least one training source"),
        (
            "sources: {k: {kind: video}}",
            "train: expected exactly one of epochs and steps, got neither.",
        ),
        (SMALL.replace("steps: 5", "steps: 5, epochs: 1"), "got both"),
        (
            "sources: {k: {kind: video}, w: {kind: image}}\ntrain: {steps: 5, batch: 1}",
            "train.batch: expected at least one slot for each of the 2 sources, got 1.",
        ),
        (
            SMALL + "train: {steps: 0}".replace("train", "loader").replace("steps", "prefetch"),
            "loader.prefetch",
        ),
        (
            SMALL.replace("video", "video, inflate: still"),
            "sources.k.inflate: expected a source of images, got kind video",
        ),
        (SMALL.replace("k:", "all:"), "sources.all: expected another name"),
        (SMALL + "clip: {flip: 1.5}", "clip.flip: expected a number from 0 to 1, got 1.5."),
        (SMALL + "clip: {area: [0.5, 0.1]}", "clip.area: expected two shares"),
        (
            SMALL + "evaluation: {test: {size: 300}}",
            "evaluation.test.size: expected at most short_side (256), got 300.",
        ),
        (
            SMALL.replace("video", "video, loss_weight: -1"),
            "sources.k.loss_weight: expected 0 or more, got -1.",
        ),
        (
            SMALL.replace("video", "video, hold_out: [0, 3]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [0, 3].",
        ),
        (
            SMALL.replace("video", "video, hold_out: [3, 2]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [3, 2].",
        ),
        (
            SMALL.replace("video", "video, hold_out: [1, 1]"),
            "sources.k.hold_out: expected [part, parts], with two parts or more"
            " and the first being 1, got [1, 1].",
        ),
        (
            SMALL.replace("video", "video, fraction: 0"),
            "sources.k.fraction: expected a share above 0 and at most 1, got 0.",
        ),
        (
            SMALL.replace("video", "video, resample: {}"),
            "sources.k.resample: expected exactly one of power and clipped, got n",
        ),
        (SMALL.replace("video", "video, resample: {power: 1, clipped: 3}"), "got both"),
        (SMALL.replace("video", "video, resample: {power: 1.5}"), "expected a power from 0 to 1"),
        (
            SMALL.replace("video", "video, resample: {clipped: 0}"),
            "or clipped of 1 or more, got 0.",
        ),
        (
            SMALL.replace("video", "video, tars: a.tar, list: l.txt"),
            "sources.k.tars: expected either tars or a list, got both.",
        ),
        (
            SMALL.replace("video", "frames, tars: a.tar"),
            "sources.k.tars: expected tars of images or videos",
        ),
        (
            SMALL.replace("video", "video, format: parts"),
            "sources.k.format: expected a list that has the format, got no list.",
        ),
        (SMALL.replace("video", "video, format: part"), "Did you mean 'parts'?"),
        (
            SMALL.replace("video", "video, pieces: all"),
            "sources.k.pieces: expected kind: untrimmed",
        ),
        (
            SMALL.replace("video", "untrimmed, pieces: one_positive_rest_negative")
            + "clip: {clip_len: 8}",
            "sources.k.pieces: expected TSN's segments",
        ),
        (
            SMALL.replace("video", "frames, pattern: img.jpg"),
            "sources.k.pattern: expected a pattern with one number, got 'img.jpg'",
        ),
        (
            SMALL.replace("video", "frames, pattern: 'img_{name}.jpg'"),
            "sources.k.pattern: expected a pattern with one number",
        ),
        (
            SMALL.replace("video", "untrimmed, window_seconds: 0"),
            "sources.k.window_seconds: expected a number above 0",
        ),
        (
            "sources: {k: {kind: video, batch: 4}, w: {kind: image}}\ntrain: {steps: 5}",
            "sources: expected batch for all sources or for none, got none for w.",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace("steps: 5", "steps: 5, batch: 8"),
            "train.batch: expected nothing, as every source has its batch, got 8.",
        ),
        (
            SMALL.replace("video", "video, batch: 4, weight: 2"),
            "expected either weights or batches, got both.",
        ),
        (SMALL.replace("video", "video, batch: 0"), "sources.k.batch: expected a number above 0"),
        (
            SMALL.replace("steps: 5", "steps: 5, step_mode: alternating"),
            "train.step_mode: expected a batch for every source",
        ),
        (
            SMALL.replace("steps: 5", "steps: 5, ratio: [2]"),
            "train.ratio: expected step_mode: alternating, got summed.",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, ratio: [-2]"
            ),
            "train.ratio: expected numbers of 1 or more, got [-2].",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, ratio: [2, 1]"
            ),
            "train.ratio: expected one number for each of the 1 sources",
        ),
        (
            SMALL.replace("video", "video, batch: 4").replace(
                "steps: 5", "steps: 5, step_mode: alternating, mixup: cross"
            ),
            "train.mixup: expected intra",
        ),
        (
            SMALL.replace("steps: 5", "steps: 5, mixup: intra, mixup_alpha: 0"),
            "train.mixup_alpha: expected a number above 0",
        ),
        (
            SMALL + "model: {sync_norm: true, norm: target_only}",
            "model.sync_norm: expected norm: shared",
        ),
        (
            SMALL + "evaluation: {source: {kind: untrimmed}}",
            "evaluation.source.kind: expected video, image or frames",
        ),
        ("a: [1", "expected YAML"),
        ("[1, 2]", "expected keys and values, got list"),
    ],
)
def test_mistakes_are_told(tmp_path, text, told):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)


def test_all_mistakes_come_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "sources: {k: {kind: film, wieght: 1}}\ntrain: {batch: x}\nclip: {flip: 7}\n",
            "clip.sise=3",
            "nonsense",
        )
    assert sorted(error.where for error in caught.value.errors) == [
        "clip.flip",
        "clip.sise",
        "override 'nonsense'",
        "sources.k.kind",
        "sources.k.wieght",
        "train.batch",
    ]


def test_missing_config(tmp_path):
    with pytest.raises(UserError, match="expected a readable config file, got No such file"):
        load_config(tmp_path / "none.yaml")


def test_alias_bombs_and_objects_are_harmless(tmp_path):
    with pytest.raises(UserError, match="expected YAML"):
        load(tmp_path, "a: !!python/object/apply:os.system ['true']")


def test_precedence_and_overrides(tmp_path):
    (tmp_path / "base.yaml").write_text(SMALL + "seed: 1\nclip: {size: 96, flip: 0.1}\n")
    config = load(
        tmp_path,
        "base: base.yaml\nclip: {size: 64}\n",
        "clip.num_clips=3",
        "sources.k.weight=2.5",
        "train.epochs=0.5",
        "train.steps=null",
        "sources.web={kind: image}",
    )
    assert (config.seed, config.clip.size, config.clip.flip, config.clip.num_clips) == (
        1,
        64,
        0.1,
        3,
    )
    assert (config.train.epochs, config.train.steps) == (0.5, None)
    assert config.sources["k"].weight == 2.5 and list(config.sources) == ["k", "web"]
    (tmp_path / "base.yaml").write_text("base: c.yaml\n")
    with pytest.raises(UserError, match="other config files"):
        load(tmp_path, "base: base.yaml\n")


def test_config_values_are_frozen(tmp_path):
    config = load(tmp_path, SMALL)
    with pytest.raises(AttributeError):
        config.seed = 3
    with pytest.raises(TypeError):
        config.sources["k"] = None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs(path):
    """Each loads, survives a round trip, and says what it is for."""
    config = load_config(path)
    assert isinstance(config, Config)
    head = path.read_text().partition("\n\n")[0]
    for word in ("Purpose:", "Expected:", "Hardware:", "Command:"):
        assert word in head, f"{path.name} does not say its {word}"


def changes(value):
    """What of a config is not at its default, as plain values."""
    if not dataclasses.is_dataclass(value):
        return (
            to_plain(value)
            if not isinstance(value, Mapping)
            else {name: changes(item) for name, item in value.items()}
        )
    kept = {}
    for field in dataclasses.fields(value):
        mine = getattr(value, field.name)
        default = (
            field.default_factory()
            if field.default_factory is not dataclasses.MISSING
            else field.default
        )
        if mine != default:
            kept[field.name] = changes(mine)
    return kept


def test_resolved_configs_are_as_recorded():
    """Golden: a change of a shared part shows up here in every recipe that it reaches.

    To record anew: python tests/test_settings.py
    """
    assert {name_of(path): changes(load_config(path)) for path in CONFIGS} == yaml.safe_load(
        GOLDEN.read_text()
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_configs_load_again(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


# method.md of the reference, B.2, B.3 and B.6: a plain restatement of its twelve recipes
@pytest.mark.parametrize(
    "model, batch, lr, epochs, images",
    [("tsn", 96, 0.00375, 100, 512), ("slowonly", 96, 0.15, 256, 96)],
)
def test_recipes_are_the_reference_s(model, batch, lr, epochs, images):
    for name, aux in {
        "baseline": [],
        "googleimage": ["googleimage"],
        "webimage": ["webimage"],
        "insvideo": ["insvideo"],
        "kineticsraw": ["kineticsraw"],
        "omnisource": ["webimage", "insvideo", "kineticsraw"],
    }.items():
        config = load_config(ROOT / f"configs/minikinetics/{model}_{name}.yaml")
        assert list(config.sources) == ["k200", *aux]
        assert config.batches == (batch, *(images if "image" in other else batch for other in aux))
        assert (config.optimizer.lr, config.train.epochs) == (lr, epochs)
        assert config.train.step_mode == ("alternating" if aux else "summed")
        assert config.train.ratio == ((2, 1, 1, 1) if name == "omnisource" else None)
        for other in aux:
            source = config.sources[other]
            assert (source.resample and source.resample.power) == (
                0.5 if other in ("webimage", "insvideo") else None
            )
            assert source.inflate == (
                "still" if "image" in other and model == "slowonly" else "single"
            )
        assert config.optimizer.warmup_epochs == 0 and config.optimizer.clip_grad_norm == 40
        assert config.model.dropout == (0.4 if model == "tsn" else 0.5)
        views = config.evaluation.test
        assert (views.num_clips, views.crops, views.size) == (
            25 if model == "tsn" else 10,
            "three",
            256,
        )
        assert views.average == ("score" if model == "tsn" else "prob")


def test_recipes_share_what_they_share():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 30, path


if __name__ == "__main__":
    recorded = {name_of(path): changes(load_config(path)) for path in CONFIGS}
    GOLDEN.write_text(yaml.safe_dump(recorded, sort_keys=False, width=120, default_flow_style=None))
