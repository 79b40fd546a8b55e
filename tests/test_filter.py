"""The teacher's filter: every item scored once, whatever is killed; lists as plain lines would make
them.
"""

import contextlib
import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import free_port
from helpers.running import small_disk
from omnidali.catalog.database.listed_items import flatten
from omnidali.catalog.database.store import SourceTable, connect
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation.filter.rules import Rules, cut_offs, judge, opinion_of
from omnidali.curation.filter.scoring import load_teacher
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.forward import run_over
from omnidali.evaluation.score import score_items
from omnidali.loading.data import make_plan, open_data
from omnidali.media_kind import MediaKind
from omnidali.models.architecture import Architecture, tell_architecture
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.models.resnet import LAYERS, Block
from omnidali.planning.plan import EvaluationPlan
from omnidali.planning.resampling import parts_of
from omnidali.testing.numbered_media import write_photo, write_video
from omnidali.utils.constants import MEAN, STD

NAMES = ["run", "high jump", "swim", "ski"]
PHOTOS, BROKEN = 40, 39  # how many, and the one that is cut off
FAST = {"width": 64, "height": 48, "gop": 8, "options": {"preset": "ultrafast"}}
CONFIG = """
classes: names.txt
sources:
  clips: {kind: video, root: clips, list: clips.txt}
  photos: {kind: image, root: crawl, list: photos.txt, fraction: 0.5}
  whole: {kind: untrimmed, root: long, list: whole.txt, pieces: one_positive_rest_negative}
  parts: {kind: untrimmed, root: long, list: parts.json}
  pieces: {kind: untrimmed, root: long, list: pieces.txt, format: pieces}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 10, steps: 2}
evaluation: {batch: 4, test: {num_clips: 2, size: 32, short_side: 32}}
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other's core make a small network ten times as slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: None)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos that no label fits well, clips, and long videos: whole, in parts of which one is
    missing, and in pieces.
    """
    root = tmp_path_factory.mktemp("world")
    for n in range(4):
        write_video(root / f"clips/{n}.mp4", n, frames=12, **FAST)
    for n in range(PHOTOS):
        write_photo(root / f"crawl/some photos/{n}.jpg", n, 64, 48)
    broken = root / f"crawl/some photos/{BROKEN}.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    for n in (50, 51):
        # 3.5 s: three windows, the last one longer
        write_video(root / f"long/{n}.mp4", n, frames=104, **FAST)
    for video, part in (("a", 0), ("a", 1), ("a", 3), ("b", 0), ("b", 1)):
        write_video(
            root / f"long/{video}/part_{part}.mp4",
            60 + part + 8 * (video == "b"),
            frames=20,
            **FAST,
        )
    texts = {
        "names": NAMES,
        "clips": [f"{n}.mp4 {n}" for n in range(4)],
        "photos": [f"some photos/{n}.jpg {n % 4}" for n in range(PHOTOS)],
        "whole": ["50.mp4 1", "51.mp4 2"],
        "pieces": ["50.mp4 0.5 1.25 3", "50.mp4 2 3 3", "51.mp4 0 1 0", "51.mp4 1.5 2.5 1"],
    }
    for name, lines in texts.items():
        (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "parts.json").write_text(
        json.dumps(
            [
                {"video_dir": "a", "label": 1, "num_clips": 5, "positive_clip_inds": [0]},
                {"video_dir": "b", "label": 0, "num_clips": 2, "positive_clip_inds": [0]},
            ]
        )
    )
    return root


def sharpen(model, world):
    """Give a random network opinions: the classifier spreads its own features of the photos."""
    pictures = [
        cv2.resize(cv2.imread(str(world / f"crawl/some photos/{n}.jpg"))[:, 8:56, ::-1], (32, 32))
        for n in range(BROKEN)
    ]
    clips = (
        torch.from_numpy((np.stack(pictures) - np.array(MEAN)) / np.array(STD))
        .float()
        .permute(0, 3, 1, 2)[:, :, None]
    )
    seen = []
    model.cls_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(clips)
        features = seen[0] - seen[0].mean(0)
        weight = torch.randn(4, features.shape[1], generator=torch.Generator().manual_seed(1))
        weight *= 2 / (features @ weight.T).std(0)[:, None]
        model.cls_head.fc_cls.weight.copy_(weight)
        model.cls_head.fc_cls.bias.copy_(-weight @ seen[0].mean(0))
    return model


@pytest.fixture(scope="module")
def flat(world):
    torch.manual_seed(0)
    return sharpen(TSN(18, 4, 0.0), world)


