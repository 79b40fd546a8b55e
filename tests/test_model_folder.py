"""A model as a folder: what the hub reads of its card, and what a stranger's folder can do."""

import json
import shutil

import pytest
import torch

from helpers.exported_models import CLASSES, save_run
from omnidali.config.schema import ViewsConfig
from omnidali.errors import UserError
from omnidali.models.evaluation_records import find_evaluation
from omnidali.models.export import export_model
from omnidali.models.from_pretrained import from_pretrained
from omnidali.models.recognizers import TSN
from omnidali.models.trained_model import load_trained

FIGURES = {"top1": 81.25, "top5": 97.5, "mean_class": 80.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    save_run(folder, "tsn")
    return folder


@pytest.fixture(scope="module")
def exported(run):
    export_model(run, run.with_name("tsn_r18"), license="apache-2.0")
    return run.with_name("tsn_r18")


@pytest.fixture
def folder(exported, tmp_path):
    """An exported folder, to be changed."""
    return shutil.copytree(exported, tmp_path / "tsn_r18")


def record(run, weights, **figures):
    row = {"num_clips": 5, "crops": "three", "size": 32, "items": 80, **FIGURES, **figures}
    with open(run / "records.jsonl", "a") as file:
        file.write(json.dumps({"evaluation": row, "weights": weights}) + "\n")


def test_card_has_the_fields_and_figures_that_the_hub_reads(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    save_run(tmp_path / "run", "slowonly")
    digest = load_trained(tmp_path / "run").digest
    record(tmp_path / "run", digest, top1=1.0)
    record(tmp_path / "run", digest)
    record(tmp_path / "run", "sha256:of others", top1=99.0)
    (tmp_path / "run/records.jsonl").open("a").write('{"evaluation": 3}\n')
    export_model(tmp_path / "run", tmp_path / "mine", license="cc-by-nc-4.0")

    card = hub.ModelCard.load(tmp_path / "mine/README.md")
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "omnidali"
    assert card.data.pipeline_tag == "video-classification" and "slowonly" in card.data.tags
    found = {each.metric_name: each for each in card.data.eval_results}
    assert {name: each.metric_value for name, each in found.items()} == {
        "top-1 accuracy": 81.25,
        "top-5 accuracy": 97.5,
        "mean class accuracy": 80.0,
    }
    assert {each.dataset_name for each in found.values()} == {"held_out"}
    assert "| top-1 accuracy | 81.25 |" in card.text and "on 80 held-out" in card.text.lower()
    assert "/home/me" not in (tmp_path / "mine/README.md").read_text()


def test_card_says_what_is_not_known(folder):
    text = (folder / "README.md").read_text()
    assert "No evaluation of these weights is known" in text and "license: apache-2.0" in text
    assert "- target: video, weight 1" in text and "weights of another training" in text
    assert "&lt;b&gt;run" in text and "<b>" not in text.partition("---\n\n")[2]


def test_evaluation_of_the_training_counts_where_there_is_no_other(tmp_path):
    save_run(tmp_path / "run", "tsn")
    rows = [
        {"kind": "evaluation", "step": step, "top1": 10.0 * step, "items": 9} for step in (6, 7)
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"kind": "train", "step": 7}])
    (tmp_path / "run/metrics.jsonl").write_text(text)
    export_model(tmp_path / "run", tmp_path / "mine")
    card = (tmp_path / "mine/README.md").read_text()
    assert "| top-1 accuracy | 70.00 |" in card and "8 clips x center crop of 256 pixels" in card


@pytest.mark.parametrize("rows", ["no json\n", "[" * 10_000, "[3]\n", '{"weights": 3}\n'])
def test_records_of_no_use_are_passed_over(tmp_path, rows):
    for name in ("records.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_text(rows)
    assert find_evaluation(tmp_path, "sha256:0", step=3, validation=ViewsConfig()) is None


def test_labels_of_a_folder_are_those_of_its_config(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == dict(zip("012", CLASSES, strict=True))
    config["id2label"] = {"2": "c", "0": "a", "1": "b"}
    (folder / "config.json").write_text(json.dumps(config))
    assert from_pretrained(folder).class_names == ("a", "b", "c")


@pytest.mark.parametrize("labels", [None, [], {"0": 1}, {"a": "b"}, {"0": "one alone"}])
def test_labels_that_do_not_fit_are_none(folder, labels):
    config = {**json.loads((folder / "config.json").read_text()), "id2label": labels}
    (folder / "config.json").write_text(json.dumps(config))
    assert from_pretrained(folder).class_names == ()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected JSON"),
        ("[]", "expected facts about a model, got list"),
        ("[" * 100_000, "JSON of a few levels|expected JSON"),
        ('{"id2label": NaN}', "NaN, which is no number"),
        (b"\xff\xfe", "expected a file of JSON"),
    ],
)
def test_config_that_is_no_plain_json_is_refused(folder, text, message):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        from_pretrained(folder)


@pytest.mark.parametrize(
    "group, settings",
    [
        ("clip", {"clip_len": 10**9}),
        ("evaluation", {"test": {"num_clips": 10**12}}),
        ("evaluation", {"test": {"size": 10**6}}),
        ("evaluation", {"batch": 10**9}),
    ],
)
def test_recipe_that_would_take_all_memory_is_refused(folder, group, settings):
    config = json.loads((folder / "config.json").read_text())
    config["omnidali"][group] = settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="expected a test with at most 20,000 frames of an item"):
        from_pretrained(folder)


@pytest.mark.parametrize("recipe", [7, [], {"clip": 3}, {"clip": {"clip_len": "x"}}, {"no": 1}])
def test_settings_of_no_use_are_left_out(folder, recipe):
    config = {**json.loads((folder / "config.json").read_text()), "omnidali": recipe}
    (folder / "config.json").write_text(json.dumps(config))
    assert from_pretrained(folder).class_names == tuple(CLASSES)


def test_weights_that_are_no_safetensors_are_refused(folder):
    torch.save({"state_dict": TSN(18, 3, 0.0).state_dict()}, folder / "model.safetensors")
    with pytest.raises(UserError, match="a checkpoint that can be read safely"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_folder_without_one_of_its_files_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match="expected a run folder with checkpoints/best.pt"):
        from_pretrained(folder)


def test_facts_in_metadata_of_others_are_passed_over(tmp_path):
    from safetensors.torch import save_file

    for meta in ("no json", "[1]", "[" * 100_000, json.dumps({"CLASSES": 7})):
        save_file(TSN(18, 3, 0.0).state_dict(), str(tmp_path / "x.safetensors"), {"meta": meta})
        assert from_pretrained(tmp_path / "x.safetensors").class_names == ()
