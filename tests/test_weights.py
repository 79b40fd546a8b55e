"""Weights of other projects: names, shapes, inflation that keeps the response, and a report."""

import os

import pytest
import torch

from omnidali.errors import UserError
from omnidali.models.checkpoint_file import load_weights
from omnidali.models.pretrained import inflate, load_pretrained
from omnidali.models.recognizers import TSN, SlowOnly, fixed_statistics
from omnidali.models.weights import are_same_classes, class_names, export_weights, read_weights


def torchvision_names(depth=50):
    """torchvision's (and timm's) ResNet, restated: names and shapes."""
    blocks, bottleneck = {
        18: ((2, 2, 2, 2), False),
        50: ((3, 4, 6, 3), True),
        101: ((3, 4, 23, 3), True),
    }[depth]
    shapes = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name, width):
        shapes.update(
            {
                f"{name}.{part}": (width,)
                for part in ("weight", "bias", "running_mean", "running_var")
            }
        )
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    inside = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 << stage
        outside = width * 4 if bottleneck else width
        for block in range(count):
            place = f"layer{stage}.{block}"
            kernels = (
                [(width, inside, 1), (width, width, 3), (outside, width, 1)]
                if bottleneck
                else [(width, inside, 3), (width, width, 3)]
            )
            for number, (out, into, kernel) in enumerate(kernels, 1):
                shapes[f"{place}.conv{number}.weight"] = (out, into, kernel, kernel)
                norm(f"{place}.bn{number}", out)
            if block == 0 and (stage > 1 or bottleneck):
                shapes[f"{place}.downsample.0.weight"] = (outside, inside, 1, 1)
                norm(f"{place}.downsample.1", outside)
            inside = outside
    shapes |= {"fc.weight": (1000, inside), "fc.bias": (1000,)}
    torch.manual_seed(0)
    return {name: torch.rand(shape) if shape else torch.tensor(3) for name, shape in shapes.items()}


@pytest.mark.parametrize("depth, tensors", [(18, 120), (50, 318), (101, 624)])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_torchvision_goes_into_tsn(tmp_path, depth, tensors, ending):
    weights, path = torchvision_names(depth), tmp_path / f"r.{ending}"
    if ending == "pth":
        torch.save(weights, path)
    else:
        from safetensors.torch import save_file

        save_file(weights, str(path))
    model = TSN(depth, 7, 0.5)
    before = model.cls_head.fc_cls.weight.clone()
    report = load_pretrained(model, path)
    assert (len(report.matched), len(report.inflated), report.wrong) == (tensors, 0, [])
    assert set(report.left_out) == {"fc.weight", "fc.bias"} and report.missing == [
        "cls_head.fc_cls.weight",
        "cls_head.fc_cls.bias",
    ]
    assert str(report) == (
        f"weights with torchvision's names: {tensors} tensors as they are, 0 inflated to 3D;"
        " left out, classifier of another kind: fc.bias; fc.weight;"
        " at their initial values: cls_head.fc_cls.weight; cls_head.fc_cls.bias"
    )
    own = model.state_dict()
    assert torch.equal(
        own["backbone.layer2.0.downsample.conv.weight"], weights["layer2.0.downsample.0.weight"]
    )
    assert torch.equal(
        own["backbone.layer1.1.conv2.bn.running_var"], weights["layer1.1.bn2.running_var"]
    )
    assert torch.equal(own["backbone.conv1.conv.weight"], weights["conv1.weight"])
    assert torch.equal(own["cls_head.fc_cls.weight"], before)


def test_torchvision_is_inflated_into_slowonly(tmp_path):
    weights = torchvision_names(50)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3},
        tmp_path / "r.pth",
    )
    model = SlowOnly(50, 7, 0.5, 4)
    report = load_pretrained(model, tmp_path / "r.pth")
    assert len(report.inflated) == 53 and len(report.matched) == 318 - 53 and not report.wrong
    own = model.state_dict()["backbone.layer3.2.conv1.conv.weight"]
    assert own.shape[2] == 3 and torch.allclose(
        own.sum(dim=2), weights["layer3.2.conv1.weight"], atol=1e-6
    )


@pytest.mark.parametrize("length", [1, 3, 5])
def test_inflated_kernel_responds_to_still_clip_as_2d_one(length):
    flat = torch.nn.Conv2d(3, 6, 3, padding=1, bias=False)
    deep = torch.nn.Conv3d(3, 6, (length, 3, 3), padding=(0, 1, 1), bias=False)
    deep.weight.data = inflate(flat.weight.data, length)
    image = torch.randn(2, 3, 9, 11)
    still = deep(image[:, :, None].expand(-1, -1, 7, -1, -1))
    assert torch.allclose(still, flat(image)[:, :, None].expand_as(still), atol=1e-6)