@pytest.fixture(scope="module")
def teacher(flat, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "checkpoints" / "best.pt"
    path.parent.mkdir()
    torch.save({"state_dict": flat.state_dict(), "classes": NAMES}, path)
    return path.parent.parent


def command(world, folder, teacher, *more, out="out", sets=()):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(CONFIG)
    return [
        "filter",
        "--config",
        str(folder / "c.yaml"),
        "--checkpoint",
        str(teacher),
        "--out",
        str(folder / out),
        *more,
        "--set",
        f"data_root={world}",
        f"run_dir={folder}/run",
        "loader.threads=2",
        *sets,
    ]


def settings(world, folder, *more):
    return load_config(
        folder / "c.yaml",
        [f"data_root={world}", f"run_dir={folder}/run", "loader.threads=2", *more],
    )


def plain_scores(model, table, source, config):
    """Probabilities by the program's evaluation; float16 of their logarithms is what the catalog
    keeps.
    """
    scores = score_items(
        model,
        table,
        source,
        config.evaluation.test,
        config,
        Ranks(),
        make_autocast("fp32", torch.device("cpu")),
    )
    logs = torch.from_numpy(scores).log_softmax(1).numpy().astype(np.float16)
    return np.exp(logs.astype(np.float32))


@pytest.fixture(scope="module")
def filtered(world, teacher, tmp_path_factory):
    """The photos, filtered by the default rule at 0.4 on one rank."""
    folder = tmp_path_factory.mktemp("filtered")
    assert (
        cli.main(command(world, folder, teacher, "--sources", "photos", "--threshold", "0.4")) == 0
    )
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- rules


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_plain_lines(seed):
    rng = np.random.default_rng(seed)
    count, classes = 60, 5
    probabilities = rng.dirichlet(np.full(classes, 0.4), count).astype(np.float32)
    labels = rng.integers(0, classes - 1, count)  # the last class has no item
    logs = np.log(probabilities)
    logs[::11] = np.nan
    rules = Rules(("threshold", "topk", "quantile"), 0.1, 2, 0.5, relabel=True)
    least = cut_offs(np.exp(logs[np.arange(count), labels]), labels, 0.5, classes)

    def passes(row, label):
        values = probabilities[row].tolist()
        mine = sorted(
            (probabilities[i, labels[i]] for i in range(count) if labels[i] == label and i % 11),
            reverse=True,
        )
        best = mine[: -(-len(mine) // 2)]
        return (
            values[label] >= 0.1
            and sorted(values, reverse=True).index(values[label]) < 2
            and bool(best)
            and values[label] >= best[-1] * (1 - 1e-6)
        )

    verdict = judge(opinion_of(logs, labels), labels, rules, classes)
    assert np.isinf(least[4])
    for row in range(count):
        other = max(
            (value, label) for label, value in enumerate(probabilities[row]) if label != labels[row]
        )[1]
        kept = row % 11 != 0 and passes(row, labels[row])
        moved = row % 11 != 0 and not kept and passes(row, other)
        assert verdict.kept[row] == (kept or moved)
        assert verdict.labels[row] == (other if moved else labels[row])
    alone = judge(opinion_of(logs, labels), labels, Rules(("topk",), top=1), classes)
    assert np.array_equal(
        alone.kept, (probabilities.argmax(1) == labels) & (np.arange(count) % 11 != 0)
    )
    assert verdict.kept.any() and (verdict.labels != labels).any() and not alone.kept.all()


def test_a_teacher_without_an_opinion_agrees_to_nothing():
    opinion = opinion_of(np.log(np.full((3, 4), 0.25)), np.array([0, 1, 3]))
    assert opinion.rank.tolist() == [3, 3, 3]
    assert not judge(opinion, np.array([0, 1, 3]), Rules(("topk",), top=3), 4).kept.any()


# --- photos


def test_photos_are_kept_as_plain_lines_say(world, filtered, flat, teacher):
    config = settings(world, filtered, "sources.photos.fraction=1")
    table = open_data(config).tables[1]
    probabilities = plain_scores(flat, table, config.sources["photos"], config)
    expected = [
        f"some photos/{n}.jpg {n % 4}" for n in range(BROKEN) if probabilities[n, n % 4] >= 0.4
    ]
    out = filtered / "out"
    assert (out / "photos.txt").read_text().splitlines() == expected and 5 < len(expected) < 35
    kept, dropped = rows_of(out / "photos_kept.csv"), rows_of(out / "photos_dropped.csv")
    assert len(kept) == len(expected) and len(kept) + len(dropped) == PHOTOS
    for row in dropped[:-1]:
        n = int(Path(row["path"]).stem)
        assert row["reason"] == "probability below 0.4" and row["label"] == NAMES[n % 4]
        assert float(row["probability"]) == pytest.approx(probabilities[n, n % 4], abs=1e-3)
        assert int(row["rank"]) == 1 + (probabilities[n] > probabilities[n, n % 4]).sum()
        assert row["best"] == NAMES[probabilities[n].argmax()]
    assert dropped[-1]["reason"] == "does not decode" and not dropped[-1]["probability"]
    report = (out / "report.md").read_text()
    assert (
        f"| photos | {PHOTOS} | {len(kept)} |" in report and f"some photos/{BROKEN}.jpg" in report
    )
    assert {path.name for path in (out / "pictures").iterdir()} == {
        "photos_kept.png",
        "photos_dropped.png",
        "photos_probabilities.png",
    }
    assert cv2.imread(str(out / "pictures/photos_dropped.png")).shape[1] == 6 * 160
    assert not list(out.rglob("*.part"))
    made = load_config(out / "config.yaml")
    data = open_data(made)
    assert "photos: %d samples, read as path_label" % len(kept) in data.summary[1]
    assert not any("probed now" in line for line in data.summary[:2])  # the catalog went along
    assert made.sources["photos"].fraction == 0.5 and data.class_names == tuple(NAMES)
    assert (
        json.loads((out / "records.jsonl").read_text().splitlines()[0])["filter"]["photos"][
            "items_per_second"
        ]
        > 0
    )


def test_several_teachers_are_asked_together(world, filtered, flat, teacher, tmp_path, capsys):
    torch.manual_seed(5)
    other = sharpen(TSN(18, 4, 0.0), world)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "other.pt")
    torch.save({"state_dict": SlowOnly(18, 4, 0.0, 4).state_dict()}, tmp_path / "3d.pt")
    config = settings(world, filtered, "sources.photos.fraction=1")
    table = open_data(config).tables[1]
    means = (
        sum(plain_scores(model, table, config.sources["photos"], config) for model in (flat, other))
        / 2
    )

    def ask(name):
        line = command(world, tmp_path, teacher, "--sources", "photos", "--threshold", "0.45")
        line.insert(line.index("--out"), str(tmp_path / name))
        return cli.main(line)

    assert ask("other.pt") == 0
    rows = rows_of(tmp_path / "out/photos_kept.csv") + rows_of(tmp_path / "out/photos_dropped.csv")
    told = {
        int(Path(row["path"]).stem): float(row["probability"]) for row in rows if row["probability"]
    }
    assert told == pytest.approx({n: means[n, n % 4] for n in range(BROKEN)}, abs=1e-3)
    assert {n for n in told if told[n] >= 0.45} == {
        int(Path(line.rsplit(" ", 1)[0]).stem)
        for line in (tmp_path / "out/photos.txt").read_text().splitlines()
    }
    assert f"Teacher: {teacher.name} + other.pt." in (tmp_path / "out/report.md").read_text()
    capsys.readouterr()
    assert ask("other.pt") == 0 and "40 items, 0 scored now" in capsys.readouterr().out
    assert ask("3d.pt") == 2
    assert (
        f"expected a teacher of the same kind as {teacher} (2D), got 3D." in capsys.readouterr().err
    )


def test_who_held_a_part_out_judges_that_part_alone(world, filtered, flat, tmp_path, capsys):
    networks = []
    for number in range(4):
        torch.manual_seed(number)
        networks.append(sharpen(TSN(18, 4, 0.0), world))
        held = {"hold_out": {"photos": [number, 3], "another": [1, 2]}} if number else {}
        torch.save(
            {"state_dict": networks[-1].state_dict(), "classes": NAMES, **held},
            tmp_path / f"{number}.pt",
        )
    config = settings(world, filtered, "sources.photos.fraction=1")
    table = open_data(config).tables[1]
    by_network = [
        plain_scores(model, table, config.sources["photos"], config) for model in networks
    ]
    part = parts_of([f"some photos/{n}.jpg" for n in range(PHOTOS)], 3)
    assert set(part) == {1, 2, 3}

    def ask(*numbers, sets=()):
        line = command(
            world, tmp_path, tmp_path / f"{numbers[0]}.pt", "--sources", "photos", sets=sets
        )
        return cli.main(
            [
                *line[: line.index("--out")],
                *(str(tmp_path / f"{n}.pt") for n in numbers[1:]),
                *line[line.index("--out") :],
            ]
        )

    def told():
        rows = rows_of(tmp_path / "out/photos_kept.csv") + rows_of(
            tmp_path / "out/photos_dropped.csv"
        )
        return {
            int(Path(row["path"]).stem): float(row["probability"])
            for row in rows
            if row["probability"]
        }

    for number in (1, 2, 3):
        torch.save(
            {"state_dict": networks[number].state_dict(), "classes": NAMES},
            tmp_path / f"{number} of all.pt",
        )
        assert (
            cli.main(
                [
                    "export",
                    "--checkpoint",
                    str(tmp_path / f"{number}.pt"),
                    "--out",
                    str(tmp_path / "out.pth"),
                ]
            )
            == 0
        )
        assert load_teacher(tmp_path / "out.pth", 1).hold_outs == (
            {"photos": (number, 3), "another": (1, 2)},
        )
    # their scores are not taken for those below
    assert ask(*(f"{number} of all" for number in (3, 1, 2))) == 0
    # a config that holds a part out itself is scored whole
    assert ask(3, 1, 2, sets=["sources.photos.hold_out=[1,3]"]) == 0
    assert told() == pytest.approx(
        {n: by_network[part[n]][n, n % 4] for n in range(BROKEN)}, abs=1e-3
    )
    told_last = capsys.readouterr().out.rpartition(
        "photos: networks that held out a part of it judge that part alone"
    )
    assert told_last[1] and f"{BROKEN} scored now" in told_last[2]
    assert ask(0, 1, 2, 3) == 0
    assert told() == pytest.approx(
        {n: (by_network[0] + by_network[part[n]])[n, n % 4] / 2 for n in range(BROKEN)}, abs=1e-3
    )
    assert ask(0, 1) == 0  # a network that has seen nothing of the source is enough
    assert told() == pytest.approx(
        {n: (by_network[0] + by_network[int(part[n] == 1)])[n, n % 4] / 2 for n in range(BROKEN)},
        abs=1e-3,
    )
    capsys.readouterr()
    assert ask(2, 1) == 2
    assert (
        f"expected for every item of sources.photos a network that was not trained on it, got none for"
        f" {(part == 3).sum()} of 40"
    ) in capsys.readouterr().err
    torch.save({"state_dict": flat.state_dict(), "hold_out": {"photos": "half"}}, tmp_path / "1.pt")
    assert ask(0, 1) == 2
    assert "1.pt: expected hold_out as train.py writes it" in capsys.readouterr().err


def test_another_rule_scores_nothing_again(world, filtered, teacher, capsys):
    def kept(*more):
        assert (
            cli.main(command(world, filtered, teacher, "--sources", "photos", *more, out="again"))
            == 0
        )
        assert "40 items, 0 scored now" in capsys.readouterr().out
        return [
            line.rsplit(" ", 1)[0]
            for line in (filtered / "again/photos.txt").read_text().splitlines()
        ]

    lists = {
        line.rsplit(" ", 1)[0] for line in (filtered / "out/photos.txt").read_text().splitlines()
    }
    top, quantile = kept("--rule", "topk"), kept("--rule", "quantile", "--keep", "0.3")
    assert len(quantile) == 12 == len(set(quantile)) and set(top) != set(quantile)
    assert set(kept("--rule", "threshold", "topk", "--threshold", "0.4")) == lists & set(top)


def test_what_fails_can_take_the_best_other_class(world, filtered, flat, teacher):
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--threshold",
                "0.7",
                "--relabel",
                out="moved",
            )
        )
        == 0
    )
    config = settings(world, filtered, "sources.photos.fraction=1")
    probabilities = plain_scores(
        flat, open_data(config).tables[1], config.sources["photos"], config
    )
    expected = [
        f"some photos/{n}.jpg {probabilities[n].argmax()}"
        for n in range(BROKEN)
        if probabilities[n].max() >= 0.7
    ]
    assert (filtered / "moved/photos.txt").read_text().splitlines() == expected
    moved = [row for row in rows_of(filtered / "moved/photos_kept.csv") if row["reason"]]
    assert moved and all(
        row["reason"].startswith("relabelled from") and row["label"] == row["best"] for row in moved
    )


