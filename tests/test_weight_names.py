"""Names of weights: what may stand before them, and other networks told apart from other names."""

import itertools
import re

import pytest
import torch

from omnidali.errors import UserError
from omnidali.models import pretrained
from omnidali.models.checkpoint_file import load_weights
from omnidali.models.pretrained import fit_weights, infer_architecture, load_pretrained
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.models.resnet import LAYERS
from omnidali.models.weight_names import find_other_network, rename_weights
from omnidali.models.weights import read_weights

WORDS = ("module.", "_orig_mod.", "model.", "encoder.", "backbone.")
NESTED = ["".join(words) for count in (1, 2) for words in itertools.permutations(WORDS, count)]
NESTED += ["module._orig_mod.model.encoder.", "model.model.module.", "_orig_mod.module.backbone."]


def with_torchvision_names(weights):
    """Weights of ours without the classifier, renamed by the rules of torchvision's ResNet."""
    renamed = {}
    for name, value in weights.items():
        name = name.removeprefix("backbone.")
        name = re.sub(r"downsample\.conv", "downsample.0", name)
        name = re.sub(r"downsample\.bn", "downsample.1", name)
        name = re.sub(r"conv(\d)\.bn", r"bn\1", name)
        renamed[re.sub(r"conv(\d)\.conv", r"conv\1", name)] = value
    return {name: value for name, value in renamed.items() if not name.startswith("cls_head.")}


def families():
    """One network's weights by family: all names, and those of the classifier."""
    with torch.device("meta"):
        ours = TSN(18, 3, 0.5).state_dict()
    backbone = {name: value for name, value in ours.items() if name.startswith("backbone.")}
    torchvision = with_torchvision_names(ours)
    omni = {f"backbone.{name}": value for name, value in torchvision.items()}
    head = {"fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)}
    omni_head = {"cls_head.fc3d.0.weight": torch.zeros(8, 512)}
    return {
        "mmaction2": (ours, set()),
        "mmaction2, backbone alone": (
            {name.removeprefix("backbone."): value for name, value in backbone.items()},
            set(),
        ),
        "torchvision": ({**torchvision, **head}, set(head)),
        "mmaction2 1.x OmniSource": ({**omni, **omni_head}, set(omni_head)),
    }


FAMILIES = families()


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_in_any_nesting_are_understood(family):
    weights, head = FAMILIES[family]
    wanted = rename_weights(weights)
    assert wanted[0] == family.partition(",")[0] and set(wanted[2]) == head
    assert wanted[1].keys() >= {"backbone.conv1.conv.weight", "backbone.layer4.1.conv2.bn.bias"}
    for prefix in NESTED:
        named, known, left_out = rename_weights({prefix + name: weights[name] for name in weights})
        assert known.keys() == wanted[1].keys(), prefix
        assert all(known[name] is value for name, value in wanted[1].items()), prefix
        assert len(left_out) == len(head), prefix
        assert named == wanted[0], prefix


def test_wrappers_inside_of_a_network_are_understood():
    """DDP around the backbone alone, torch.compile around single modules."""
    ours, _ = FAMILIES["mmaction2"]
    inside = {
        name.replace("backbone.", "backbone.module.")
        .replace("layer2.", "layer2._orig_mod.")
        .replace("cls_head.", "cls_head._orig_mod."): value
        for name, value in ours.items()
    }
    assert not inside.keys() & ours.keys()
    known = rename_weights(inside)[1]
    assert known.keys() == ours.keys() and all(known[name] is ours[name] for name in ours)

    beside = {name.replace("backbone.", "encoder."): value for name, value in ours.items()}
    assert rename_weights(beside)[1].keys() == ours.keys()


def test_prefixed_checkpoints_are_evaluated_and_fine_tuned(tmp_path):
    trained = TSN(18, 3, 0.5)
    lightning = {f"model._orig_mod.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": lightning, "epoch": 3}, tmp_path / "a.ckpt")
    model = TSN(18, 3, 0.5)
    load_weights(model, read_weights(tmp_path / "a.ckpt"), "a.ckpt")
    assert torch.equal(model.cls_head.fc_cls.weight, trained.cls_head.fc_cls.weight)
    report = load_pretrained(SlowOnly(18, 3, 0.5, 4), tmp_path / "a.ckpt")
    assert not report.missing and not report.left_out
    assert infer_architecture(lightning, "a.ckpt")[0].depth == 18


def test_second_network_of_a_file_is_no_silent_choice():
    """Of a network and its slow copy, the first is used for training and named for evaluation."""
    with torch.device("meta"):
        model, slow = TSN(18, 3, 0.5), TSN(18, 3, 0.5)
    one = model.state_dict()
    both = {**{f"encoder.{name}": value for name, value in slow.state_dict().items()}, **one}
    fitting, report = fit_weights(model, both, takes_head=True)
    assert all(fitting[name] is one[name] for name in one if "backbone" in name)
    assert "encoder.backbone.conv1.conv.weight" in report.left_out
    with pytest.raises(UserError, match="encoder.backbone.conv1.conv.weight is unknown"):
        load_weights(model, {"state_dict": both}, "a.pth")