def test_inflated_network_responds_to_still_clip_as_2d_one(tmp_path):
    """Away from the temporal padding: the middle frame of a long still clip."""
    parent = TSN(18, 5, 0.0).eval()
    torch.save(parent.state_dict(), tmp_path / "p.pth")
    child = SlowOnly(18, 5, 0.0, 33).eval()
    load_pretrained(child, tmp_path / "p.pth")
    image = torch.randn(1, 3, 40, 56)
    features = child.backbone(image[:, :, None].expand(-1, -1, 33, -1, -1))
    assert torch.allclose(features[:, :, 16], parent.backbone(image), atol=1e-4)


@pytest.mark.parametrize(
    "make, keys",
    [
        (lambda: TSN(50, 200, 0.4), 320),
        (lambda: SlowOnly(50, 200, 0.5, 8), 320),
        (lambda: SlowOnly(101, 400, 0.5, 8), 626),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_mmaction2_checkpoints_load_and_export_bit_for_bit(tmp_path, make, keys, ending):
    """As released: meta and state_dict; loaded strictly, exported with the same names, and loaded
    again bit for bit.
    """
    model = make()
    torch.save(
        {
            "meta": {
                "epoch": 100,
                "CLASSES": ["a"],
                "mmaction_version": "0.8.0",
                "time": "x",
                "config": "y = 1",
            },
            "state_dict": model.state_dict(),
        },
        tmp_path / "mm.pth",
    )
    other = make()
    with torch.no_grad():
        other.backbone.conv1.conv.weight.zero_()
    state = read_weights(tmp_path / "mm.pth")
    assert state["meta"]["epoch"] == 100 and len(state["state_dict"]) == keys
    load_weights(other, state, "x")
    report = load_pretrained(other, tmp_path / "mm.pth")
    assert len(report.matched) == keys and not report.left_out and not report.missing
    export_weights(other.state_dict(), tmp_path / f"out.{ending}", {"CLASSES": ["a"]})
    again = read_weights(tmp_path / f"out.{ending}")["state_dict"]
    assert (
        list(again) == list(model.state_dict())
        if ending == "pth"
        else again.keys() == model.state_dict().keys()
    )
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_mmaction2_1x_names_are_recognised(tmp_path):
    """The plain recognisers keep 0.x's names beside a preprocessor; the OmniSource one has
    torchvision's and two heads.
    """
    model = TSN(18, 5, 0.5)
    plain = {
        **model.state_dict(),
        "data_preprocessor.mean": torch.zeros(3, 1, 1),
        "data_preprocessor.std": torch.ones(3, 1, 1),
    }
    torch.save(
        {"state_dict": plain, "meta": {}, "message_hub": {"log_scalars": {}}}, tmp_path / "a.pth"
    )
    report = load_pretrained(TSN(18, 5, 0.5), tmp_path / "a.pth")
    assert not report.missing and set(report.left_out) == {
        "data_preprocessor.mean",
        "data_preprocessor.std",
    }
    load_weights(TSN(18, 5, 0.5), read_weights(tmp_path / "a.pth"), "x")
    omni = {
        f"backbone.{name}": value
        for name, value in torchvision_names(50).items()
        if not name.startswith("fc.")
    }
    omni |= {
        "cls_head.fc3d.0.weight": torch.zeros(800, 2048),
        "cls_head.fc2d.2.weight": torch.zeros(1000, 2048),
    }
    torch.save({"state_dict": omni}, tmp_path / "b.pth")
    report = load_pretrained(SlowOnly(50, 5, 0.5, 4), tmp_path / "b.pth")
    assert report.family == "mmaction2 1.x OmniSource" and len(report.inflated) == 53
    assert set(report.left_out) == {"cls_head.fc3d.0.weight", "cls_head.fc2d.2.weight"}


def test_other_classifier_is_left_out_only_with_fresh_head(tmp_path):
    other = TSN(18, 9, 0.5)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "o.pth")
    model = TSN(18, 5, 0.5)
    before = model.cls_head.fc_cls.weight.clone()
    with pytest.raises(UserError) as caught:
        load_pretrained(model, tmp_path / "o.pth")
    assert "cls_head.fc_cls.weight is (9, 512) instead of (5, 512)" in str(caught.value)
    assert "Set model.pretrained_head: fresh" in str(caught.value)
    report = load_pretrained(model, tmp_path / "o.pth", head="fresh")
    assert "asked for with pretrained_head: fresh" in str(report)
    assert torch.equal(model.cls_head.fc_cls.weight, before)
    assert torch.equal(model.backbone.conv1.conv.weight, other.backbone.conv1.conv.weight)


def test_classifier_of_classes_in_another_order_is_refused(tmp_path):
    torch.save(
        {"state_dict": TSN(18, 2, 0.5).state_dict(), "classes": ["a", "b"]}, tmp_path / "o.pth"
    )
    load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", classes=["a", "b"])
    with pytest.raises(
        UserError, match="expected the classes b; a, got a; b. Set model.pretrained_head: fresh"
    ):
        load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", classes=["b", "a"])
    load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", "fresh", ["b", "a"])
    with pytest.raises(
        UserError, match="expected a checkpoint file, got a folder. Name a file in it"
    ):
        load_pretrained(TSN(18, 2, 0.5), tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        *({"classes": ["x", "y"]}, {"meta": {"CLASSES": ("x", "y")}}),
        {"meta": {"dataset_meta": {"classes": ["x", "y"]}}},
    ],
)
def test_classifier_of_other_classes_is_refused_wherever_their_names_are(tmp_path, entries):
    torch.save({"state_dict": TSN(18, 2, 0.5).state_dict(), **entries}, tmp_path / "o.pth")
    with pytest.raises(UserError, match="expected the classes a; b, got x; y. Set"):
        load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", classes=["a", "b"])
    load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", classes=["x", "y"])
    load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", head="fresh", classes=["a", "b"])


