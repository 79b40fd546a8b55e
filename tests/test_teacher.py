"""Teachers of every kind, alone and together."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.filtering import (
    BROKEN,
    NAMES,
    PHOTOS,
    command,
    plain_scores,
    rows_of,
    settings,
    sharpen,
)
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.model_settings import ModelConfig
from omnidali.curation.filter.teacher import load_teacher
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.evaluation.score import run_over
from omnidali.loading.data import open_data
from omnidali.models.precision import make_autocast
from omnidali.models.pretrained import infer_architecture
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.models.resnet import LAYERS, Block
from omnidali.planning.resampling import parts_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_several_teachers_score_by_mean_probability(
    world, filtered, flat, teacher, tmp_path, capsys
):
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


def test_network_scores_the_part_that_it_held_out_alone(world, filtered, flat, tmp_path, capsys):
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
    # scores of this teacher are not used for the ones below
    assert ask(*(f"{number} of all" for number in (3, 1, 2))) == 0
    # if the config itself holds a part out, all items are scored
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
        f"expected for every item of sources.photos a network that was not trained on it, got"
        f" none for {(part == 3).sum()} of 40"
    ) in capsys.readouterr().err
    torch.save({"state_dict": flat.state_dict(), "hold_out": {"photos": "half"}}, tmp_path / "1.pt")
    assert ask(0, 1) == 2
    assert "1.pt: expected hold_out as `train` writes it" in capsys.readouterr().err


def test_teacher_may_know_more_classes_unless_they_have_names(world, teacher, tmp_path, capsys):
    """A file of names says how many classes there are; labels without names do not."""
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


def test_3d_teacher_sees_images_as_still_clips(world, tmp_path, capsys):
    """The checkpoint is like one of mmaction2.

    It has no class names, its weights are under state_dict, and its meta is empty.
    """
    torch.manual_seed(2)
    deep = SlowOnly(18, 4, 0.0, 4)
    for block in deep.modules():
        if isinstance(block, Block):  # they begin at zero, where time has no effect
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
    assert "a 2D one is the better judge of images" in capsys.readouterr().out
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
        for row, values in zip(rows.tolist(), torch.from_numpy(logits).softmax(1), strict=True):
            told = told_of[f"some photos/{row}.jpg"]
            assert float(told["probability"]) == pytest.approx(float(values[row % 4]), abs=1e-3)
    assert all(
        row["num_clips"] == 2 for row in json.loads((tmp_path / "out/whole.json").read_text())
    )
    assert load_config(tmp_path / "out/config.yaml").sources["whole"].window_seconds == 1.5


@pytest.mark.parametrize(
    "kind, depth", list(zip(("tsn", "slowonly", "tsn", "slowonly"), LAYERS, strict=True))
)
def test_network_is_inferred_from_its_tensors(kind, depth):
    model = TSN(depth, 7, 0.0) if kind == "tsn" else SlowOnly(depth, 7, 0.0, 4)
    assert infer_architecture(model.state_dict(), "x.pt") == (
        ModelConfig(name=kind, depth=depth),
        7,
    )
    state = {name: value for name, value in model.state_dict().items() if "fc_cls" not in name}
    with pytest.raises(UserError, match="x.pt: expected a classifier"):
        infer_architecture(state, "x.pt")
    with pytest.raises(UserError, match="expected a TSN or SlowOnly"):
        infer_architecture(
            {name: value for name, value in state.items() if "layer4" not in name}, "x.pt"
        )


@pytest.mark.parametrize(
    "classes, outputs, says",
    [
        (["run", "long jump", "swim", "ski"], 4, "run; long jump; swim; ski"),
        (None, 5, "one for 5 (no names)"),
    ],
)
def test_teacher_of_other_classes_is_refused(world, tmp_path, capsys, classes, outputs, says):
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