def test_only_a_changed_file_is_scored_again(world, filtered, teacher, capsys):
    os.utime(world / "crawl/some photos/3.jpg", ns=(0, 10**18))
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--score-only", out="changed")
        )
        == 0
    )
    assert "40 items, 1 scored now" in capsys.readouterr().out
    assert (
        not (filtered / "changed/config.yaml").exists()
        and not (filtered / "changed/photos.txt").exists()
    )
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--score-only",
                out="changed",
                sets=["evaluation.test.crops=three"],
            )
        )
        == 0
    )
    assert f"40 items, {BROKEN} scored now" in capsys.readouterr().out


def test_what_did_not_decode_has_another_chance(world, teacher, tmp_path, capsys):
    names = [f"{n}.jpg" for n in range(12)]
    whole = {name: (world / "crawl/some photos" / name).read_bytes() for name in names}

    def write(readable):
        for place, (name, data) in enumerate(whole.items()):
            path, scan = tmp_path / "crawl" / name, data.index(b"\xff\xda")
            path.write_bytes(
                data if readable or place % 2 else data[:scan] + bytes(len(data) - scan)
            )
            os.utime(path, ns=(0, 10**18))

    def scored():
        arguments = command(
            world,
            tmp_path,
            teacher,
            "--sources",
            "photos",
            "--score-only",
            sets=[
                f"sources.photos.root={tmp_path}/crawl",
                f"sources.photos.list={tmp_path}/photos.txt",
                "loader.max_bad_in_a_row=3",
            ],
        )
        assert cli.main(arguments) == 0
        return int(capsys.readouterr().out.split("12 items, ")[1].split()[0])

    (tmp_path / "crawl").mkdir()
    (tmp_path / "photos.txt").write_text(
        "".join(f"{name} {place % 4}\n" for place, name in enumerate(names))
    )
    write(readable=False)
    assert scored() == 6
    assert scored() == 0  # six in a row that fail again
    write(readable=True)
    assert scored() == 0  # the quarantine still names them: size and time are the same
    (tmp_path / "out/quarantine.jsonl").unlink()
    assert scored() == 6


