"""External networks in the place of ours: their numbers and their input."""

import pytest
import torch

from helpers.tiny_networks import TINY, VIDEOMAE
from omnidali.config.libraries import OUR_MEAN, OUR_STD
from omnidali.config.model_settings import ModelConfig
from omnidali.errors import UserError
from omnidali.models.build import build_model
from omnidali.models.dry_pass import run_dry
from omnidali.models.recognizers import memory_format
from omnidali.training.ema import Ema

CLASSES = 5


def normalised(pixels, mean, std):
    """Pixels (N, 3, ...) on the scale 0..1 as a network takes them."""
    shape = (1, 3) + (1,) * (pixels.ndim - 2)
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def set_statistics(network):
    """Give norms statistics of their own, so that a mistake in them shows."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def timm_network(name, **options):
    import timm

    network = timm.create_model(name, num_classes=CLASSES, **options)
    return network, network.get_classifier(), network.pretrained_cfg


def torchvision_network(name):
    import torchvision

    network = torchvision.models.get_model(name, num_classes=CLASSES)
    facts = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    *_, last = (m for m in network.modules() if isinstance(m, torch.nn.Linear))
    return network, last, {"mean": facts.mean, "std": facts.std}


@pytest.mark.parametrize(
    "backbone, options, size",
    [
        ("timm/resnet18", {}, 64),
        ("timm/efficientnet_lite0", {}, 64),
        ("timm/vit_tiny_patch16_224", {"img_size": 32}, 32),
        ("torchvision/resnet50", {}, 64),
        ("torchvision/mobilenet_v3_small", {}, 64),
    ],
)
def test_logits_over_frames_are_those_of_the_library(backbone, options, size):
    library, _, name = backbone.partition("/")
    torch.manual_seed(1)
    make = timm_network if library == "timm" else torchvision_network
    network, classifier, facts = make(name, **options)
    set_statistics(network)
    config = ModelConfig(backbone=backbone, options=options)
    model = build_model(config, CLASSES, 1, size=size).eval()

    own = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    _, extra = model.load_state_dict(own, strict=False)
    assert len(extra) == 2  # the classifier
    model.cls_head.fc_cls.load_state_dict(classifier.state_dict())

    clip = torch.rand(1, 3, 3, size, size)
    frames = normalised(clip, facts["mean"], facts["std"]).transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        wanted = network(frames).mean(dim=0)
        found = model(normalised(clip, OUR_MEAN, OUR_STD))[0]
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def transformers_network():
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    network = VideoMAEForVideoClassification(VideoMAEConfig(**VIDEOMAE, num_labels=CLASSES))
    return lambda clip: network(pixel_values=clip.transpose(1, 2)).logits, network


def r3d():
    import torchvision

    network = torchvision.models.get_model("r3d_18", num_classes=CLASSES)
    return network, network


def user_function():
    from helpers.tiny_networks import clip_logits

    network = clip_logits(CLASSES)
    return network, network


R3D_COLOUR = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


@pytest.mark.parametrize(
    "name, options, make, colour",
    [
        ("transformers/videomae", VIDEOMAE, transformers_network, (OUR_MEAN, OUR_STD)),
        (
            "transformers/VideoMAEForVideoClassification",
            VIDEOMAE,
            transformers_network,
            (OUR_MEAN, OUR_STD),
        ),
        ("torchvision/r3d_18", {}, r3d, R3D_COLOUR),
        (f"{TINY}:clip_logits", {}, user_function, (OUR_MEAN, OUR_STD)),
    ],
)
def test_logits_over_clips_are_those_of_the_library(name, options, make, colour):
    torch.manual_seed(2)
    call, network = make()
    set_statistics(network)
    model = build_model(ModelConfig(name=name, options=options), CLASSES, 4, size=32).eval()
    model.network.load_state_dict(network.state_dict())

    clip = torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        wanted = call(normalised(clip, *colour))
        found = model(normalised(clip, OUR_MEAN, OUR_STD))
    assert wanted.std() > 1e-4
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_config_sets_mean_and_std():
    """On the scale 0..1: pixels 0..255 without any are a mean of 0 and a deviation of 1/255."""
    settings = ModelConfig(backbone=f"{TINY}:features", mean=(0, 0, 0), std=(1 / 255,) * 3)
    model = build_model(settings, CLASSES, 1).eval()
    pixels = torch.rand(2, 3, 8, 8)
    changed = model.change(normalised(pixels, OUR_MEAN, OUR_STD))
    torch.testing.assert_close(changed, 255 * pixels, atol=1e-3, rtol=0)


def test_photos_and_clips_share_a_pass():
    model = build_model(ModelConfig(backbone=f"{TINY}:maps"), CLASSES, 1).eval()
    clips, photos = torch.rand(2, 3, 4, 16, 16), torch.rand(3, 3, 1, 16, 16)
    together = model([clips, photos])
    torch.testing.assert_close(together, torch.cat([model(clips), model(photos)]))


def test_auxiliary_groups_move_no_statistics():
    for settings, frames in (
        (ModelConfig(backbone=f"{TINY}:maps"), 1),
        (ModelConfig(name=f"{TINY}:clip_logits"), 2),
    ):
        model = build_model(settings, CLASSES, frames).train()
        before = {name: value.clone() for name, value in model.named_buffers()}
        model([torch.rand(2, 3, frames, 16, 16)], (True,))
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        model([torch.rand(2, 3, frames, 16, 16)], (False,))
        assert not all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_norms_without_statistics_stay_without():
    model = build_model(ModelConfig(backbone=f"{TINY}:maps"), CLASSES, 1).train()
    model.backbone[1] = torch.nn.BatchNorm2d(8, track_running_stats=False)
    model([torch.rand(2, 3, 1, 16, 16)], (True,))
    assert model.backbone[1].track_running_stats is False


def test_function_that_takes_the_classes_has_its_own_classifier():
    model = build_model(ModelConfig(backbone=f"{TINY}:frame_logits"), CLASSES, 1).eval()
    clip = torch.rand(1, 3, 3, 16, 16)
    wanted = model.backbone(clip[0].transpose(0, 1)).mean(dim=0)
    torch.testing.assert_close(model(clip)[0], wanted)
    assert model.stages[-1].prefixes == ("backbone.3",)

    config = ModelConfig(backbone=f"{TINY}:frame_logits", options={"num_classes": 7})
    assert build_model(config, CLASSES, 1).cls_head.fc_cls.in_features == 7


def test_networks_in_the_form_of_pytorchvideo_are_made():
    settings = ModelConfig(name=f"{TINY}:create_csn", options={"model_depth": 152})
    assert build_model(settings, CLASSES, 4, size=32)(torch.rand(2, 3, 4, 32, 32)).shape == (2, 5)


def test_dry_pass_changes_nothing():
    model = build_model(ModelConfig(backbone=f"{TINY}:maps"), CLASSES, 1).train()
    model.backbone[3].eval()  # frozen on its own
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert run_dry(model.backbone, 1, 3, 16, 16).shape == (1, 8, 8, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dry_pass_leaves_no_tensor_in_a_network():
    model = build_model(ModelConfig(backbone=f"{TINY}:Caching"), CLASSES, 1)
    assert model.backbone.kept is None
    assert model(torch.rand(2, 3, 1, 8, 8)).shape == (2, CLASSES)


@pytest.mark.parametrize("name", ["SharedLayers", "CannotBeCopied"])
def test_dry_pass_leaves_the_weights_where_they_are(name):
    model = build_model(ModelConfig(backbone=f"{TINY}:{name}"), CLASSES, 1, size=32)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    assert model(torch.rand(2, 3, 1, 8, 8)).shape == (2, CLASSES)


def test_average_follows_shared_layers():
    model = build_model(ModelConfig(backbone=f"{TINY}:SharedLayers"), CLASSES, 1, size=32)
    ema = Ema(model, 0.5)
    torch.nn.init.zeros_(model.backbone.first.weight)
    ema.update(model)
    averaged = ema.average.backbone
    assert averaged.second is averaged.first
    assert 0 < averaged.first.weight.abs().max() <= 0.3


def test_classifier_may_be_registered_first():
    model = build_model(ModelConfig(name=f"{TINY}:HeadFirst"), CLASSES, 2)
    assert model.stages[-1].prefixes == ("network.fc",)


def test_dry_pass_runs_networks_that_look_at_numbers():
    class Looks(torch.nn.Linear):
        def forward(self, values):
            return super().forward(values * float(values.sum() + 1))

    assert run_dry(Looks(4, 3), 2, 4).shape == (2, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "timm/test_vit"},
        {"backbone": "timm/test_efficientnet"},
        {"backbone": "torchvision/mobilenet_v3_small"},
        {"backbone": "timm/test_convnext"},
        {"backbone": f"{TINY}:frame_logits"},
        {"name": "transformers/videomae", "options": VIDEOMAE},
        {"name": f"{TINY}:clip_logits"},
    ],
)
def test_each_parameter_belongs_to_one_stage(settings):
    model = build_model(ModelConfig(**settings), CLASSES, 4)
    stages = model.stages
    for name, _ in model.named_parameters():
        assert sum(stage.holds(name) for stage in stages) == 1, name
    assert [stages[0].name, stages[-1].name] == ["stem", "classifier"]
    inner = [stage.name for stage in stages[1:-1]]
    assert len(set(inner)) == len(inner) and not {"stem", "classifier", "head"} & set(inner)
    head = [name for name, _ in model.named_parameters() if stages[-1].holds(name)]
    assert {dict(model.named_parameters())[name].shape[0] for name in head} == {CLASSES}


def test_stages_of_timm_are_its_blocks():
    model = build_model(ModelConfig(backbone="timm/test_vit"), CLASSES, 1)
    blocks = [f"blocks.{number}" for number in range(len(model.backbone.blocks))]
    assert [stage.name for stage in model.stages] == ["stem", *blocks, "classifier"]
    assert model.stages[-2].holds("backbone.norm.weight")


def test_kernels_of_two_dimensions_over_clips_have_the_usual_layout():
    mixed = build_model(ModelConfig(name=f"{TINY}:FramesOfClips"), CLASSES, 2, size=16)
    plain = build_model(ModelConfig(name=f"{TINY}:clip_logits"), CLASSES, 2)
    assert memory_format(plain) == torch.channels_last_3d
    assert memory_format(mixed) == torch.contiguous_format
    mixed.to(memory_format=memory_format(mixed))


def test_pretrained_of_a_function_is_its_argument():
    settings = ModelConfig(name=f"{TINY}:clip_logits", pretrained=True)
    model = build_model(settings, CLASSES, 4, pretrained=True)
    assert model.network[0].weight.eq(0.5).all()
    with pytest.raises(UserError, match="the argument pretrained, got .*:features, which has none"):
        build_model(ModelConfig(backbone=f"{TINY}:features"), CLASSES, 1, pretrained=True)
