"""Trainings, evaluations and curation with several labels an item."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.coloured_world import NAMES, SETS, make_world
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.sources import ResampleConfig
from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.score import as_probabilities, score_items
from omnidali.loading.data import open_data
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import make_plan
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.models.precision import make_autocast
from omnidali.models.probabilities import to_log_probabilities, to_probabilities
from omnidali.models.recognizers import TSN
from omnidali.models.trained_model import load_trained
from omnidali.planning.philox import Stream
from omnidali.planning.resampling import RowOrder
from omnidali.training.objective import Objective
from omnidali.training.train import train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("multi") / "world")


def settings(world, run, *more):
    return load_config(world / "config.yaml", [f"data_root={world}", f"run_dir={run}", *more])


def arguments(verb, world, run, *more):
    return [
        verb,
        "--config",
        str(world / "config.yaml"),
        f"data_root={world}",
        f"run_dir={run}",
        *more,
    ]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The folder of a run that has learned the colours, and what it printed."""
    from helpers.recorder import small_model
    from omnidali.training import model_setup

    folder = tmp_path_factory.mktemp("trained")
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_setup, "build_model", small_model)
        patch.setattr(
            "omnidali.training.trainer.print_on_main", lambda ranks, text: lines.append(text)
        )
        figures = train(settings(world, folder / "run"), Ranks())
    return SimpleNamespace(run=folder / "run", figures=figures, printed="\n".join(map(str, lines)))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_network_learns_several_labels(trained):
    assert trained.figures["mAP"] > 95 and trained.figures["top1"] > 95
    assert trained.figures["labels"] == sum(map(len, SETS)) * 3 and trained.figures["items"] == 21
    assert "evaluation at step 60: mAP " in trained.printed
    rows = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    found = [row["mAP"] for row in rows if "mAP" in row]
    assert len(found) == 2
    best = load_checkpoint(trained.run / "checkpoints" / "best.pt")
    assert best["best"] == max(found) and best["config"]["multi_label"] is True


def test_evaluation_equals_torchmetrics(world, trained, small_network, capsys):
    metrics = pytest.importorskip("torchmetrics.classification")
    assert cli.main(arguments("evaluate", world, trained.run)) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert "mAP" in printed.splitlines()[-4] and "mean_class" not in result

    folder = trained.run / "evaluation-test"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    scores = np.zeros((21, 3))
    targets = np.zeros((21, 3), int)
    for row, line in enumerate(lines):
        scores[row, [NAMES.index(name) for name in line["predicted"]]] = line["scores"]
        targets[row, [NAMES.index(name) for name in line["labels"]]] = 1
    assert [tuple(np.flatnonzero(row)) for row in targets] == SETS * 3
    values = torch.from_numpy(scores), torch.from_numpy(targets)
    mean = metrics.MultilabelAveragePrecision(3, average="macro")(*values)
    assert result["mAP"] == pytest.approx(100 * float(mean), abs=1e-3)
    by_class = metrics.MultilabelAveragePrecision(3, average=None)(*values)
    rows = rows_of(folder / "per_class.csv")
    assert [row["class"] for row in rows] == NAMES
    assert [int(row["items"]) for row in rows] == targets.sum(axis=0).tolist()
    found = [float(row["average_precision"]) for row in rows]
    assert found == pytest.approx((100 * by_class).tolist(), abs=0.01)
    assert not (folder / "confusion.csv").exists()


@pytest.mark.parametrize("change", ["multi_label=false", "list"])
def test_checkpoint_of_another_kind_of_labels_is_refused(world, trained, tmp_path, capsys, change):
    (tmp_path / "one.txt").write_text("val 0.png 0\nval 1.png 1\n")
    more = [f"evaluation.source.list={tmp_path / 'one.txt'}"] if change == "list" else []
    code = cli.main(
        arguments(
            "evaluate",
            world,
            tmp_path / "run",
            "--checkpoint",
            str(trained.run),
            "multi_label=false",
            *more,
        )
    )
    assert code == 2
    assert "multi_label: expected true, as" in capsys.readouterr().err


