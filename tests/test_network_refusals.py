"""External networks that are refused, each with the setting that names it and what to do."""

import sys

import pytest

from helpers.tiny_networks import TINY, VIDEOMAE
from omnidali.config.model_settings import ModelConfig
from omnidali.errors import UserError
from omnidali.models.build import build_model

CLASSES = 5


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"backbone": f"{TINY}:missing"},
            "model.backbone: expected a function of .* got no missing",
        ),
        ({"backbone": f"{TINY}:featuers"}, "Did you mean features?"),
        ({"backbone": f"{TINY}:NO_FUNCTION"}, "expected a function, got .* of the type int"),
        ({"backbone": f"{TINY}:fails"}, "model.backbone: .* KeyError: 'no such thing'"),
        ({"backbone": f"{TINY}:exits"}, "model.backbone: .* SystemExit: bye"),
        ({"backbone": f"{TINY}:gives_no_module"}, "returns a torch.nn.Module, got .* returned str"),
        ({"backbone": f"{TINY}:Tokens"}, r"features \(N, C\), .* which gives \(2, 4, 8\)"),
        ({"backbone": f"{TINY}:ChannelsLast"}, r"features .*, which gives \(2, 16, 16, 3\)"),
        ({"backbone": f"{TINY}:Pyramid"}, "2 feature maps, not one"),
        ({"backbone": f"{TINY}:OneRow"}, r"features .*, which gives \(1, 3\)"),
        ({"backbone": f"{TINY}:WholeNumbers"}, "torch.int64, not floating-point"),
        ({"backbone": f"{TINY}:maps", "options": {"widht": 4}}, "unexpected keyword argument"),
        ({"backbone": "no_such_module:make"}, "got no module no_such_module. Install it"),
        ({"backbone": "torchvision/r3d_18"}, "over frames, .* model.name=torchvision/r3d_18"),
        ({"name": "torchvision/resnet18"}, "over clips, .* model.backbone=torchvision/resnet18"),
        ({"backbone": "timm/resnet81"}, "Did you mean timm/resnet"),
        ({"backbone": "timm/resnet18.a9_in1k"}, "Did you mean .*timm/resnet18.a1_in1k"),
        ({"backbone": "torchvision/resnet5"}, "Did you mean torchvision/resnet50"),
        ({"name": "transformers/videomea"}, "Did you mean transformers/videomae"),
        (
            {"name": "transformers/videomae", "options": {"num_frame": 4}},
            "model.options.num_frame: .* Did you mean num_frames?",
        ),
        ({"name": f"{TINY}:features"}, "model.name: .* takes clips of this size, got"),
        (
            {"name": f"{TINY}:create_csn", "options": {"model_num_class": 7}},
            "5 outputs, .* gives 7",
        ),
        (
            {"name": "transformers/videomae", "options": {**VIDEOMAE, "num_frames": 8}},
            "clip.clip_len: expected 8, .* got 4. Set clip.clip_len=8",
        ),
        (
            {"name": "transformers/videomae", "options": {**VIDEOMAE, "image_size": 64}},
            "clip.size: expected a size that transformers/videomae takes, such as its own, 64",
        ),
        ({"backbone": "timm/vit_tiny_patch16_224"}, "clip.size: .* own, 224, .* clip.size=224"),
        ({"name": f"{TINY}:EightFrames"}, "model.name: expected a network that takes clips"),
    ],
)
def test_networks_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build_model(ModelConfig(**settings), CLASSES, 4, size=32)


@pytest.mark.parametrize("is_broken", [False, True])
def test_library_that_does_not_import_is_named(monkeypatch, tmp_path, is_broken):
    if is_broken:
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        (tmp_path / "timm.py").write_text("raise RuntimeError('operator x does not exist')")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"the library timm, got .*omnidali\[backbones\]") as caught:
        build_model(ModelConfig(backbone="timm/resnet18"), CLASSES, 1)
    assert ("operator x does not exist" in str(caught.value)) == is_broken


def test_library_without_a_network_connection_is_reported(monkeypatch):
    import timm

    def out_of_reach(model_name, pretrained, **_):
        assert pretrained
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", out_of_reach)
    settings = ModelConfig(backbone="timm/resnet18", pretrained=True)
    with pytest.raises(UserError, match="model.pretrained: .* not known. .*model.pretrained=FILE"):
        build_model(settings, CLASSES, 1, pretrained=True)