@pytest.mark.parametrize(
    "out, says",
    [
        (".", "does not hold --config"),
        ("run", "does not hold the catalog"),
        ("lists", "sources.photos.list"),
        ("crawl/photos/out", "outside of sources.photos, "),
        ("crawl", "the originals of sources.photos"),
    ],
)
def test_results_do_not_lie_upon_what_they_are_made_of(world, teacher, tmp_path, capsys, out, says):
    for name in NAMES:
        (tmp_path / "crawl/photos" / name).mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    listed = out == "lists"
    sets = [
        f"sources.photos.root={tmp_path}/crawl/photos",
        f"sources.photos.list={tmp_path / 'lists/photos.txt' if listed else ''}",
    ]
    arguments = command(world, tmp_path, teacher, "--sources", "photos", out=out, sets=sets)
    others = [*arguments[1:3], *arguments[5:]]
    for command_line in (
        arguments,
        ["dedup", *others],
        ["lint", *others],
        ["preview", *others],
        ["curate", *others[:4], *others[6:]],
    ):
        assert cli.main(command_line) == 2
        error = capsys.readouterr().err
        assert "--out: expected a folder" in error and says in error


def test_results_do_not_lie_upon_the_teacher_or_a_base(world, teacher, tmp_path, capsys):
    arguments = command(
        world, tmp_path, tmp_path / "taught", "--sources", "photos", out="taught/checkpoints"
    )
    assert (
        cli.main([*arguments[:4], str(tmp_path / "taught/checkpoints/best.pt"), *arguments[5:]])
        == 2
    )
    assert "does not hold --checkpoint" in capsys.readouterr().err
    (tmp_path / "lib").mkdir()
    (tmp_path / "c.yaml").rename(tmp_path / "lib/base.yaml")
    (tmp_path / "c.yaml").write_text("base: lib/base.yaml\n")
    arguments[6] = str(tmp_path / "lib")
    assert cli.main(arguments) == 2
    assert "does not hold --config, base 1, " in capsys.readouterr().err


