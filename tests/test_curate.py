"""The road from a crawl to a student: who teaches whom, on which lists, and what the table says."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from conftest import SMALL

from omnidali import ablate, cli, curate
from omnidali.bench.media import write_photo, write_video
from omnidali.curation.halves import join, split
from omnidali.loading.data import open_data
from omnidali.settings import dump_config, load_config
from omnidali.writing import write_whole

DROPPED = 1  # lines of a list, by a filter
EVALUATION = "evaluation: {source: {kind: video, root: shorts, list: shorts.txt}}\n"


@pytest.fixture
def faked(monkeypatch):
    """Programs that take no time: dedup drops the last photo, a filter the first; top-1 is made of seed and photos."""
    calls = []

    def run(program, *arguments, ranks):
        given = dict(zip(arguments[::2], arguments[1::2]))
        config = load_config(given["--config"])
        calls.append((program, given, ranks))
        if program in ("dedup", "filter"):
            out = Path(given["--out"])
            out.mkdir(parents=True, exist_ok=True)
            lines = Path(config.data_root, config.sources["photos"].list).read_text().splitlines(keepends=True)
            (out / "photos.txt").write_text("".join(lines[:-1] if program == "dedup" else lines[DROPPED:]))
            photos = replace(config.sources["photos"], list=str(out / "photos.txt"))
            sources = MappingProxyType({**config.sources, "photos": photos})
            made = replace(config, sources=sources, catalog=str(out / "catalog.sqlite"))
            (out / "config.yaml").write_text(dump_config(made))
        elif program == "train.py":
            Path(config.run_dir, "checkpoints").mkdir(parents=True, exist_ok=True)
        else:
            return {"top1": 10.0 * len(config.sources) + config.seed, "mean_class": 5.0}

    for module in (ablate, curate):
        monkeypatch.setattr(module, "run_program", run)
    return calls


def lines_of(config):
    return set(Path(config.data_root, config.sources["photos"].list).read_text().splitlines())


def test_students_of_two_halves_judge_each_others(media_root, tmp_path, faked, capsys, monkeypatch):
    (tmp_path / "c.yaml").write_text(SMALL + EVALUATION + "train: {batch: 6, steps: 4}\n")
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    command = ["curate", "--config", str(tmp_path / "c.yaml"), "--out", "out", "--seeds", "0", "4", "--rounds", "2",
               "--filter", "--rule quantile", "--dedup", "--fps 2", "--set", f"data_root={media_root}"]
    assert cli.main(command) == 0
    programs = [name for name, _, _ in faked if name != "evaluate.py"]
    a_seed = ["train.py", "train.py", "filter", "train.py", *2 * ["train.py", "filter"], "train.py"]
    assert programs == ["dedup"] + 2 * a_seed
    dedup, *filters = [given for name, given, _ in faked if name in ("dedup", "filter")]
    assert dedup["--fps"] == "2" and load_config(dedup["--config"]).run_dir == str(out / "crawl")
    assert all(given["--rule"] == "quantile" for given in filters)
    # by file name: target-seed0-..., half1-of-1-seed0-..., and the same of the other seed
    teachers = [Path(given["--checkpoint"]).parent.parent for given in filters]
    assert [run.name.rpartition("-")[0] for run in teachers] == [
        f"{name}-seed{seed}" for seed in (0, 4) for name in ("target", "half1-of-1", "half2-of-1")]
    unique = load_config(out / "dedup/config.yaml")
    assert [given["--config"] for given in filters[::3]] == 2 * [str(out / "dedup/config.yaml")]
    for place in (1, 4):  # nobody has learned what he judges, and together they judge everything
        learned = [lines_of(load_config(teachers[place + half].with_name(f"{teachers[place + half].name}.yaml")))
                   for half in (0, 1)]
        judged = [lines_of(load_config(filters[place + half]["--config"])) for half in (0, 1)]
        assert all(learned) and not learned[0] & judged[0] and not learned[1] & judged[1]
        assert judged[0] | judged[1] == lines_of(unique) and not judged[0] & judged[1]
        assert learned[0] | learned[1] == lines_of(load_config(out / "filter-seed0-round1/config.yaml"))
    both = [lines_of(load_config(out / f"filter-seed0-round2/{half}/config.yaml")) for half in ("half1", "half2")]
    assert lines_of(load_config(out / "filter-seed0-round2/config.yaml")) == both[0] | both[1]

    rows = {row["name"]: row for row in json.loads((out / "results.json").read_text())}
    assert {name: row["samples"] for name, row in rows.items()} == {
        "target alone": [0, 0], "everything that was crawled": [14, 14], "filtered, round 1": [12, 12],
        "filtered, round 2": [11, 11]}
    assert rows["target alone"]["top1"] == [10.0, 14.0] and rows["filtered, round 2"]["top1"] == [20.0, 24.0]
    assert "| filtered, round 2 | 11 | 22.0 | 2.8 | +10.0 | 20.0, 24.0 | 5.0 |" in capsys.readouterr().out
    trained, = (load_config(path) for path in (out / "runs").glob("target-seed0*.yaml"))
    student, = (load_config(path) for path in (out / "runs").glob("everything-seed0*.yaml"))
    assert set(trained.sources) == {"clips"}  # it sees as many clips as a student
    assert trained.train.epochs * trained.batch == pytest.approx(student.train.epochs * student.batch)

    done = len(faked)
    assert cli.main(command) == 0
    assert [name for name, _, _ in faked[done:]] == ["dedup"] + 6 * ["filter"]  # which go on by themselves
    faked.clear()
    monkeypatch.setattr(sys.modules[__name__], "DROPPED", 2)  # other options: other lists at the same place
    assert cli.main(command) == 0
    assert [name for name, _, _ in faked].count("train.py") == 6  # both dropped lines are of one half


def test_a_full_disk_leaves_no_half_result(media_root, tmp_path, faked, capsys, monkeypatch):
    (tmp_path / "c.yaml").write_text(SMALL + EVALUATION + "train: {batch: 6, steps: 4}\n")
    command = ["curate", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--set",
               f"data_root={media_root}"]

    def full(path, data):
        if path.name == "result.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(ablate, "write_whole", full)
        assert cli.main(command) == 2
    assert "expected a folder that can be written, got No space left" in capsys.readouterr().err
    assert cli.main(command) == 0


@pytest.mark.parametrize("config, options, told", [
    (SMALL + EVALUATION, ["--rounds", "0"], "--rounds: expected 1 or more, got 0."),
    (SMALL + EVALUATION, ["--ranks", "0"], "--ranks: expected 1 or more, got 0."),
    (SMALL, [], "evaluation.source: expected labelled data to compare on, got nothing."),
    ("sources: {a: {kind: video}}\n" + EVALUATION, [], "sources: expected the target and at least one crawled source"),
])
def test_mistakes_are_told_before_anything_runs(tmp_path, faked, capsys, config, options, told):
    (tmp_path / "c.yaml").write_text(config + "train: {steps: 2}\n")
    assert cli.main(["curate", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), *options]) == 2
    assert told in capsys.readouterr().err and not faked


def test_halves_hold_the_same_pieces_and_join_to_the_whole(tmp_path):
    for name in "abcdef":
        write_video(tmp_path / f"long/{name}.mp4", ord(name), frames=60, width=48, height=32, rate=10)
        write_photo(tmp_path / f"photos/{name}.jpg", ord(name), 40, 30)
    write_video(tmp_path / "clips/0.mp4", 1, frames=8, width=48, height=32)
    (tmp_path / "clips.txt").write_text("0.mp4 0\n")
    (tmp_path / "one.txt").write_text("a.jpg 1\n")
    (tmp_path / "photos.txt").write_text("".join(f"{name}.jpg {place % 2}\n" for place, name in enumerate("abcdef")))
    (tmp_path / "long.json").write_text(json.dumps([
        {"video_dir": f"{name}.mp4", "label": 1, "num_clips": 6, "positive_clip_inds": [place % 6, 5]}
        for place, name in enumerate("abcde")]))
    (tmp_path / "c.yaml").write_text(f"""