def below(prefix, weights, part=""):
    """Those weights whose names have a part, with a prefix."""
    return {prefix + name: value for name, value in weights.items() if part in name}


def without(weights, part):
    return {name: value for name, value in weights.items() if part not in name}


with torch.device("meta"):
    A, B = TSN(18, 3, 0.5).state_dict(), TSN(18, 3, 0.5).state_dict()
TV_A, TV_B = with_torchvision_names(A), with_torchvision_names(B)
STEM = re.compile(r"(^|\.)(?<!\d\.)conv1\.(conv\.)?weight$")
# Two networks in one file, in which nothing says which is meant, or of which one is cut.
MIXED = {
    "equally deep": (below("encoder.", A), below("model.", B)),
    "equally deep, wrapped": (below("module.", A), below("model.", B)),
    "equally deep, of torchvision": (below("encoder.", TV_A), below("backbone.", TV_B)),
    "two families": (below("encoder.backbone.", TV_A), below("encoder.", B)),
    "late layers of another": (
        without(below("encoder.", A), "layer4"),
        below("", B, "layer4"),
    ),
    "late layers of a wrapped one": (without(A, "layer4"), below("module.", B, "layer4")),
    "late layers of an inner one": (without(A, "layer4"), below("backbone.", B, "layer4")),
    "classifier of another": (without(A, "cls_head"), below("encoder.", B, "cls_head")),
    "classifier of a wrapped one": (without(A, "cls_head"), below("module.", B, "cls_head")),
    "classifier below the backbone": (without(A, "cls_head"), below("backbone.", B, "cls_head")),
}


@pytest.mark.parametrize("mixture", MIXED)
def test_two_networks_of_a_file_are_not_mixed(monkeypatch, mixture):
    with torch.device("meta"):
        model = TSN(18, 3, 0.5)
    for first, second in itertools.permutations(MIXED[mixture]):
        state = {"state_dict": {**first, **second}}
        monkeypatch.setattr(pretrained, "read_weights", lambda path, read=state: read)
        with pytest.raises(UserError) as caught:
            load_pretrained(model, "a.pth")
        with pytest.raises(UserError):
            load_weights(model, state, "a.pth")
        if "equally" in mixture or "families" in mixture:
            stems = [name for name in state["state_dict"] if STEM.search(name)]
            wanted = " and ".join(f"`{name}`" for name in stems)
            assert f"got several networks, with {wanted}. Keep" in str(caught.value)


# Two networks of which one is nearer, whole, and has all that is taken.
CHOSEN = {
    "classifier elsewhere": (below("model.", B, "cls_head"), A),
    "classifier below the backbone": (below("backbone.", B, "cls_head"), A),
    "classifier above": (below("", B, "cls_head"), below("model.", A)),
    "deeper": (below("model.", B), A),
    "deeper, wrapped": (below("module.", B), A),
    "unknown words": (below("teacher.", B), below("model.", A)),
    "equally deep, but cut": (below("encoder.", B, "backbone.conv1."), below("model.", A)),
}


@pytest.mark.parametrize("pair", CHOSEN)
def test_nearest_network_of_a_file_is_taken_alone(pair):
    other, wanted = CHOSEN[pair]
    with torch.device("meta"):
        model = TSN(18, 3, 0.5)
    for weights in ({**other, **wanted}, {**wanted, **other}):
        fitting, report = fit_weights(model, weights, takes_head=True)
        assert report.left_out.keys() == other.keys() and not report.wrong + report.missing
        assert fitting.keys() == A.keys()
        assert {id(value) for value in fitting.values()} == {id(value) for value in wanted.values()}


@pytest.mark.parametrize("prefix", ["student.", "net.", "base_model.", "model.0.", "encoder_q."])
@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_prefix_is_named(prefix, family):
    weights, _ = FAMILIES[family]
    odd = {prefix + name: value for name, value in weights.items()}
    got, advice = find_other_network(odd)
    assert got == f"names that begin with `{prefix}`" and advice.startswith("Strip it")
    with pytest.raises(UserError, match=f"got names that begin with `{re.escape(prefix)}`"):
        infer_architecture(odd, "a.pth")


def test_unknown_prefix_is_named_wherever_weights_are_loaded(tmp_path):
    model = TSN(18, 3, 0.5)
    odd = {f"student.{name}": value for name, value in model.state_dict().items()}
    torch.save(odd, tmp_path / "a.pth")
    for load in (
        lambda path: load_pretrained(model, path),
        lambda path: load_weights(model, read_weights(path), "a.pth"),
    ):
        with pytest.raises(UserError, match="got names that begin with `student.`. Strip it"):
            load(tmp_path / "a.pth")