def test_list_of_several_labels_is_refused_without_the_setting(world, tmp_path, capsys):
    assert cli.main(arguments("train", world, tmp_path / "run", "multi_label=false")) == 2
    assert "Set `multi_label: true`" in capsys.readouterr().err


def labels_of_steps(config, data, rank, world, steps=3):
    """The labels of each slot, as the loader of a rank gives them."""
    found = {}
    sources = list(config.sources.values())
    plan = make_plan(config, data)
    with FusionIterator(plan, sources, rank=rank, world=world, end=steps, threads=1) as loader:
        for batch in loader:
            for group in batch.groups:
                assert group.labels.dtype == torch.float32
                slots = group.slot.tolist()
                found |= dict(zip(slots, map(tuple, group.labels.tolist()), strict=True))
    return found


@pytest.mark.parametrize("mixup", ["none", "cross"])
def test_labels_of_batches_are_those_of_the_lists_on_any_number_of_ranks(world, tmp_path, mixup):
    config = settings(world, tmp_path, f"train.mixup={mixup}", "train.batch=12")
    data = open_data(config)
    whole = labels_of_steps(config, data, 0, 1)
    halves = [labels_of_steps(config, data, rank, 2) for rank in (0, 1)]
    assert {**halves[0], **halves[1]} == whole and len(whole) == 36

    plan = make_plan(config, data)
    expected, blends = {}, {}
    for step in range(3):
        for part in plan(step):
            hot = plan.tables[part.source].targets(part.rows, 3)
            expected |= dict(zip(part.slots.tolist(), hot, strict=True))
            if mixup != "none":
                values = zip(part.partners.tolist(), part.own_weights.tolist(), strict=True)
                blends |= dict(zip(part.slots.tolist(), values, strict=True))
    for slot, labels in whole.items():
        partner, weight = blends.get(slot, (slot, 1.0))
        blended = weight * expected[slot] + (1 - weight) * expected[partner]
        assert labels == pytest.approx(blended.tolist(), abs=1e-6)
    assert mixup == "none" or any(0 < value < 1 for row in whole.values() for value in row)


