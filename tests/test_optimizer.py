"""Which weights an optimizer moves, how fast, and what becomes of its state."""

from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F

from helpers.program_runs import run
from helpers.running import options_of, weights
from omnidali.config.load import load_config
from omnidali.config.model_settings import ModelConfig
from omnidali.config.schema import Config
from omnidali.config.train_settings import OptimizerConfig, TrainConfig
from omnidali.errors import ConfigError
from omnidali.models.recognizers import TSN, SlowOnly, Stage
from omnidali.training.objective import Objective
from omnidali.training.optimizer import (
    find_stage_mistakes,
    freeze_stages,
    group_weights,
    load_optimizer_state,
    lr_factors_of,
    make_optimizer,
    set_learning_rate,
)

CPU = torch.device("cpu")
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "classifier"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TSN(18, 4, 0.5)


def settings(**values):
    factors = MappingProxyType(values.pop("lr_factors", {}))
    return OptimizerConfig(lr_factors=factors, **values)


def rates(optimizer):
    """The learning rate by weight."""
    return {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}


@pytest.mark.parametrize("network", [lambda: TSN(18, 4, 0.5), lambda: SlowOnly(50, 4, 0.5, 4)])
def test_each_parameter_belongs_to_one_stage(network):
    model = network()
    assert [stage.name for stage in model.stages] == STAGES
    for name, _ in model.named_parameters():
        assert sum(stage.holds(name) for stage in model.stages) == 1


def test_default_is_one_group_of_all_weights_in_order(model):
    (group,) = group_weights(model, OptimizerConfig())
    assert [id(weight) for weight in group["params"]] == [id(p) for p in model.parameters()]
    assert group["lr_factor"] == 1 and group["weight_decay"] == 1e-4


def test_layer_decay_and_factors_by_stage(model):
    config = settings(layer_decay=0.5, lr_factors={"backbone": 0.1, "layer2": 3.0, "head": 2.0})
    optimizer = make_optimizer(model, config, CPU)
    set_learning_rate(optimizer, 8.0)
    found = rates(optimizer)
    expected = {"conv1": 0.1 / 32, "layer1": 0.1 / 16, "layer2": 3 / 8, "layer3": 0.1 / 4}
    for name, factor in {**expected, "layer4": 0.1 / 2}.items():
        weights = [rate for key, rate in found.items() if key.startswith(f"backbone.{name}.")]
        assert weights and all(rate == pytest.approx(8 * factor) for rate in weights)
    assert found["cls_head.fc_cls.bias"] == 16


def test_norms_and_biases_without_decay(model):
    groups = group_weights(model, settings(decay_norms=False))
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    for name, weight in model.named_parameters():
        assert decays[name] == (1e-4 if weight.ndim > 1 else 0), name


def test_weights_that_the_network_excludes_have_no_decay(model):
    model.backbone.layer1.no_weight_decay = lambda: {"0.conv1.conv.weight"}
    groups = group_weights(model, settings(decay_norms=False))
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decays["backbone.layer1.0.conv1.conv.weight"] == 0
    assert decays["backbone.layer1.0.conv2.conv.weight"] == 1e-4


def test_frozen_stages_stay_as_they_are(model):
    """Weights and statistics, also after an evaluation has switched modes."""
    config = settings(frozen_stages=2, lr=0.1)
    freeze_stages(model, config)
    optimizer = make_optimizer(model, config, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.eval()
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(torch.randn(2, 3, 2, 32, 32))
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    frozen = ("backbone.conv1.", "backbone.layer1.")
    assert moved and not any(name.startswith(frozen) for name in moved)
    assert "backbone.layer2.0.conv1.bn.running_mean" in moved
    assert not any(name.startswith(frozen) for name in rates(optimizer))
    assert model.backbone.layer2.training and not model.backbone.layer1[0].conv1.bn.training


def test_wrong_stages_are_reported_together():
    stages = [Stage(name, ()) for name in STAGES]
    config = settings(frozen_stages=6, lr_factors={"layer_3": 0.1, "head": 1, "classifier": 2})
    texts = [str(mistake) for mistake in find_stage_mistakes(stages, config)]
    assert len(texts) == 3
    assert "optimizer.frozen_stages: expected at most 5" in texts[0]
    assert "Did you mean layer3?" in texts[1] and "head or classifier" in texts[2]


def test_factor_of_a_frozen_stage_is_refused(model):
    config = settings(frozen_stages=2, lr_factors={"layer1": 0.1})
    with pytest.raises(ConfigError, match="a stage that is trained"):
        freeze_stages(model, config)


WRONG = {
    "optimizer.betas=[0.9,0.99]": "optimizer.name: adamw",
    "optimizer.eps=0.1": "optimizer.name: adamw",
    "optimizer.nesterov=true optimizer.momentum=0": "a momentum above 0",
    "optimizer.name=adam": "Did you mean 'adamw'",
    "optimizer.lr_factors.head=0": "optimizer.lr_factors.head: expected a number above 0",
    "optimizer.betas=[0.9,1]": "0 or more and below 1",
    "train.patience=2": "evaluation.source",
    "train.keep_best=2": "evaluation.source",
    "train.min_delta=1": "train.patience",
    "train.label_smoothing=1": "below 1",
    "train.augment.erasing.area=[0.5,0.1]": "the smallest number first",
    "train.augment.color_jitter.hue=0.6": "from 0 to 0.5",
    "train.augment.randaugment.magnitude=31": "from 0 to 30",
    "train.augment.erasing.mode=cons": "Did you mean 'const'",
}


def test_wrong_settings_are_refused_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("sources: {a: {kind: image}}\ntrain: {steps: 3}\n")
    for words, message in WRONG.items():
        with pytest.raises(ConfigError) as error:
            load_config(tmp_path / "c.yaml", words.split())
        assert message in str(error.value), (words, str(error.value))
    words = "train.patience=2 train.min_delta=-1 optimizer.eps=0.1 train.augment.erasing.boxes=0"
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "c.yaml", words.split())
    assert len(error.value.errors) == 4


