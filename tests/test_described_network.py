"""Checkpoints of external networks: trained, resumed, evaluated, and made again without trust."""

import json
import sys

import pytest
import torch

from helpers.program_runs import CONFIG
from helpers.program_runs import run as run_program
from helpers.running import run, weights
from omnidali.config.convert import config_to_dict
from omnidali.config.model_settings import ModelConfig
from omnidali.curation.filter.teacher import load_teacher
from omnidali.errors import UserError
from omnidali.models.build import build_model
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.models.library_weights import fit_library_weights
from omnidali.models.pretrained import load_pretrained
from omnidali.models.trained_model import load_trained

TINY = "helpers.tiny_networks"
MAPS = ModelConfig(backbone=f"{TINY}:maps", options={"width": 6})
CLIPS = ModelConfig(name=f"{TINY}:clip_logits")
VIDEOMAE = ModelConfig(
    name="transformers/videomae",
    options={
        "image_size": 32,
        "num_frames": 4,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
)


def checkpoint_of(model, path, **changes):
    """A checkpoint as a training saves it, as far as a prediction needs it."""
    state = {"state_dict": model.state_dict(), "model": {**model.description, **changes}}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def trained(media_root, tmp_path_factory):
    """Arguments of a short training over a function's backbone, and its run folder."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "c.yaml").write_text(CONFIG)
    backbone = [f"model.backbone={TINY}:maps", "model.options.width=6", "model.norm=target_only"]
    arguments = ["--config", str(folder / "c.yaml"), f"data_root={media_root}", *backbone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: None)
        code, _, err = run(*arguments, f"run_dir={folder / 'run'}")
    assert code == 0, err
    return arguments, folder / "run"


def test_resumed_training_is_the_whole_one(trained, tmp_path, one_thread):
    arguments, whole = trained
    for steps in (4, 8):
        assert run(*arguments, f"run_dir={tmp_path}", f"train.steps={steps}", "auto")[0] == 0
    wanted, found = weights(whole), weights(tmp_path)
    assert any(name.startswith("backbone.0.") for name in wanted)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_checkpoint_says_how_its_network_is_made(trained):
    state = load_checkpoint(trained[1])
    assert state["model"]["backbone"] == f"{TINY}:maps" and state["model"]["classes"] == 4
    model = load_trained(trained[1], trusted=[f"{TINY}:maps"])
    ema = load_checkpoint(trained[1], preferred="best.pt")["ema"]
    assert all(torch.equal(value, ema[name]) for name, value in model.network.state_dict().items())
    assert model.classes == () and model.network.classes == 4


def test_evaluation_takes_the_function_of_its_config_alone(trained):
    arguments, folder = trained
    done = run_program("evaluate", *arguments, f"run_dir={folder}")
    assert json.loads(done.stdout.strip().splitlines()[-1])["items"] == 5

    others = ["model.backbone=null", "model.options=null"]
    done = run_program("evaluate", *arguments, *others, f"run_dir={folder}", check=False)
    assert done.returncode == 2 and f"backbone {TINY}:maps" in done.stderr


@pytest.mark.parametrize("settings", [MAPS, CLIPS])
def test_function_of_a_checkpoint_is_not_called_without_trust(settings, tmp_path, monkeypatch):
    path = checkpoint_of(build_model(settings, 5, 4), tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, TINY)
    name = settings.functions[0]
    for load in (load_trained, lambda path: load_teacher(path, 4)):
        with pytest.raises(UserError, match=f"got {name}, whose code would run. .*--trust {name}"):
            load(path)
    with pytest.raises(UserError, match="whose code would run"):
        load_trained(path, trusted=[f"{name}s"])
    assert TINY not in sys.modules
    assert load_trained(path, 4, trusted=[name]).network.classes == 5
    assert load_teacher(path, 4, trusted=[name]).outputs == 5


@pytest.mark.parametrize(
    "settings", [VIDEOMAE, ModelConfig(backbone="timm/test_vit", options={"img_size": 32})]
)
def test_network_of_a_library_is_made_again(settings, tmp_path):
    torch.manual_seed(0)
    model = build_model(settings, 5, 4).eval()
    state = torch.get_rng_state()
    again = load_trained(checkpoint_of(model, tmp_path / "a.pt"), 4).network
    assert torch.equal(torch.get_rng_state(), state)
    clip = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert again.description == model.description


def test_folder_of_transformers_needs_not_be_there_later(tmp_path, monkeypatch):
    from transformers import VideoMAEConfig

    monkeypatch.chdir(tmp_path)
    VideoMAEConfig(**VIDEOMAE.options).save_pretrained("folder")
    facts = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": True}
    (tmp_path / "folder/preprocessor_config.json").write_text(json.dumps(facts))
    model = build_model(ModelConfig(name="transformers/folder"), 5, 4, size=32).eval()
    assert model.input.mean == (0.5,) * 3 and model.input.std == (0.25,) * 3

    path = checkpoint_of(model, tmp_path / "a.pt")
    (tmp_path / "folder").rename("elsewhere")
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(load_trained(path, 4).network(clip), model(clip))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": "timm/hf-hub:somebody/network"}, "a network that its library knows"),
        ({"backbone": "timm/local-dir:/somewhere"}, "a network that its library knows"),
        ({"backbone": "timm/test_vit9"}, "a network of timm, got"),
        ({"backbone": None, "name": "transformers/somebody/network"}, "its library knows"),
        ({"options": {"checkpoint_path": "/etc/passwd"}}, "model.options.checkpoint_path"),
        ({"options": {"embed_dim": 6400, "img_size": 32}}, "Use another file"),
        ({"classes": 10**9}, "weights for each class"),
        ({"classes": "many"}, "the number of outputs as `classes`"),
        ({"classes": True}, "a.pt: expected the number of outputs .* got True"),
        ({"std": [0.0, 0.0, 0.0]}, "a.pt: .* model.std: expected a number above 0"),
        ({"mean": [float("nan")] * 3}, "a.pt: .* model.mean: expected a number from 0 to 1"),
        ({"mean": "grey"}, "a.pt: expected a network that can be made"),
        ({"backbone": "os/system"}, "a.pt: expected a network that can be made"),
        ({"options": 3}, "Use another file|a network that can be made"),
        ({"backbone": "timm/test_efficientnet", "options": {}}, "the weights"),
    ],
)
def test_descriptions_that_are_wrong_or_hostile_are_refused(changes, message, tmp_path):
    settings = ModelConfig(backbone="timm/test_vit", options={"img_size": 32})
    path = checkpoint_of(build_model(settings, 5, 1), tmp_path / "a.pt", **changes)
    with pytest.raises(UserError, match=message):
        load_trained(path)


@pytest.mark.parametrize("before", ["", "module.", "model.", "backbone.", "module.model.backbone."])
def test_file_with_the_names_of_the_network_is_taken(before, tmp_path):
    source = build_model(MAPS, 3, 1)
    file = {f"{before}{name}": value for name, value in source.backbone.state_dict().items()}
    file |= {f"{before}fc.weight": torch.zeros(1000, 6)}
    torch.save({"state_dict": file}, tmp_path / "a.pth")
    model = build_model(MAPS, 5, 1)
    report = load_pretrained(model, tmp_path / "a.pth")
    assert torch.equal(model.backbone[0].weight, source.backbone[0].weight)
    assert len(report.matched) == len(source.backbone.state_dict())
    assert list(report.left_out) == [f"{before}fc.weight"]
    assert f"{TINY}:maps" in str(report) and "cls_head.fc_cls.weight" in str(report)


@pytest.mark.parametrize("settings", [MAPS, CLIPS])
def test_classifier_of_a_file_is_kept_or_fresh(settings, tmp_path):
    source, model = build_model(settings, 3, 4), build_model(settings, 5, 4)
    torch.save({"state_dict": source.state_dict(), "classes": ["a", "b", "c"]}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="is .* instead of .*model.pretrained_head: fresh"):
        load_pretrained(model, tmp_path / "a.pt")
    report = load_pretrained(model, tmp_path / "a.pt", head="fresh")
    assert len(report.matched) == len(source.state_dict()) - 2 and len(report.missing) == 2

    with pytest.raises(UserError, match="expected the classes x; y; z, got a; b; c"):
        load_pretrained(build_model(settings, 3, 4), tmp_path / "a.pt", classes=["x", "y", "z"])
    load_pretrained(build_model(settings, 3, 4), tmp_path / "a.pt", classes=["a", "b", "c"])


def test_files_of_other_networks_are_refused(tmp_path):
    model = build_model(MAPS, 5, 1)
    wide = build_model(ModelConfig(backbone=f"{TINY}:maps"), 5, 1)
    for state, message in (
        (wide.state_dict(), r"backbone.0.weight is \(8, 3, 3, 3\) instead of \(6, 3, 3, 3\)"),
        ({"stem.weight": torch.zeros(3)}, "backbone.0.weight is missing"),
        (
            {name: value for name, value in model.state_dict().items() if "1." not in name},
            "missing",
        ),
    ):
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(UserError, match=message):
            load_pretrained(model, tmp_path / "a.pth")


def test_averaged_weights_of_a_wrapped_file_are_not_mixed_with_the_others():
    model = build_model(MAPS, 5, 1)
    names = model.backbone.state_dict()
    file = {f"module.{name}": torch.ones_like(value) for name, value in names.items()}
    file |= {f"ema.{name}": torch.zeros_like(value) for name, value in names.items()}
    fitting, _ = fit_library_weights(model, file, takes_head=True)
    assert len(fitting) == len(names) and fitting["backbone.0.weight"].eq(1).all()


def test_settings_of_ours_are_described_as_before():
    model = build_model(ModelConfig(depth=18), 7, 1)
    assert model.description == {"name": "tsn", "depth": 18, "classes": 7}
    assert config_to_dict(ModelConfig())["pretrained"] is None
