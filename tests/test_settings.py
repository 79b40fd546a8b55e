"""Configs: every mistake told at once, with place, expectation, value and advice."""

from pathlib import Path

import pytest
import yaml

from omnidali.config import Config
from omnidali.errors import ConfigErrors, UserError
from omnidali.settings import dump_config, load_config, to_plain

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = "sources: {k: {kind: video}}\ntrain: {steps: 5}\n"


def load(tmp_path, text, *overrides):
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", overrides)


@pytest.mark.parametrize("text, told", [
    ("sources: {k: {kind: video, wieght: 2}}\ntrain: {steps: 5}",
     "got the unknown key 'wieght'. "
     "Did you mean 'weight'?"),
    (SMALL + "sedd: 1", "sedd: expected one of data_root"),
    (SMALL + "optimizer: {lr: 1e-3}",
     "optimizer.lr: expected a number, got the text '1e-3'. YAML reads this as text; write 0.001."),
    (SMALL + "clip: {size: big}", "clip.size: expected a whole number, got the text 'big'."),
    (SMALL + "clip: {size: 2.5}", "clip.size: expected a whole number, got the number 2.5."),
    (SMALL + "clip: {size: true}", "got the truth value True"),
    (SMALL + "clip: {area: 0.5}", "clip.area: expected a list of 2 numbers, got the number 0.5."),
    (SMALL + "clip: {crop: centre}", "clip.crop: expected one of random_resized, multi_scale, center, got the text "
                                     "'centre'. Did you mean 'center'?"),
    (SMALL + "model: {depth: 51}", "expected one of 18, 34, 50, 101, got the number 51"),
    (SMALL + "clip: 3", "clip: expected keys and values, got the number 3."),
    (SMALL + "sources: {a: {}}", "every key once (first on line 1), got 'sources' again"),
    ("sources: {k: {kind: video, kind: image}}\ntrain: {steps: 5}", "got 'kind' again"),
    ("sources: {k: {weight: 2}}\ntrain: {steps: 5}", "sources.k.kind: expected one of video, image, untrimmed, frames, got nothing"),
    ("sources: {k: {kind: video, weight: 0}}\ntrain: {steps: 5}", "sources.k.weight: expected a number above 0, got 0."),
    ("sources: {k: {kind: video, weight: -2}}\ntrain: {steps: 5}", "got -2"),
    ("sources: {k: {kind: video, weight: .nan}}\ntrain: {steps: 5}", "got nan"),
    ("train: {steps: 5}", "sources: expected at least one training source"),
    ("sources: {k: {kind: video}}", "train: expected exactly one of epochs and steps, got neither."),
    (SMALL.replace("steps: 5", "steps: 5, epochs: 1"), "got both"),
    ("sources: {k: {kind: video}, w: {kind: image}}\ntrain: {steps: 5, batch: 1}",
     "train.batch: expected at least one slot for each of the 2 sources, got 1."),
    (SMALL + "train: {steps: 0}".replace("train", "loader").replace("steps", "prefetch"), "loader.prefetch"),
    (SMALL.replace("video", "video, inflate: still"), "sources.k.inflate: expected a source of images, got kind video"),
    (SMALL.replace("k:", "all:"), "sources.all: expected another name"),
    (SMALL + "clip: {flip: 1.5}", "clip.flip: expected a number from 0 to 1, got 1.5."),
    (SMALL + "clip: {area: [0.5, 0.1]}", "clip.area: expected two shares"),
    (SMALL + "evaluation: {test: {size: 300}}", "evaluation.test.size: expected at most short_side (256), got 300."),
    ("a: [1", "expected YAML"),
    ("[1, 2]", "expected keys and values, got list"),
])
def test_mistakes_are_told(tmp_path, text, told):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)


def test_all_mistakes_come_at_once(tmp_path):
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path, "sources: {k: {kind: film, wieght: 1}}\ntrain: {batch: x}\nclip: {flip: 7}\n", "clip.sise=3", "nonsense")
    assert sorted(error.where for error in caught.value.errors) == [
        "clip.flip", "clip.sise", "override 'nonsense'", "sources.k.kind", "sources.k.wieght", "train.batch"]


def test_missing_config(tmp_path):
    with pytest.raises(UserError, match="expected a readable config file, got No such file"):
        load_config(tmp_path / "none.yaml")


def test_alias_bombs_and_objects_are_harmless(tmp_path):
    with pytest.raises(UserError, match="expected YAML"):
        load(tmp_path, "a: !!python/object/apply:os.system ['true']")


def test_precedence_and_overrides(tmp_path):
    (tmp_path / "base.yaml").write_text(SMALL + "seed: 1\nclip: {size: 96, flip: 0.1}\n")
    config = load(tmp_path, "base: base.yaml\nclip: {size: 64}\n", "clip.num_clips=3", "sources.k.weight=2.5",
                  "train.epochs=0.5", "train.steps=null", "sources.web={kind: image}")
    assert (config.seed, config.clip.size, config.clip.flip, config.clip.num_clips) == (1, 64, 0.1, 3)
    assert (config.train.epochs, config.train.steps) == (0.5, None)
    assert config.sources["k"].weight == 2.5 and list(config.sources) == ["k", "web"]
    (tmp_path / "base.yaml").write_text("base: c.yaml\n")
    with pytest.raises(UserError, match="another config file"):
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_configs_are_as_recorded(path, tmp_path):
    """Golden: a change of a default shows up here as a change of the shipped recipes."""
    config = load_config(path)
    golden = yaml.safe_load((Path(__file__).parent / "golden" / f"{path.stem}.yaml").read_text())
    assert to_plain(config) == golden
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