def test_learning_rates_by_part_are_read_from_a_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "sources: {a: {kind: image}}\ntrain: {steps: 3}\noptimizer: {lr_factors: {backbone: 0.1}}\n"
    )
    config = load_config(tmp_path / "c.yaml", ["optimizer.lr_factors.head=2"])
    assert dict(config.optimizer.lr_factors) == {"backbone": 0.1, "head": 2.0}


def trained(model, config):
    """An optimizer after a step."""
    optimizer = make_optimizer(model, config, CPU)
    model.train()
    model(torch.randn(2, 3, 1, 32, 32)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_state_is_taken_over_by_names(model, kind):
    """Also where other groups and frozen stages change the numbers of the weights."""
    config = settings(name=kind)
    state = trained(model, config).state_dict()
    other = settings(name=kind, decay_norms=False, layer_decay=0.7, frozen_stages=1)
    freeze_stages(model, other)
    optimizer = make_optimizer(model, other, CPU)
    assert load_optimizer_state(optimizer, state, model, kind) is None

    key = "momentum_buffer" if kind == "sgd" else "exp_avg_sq"
    (group,) = state["param_groups"]
    expected = {
        name: state["state"][number][key]
        for number, name in zip(group["params"], group["names"], strict=True)
    }
    found = 0
    for group in optimizer.param_groups:
        for name, weight in zip(group["names"], group["params"], strict=True):
            assert torch.equal(optimizer.state[weight][key], expected[name])
            found += 1
    assert found == len(expected) - 3


def test_state_without_names_is_that_of_all_weights(model):
    state = trained(model, OptimizerConfig()).state_dict()
    expected = state["state"][5]["momentum_buffer"]
    for group in state["param_groups"]:
        del group["names"], group["lr_factor"]
    optimizer = make_optimizer(model, OptimizerConfig(), CPU)
    load_optimizer_state(optimizer, state, model, "sgd")
    sixth = list(model.parameters())[5]
    assert torch.equal(optimizer.state[sixth]["momentum_buffer"], expected)


def test_state_of_another_optimizer_is_dropped_with_a_line(model):
    state = trained(model, OptimizerConfig()).state_dict()
    optimizer = make_optimizer(model, settings(name="adamw"), CPU)
    line = load_optimizer_state(optimizer, state, model, "adamw")
    assert line is not None and "begin anew" in line and not optimizer.state


def test_adamw_is_torchs(model):
    config = settings(name="adamw", lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    (group,) = make_optimizer(model, config, CPU).param_groups
    found = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
    assert found == {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_label_smoothing_is_torchs(labels):
    logits = torch.randn(5, 4)
    target = torch.tensor([0, 1, 2, 3, 0]) if labels == "hard" else torch.rand(5, 4).softmax(dim=1)
    config = Config(train=TrainConfig(label_smoothing=0.1), model=ModelConfig())
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")(logits, target)
    assert torch.equal(Objective(config)(logits, target), expected)
    plain = F.cross_entropy(logits, target, reduction="none")
    assert torch.equal(Objective(Config())(logits, target), plain)


def test_smoothed_decisions_of_several_labels():
    config = Config(multi_label=True, train=TrainConfig(label_smoothing=0.2))
    logits = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    expected = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1, reduction="none")
    assert torch.allclose(Objective(config)(logits, labels), expected.mean(dim=1))


def test_adamw_may_build_on_a_config_with_sgd(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "sources: {a: {kind: image}}\ntrain: {steps: 3}\noptimizer: {nesterov: true}\n"
    )
    config = load_config(tmp_path / "c.yaml", ["optimizer.name=adamw"])
    assert config.optimizer.name == "adamw"


def test_norm_that_is_called_head_belongs_to_the_backbone():
    stages = [Stage(name, ()) for name in ("stem", "head", "classifier")]
    config = settings(lr_factors={"head": 10.0, "backbone": 0.5})
    assert lr_factors_of(stages, config) == [0.5, 0.5, 10.0]


def test_weights_that_a_network_skips_stay_on_any_number_of_ranks(media_root, tmp_path):
    """Ranks do not wait for gradients that nobody computes."""
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        words = options_of(media_root, folder)
        name = "model.backbone=helpers.tiny_networks:SkippingWeights"
        run("train", *words, name, "optimizer.weight_decay=0.1", "train.steps=6", ranks=ranks)
    one, two = (weights(tmp_path / str(ranks) / "run") for ranks in (1, 2))
    skipped = [name for name in one if "pretext" in name]
    assert skipped
    for name in skipped:
        assert torch.equal(one[name], two[name])
    moved = "backbone.body.weight"
    assert torch.allclose(one[moved], two[moved], atol=1e-5)
