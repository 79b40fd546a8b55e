"""The shipped configs: each loads, states its purpose, and has the settings of the reference."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from omnidali.config.load import dump_config, load_config
from omnidali.config.schema import Config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "parts")
GOLDEN = ROOT / "tests" / "golden" / "recipes.yaml"


def name_of(path):
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_loads_and_states_its_purpose(path):
    config = load_config(path)
    assert isinstance(config, Config)
    head = path.read_text().partition("\n\n")[0]
    for word in ("Purpose:", "Expected:", "Hardware:", "Command:"):
        assert word in head, f"{path.name} lacks its {word}"


def changes(value):
    """What of a config is not at its default, as plain values."""
    if isinstance(value, Mapping):
        return {name: changes(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
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

    To record anew: python tests/test_recipes.py
    """
    assert {name_of(path): changes(load_config(path)) for path in CONFIGS} == yaml.safe_load(
        GOLDEN.read_text()
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_configs_load_again(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


# A plain restatement of the twelve recipes in the reference's method.md, B.2, B.3 and B.6.
@pytest.mark.parametrize(
    "model, batch, lr, epochs, images",
    [("tsn", 96, 0.00375, 100, 512), ("slowonly", 96, 0.15, 256, 96)],
)
def test_recipes_equal_reference(model, batch, lr, epochs, images):
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


def test_configs_are_short():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 30, path


if __name__ == "__main__":
    recorded = {name_of(path): changes(load_config(path)) for path in CONFIGS}
    GOLDEN.write_text(yaml.safe_dump(recorded, sort_keys=False, width=120, default_flow_style=None))
