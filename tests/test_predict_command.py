"""The command `omnidali predict`: what it prints and writes, and how it ends."""

import csv
import json
import os

import cv2
import numpy as np
import pytest

from helpers.prediction_world import CLASSES, make_files
from omnidali.cli import main as cli
from omnidali.models.recognizers import TSN
from omnidali.prediction.lines import prediction_lines
from omnidali.prediction.prediction import Prediction, Window
from omnidali.prediction.timeline import draw_timeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of another project: weights, and names in mmaction2's `meta`."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "tsn.pth"
    torch.manual_seed(0)
    weights = TSN(18, len(CLASSES), 0.0).state_dict()
    torch.save({"state_dict": weights, "meta": {"CLASSES": list(CLASSES)}}, path)
    return path


@pytest.fixture
def predict(checkpoint, monkeypatch, files):
    monkeypatch.chdir(files)

    def run(*words):
        small = ["evaluation.test.size=32", "evaluation.test.short_side=40"]
        few = ["evaluation.test.num_clips=2", "loader.threads=2"]
        return cli.main(["predict", "--checkpoint", str(checkpoint), *words, *small, *few])

    return run


def test_table_names_classes_and_errors(predict, capsys):
    assert predict("clip.mp4", "gone.mp4", "broken.mp4", "--top", "2") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "clip.mp4" and len(lines) == 3
    percents = [float(line.split("%")[0]) for line in lines[1:]]
    assert percents == sorted(percents, reverse=True)
    assert {line.split("%")[1].strip() for line in lines[1:]} < set(CLASSES)
    assert "usual ones, as the file does not say them" in err
    assert "gone.mp4: no such file or folder" in err
    assert "broken.mp4: " in err and "1 predicted, 2 not" in err


def test_exit_code_is_1_where_nothing_is_predicted(predict, capsys):
    assert predict("gone.mp4") == 1
    assert "0 predicted, 1 not" in capsys.readouterr().err


def test_json_and_csv_hold_the_same_numbers(predict, tmp_path, capsys):
    json_path, csv_path = tmp_path / "out.json", tmp_path / "out.csv"
    tables = ["--json", str(json_path), "--csv", str(csv_path)]
    drawn = ["--window", "1", "--timelines", str(tmp_path / "pictures")]
    assert predict("long.mp4", "photo.jpg", "gone.mp4", *tables, *drawn) == 0
    whole = json.loads(json_path.read_text())
    assert whole["classes"] == list(CLASSES)
    long, photo, gone = whole["predictions"]
    assert gone["error"] and gone["probabilities"] == [] and gone["kind"] is None
    for row in (long, photo, *long["windows"]):
        best = np.argsort(-np.array(row["probabilities"]), kind="stable")
        assert row["top"] == [CLASSES[label] for label in best]
    assert len(long["windows"]) == 3 and photo["windows"] == []
    assert os.listdir(tmp_path / "pictures") == [os.path.basename(long["timeline"])]
    assert cv2.imread(long["timeline"]).shape[1] > 900

    rows = list(csv.DictReader(csv_path.open()))
    assert [row["path"] for row in rows] == ["long.mp4"] * 4 + ["photo.jpg", "gone.mp4"]
    # no cell is a formula for a spreadsheet
    assert rows[0]["class_1"].lstrip("'") == long["top"][0]
    assert float(rows[0]["probability_1"]) == max(long["probabilities"])
    assert float(rows[2]["start"]) == long["windows"][1]["start"]


def test_dash_writes_to_stdout_alone(predict, capsys):
    assert predict("clip.mp4", "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "PATH: files, folders or lists"),
        (("clip.mp4", "--top", "0"), "--top"),
        (("clip.mp4", "--window", "-1"), "--window"),
        (("clip.mp4", "--window", "nan"), "--window"),
        (("clip.mp4", "--json", "-", "--csv", "-"), "--csv"),
        (("clip.mp4", "--root", "none"), "--root"),
        (("clip.mp4", "--json", "frames"), "a file that can be written"),
        (("clip.mp4", "--csv", "./clip.mp4"), "another file than those to predict"),
        (("clip.mp4", "sources.x.kind=video"), "a setting that a prediction uses"),
    ],
)
def test_mistakes_have_exit_code_2(predict, capsys, words, reason):
    assert predict(*words) == 2
    assert reason in capsys.readouterr().err


def test_several_ranks_are_refused(predict, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert predict("clip.mp4") == 2
    assert "without torchrun" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_taken(predict, files, tmp_path, capsys):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.jpg")
    with open(name, "wb") as file:
        file.write((files / "photo.jpg").read_bytes())
    assert predict(name) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("caf\\xe9\\x1b[31m.jpg")


def found(path, windows=()):
    return Prediction(
        path=path,
        kind="video",
        labels=("a", "b"),
        probabilities=np.array([0.75, 0.25]),
        numbers=np.array([0, 1]),
        windows=windows,
    )


def test_many_files_have_a_line_each():
    lines = list(prediction_lines([found(f"{n}.mp4") for n in range(11)], 5))
    assert len(lines) == 11
    assert lines[10] == "10.mp4   75.0 % a   25.0 % b"
    assert len(list(prediction_lines([found("a.mp4")] * 3, 5))) == 9


@pytest.mark.parametrize(("width", "classes"), [(80, 2), (30, 1), (10, 1)])
def test_lines_of_many_files_fit_the_terminal(width, classes):
    path = "very/long/folders/" * 5
    lines = list(prediction_lines([found(f"{path}{n}.mp4") for n in range(11)], 5, width))
    assert all(len(line) <= max(width, 20 + 2 + 9) for line in lines)
    assert all(line.count("%") == classes for line in lines)
    assert lines[3].split("  ")[0].endswith("/3.mp4")


def test_stretches_of_one_class_are_one_line():
    labels = [("a", "b"), ("a", "b"), ("b", "a"), ()]
    windows = tuple(
        Window(
            start=10.0 * place,
            end=10.0 * place + 10,
            labels=names,
            probabilities=np.array([0.9, 0.1][: len(names)]),
            numbers=np.arange(len(names)),
        )
        for place, names in enumerate(labels)
    )
    lines = list(prediction_lines([found("a.mp4", windows)], 1))[2:]
    assert lines == [
        "  0:00 to 0:20   90.0 %  a",
        "  0:20 to 0:30   90.0 %  b",
        "  0:30 to 0:40  does not decode",
    ]
    picture = draw_timeline(found("a.mp4", windows))
    row = picture[60, 220:1120]  # of the first class: dark, light, then grey
    assert row[100].mean() < row[500].mean() and len(set(row[800].tolist())) == 1
