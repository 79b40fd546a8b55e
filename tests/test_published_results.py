"""The table of published results: a recipe or a reason for each row, and recipes that name them."""

import csv
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from omnidali.config.load import load_config
from omnidali.models.build import build_model

ROOT = Path(__file__).parent.parent
with open(ROOT / "docs" / "published_results.csv", encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))
PAGE = (ROOT / "docs" / "published_results.md").read_text(encoding="utf-8")
RECIPES = sorted({row["recipe"] for row in ROWS if row["recipe"]})
SHIPPED = sorted(
    f"{folder}/{path.stem}"
    for folder in ("k400", "minikinetics")
    for path in (ROOT / "configs" / folder).glob("*.yaml")
)
PAIR = re.compile(r"top-1 (\d+\.\d)(?:,| and) top-5 (\d+\.\d)")


def header(recipe):
    text = (ROOT / "configs" / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    return " ".join(line.lstrip("# ") for line in text.splitlines())


def named_figures(text):
    return {"/".join(pair) for pair in PAIR.findall(text)}


def test_every_row_has_figures_and_a_recipe_or_a_reason():
    for row in ROWS:
        count = len(row["measures"].split("/"))
        assert re.fullmatch(rf"~?\d+(\.\d+)?(/\d+\.\d+){{{count - 1}}}", row["figures"]), row
        assert row["recipe"] or row["note"], row
        assert None not in row and all(row[name] for name in ("data set", "from", "network")), row
    keys = Counter(tuple(row.values())[:6] for row in ROWS)
    assert max(keys.values()) == 1, keys.most_common(1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_of_a_row_loads(recipe):
    name, *settings = recipe.split(" ")
    config = load_config(ROOT / "configs" / f"{name}.yaml", settings)
    assert config.sources and config.run_dir.endswith(name)


@pytest.mark.parametrize("recipe", SHIPPED)
def test_recipe_names_exactly_its_published_figures(recipe):
    published = {
        row["figures"]
        for row in ROWS
        if row["recipe"] == recipe
        and not row["figures"].startswith("~")
        and not row["from"].startswith("mmaction2")  # other settings, which its row says
    }
    assert published, "a recipe without a row"
    assert named_figures(header(recipe)) == published
    assert "Ours: not measured yet" in header(recipe)


@pytest.mark.parametrize("recipe", ["tsn_omni", "slowonly_omni"])
def test_recommended_recipe_names_the_figures_of_the_recipe_it_improves(recipe):
    (other,) = re.findall(r"minikinetics/\w+", header(recipe))
    (figures,) = named_figures(header(recipe))
    assert {row["figures"] for row in ROWS if row["recipe"] == other} == {figures}


def test_training_data_of_a_row_are_those_of_its_recipe():
    sources = {
        "target alone": [],
        "+ GG": ["googleimage"],
        "+ googleimage": ["googleimage"],
        "+ GG & IG-img": ["webimage"],
        "+ webimage": ["webimage"],
        "+ IG-vid": ["insvideo"],
        "+ insvideo": ["insvideo"],
        "+ KRaw": ["kineticsraw"],
        "+ kineticsraw": ["kineticsraw"],
        "all": ["webimage", "insvideo", "kineticsraw"],
    }
    weights = {
        "scratch": [None],
        "ImageNet": ["torchvision/resnet50", "torchvision/resnet101", True],
        "IG-1B": ["facebookresearch/resnet50_swsl"],
        "IG-65M": [True],
    }
    seen = 0
    for row in ROWS:
        if not row["recipe"] or row["training data"] not in sources:
            continue
        name, *settings = row["recipe"].split(" ")
        config = load_config(ROOT / "configs" / f"{name}.yaml", settings)
        assert list(config.sources)[1:] == sources[row["training data"]], row
        assert config.model.pretrained in weights[row["weights"]], row
        seen += 1
    assert seen >= 46


def groups():
    """Rows and rows with a recipe, by the group that the page counts them in."""
    counts, with_recipe = Counter(), Counter()
    for row in ROWS:
        counts[row["from"]] += 1
        with_recipe[row["from"]] += bool(row["recipe"])
    return counts, with_recipe


def test_page_counts_the_rows():
    counts, with_recipe = groups()
    table = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \| (.*?) ?\|$", PAGE, re.M)
    for title, rows, recipes, reason in table:
        group = title.partition(":")[0]
        assert (counts.pop(group), with_recipe[group]) == (int(rows), int(recipes)), title
        assert bool(reason) == (rows != recipes), title
    assert not counts


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def test_efficientnet_of_its_recipe_has_the_librarys_parameters():
    """timm's features and a classifier over its 1792 channels."""
    timm = pytest.importorskip("timm")
    config = load_config("k400/tsn_b4_3seg")
    with torch.device("meta"):
        features = timm.create_model("tf_efficientnet_b4", num_classes=0)
    name = config.model.backbone.removeprefix("timm/")
    assert timm.get_pretrained_cfg(name).tag == "in1k"  # of its weights; others saw more than it
    network = build_model(config.model, classes=400, clip_len=1)
    assert parameters(network) == parameters(features) + 400 * (1792 + 1)


@pytest.fixture(scope="module")
def ircsn():
    pytest.importorskip("torchvision")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "examples")
        yield importlib.import_module("ircsn")


def test_ircsn_of_its_recipe_has_the_published_parameters(ircsn):
    """mmaction2 gives 29.70 million for 400 classes."""
    config = load_config("k400/ircsn_152_32x2")
    network = build_model(config.model, classes=400, clip_len=config.clip.clip_len).eval()
    assert round(parameters(network) / 1e6, 2) == 29.70
    with torch.no_grad():
        assert network([torch.zeros(1, 3, 4, 32, 32)]).shape == (1, 400)


def test_ircsn_starts_from_the_weights_of_another_classifier(ircsn):
    with torch.device("meta"):
        names = ircsn.ircsn_152(num_classes=359).state_dict()
    weights = {name: torch.full(value.shape, 0.5) for name, value in names.items()}
    network = ircsn.ircsn_152(num_classes=4, pretrained=True, read=lambda url: weights)
    assert (network.layer4[2].conv3[0].weight == 0.5).all() and network.fc.out_features == 4
    del weights["layer1.0.conv1.0.weight"]
    with pytest.raises(ValueError, match="holds another network"):
        ircsn.ircsn_152(num_classes=4, pretrained=True, read=lambda url: weights)
