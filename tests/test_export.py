"""Exports: the logits of the network in every format, the facts beside them, nothing by halves."""

import json
import sys

import pytest
import torch

from helpers.exported_models import CLASSES, TINY, save_run
from omnidali.cli import main as cli
from omnidali.errors import UserError
from omnidali.models.export import check_export, export_model, find_format
from omnidali.models.export_graph import save_torch_export, trace
from omnidali.models.from_pretrained import from_pretrained
from omnidali.models.model_facts import describe_model, recipe_of
from omnidali.models.recognizers import TSN, Recognizer
from omnidali.models.trained_model import load_trained
from omnidali.models.weights import read_weights

KINDS = ("tsn", "slowonly")
WEIGHTS = ("out.pth", "out.safetensors", "folder")
SHAPES = ((1, 3, 4, 48, 48), (3, 3, 2, 40, 64))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders, and their networks, by kind."""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: (folder / kind, save_run(folder / kind, kind)) for kind in KINDS}


class Means(Recognizer):
    """The mean of each colour: the smallest network there is."""

    is_3d = False
    clip_len = None
    classes = 3
    stages = ()
    description = {"name": "means"}
    input = None
    network_name = "means"

    def forward(self, clips, auxiliary=()):
        return clips.mean((2, 3, 4))


class Branching(Means):
    """Which way it goes depends on the pixels, so that nothing can be traced."""

    def forward(self, clips, auxiliary=()):
        return clips.mean((2, 3, 4)) if clips.sum() > 0 else clips[:, :, 0, 0, 0]


def logits_of(network, shape):
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return clips, network(clips)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_gives_the_logits_of_the_network(runs, tmp_path, kind, capsys):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, network = runs[kind]
    out = tmp_path / "out.onnx"
    assert cli.main(["export", "--checkpoint", str(folder), "--out", str(out)]) == 0
    assert "free: batch, frames, height, width; by onnxruntime within" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out))
    for shape in SHAPES:
        clips, wanted = logits_of(network, shape)
        assert wanted.std() > 1e-3  # the comparison below would hold for zeros
        (logits,) = session.run(["logits"], {"clips": clips.numpy()})
        assert torch.allclose(torch.from_numpy(logits), wanted, atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["meta"])
    assert facts == json.loads(json.dumps(describe_model(load_trained(folder))))
    assert session.get_inputs()[0].shape == ["batch", 3, "frames", "height", "width"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_program_gives_the_logits_of_the_network(runs, tmp_path, kind):
    folder, network = runs[kind]
    written = export_model(folder, tmp_path / "out.pt2")
    assert "free: batch, frames, height, width (of more than 32 pixels); by" in written.note
    extra = {"meta.json": ""}
    program = torch.export.load(tmp_path / "out.pt2", extra_files=extra).module()
    for shape in SHAPES:
        clips, wanted = logits_of(network, shape)
        assert torch.allclose(program(clips), wanted, atol=1e-4)
    assert json.loads(extra["meta.json"])["CLASSES"] == CLASSES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_exported_weights_make_the_same_network_with_its_recipe(runs, tmp_path, kind, name):
    folder, network = runs[kind]
    export_model(folder, tmp_path / name)
    clips, wanted = logits_of(network, SHAPES[0])
    loaded = from_pretrained(tmp_path / name)
    assert torch.equal(logits_of(loaded, SHAPES[0])[1], wanted) and not loaded.training
    assert loaded.class_names == tuple(CLASSES) and loaded.clip_len == network.clip_len

    ours, theirs = load_trained(folder), load_trained(tmp_path / name)
    assert theirs.config is not None and recipe_of(theirs.config) == recipe_of(ours.config)
    assert theirs.hold_out == {"target": [1, 3]} and theirs.classes == ours.classes
    assert theirs.config.evaluation.test == ours.config.evaluation.test
    assert "/home/me" not in json.dumps(describe_model(ours))


@pytest.mark.parametrize("name", WEIGHTS)
def test_export_of_an_export_changes_nothing(runs, tmp_path, name):
    export_model(runs["tsn"][0], tmp_path / name)
    export_model(tmp_path / name, tmp_path / "again.pth")
    states = [read_weights(tmp_path / "again.pth"), load_trained(tmp_path / name)]
    assert states[0]["meta"] == json.loads(json.dumps(describe_model(states[1])))


def test_training_on_several_labels_is_remembered(tmp_path):
    save_run(tmp_path / "run", "tsn", multi_label=True)
    for name in WEIGHTS:
        export_model(tmp_path / "run", tmp_path / name)
        assert load_trained(tmp_path / name).multi_label
    assert "for several labels an item" in (tmp_path / "folder/README.md").read_text()


def test_network_of_a_function_is_exported_and_loaded_with_trust_alone(tmp_path):
    network = save_run(tmp_path / "run", TINY, model={"pretrained": None})
    _, wanted = logits_of(network, SHAPES[0])
    for name in WEIGHTS:
        with pytest.raises(UserError, match=f"whose code would run. .*--trust {TINY}"):
            export_model(tmp_path / "run", tmp_path / name)
        export_model(tmp_path / "run", tmp_path / name, trusted=[TINY])
        with pytest.raises(UserError, match="whose code would run"):
            from_pretrained(tmp_path / name)
        loaded = from_pretrained(tmp_path / name, trusted=[TINY])
        assert torch.equal(logits_of(loaded, SHAPES[0])[1], wanted)
    card = (tmp_path / "folder/README.md").read_text()
    assert f'trusted=["{TINY}"]' in card and f"folder --trust {TINY} video.mp4" in card


def test_file_for_mmaction2_has_its_names_and_plain_facts(runs, tmp_path):
    export_model(runs["tsn"][0], tmp_path / "out.pth")
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(state) == ["meta", "state_dict"] and state["meta"]["CLASSES"] == CLASSES
    TSN(18, 3, 0.0).load_state_dict(state["state_dict"], strict=True)


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_weights_of_any_network_are_written_as_they_are(tmp_path, name):
    weights = {"patch_embed.weight": torch.ones(3)}
    odd = {"hold_out": {"a": torch.ones(1)}, "classes": ["\ud800", "b"]}
    torch.save({"model": weights, **odd}, tmp_path / "vit.pth")
    export_model(tmp_path / "vit.pth", tmp_path / name)
    assert list(read_weights(tmp_path / name)["state_dict"]) == ["patch_embed.weight"]
    with pytest.raises(UserError, match="expected a TSN or SlowOnly"):
        export_model(tmp_path / "vit.pth", tmp_path / "out.onnx")


@pytest.mark.parametrize(
    "out, asked, message",
    [
        ("a.onx", None, "Did you mean '.onnx'? A folder of that name needs --format folder"),
        ("a.safetensor", None, "Did you mean '.safetensors'?"),
        ("a.bin", None, "expected a name that ends in .pth, .safetensors, .onnx or .pt2, or none"),
        ("a.pth", "onnx", "expected a name that ends in .onnx, for --format onnx, got .pth"),
        (
            "a",
            "torch-export",
            "expected a name that ends in .pt2, for --format torch-export, got n",
        ),
    ],
)
def test_ending_that_is_unknown_or_of_another_format_is_refused(out, asked, message):
    with pytest.raises(UserError) as caught:
        find_format(out, asked)
    assert message in str(caught.value)


def test_folder_with_something_else_is_refused(runs, tmp_path):
    (tmp_path / "folder").mkdir()
    check_export(tmp_path / "folder", "folder", "x")
    (tmp_path / "folder/mine.txt").touch()
    with pytest.raises(UserError, match="expected a new folder, or one of an earlier export"):
        export_model(runs["tsn"][0], tmp_path / "folder")
    with pytest.raises(UserError, match="expected a new folder, or one of an earlier export"):
        export_model(runs["tsn"][0], runs["tsn"][0], "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine.txt"]


def test_folder_of_an_earlier_export_is_replaced_whole_or_left_unusable(
    runs, tmp_path, monkeypatch
):
    out = tmp_path / "v1.0"
    export_model(runs["tsn"][0], out, "folder")
    export_model(runs["slowonly"][0], out, "folder")
    assert from_pretrained(out).is_3d

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omnidali.models.export.write_whole", fail)
    with pytest.raises(UserError, match="expected a place that can be written, got No space left"):
        export_model(runs["tsn"][0], out, "folder")
    with pytest.raises(UserError, match="expected a run folder"):
        from_pretrained(out)


def test_program_that_differs_or_cannot_be_written_leaves_the_old_one(runs, tmp_path, monkeypatch):
    program = trace(Means(), 2, 32, "run")
    out = tmp_path / "out.pt2"
    out.write_text("old")
    wrong = type(program)(**{**vars(program), "logits": program.logits + 1})
    with pytest.raises(UserError, match="expected the logits of the network, got others, by up to"):
        save_torch_export(wrong, out, {})

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fail)
    monkeypatch.setattr("omnidali.models.export.trace", lambda *_: program)
    with pytest.raises(UserError, match="expected a place that can be written, got No space left"):
        export_model(runs["tsn"][0], out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt2"] and out.read_text() == "old"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_package_is_named_with_the_command(runs, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("omnidali.models.export.trace", lambda *_: None)
    with pytest.raises(UserError, match=rf"the package {package}, .*pip install 'omnidali\[onnx\]"):
        export_model(runs["tsn"][0], tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_file_is_written_where_onnxruntime_is_missing(runs, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    program = trace(Means(), 2, 32, "run")
    monkeypatch.setattr("omnidali.models.export.trace", lambda *_: program)
    written = export_model(runs["tsn"][0], tmp_path / "out.onnx")
    assert "not checked, as onnxruntime does not import" in written.note
    assert (tmp_path / "out.onnx").exists()


def test_program_of_tiny_clips_takes_these_in_any_number(runs):
    program = trace(runs["tsn"][1], 2, 32, "run")
    assert program.free_axes == ("batch",)
    clips, wanted = logits_of(runs["tsn"][1], (5, 3, 2, 32, 32))
    assert torch.allclose(program.exported.module()(clips), wanted, atol=1e-4)


def test_network_that_cannot_be_traced_is_an_error():
    with pytest.raises(UserError, match="run: expected a network that torch.export can trace, got"):
        trace(Branching(), 1, 8, "run")


def test_operator_that_onnx_lacks_is_an_error(runs, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def fail(*_, **__):
        raise RuntimeError("no translation of aten.odd\nand more")

    program = trace(Means(), 2, 32, "run")
    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr("omnidali.models.export.trace", lambda *_: program)
    with pytest.raises(UserError, match="that ONNX can hold, got RuntimeError: no translation of"):
        export_model(runs["tsn"][0], tmp_path / "out.onnx")


@pytest.mark.parametrize("name", ["out.onnx", "out.pt2"])
def test_program_is_no_checkpoint(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="expected weights, got a program. .* runs it"):
        from_pretrained(tmp_path / name)