def torchvision_shapes(blocks, channels=64, outside=256):
    """The names by which a torchvision ResNet's stages are known, with empty weights."""
    names = {"conv1.weight": torch.empty(64, 3, 7, 7, device="meta")}
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            for conv in (1, 2, 3) if outside else (1, 2):
                shape = (channels, 64, 1, 1)
                names[f"layer{stage}.{block}.conv{conv}.weight"] = torch.empty(shape, device="meta")
    return names


R50 = torchvision_shapes((3, 4, 6, 3))
with torch.device("meta"):
    TSN50 = TSN(50, 3, 0.5).state_dict()


def named(*names):
    return dict.fromkeys(names, torch.empty(1, device="meta"))


OTHERS = {
    "resnet152": (torchvision_shapes((3, 8, 36, 3)), "stages of 3, 8, 36, 3 blocks (ResNet-152)"),
    "ddp resnet152": (
        {f"module.{name}": value for name, value in torchvision_shapes((3, 8, 36, 3)).items()},
        "stages of 3, 8, 36, 3 blocks (ResNet-152)",
    ),
    "resnet26": (torchvision_shapes((2, 2, 2, 2)), "(ResNet-26)"),
    "regnet-like": (torchvision_shapes((1, 2, 7, 12)), "stages of 1, 2, 7, 12 blocks"),
    "wide": (torchvision_shapes((3, 4, 6, 3), channels=128), "128 channels in the first block"),
    "resnet50d": (named("conv1.0.weight", "conv1.3.weight", "layer1.0.conv1.weight"), "ResNet-D"),
    "resnet-d, plain stem": ({**R50, **named("layer2.0.downsample.2.weight")}, "ResNet-D"),
    "seresnet50": ({**R50, **named("layer1.0.se.fc1.weight")}, "squeeze-and-excitation"),
    "tsm": ({**TSN50, **named("backbone.layer1.0.conv1.conv.net.weight")}, "TSM"),
    "i3d": (
        {**TSN50, "backbone.conv1.conv.weight": torch.empty(64, 3, 5, 7, 7, device="meta")},
        "a first convolution over 5 frames",
    ),
    "vit": (named("cls_token", "pos_embed", "blocks.0.attn.qkv.weight"), "a transformer"),
    "lightning vit": (named("model.blocks.0.attn.qkv.weight"), "a transformer"),
    "slowfast": (named("backbone.slow_path.conv1.conv.weight"), "SlowFast"),
    "slowfast of pyslowfast": (named("s1.pathway1_stem.conv.weight"), "SlowFast"),
    "slow of pyslowfast": (named("s1.pathway0_stem.conv.weight"), "PySlowFast's"),
    "x3d": (named("backbone.conv1_s.conv.weight"), "X3D"),
    "x3d of pyslowfast": (named("s1.pathway0_stem.conv_xy.weight"), "X3D"),
    "r2plus1d": (named("backbone.conv1.conv.conv_s.weight"), "R(2+1)D"),
    "r2plus1d of torchvision": (
        named("stem.0.weight", "layer1.0.conv1.0.0.weight", "layer1.0.conv1.0.3.weight"),
        "R(2+1)D",
    ),
    "r3d": (named("stem.0.weight", "layer1.0.conv1.0.weight"), "R3D"),
    "efficientnet": (named("features.0.0.weight", "classifier.1.bias"), "features.0.0.weight"),
}


@pytest.mark.parametrize("network", OTHERS)
def test_other_networks_are_named(network):
    weights, what = OTHERS[network]
    got, advice = find_other_network(weights)
    assert got.startswith("weights of another network: ") and what in got
    assert advice == "Use those of a ResNet-18, -34, -50, -101."
    with pytest.raises(UserError, match="expected a TSN or SlowOnly on a ResNet") as caught:
        infer_architecture(weights, "a.pth")
    assert got in str(caught.value)
    with torch.device("meta"):
        model = TSN(18, 3, 0.5)
    with pytest.raises(UserError) as caught:
        load_weights(model, {"state_dict": weights}, "a.pth")
    assert got in str(caught.value)


@pytest.mark.parametrize("depth", LAYERS)
@pytest.mark.parametrize("make", [TSN, lambda *args: SlowOnly(*args, 4)])
def test_our_networks_are_none_of_the_others(depth, make):
    with torch.device("meta"):
        weights = make(depth, 3, 0.5).state_dict()
    assert find_other_network(weights) is None
    assert find_other_network(with_torchvision_names(weights)) is None
    extra = named("model.attention.weight")
    assert find_other_network({**{f"model.{n}": v for n, v in weights.items()}, **extra}) is None
