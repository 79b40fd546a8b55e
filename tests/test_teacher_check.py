"""A teacher that knows nothing is told of before it scores for hours."""

import json
import math
import sqlite3

import numpy as np
import pytest
import torch

from helpers.filtering import command, save_teacher
from omnidali.cli import main as cli
from omnidali.curation.filter import scoring
from omnidali.curation.filter.rules import scores_of_queries
from omnidali.curation.filter.teacher_check import (
    binomial_tail,
    find_favourite,
    judge_teacher,
)
from omnidali.models.recognizers import TSN
from omnidali.testing.numbered_media import write_image

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 20


def judge(predicted, labels, classes=CLASSES):
    """The check of a teacher that is sure of its answers."""
    logs = np.full((len(labels), classes), -9.0, np.float32)
    logs[np.arange(len(labels)), predicted] = -0.1
    names = [f"class {label}" for label in range(classes)]
    return judge_teacher("evaluation", scores_of_queries(logs, labels), labels, names)


def labels_of(items, classes=CLASSES):
    return np.arange(items) % classes


def test_binomial_tail_equals_its_definition():
    for items, share in ((7, 0.3), (40, 0.05), (400, 1 / 400), (400, 0.9)):
        for count in (0, 1, items // 3, items):
            plain = sum(
                math.comb(items, hits) * share**hits * (1 - share) ** (items - hits)
                for hits in range(count, items + 1)
            )
            assert binomial_tail(count, items, share) == pytest.approx(plain, rel=1e-9)
    assert binomial_tail(600_000, 1_000_000, 0.5) == 0.0
    assert binomial_tail(3, 5, 1.0) == 1.0 and binomial_tail(3, 5, 0.0) == 0.0


@pytest.mark.parametrize("right", [0.3, 0.6, 1.0])
def test_teacher_that_knows_something_is_not_warned_of(right):
    labels = labels_of(200)
    random = np.random.default_rng(0)
    predicted = np.where(random.random(200) < right, labels, random.integers(0, CLASSES, 200))
    check = judge(predicted, labels)
    assert check.can_tell and not list(check.warnings())
    assert check.correct == (predicted == labels).sum() and check.items == 200


def test_guesses_are_told_from_knowledge_in_nearly_all_cases():
    """Chance is a bound on the counts, not a number: it holds for any number of classes."""
    for classes, items in ((2, 100), (20, 100), (400, 400)):
        labels = labels_of(items, classes)
        random = np.random.default_rng(classes)
        guesses = [random.integers(0, classes, items) for _ in range(200)]
        found = [judge(guess, labels, classes).is_guess for guess in guesses]
        assert np.mean(found) > 0.97, classes
        # a tenth of what it says is knowledge
        better = [np.where(random.random(items) < 0.5, labels, guess) for guess in guesses[:50]]
        assert not any(judge(answer, labels, classes).is_guess for answer in better), classes


def test_shifted_classes_are_a_guess():
    """As of a teacher with the same classes in another order."""
    labels = labels_of(100)
    (warning,) = judge((labels + 1) % CLASSES, labels).warnings()
    assert "no better than chance on evaluation.source" in warning


@pytest.mark.parametrize("classes", [2, 4, 400])
def test_one_answer_to_everything_is_named(classes):
    labels = labels_of(200, classes)
    guess, favourite = judge(np.full(200, 1), labels, classes).warnings()
    assert "no better than chance" in guess
    assert (
        "predicts class 1 for 100 % of the items of other classes in evaluation.source" in favourite
    )

    # of three quarters, besides some knowledge
    mostly = np.where(np.arange(200) % 8 < 6, 1, labels)
    text = " ".join(judge(mostly, labels, classes).warnings())
    assert ("predicts class 1 for" in text) == (classes > 2)


def test_frequent_class_is_no_favourite():
    labels = np.where(np.arange(200) % 20 < 19, 3, 0)
    assert not list(judge(labels, labels).warnings())
    assert find_favourite(labels, labels, CLASSES) is None
    # of one class alone nothing can be told
    assert not list(judge(np.full(50, 3), np.full(50, 3)).warnings())


def test_few_items_or_none_prove_nothing():
    assert not list(judge(np.array([1, 0]), np.array([0, 1]), 2).warnings())
    nothing = judge_teacher(
        "evaluation",
        scores_of_queries(np.full((3, 4), np.nan, np.float32), np.zeros(3, int)),
        np.zeros(3, int),
        list("abcd"),
    )
    assert not list(nothing.warnings())
    assert str(nothing) == "teacher: not checked, as nothing labelled of evaluation.source decodes"


@pytest.fixture
def held_out(tmp_path):
    """A world with 24 labelled photos that are held out: a plain colour for each class."""
    for n in range(24):
        write_image(tmp_path / f"held/{n}.png", 10 * n, 64, 48)
    (tmp_path / "held.txt").write_text("".join(f"{n}.png {n % 4}\n" for n in range(24)))
    return [
        f"evaluation.source={{kind: image, root: {tmp_path}/held, list: {tmp_path}/held.txt}}",
    ]


def constant_teacher(folder, label):
    """A network that gives one class to everything, and one that tells nothing else."""
    torch.manual_seed(0)
    network = TSN(18, 4, 0.0)
    with torch.no_grad():
        network.cls_head.fc_cls.weight.mul_(1e-3)
        network.cls_head.fc_cls.bias.zero_()
        network.cls_head.fc_cls.bias[label] = 5.0
    folder.mkdir()
    return save_teacher(network.eval(), folder)


def test_teacher_with_one_answer_is_told_of_before_and_after_scoring(
    world, held_out, tmp_path, capsys, monkeypatch
):
    teacher = constant_teacher(tmp_path / "teacher", 2)
    printed = []
    task = scoring.score

    def scored(teacher, task_, config, ranks):
        if task_.table.name == "photos":
            printed.append(capsys.readouterr())
        return task(teacher, task_, config, ranks)

    monkeypatch.setattr("omnidali.curation.filter.filter.score", scored)
    more = ["--sources", "photos", "--rule", "quantile"]
    arguments = command(world, tmp_path, teacher, *more, sets=held_out)
    assert cli.main(arguments) == 0
    (before,) = printed
    assert "evaluation: 24 samples, read as path_label" in before.out
    assert (
        "teacher: correct for 6 of 24 items of evaluation.source (25.0 %); chance would give"
        " 25.0 %\n" in before.out
    )
    assert "WARNING: the teacher is no better than chance on evaluation.source" in before.err
    one = "the teacher predicts swim for 100 % of the items of other classes"
    assert f"WARNING: {one} in evaluation.source\n" in before.err

    after = capsys.readouterr()
    assert f"WARNING: photos: {one}\n" in after.err
    report = (tmp_path / "out/report.md").read_text()
    assert report.count("**Warning**: ") == 3 and one in report
    record = (tmp_path / "out/records.jsonl").read_text().splitlines()[-1]
    check = json.loads(record)["check"]
    assert (check["source"], check["items"], check["correct"]) == ("evaluation", 24, 6)


def test_check_costs_nothing_twice_and_changes_no_score(world, held_out, teacher, tmp_path, capsys):
    more = ["--sources", "photos", "--score-only"]

    def scores():
        with sqlite3.connect(tmp_path / "run/catalog.sqlite") as db:
            return db.execute("SELECT * FROM scores ORDER BY path").fetchall()

    arguments = command(world, tmp_path, teacher, *more, sets=held_out)
    assert cli.main(arguments) == 0
    first, lines = scores(), capsys.readouterr().out.splitlines()
    assert cli.main(arguments) == 0
    again = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("teacher: correct for")]
    assert found and found == [line for line in again if line.startswith("teacher: correct for")]
    assert scores() == first and sum(row[1].endswith(".png") for row in first) == 24
    # without a held-out source, the target is looked at, and the photos' scores are the same
    assert cli.main(command(world, tmp_path, teacher, *more)) == 0
    assert " of 4 items of sources.clips " in capsys.readouterr().out
    kept = {row for row in scores() if row[1].endswith(".jpg")}
    assert kept == {row for row in first if row[1].endswith(".jpg")} and len(kept) == 40


def test_held_out_source_that_is_gone_is_no_reason_to_end(world, teacher, tmp_path, capsys):
    lost = ["evaluation.source={kind: image, root: crawl, list: gone.txt}"]
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--score-only", sets=lost)
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert (
        "the teacher is checked on sources.clips, as evaluation.source.list: expected" in told.err
    )
    assert "items of sources.clips" in told.out


def test_items_are_spread_over_the_classes(world, held_out, teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("omnidali.curation.filter.teacher_check._MAX_ITEMS", 8)
    more = ["--sources", "photos", "--score-only"]
    assert cli.main(command(world, tmp_path, teacher, *more, sets=held_out)) == 0
    assert " of 8 items of evaluation.source" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "run/catalog.sqlite") as db:
        paths = db.execute("SELECT path FROM scores WHERE path LIKE '%.png'").fetchall()
    numbers = [int(path.rpartition("/")[2].partition(".")[0]) for (path,) in paths]
    assert np.bincount([n % 4 for n in numbers]).tolist() == [2, 2, 2, 2]