data_root: {tmp_path}
run_dir: {tmp_path}/run
sources:
  clips: {{kind: video, root: clips, list: clips.txt}}
  photos: {{kind: image, root: photos, list: photos.txt}}
  one: {{kind: image, root: photos, list: one.txt}}
  long: {{kind: untrimmed, root: long, list: long.json, window_seconds: 1}}
train: {{steps: 2}}
""")

    def pieces(path):
        tables = open_data(load_config(path)).tables
        return {table.name: sorted(
            (Path(table.media(record).path).name, int(first), int(count)) for record, first, count in zip(
                table.records, np.zeros(len(table), int) if table.firsts is None else table.firsts, table.frames))
            for table in tables}

    whole, halves = pieces(tmp_path / "c.yaml"), split(load_config(tmp_path / "c.yaml"), tmp_path / "out")
    parts = [pieces(half) for half in halves]
    assert parts[0]["clips"] == parts[1]["clips"] == whole["clips"] and ("one" in parts[0]) != ("one" in parts[1])
    for name in ("photos", "long"):
        assert parts[0][name] and parts[1][name] and sorted(parts[0][name] + parts[1][name]) == whole[name]
    videos = [{video for video, _, _ in part["long"]} for part in parts]
    assert not videos[0] & videos[1]
    assert pieces(join(halves, tmp_path / "joined")) == whole