def test_resumed_training_ends_with_the_same_weights(world, tmp_path, small_network):
    more = (
        "train.steps=4",
        "evaluation.source=null",
        "train.mixup=cross",
        "optimizer.schedule=step",
    )
    train(settings(world, tmp_path / "whole", *more), Ranks())
    cut = settings(world, tmp_path / "cut", "train.steps=2", *more[1:])
    train(cut, Ranks())
    train(settings(world, tmp_path / "cut", *more), Ranks(), resume="auto")
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["state_dict"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_loss_is_the_mean_over_classes(world, tmp_path):
    config = settings(world, tmp_path)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    labels = torch.rand(5, 3, generator=generator)
    losses = Objective(config)(logits.bfloat16(), labels)
    assert losses.shape == (5,) and losses.dtype == torch.float32
    expected = torch.nn.BCEWithLogitsLoss()(logits.bfloat16().float(), labels)
    assert torch.isclose(losses.mean(), expected)


def test_substitutes_and_class_balance_go_by_the_rarest_label(world, tmp_path):
    config = settings(world, tmp_path)
    table = open_data(config).tables[0]
    plan = make_plan(config, open_data(config))
    part = plan(0)[0]
    for place in range(len(part)):
        other = plan.substitute(part, place, 1)
        rows = part.rows[place], other.rows[0]
        assert rows[0] != rows[1] and table.labels[rows[0]] == table.labels[rows[1]]

    order = RowOrder(table.labels, ResampleConfig(clipped=2), Stream(0, 0))
    drawn = table.labels[order(np.arange(order.epoch))]
    assert np.bincount(drawn).tolist() == np.minimum(np.bincount(table.labels), 2).tolist()


def test_probabilities_are_sigmoids_or_sum_to_one():
    logits = torch.tensor([[100.0, -200.0, 0.5]], dtype=torch.float16)
    several = to_probabilities(logits, multi_label=True)
    assert torch.allclose(several, logits.float().sigmoid()) and several.dtype == torch.float32
    assert to_probabilities(logits, multi_label=False).sum().item() == pytest.approx(1)
    for multi_label in (True, False):
        logs = to_log_probabilities(logits, multi_label)
        assert logs.isfinite().all()
        assert torch.allclose(logs.exp(), to_probabilities(logits, multi_label))


@pytest.fixture(scope="module")
def teacher(world, tmp_path_factory):
    """A checkpoint of an R18 that gives each picture probabilities of its own."""
    torch.manual_seed(0)
    network = TSN(18, 3, 0.0).eval()
    torch.nn.init.normal_(network.cls_head.fc_cls.weight, 0, 0.5)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    state = {"state_dict": network.state_dict(), "classes": NAMES, "loader": {}}
    torch.save({**state, "config": {"multi_label": True, "sources": {}}}, path)
    return path


def test_teacher_of_several_labels_judges_each(world, teacher, tmp_path, capsys):
    trained = load_trained(teacher, 1)
    assert trained.multi_label
    options = ["--checkpoint", str(teacher), "--out", str(tmp_path / "out"), "--relabel"]
    assert cli.main(arguments("filter", world, tmp_path / "run", *options)) == 0
    capsys.readouterr()

    config = settings(world, tmp_path / "run")
    data = open_data(config)
    table = data.tables[1]
    scores = score_items(
        trained.network,
        table,
        config.sources["crawl"],
        config.evaluation.test,
        config,
        Ranks(),
        make_autocast("fp32", torch.device("cpu")),
    )
    probabilities = as_probabilities(scores, "score", multi_label=True)
    assert np.allclose(probabilities, 1 / (1 + np.exp(-scores)))
    kept = {}
    for row in range(len(table)):
        own = [label for label in table.labels_at(row) if probabilities[row, label] >= 0.5]
        others = probabilities[row].copy()
        others[list(table.labels_at(row))] = 0
        if not own and others.max() >= 0.5:
            own = [int(others.argmax())]
        if own:
            kept[f"crawl {row}.png"] = tuple(own)

    lines = (tmp_path / "out/crawl.txt").read_text().splitlines()
    written = dict(line.split("\t") for line in lines)
    assert {name: tuple(map(int, text.split())) for name, text in written.items()} == kept
    again = load_config(tmp_path / "out/config.yaml")
    assert again.multi_label
    assert [open_data(again).tables[1].labels_at(row) for row in range(len(kept))] == list(
        kept.values()
    )


@pytest.mark.parametrize("verb", ["lint", "info", "preview", "dedup"])
def test_commands_work_on_several_labels(world, tmp_path, capsys, verb):
    more = ["--out", str(tmp_path / "out"), "--sources", "crawl"] if verb == "dedup" else []
    assert cli.main(arguments("lint", world, tmp_path / "run")) == 0
    assert cli.main(arguments(verb, world, tmp_path / "run", *more)) == 0
    assert "Traceback" not in capsys.readouterr().err
    if verb == "dedup":
        text = (tmp_path / "out/lists/crawl.txt").read_text()
        assert text.splitlines()[:2] == ["crawl 0.png\t0 1", "crawl 1.png\t1"]


def test_lint_names_repeated_lines_and_files_with_other_labels(world, tmp_path, capsys):
    lines = ["train 0.png 0 1", "train 0.png 1 0", "train 1.png 1", "train 1.png 1 2"]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    source = f"sources.pics.list={tmp_path / 'l.txt'}"
    assert cli.main(arguments("lint", world, tmp_path / "run", source, "--sources", "pics")) == 0
    printed = capsys.readouterr().out
    assert "1 lines repeat another, such as train 0.png (label 0,1)" in printed
    assert "such as train 1.png (labels 1 and 1+2)" in printed