def test_numbers_may_grow_but_names_may_not(world, teacher, tmp_path, capsys):
    """Where nobody named the classes, a teacher may know more of them; a file of names says how
    many there are.
    """
    (tmp_path / "numbers.txt").write_text("0\n1\n2\n")
    few = [f"sources.{name}.list={tmp_path}/{name}.txt" for name in ("clips", "photos")]
    for name in ("clips", "photos"):
        lines = (world / f"{name}.txt").read_text().splitlines(keepends=True)
        (tmp_path / f"{name}.txt").write_text(
            "".join(line for line in lines if not line.endswith(" 3\n"))
        )
    assert (
        cli.main(
            command(
                world,
                tmp_path,
                teacher,
                "--sources",
                "photos",
                "--relabel",
                sets=[*few, "classes=null"],
            )
        )
        == 0
    )
    made = load_config(tmp_path / "out/config.yaml")
    assert Path(made.classes).read_text().split("\n")[:-1] == NAMES and open_data(
        made
    ).class_names == tuple(NAMES)
    capsys.readouterr()
    assert (
        cli.main(
            command(
                world,
                tmp_path,
                teacher,
                "--sources",
                "photos",
                sets=[*few, f"classes={tmp_path}/numbers.txt"],
                out="other",
            )
        )
        == 2
    )
    assert "a teacher for the 3 classes of the lists" in capsys.readouterr().err


def test_a_flipped_bit_in_a_score_is_noticed(world, filtered, teacher, capsys):
    with sqlite3.connect(filtered / "run/catalog.sqlite") as db:
        db.execute("UPDATE scores SET logs = zeroblob(8) WHERE path LIKE '%/7.jpg'")
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--score-only", out="changed")
        )
        == 0
    )
    assert "40 items, 1 scored now" in capsys.readouterr().out


def test_what_is_missing_is_told_without_all_scores_in_memory(tmp_path, monkeypatch):
    count, classes = 6000, 400
    with contextlib.closing(connect(tmp_path / "c.sqlite")) as db, db:
        db.execute(
            "INSERT INTO sources (id, name, kind, root) VALUES (1, 'photos', 'image', '/photos')"
        )
        db.executemany(
            "INSERT INTO media (id, source, path, state, bytes, mtime_ns) VALUES (?, 1, ?, 'ok', 1, 1)",
            ((n + 1, f"{n}.jpg") for n in range(count)),
        )
    zeros = np.zeros(count, np.int32)
    table = SourceTable(
        "photos", MediaKind.IMAGE, np.arange(1, count + 1), zeros, zeros, zeros, zeros + 1, zeros
    )
    monkeypatch.setattr("omnidali.catalog.database.teacher_scores._CHUNK", 500)
    with ScoreStore(
        tmp_path / "c.sqlite", Scorer("digest", "name", tuple(map(str, range(classes))), "")
    ) as store:
        rows = np.arange(3, count)  # three have none, and one of the others did not decode
        store.add(table, rows, np.broadcast_to(np.float32(-1), (len(rows), classes)), rows != 7)
        tracemalloc.start()
        missing, tried = store.missing(table)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (missing.tolist(), tried) == ([0, 1, 2, 7], 1)
    assert peak < 2 * count * classes / 2  # half of what the scores take


# --- kills and ranks

KILLED = """
import os, signal, sys
from omnidali.cli import main as cli
import torch
from omnidali.catalog.database import teacher_scores as scores
torch.set_num_threads = lambda count: None
scores._COMMIT_SECONDS, die, calls, add = 0.0, int(sys.argv.pop(1)), [], scores.ScoreStore.add

def add_and_say(self, table, rows, logs, decoded):
    calls.append(1)
    if len(calls) == die:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, table, rows, logs, decoded)
    print("scored", *rows.tolist(), file=sys.stderr, flush=True)

scores.ScoreStore.add = add_and_say
sys.exit(cli.main(sys.argv[1:]))
"""


def run_ranks(arguments, world_size, die=0):
    with free_port() as port:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", KILLED, str(die), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in range(world_size)
        ]
        return [(process, *process.communicate(timeout=600)) for process in processes]


def count_scores(folder):
    with sqlite3.connect(folder / "run/catalog.sqlite") as db:
        return db.execute("SELECT COUNT(*) FROM scores WHERE teacher = 1").fetchone()[0]


