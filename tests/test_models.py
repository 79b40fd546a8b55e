"""The networks of the reference, by parameter counts, names and plain restatements."""

import pytest
import torch

from omnidali.config.model_settings import ModelConfig
from omnidali.models.build import build_model
from omnidali.models.recognizers import TSN, SlowOnly


@pytest.mark.parametrize(
    "model, parameters, keys",
    [
        (lambda: TSN(50, 200, 0.4), 23_917_832, 320),
        (lambda: TSN(50, 400, 0.4), 24_327_632, 320),
        (lambda: SlowOnly(50, 200, 0.5, 8), 32_044_296, 320),
        (lambda: SlowOnly(50, 400, 0.5, 4), 32_454_096, 320),
        (lambda: SlowOnly(101, 400, 0.5, 8), 60_359_120, 626),
        (lambda: SlowOnly(18, 400, 0.5, 8), 32_025_552, 122),
        (lambda: SlowOnly(34, 400, 0.5, 8), 61_008_080, 218),
    ],
)
def test_networks_have_as_many_parameters_as_reference(model, parameters, keys):
    with torch.device("meta"):
        network = model()
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert len(network.state_dict()) == keys


def test_state_dict_has_names_of_reference():
    names = set(TSN(50, 200, 0.4).state_dict())
    wanted = {"backbone.conv1.conv.weight", "cls_head.fc_cls.weight", "cls_head.fc_cls.bias"}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted |= {f"backbone.conv1.bn.{part}" for part in norm}
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            for conv in ("conv1", "conv2", "conv3") + (("downsample",) if block == 0 else ()):
                place = f"backbone.layer{stage}.{block}.{conv}"
                wanted |= {f"{place}.conv.weight", *(f"{place}.bn.{part}" for part in norm)}
    assert names == wanted


def test_slowonly_kernels_span_time_in_late_stages_only():
    shapes = {
        name: tuple(weight.shape[2:])
        for name, weight in SlowOnly(50, 5, 0.5, 8).state_dict().items()
        if name.endswith("conv.weight")
    }
    assert shapes["backbone.conv1.conv.weight"] == (1, 7, 7)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            place = f"backbone.layer{stage}.{block}"
            assert shapes[f"{place}.conv1.conv.weight"] == ((1, 1, 1) if stage < 3 else (3, 1, 1))
            assert shapes[f"{place}.conv2.conv.weight"] == (1, 3, 3)
            assert shapes[f"{place}.conv3.conv.weight"] == (1, 1, 1)


@pytest.mark.parametrize("depth", [18, 34])
def test_both_kernels_of_late_basic_blocks_span_time(depth):
    """As in mmaction2's BasicBlock3d; ``tests/of_benchmarks/test_mmaction2.py`` compares them."""
    with torch.device("meta"):
        model = SlowOnly(depth, 5, 0.5, 8)
    for stage in (1, 2, 3, 4):
        time = 1 if stage < 3 else 3
        for block in getattr(model.backbone, f"layer{stage}"):
            for conv in (block.conv1.conv, block.conv2.conv):
                assert conv.kernel_size == (time, 3, 3)
                assert conv.padding == (time // 2, 1, 1) and conv.stride[0] == 1
            assert block.conv2.conv.stride == (1, 1, 1)
            assert block.downsample is None or block.downsample.conv.kernel_size == (1, 1, 1)


def test_tsn_consensus_is_the_mean_over_frames():
    torch.manual_seed(0)
    model = TSN(18, 5, 0.0).eval()
    clips = torch.randn(2, 3, 4, 32, 40)
    plain = []
    for clip in clips:
        features = [model.backbone(clip[:, t][None]).mean(dim=(2, 3))[0] for t in range(4)]
        plain.append(model.cls_head.fc_cls(sum(features) / 4))
    assert torch.allclose(model(clips), torch.stack(plain), atol=1e-5)


@pytest.mark.parametrize("name", ["tsn", "slowonly"])
def test_groups_give_the_same_logits_as_single_clips(name):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, depth=18, dropout=0.0), 5, 4).eval()
    videos, images = torch.randn(2, 3, 4, 32, 40), torch.randn(3, 3, 1, 32, 40)
    together = model([videos, images])
    assert together.shape == (5, 5)
    assert torch.allclose(together, torch.cat([model(videos), model(images)]), atol=1e-5)
    assert torch.allclose(together[2:3], model(images[:1]), atol=1e-5)
    torch.nn.functional.cross_entropy(model.train()([videos, images]), torch.arange(5)).backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters()
    )


def test_tsn_does_not_compute_repeated_frames():
    model, seen = TSN(18, 5, 0.0).eval(), []
    model.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model([torch.randn(2, 3, 4, 32, 32), torch.randn(3, 3, 1, 32, 32)])
    assert seen == [2 * 4 + 3]


def test_slowonly_keeps_every_frame():
    model = SlowOnly(50, 5, 0.0, 8).eval()
    assert model.backbone(torch.randn(1, 3, 8, 64, 64)).shape == (1, 2048, 8, 2, 2)


def test_zero_init_of_last_norms_is_for_3d_only():
    assert all(
        (block.last_norm.weight == 0).all() for block in SlowOnly(18, 5, 0.5, 8).backbone.layer2
    )
    assert all((block.last_norm.weight == 1).all() for block in TSN(18, 5, 0.5).backbone.layer2)
