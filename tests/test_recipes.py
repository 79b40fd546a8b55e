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


K400_SOURCES = {
    "googleimage": ["googleimage"],
    "webimage": ["webimage"],
    "insvideo": ["insvideo"],
    "kineticsraw": ["kineticsraw"],
    "omni": ["webimage", "insvideo", "kineticsraw"],
}
# A plain restatement of mmaction2's recipes for Kinetics-400 (method.md, B.2): slots of the target,
# learning rate for them, epochs, milestones (none: cosine), epochs of warm-up.
K400_SETTINGS = {
    "tsn": (256, 0.01, 100, (40, 80), 0),
    "slowonly_r50_4x16": (64, 0.1, 256, None, 0),
    "slowonly_r101_8x8": (64, 0.1, 196, None, 34),
    "imagenet": (64, 0.01, 150, (90, 130), 10),
    "ircsn": (96, 0.0005, 58, (32, 48), 16),
}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/k400").glob("*.yaml")), ids=lambda path: path.stem
)
def test_k400_recipes_equal_reference(path):
    config = load_config(path)
    kind = "imagenet" if "imagenet" in path.stem else path.stem
    batch, lr, epochs, milestones, warmup = next(
        settings for name, settings in K400_SETTINGS.items() if kind.startswith(name)
    )
    optimizer = config.optimizer
    assert (config.batches[0], config.train.epochs) == (batch, epochs)
    assert optimizer.lr == pytest.approx(lr * config.batch / batch)
    assert (optimizer.warmup_epochs, optimizer.clip_grad_norm) == (warmup, 40)
    assert optimizer.schedule == ("cosine" if milestones is None else "step")
    assert milestones is None or optimizer.milestones == milestones

    target, *others = config.sources
    assert target == "k400" and others == K400_SOURCES.get(path.stem.rpartition("_")[2], [])
    assert config.train.step_mode == "summed"
    is_tsn = config.model.is_frame_wise
    for other in others:
        is_image = config.sources[other].kind == "image"
        assert config.sources[other].inflate == ("warp" if is_image and not is_tsn else "single")
        assert len(others) > 1 or config.sources[other].batch == batch

    frames = config.clip.num_clips, config.clip.clip_len, config.clip.frame_interval
    assert frames == next(
        value
        for name, value in {
            "tsn": (3, 1, 1),
            "slowonly_r50_4x16": (1, 4, 16),
            "slowonly_r101_8x8": (1, 8, 8),
            "ircsn": (1, 32, 2),
        }.items()
        if path.stem.startswith(name)
    )
    views = config.evaluation.test
    assert (views.num_clips, views.crops, views.size) == (
        (25, "ten", 224) if is_tsn else (10, "three", 256)
    )
    # from scratch alone does mixup gain (table 9)
    is_scratch = config.model.pretrained is None
    assert config.train.mixup == ("cross" if len(others) > 1 and is_scratch else "none")


def test_configs_are_short():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 30, path


if __name__ == "__main__":
    recorded = {name_of(path): changes(load_config(path)) for path in CONFIGS}
    GOLDEN.write_text(yaml.safe_dump(recorded, sort_keys=False, width=120, default_flow_style=None))