def test_a_killed_job_goes_on_and_two_ranks_are_one(world, filtered, teacher, tmp_path):
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--threshold", "0.4")
    (main, _, told), *_ = run_ranks(arguments, 2, die=6)
    committed = count_scores(tmp_path)
    first = [line for line in told.splitlines() if line.startswith("scored")]
    assert main.returncode == -signal.SIGKILL and committed == 20 and len(first) == 5
    (main, out, told), (other, *_) = run_ranks(arguments, 2)
    assert main.returncode == other.returncode == 0, told
    again = [
        int(n) for line in told.splitlines() if line.startswith("scored") for n in line.split()[1:]
    ]
    assert (
        sorted(again) == list(range(PHOTOS - committed))
        and f"{PHOTOS - committed - 1} scored now" in out
    )
    assert count_scores(tmp_path) == PHOTOS
    for name in ("photos.txt", "photos_kept.csv", "photos_dropped.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (filtered / "out" / name).read_bytes()


# --- long videos


def test_windows_of_whole_videos(world, flat, teacher, tmp_path):
    """A 2D teacher looks at the middle frame of every second."""
    assert (
        cli.main(
            command(world, tmp_path, teacher, "--sources", "whole", "--rule", "topk", "--top", "2")
        )
        == 0
    )
    config = settings(
        world,
        tmp_path,
        "sources.whole.window_seconds=1",
        "sources.whole.pieces=all",
        "evaluation.test.num_clips=1",
    )
    data = open_data(config)
    table = flatten(config.catalog_path, data.tables[2])
    planned = EvaluationPlan(table, config.clip, config.evaluation.test, 6)(0)[0]
    assert planned.frames.ravel().tolist() == [15, 45, 82] * 2  # of windows of 30, 30 and 44 frames
    probabilities = plain_scores(flat, table, config.sources["whole"], config)
    expected = []
    for row, (video, label) in enumerate(((50, 1), (51, 2))):
        ranks = [
            sorted(values, reverse=True).index(values[label])
            for values in probabilities[3 * row : 3 * row + 3].tolist()
        ]
        shown = [piece for piece, rank in enumerate(ranks) if rank < 2]
        if shown:
            expected.append(
                {
                    "video_dir": f"{video}.mp4",
                    "label": label,
                    "num_clips": 3,
                    "positive_clip_inds": shown,
                }
            )
    assert json.loads((tmp_path / "out/whole.json").read_text()) == expected and expected
    made = load_config(tmp_path / "out/config.yaml")
    source = made.sources["whole"]
    assert (source.window_seconds, source.format, source.pieces) == (
        1.0,
        "parts_json",
        "one_positive_rest_negative",
    )
    data = open_data(made)
    make_plan(made, data)(0)
    assert data.tables[2].positives.tolist() == [len(row["positive_clip_inds"]) for row in expected]


def test_parts_keep_their_numbers_and_pieces_their_seconds(world, teacher, tmp_path):
    arguments = [
        "--sources",
        "parts",
        "pieces",
        "--rule",
        "topk",
        "--top",
        "2",
        "--keep-negatives",
        "--relabel",
    ]
    assert cli.main(command(world, tmp_path, teacher, *arguments)) == 0
    out = tmp_path / "out"
    made = {row["video_dir"]: row for row in json.loads((out / "parts.json").read_text())}
    assert {name: row["num_clips"] for name, row in made.items()} == {"a": 5, "b": 2}
    told = rows_of(out / "parts_kept.csv") + rows_of(out / "parts_dropped.csv")
    assert sorted((row["path"], row["piece"]) for row in told) == [
        (f"{video}/part_{part}.mp4", str(part))
        for video, part in (("a", 0), ("a", 1), ("a", 3), ("b", 0), ("b", 1))
    ]
    assert all(
        int(row["rank"]) <= 2
        for row in rows_of(out / "parts_kept.csv") + rows_of(out / "pieces_kept.csv")
    )
    for name in "ab":
        kept = [
            int(row["piece"]) for row in rows_of(out / "parts_kept.csv") if row["path"][0] == name
        ]
        assert made[name]["positive_clip_inds"] == sorted(kept)
    lines = (out / "pieces.txt").read_text().splitlines()
    known = (world / "pieces.txt").read_text().splitlines()
    assert lines == [line for line in known if line in lines] and 0 < len(lines) == len(
        rows_of(out / "pieces_kept.csv")
    )
    made = load_config(out / "config.yaml")
    assert made.sources["pieces"].format == "pieces" and made.sources["parts"].window_seconds == 10
    open_data(made)


def test_all_pieces_of_a_long_video_belong_to_its_part(world, tmp_path):
    """Else a network would judge pieces of videos that it was trained on."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    config = settings(world, tmp_path, "sources.whole.window_seconds=1", "sources.parts.pieces=all")
    tables = {table.name: table for table in open_data(config).tables}
    for name, expected in {
        "whole": 3 * ["50.mp4"] + 3 * ["51.mp4"],
        "parts": 3 * ["a"] + 2 * ["b"],
        "pieces": 2 * ["50.mp4"] + 2 * ["51.mp4"],
    }.items():
        rows, pieces = (
            list(table.owners())
            for table in (tables[name], flatten(config.catalog_path, tables[name]))
        )
        assert pieces == expected and set(rows) == set(expected) and len(rows) == len(tables[name])


FOLDERS = """
sources:
  clips: {kind: video, root: classes}
  photos: {kind: image, root: crawled}
  frames: {kind: frames, root: frames, list: frames.txt}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 10, steps: 2}
evaluation:
  batch: 4
  test: {num_clips: 2, size: 32, short_side: 32}
  source: {kind: image, root: crawled}