def test_classes_of_a_classifier_that_is_not_taken_do_not_matter(tmp_path):
    torch.save({"state_dict": torchvision_names(18), "classes": ["x"]}, tmp_path / "o.pth")
    assert load_pretrained(TSN(18, 2, 0.5), tmp_path / "o.pth", classes=["a", "b"]).matched


@pytest.mark.parametrize(
    "one, other, are_same",
    [
        (["caf\u00e9", "b"], ["cafe\u0301", "b"], True),
        (["long_jump", "b"], ["long jump", "b"], True),
        (["a", "b"], ["b", "a"], False),
        (["a", "b"], ["a"], False),
        (["a b", "a_b"], ["a_b", "a b"], False),
        (["a b", "a_b"], ["a b", "a_b"], True),
    ],
)
def test_names_of_classes_that_look_the_same_are_the_same(one, other, are_same):
    assert are_same_classes(one, other) == are_same_classes(other, one) == are_same


def test_numbers_of_an_export_are_no_names():
    assert class_names({"meta": {"CLASSES": ["0", "1"]}}) == []
    assert class_names({"classes": ["0", "1"]}) == ["0", "1"]


class Evil:
    def __reduce__(self):
        return exec, ("open('/tmp/omnidali-evil-weights', 'w')",)


def test_file_that_does_not_fit_is_refused(tmp_path):
    torch.save(TSN(34, 5, 0.5).state_dict(), tmp_path / "34.pth")
    torch.save({"net": {"a": 1}}, tmp_path / "no.pth")
    torch.save({"state_dict": {"encoder.weight": torch.zeros(3)}}, tmp_path / "vit.pth")
    torch.save(
        {"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "x": Evil()},
        tmp_path / "evil.pth",
    )
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, message in (
        ("none.pth", "expected a checkpoint, got no such file"),
        ("34.pth", "Set model.name and model.depth"),
        ("no.pth", "with weights, bare or under state_dict, got the entries net"),
        ("vit.pth", "got weights of another network: encoder.weight. Use those of a ResNet-18"),
        ("evil.pth", "a checkpoint that can be read safely"),
        ("cut.safetensors", "that can be read safely"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_pretrained(TSN(18, 5, 0.5), tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert not os.path.exists("/tmp/omnidali-evil-weights")


@pytest.mark.parametrize("make", [lambda: TSN(18, 5, 0.0), lambda: SlowOnly(18, 5, 0.0, 4)])
def test_auxiliary_groups_leave_running_statistics_alone(make):
    """Clips of other sources are normalised by their own batch and leave the running statistics
    alone.
    """
    torch.manual_seed(0)
    model, alone = make().train(), make().train()
    alone.load_state_dict(model.state_dict())
    target = torch.randn(3, 3, 4, 32, 32)
    others = [2 + torch.randn(4, 3, 4, 32, 32), torch.randn(2, 3, 1, 32, 32)]
    logits = model([target, *others], (False, True, True))
    mine = alone([target])
    assert torch.allclose(logits[:3], mine, atol=1e-5)
    for name, value in alone.state_dict().items():
        if "running" in name or "tracked" in name:
            assert torch.equal(model.state_dict()[name], value), name
    with fixed_statistics(alone):
        rest = alone(others)
    assert torch.allclose(logits[3:], rest, atol=1e-4)
    swapped = model([others[0], target, others[1]], (True, False, True))
    assert torch.allclose(swapped[4:7], logits[:3], atol=1e-4) and torch.allclose(
        swapped[:4], logits[3:7], atol=1e-4
    )
    before = {
        name: value.clone() for name, value in model.state_dict().items() if "running" in name
    }
    model(others, (True, True))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    model([target, *others])
    assert not all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