"""


def test_class_folders_and_folders_of_frames_become_lists(flat, tmp_path):
    """Their classes get a file of names, as a list of numbers gives none."""
    names = sorted(["#" + NAMES[0], *NAMES[1:]])  # a line that begins with # is a remark
    for n, name in enumerate(names):
        write_video(tmp_path / f"classes/{name}/{n}.mp4", n, frames=12, **FAST)
        for photo in range(2):
            write_photo(tmp_path / f"crawled/{name}/{photo},.jpg", 10 * n + photo, 64, 48)
    for frame in range(12):
        write_photo(tmp_path / f"frames/a b/img_{frame + 1:05}.jpg", 70, 64, 48, frame=frame)
    (tmp_path / "frames.txt").write_text("a b 0 6 0\na b 6 6 3\n")
    (tmp_path / "c.yaml").write_text(FOLDERS)
    torch.save({"state_dict": flat.state_dict(), "classes": names}, tmp_path / "x.pt")
    assert (
        cli.main(
            [
                "filter",
                "--config",
                str(tmp_path / "c.yaml"),
                "--checkpoint",
                str(tmp_path / "x.pt"),
                "--out",
                str(tmp_path / "out"),
                "--sources",
                "photos",
                "frames",
                "evaluation",
                "--rule",
                "topk",
                "--top",
                "4",
                "--set",
                f"data_root={tmp_path}",
                f"run_dir={tmp_path}/run",
            ]
        )
        == 0
    )
    assert (tmp_path / "out/frames.txt").read_text() == "a b 0 6 0\na b 6 6 3\n"
    assert (tmp_path / "out/classes.txt").read_text().splitlines() == names
    before = open_data(
        load_config(tmp_path / "c.yaml", [f"data_root={tmp_path}", f"run_dir={tmp_path}/run"])
    )
    after = open_data(load_config(tmp_path / "out/config.yaml"))
    assert before.class_names == after.class_names
    for one, other in zip((*before.tables, before.evaluation), (*after.tables, after.evaluation)):
        assert [one.media(record).path for record in one.records] == [
            os.path.normpath(other.media(record).path) for record in other.records
        ]
        assert one.labels.tolist() == other.labels.tolist()


# --- other teachers


def test_a_3d_teacher_sees_photos_as_still_clips(world, tmp_path, capsys):
    """As mmaction2 writes its checkpoints: no class names, weights under state_dict, a meta that
    says nothing.
    """
    torch.manual_seed(2)
    deep = SlowOnly(18, 4, 0.0, 4)
    for block in deep.modules():
        if isinstance(block, Block):  # which begin as nothing, and time plays no part
            torch.nn.init.ones_(block.last_norm.weight)
    deep = sharpen(deep, world)
    torch.save(
        {
            "meta": {"epoch": 3},
            "state_dict": {f"module.{name}": value for name, value in deep.state_dict().items()},
        },
        tmp_path / "deep.pth",
    )
    clip = [
        "clip.clip_len=4",
        "clip.frame_interval=2",
        "clip.num_clips=1",
        "model.name=slowonly",
        "sources.whole.pieces=positive",
    ]
    assert (
        cli.main(
            command(
                world,
                tmp_path,
                tmp_path / "deep.pth",
                "--sources",
                "photos",
                "whole",
                "--rule",
                "topk",
                "--top",
                "3",
                "--window",
                "1.5",
                sets=clip,
            )
        )
        == 0
    )
    assert "a 2D one is the better judge of photos" in capsys.readouterr().out
    config = settings(world, tmp_path, "sources.photos.fraction=1", *clip)
    table = open_data(config).tables[1].take(np.arange(8), "the first")
    told_of = {
        row["path"]: row
        for which in ("kept", "dropped")
        for row in rows_of(tmp_path / f"out/photos_{which}.csv")
    }
    for rows, logits, _ in run_over(
        lambda clips: deep(clips.repeat(1, 1, 4, 1, 1)),
        4,
        table,
        config.sources["photos"],
        config.evaluation.test,
        config,
        Ranks(),
        make_autocast("fp32", torch.device("cpu")),
    ):
        for row, values in zip(rows.tolist(), torch.from_numpy(logits).softmax(1)):
            told = told_of[f"some photos/{row}.jpg"]
            assert float(told["probability"]) == pytest.approx(float(values[row % 4]), abs=1e-3)
    assert all(
        row["num_clips"] == 2 for row in json.loads((tmp_path / "out/whole.json").read_text())
    )
    assert load_config(tmp_path / "out/config.yaml").sources["whole"].window_seconds == 1.5


@pytest.mark.parametrize("kind, depth", list(zip(("tsn", "slowonly", "tsn", "slowonly"), LAYERS)))
def test_tensors_tell_the_network(kind, depth):
    model = TSN(depth, 7, 0.0) if kind == "tsn" else SlowOnly(depth, 7, 0.0, 4)
    assert tell_architecture(model.state_dict(), "x.pt") == Architecture(kind, depth, 7)
    state = {name: value for name, value in model.state_dict().items() if "fc_cls" not in name}
    with pytest.raises(UserError, match="x.pt: expected a classifier"):
        tell_architecture(state, "x.pt")
    with pytest.raises(UserError, match="expected a TSN or SlowOnly"):
        tell_architecture(
            {name: value for name, value in state.items() if "layer4" not in name}, "x.pt"
        )


# --- what must be refused


@pytest.mark.parametrize(
    "classes, outputs, says",
    [
        (["run", "long jump", "swim", "ski"], 4, "run; long jump; swim; ski"),
        (None, 5, "one for 5 (no names)"),
    ],
)
def test_another_teachers_classes(world, tmp_path, capsys, classes, outputs, says):
    torch.save(
        {"state_dict": TSN(18, outputs, 0.0).state_dict(), "classes": classes}, tmp_path / "x.pt"
    )
    assert cli.main(command(world, tmp_path, tmp_path / "x.pt", "--sources", "photos")) == 2
    error = capsys.readouterr().err
    assert (
        "expected a teacher for the 4 classes of the lists (run; high jump; swim; ski)" in error
        and says in error
    )
    assert not (tmp_path / "out/photos.txt").exists()


def test_nothing_kept(world, filtered, teacher, capsys):
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--threshold", "1", out="none")
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "sources.photos: expected items that pass the rule (probability of at least 1), got none of 40; the best"
        " probabilities are 0." in error
    )
    assert (
        not (filtered / "none/photos.txt").exists() and not (filtered / "none/config.yaml").exists()
    )


def test_a_class_with_nothing_kept_is_told(world, filtered, flat, teacher, capsys):
    config = settings(world, filtered, "sources.photos.fraction=1")
    probabilities = plain_scores(
        flat, open_data(config).tables[1], config.sources["photos"], config
    )
    best = {
        label: max(probabilities[n, label] for n in range(BROKEN) if n % 4 == label)
        for label in range(4)
    }
    lowest = min(best, key=best.get)
    threshold = (best[lowest] + min(best[label] for label in best if label != lowest)) / 2
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--threshold",
                f"{threshold:.6f}",
                out="class",
            )
        )
        == 0
    )
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1 and f"class {lowest} ({NAMES[lowest]})" in warnings[0]


def test_full_disks(world, teacher, tmp_path, capsys):
    """Of the lists: none half written; of the catalog: what was committed is not scored again."""
    with small_disk(tmp_path / "disk") as fill:
        arguments = command(
            world,
            tmp_path,
            teacher,
            "--sources",
            "photos",
            out="disk/out",
            sets=[f"catalog={tmp_path}/c.sqlite"],
        )
        fill(True)
        assert cli.main(arguments) == 2
        told = capsys.readouterr()
        assert "Make room or choose another --out" in told.err and "scored now" not in told.out
        fill(False)
        assert (
            cli.main(
                [
                    *arguments[: arguments.index("--set")],
                    "--score-only",
                    *arguments[arguments.index("--set") :],
                ]
            )
            == 0
        )
        fill(True)
        assert cli.main(arguments) == 2
        assert "Make room or choose another --out" in capsys.readouterr().err
        assert not list((tmp_path / "disk/out").glob("*.txt")) and not list(
            (tmp_path / "disk/out").glob("*.part")
        )
        fill(False)
        assert cli.main(arguments) == 0
        assert "40 items, 0 scored now" in capsys.readouterr().out


def test_a_catalog_that_cannot_grow(world, teacher, tmp_path, capsys, monkeypatch):
    make, fresh = ScoreStore.__init__, []

    def limited(self, *given):
        make(self, *given)
        if not fresh:  # the first store only looks what is missing
            fresh.append(True)
        else:  # half a page is left
            self._db.executemany(
                "INSERT INTO scores VALUES (99, ?, 0, 1, 0, 0, zeroblob(200), 0)", zip("0123456789")
            )
            self._db.commit()
            self._db.execute("VACUUM")
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            self._db.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr("omnidali.catalog.database.teacher_scores._COMMIT_SECONDS", 0.0)
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--score-only")
    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "__init__", limited)
        assert cli.main(arguments) == 2
    assert (
        "expected a catalog in which scores can be written, got database or disk is full"
        in capsys.readouterr().err
    )
    kept = count_scores(tmp_path)
    assert 0 < kept < PHOTOS and cli.main(arguments) == 0
    assert f"{PHOTOS - kept - 1} scored now" in capsys.readouterr().out


def test_scores_of_a_damaged_catalog_are_mentioned(world, teacher, tmp_path, capsys):
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--score-only")
    assert cli.main(arguments) == 0
    path = tmp_path / "run/catalog.sqlite"
    path.write_bytes(path.read_bytes()[:-4096])
    capsys.readouterr()
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert (
        "built anew; the scores of teachers that it held went with it" in told.err
        and f"{BROKEN} scored now" in told.out
    )


@pytest.mark.parametrize(
    "more, says",
    [
        (
            ["--sources", "web"],
            "--sources: expected some of clips, photos, whole, parts, pieces, got web",
        ),
        (["--threshold", "0"], "--threshold: expected a number above 0 and at most 1"),
        (
            ["--keep", "0.3"],
            "--keep: expected --rule quantile with it, got --rule threshold. Add quantile to --rule",
        ),
        (
            ["--rule", "quantile", "--threshold", "0.3"],
            "--threshold: expected --rule threshold with it, got --rule quantile",
        ),
        (["--top", "0"], "--top: expected 1 or more"),
        (["--window", "-1"], "--window: expected seconds above 0"),
    ],
)
def test_options(world, teacher, tmp_path, capsys, more, says):
    assert cli.main(command(world, tmp_path, teacher, *more)) == 2
    assert says in capsys.readouterr().err
