"""The benchmarks: nothing is counted without proof, failures become rows, and the tables come from
the records.
"""

import errno
import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks import compare_loaders as comparing
from benchmarks import decode_cost as decode
from benchmarks import probe_cost as probing
from benchmarks import start_cost as starting
from benchmarks import workloads
from benchmarks.loader_task import Job
from benchmarks.measure_loader import CODEC, OURS, check_frames, measure, wanted_frames
from benchmarks.plan_cost import bench_plan
from benchmarks.result_tables import BEGIN, BEGIN_STARTS, END, END_STARTS, report, summary
from benchmarks.workloads import WORKLOADS, job_of, make_media, open_tables, plan_of
from helpers.program_runs import CONFIG


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(workloads, "_PHOTOS", 6)
    monkeypatch.setattr(workloads, "_VIDEOS", 2)
    monkeypatch.setattr(workloads, "_FRAMES", 40)
    monkeypatch.setattr(comparing, "_STEPS", (5, 5))


@pytest.mark.slow
def test_loaders_side_by_side(small, tmp_path, monkeypatch, capsys):
    """A peer that is there (PyAV always is) and one that is not: each has its row."""
    monkeypatch.setattr(comparing, "find_spec", lambda name: None if name == "decord" else name)
    assert (
        cli.main(
            [
                "peers",
                "--out",
                str(tmp_path),
                "--repeats",
                "1",
                "--seconds",
                "0.1",
                "--workloads",
                "W2 tsn-8 h264 gop 16",
                "--loaders",
                "omnidali",
                CODEC,
                "pyav",
                "decord",
            ]
        )
        == 0
    )
    rows = {
        row["loader"]: row
        for row in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    }
    assert set(rows) == {OURS, CODEC, "pyav", "decord"}
    assert "not installed (decord)" in rows["decord"]["error"]
    for name in (OURS, CODEC, "pyav"):
        row = rows[name]
        assert (
            0 < row["lowest"] <= row["clips_per_second"] <= row["highest"]
            and row["cpu_ms_per_clip"] > 0
        )
        assert (
            row["resident_mb"] > 50
            and row["seconds_to_first_batch"] > 0
            and row["frames_per_clip"] == 8
        )
        assert row["packets_per_clip"] > 8 and row["environment"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert "| decord | not installed (decord)" in printed and "| pyav |" in printed


def test_a_loader_that_fails_says_why(small, tmp_path, monkeypatch):
    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_media(tmp_path / "media", [load])
    (tmp_path / "media" / "jpeg" / "3.jpg").unlink()
    bench = comparing._Workbench(load, tmp_path / "media", tmp_path / "bench", 0.1)
    row = comparing._Row(load, "opencv", {"way": "threads", "jump": 32})
    assert "3.jpg" in bench._child(row, 0, False, 6)["error"]


def test_job_is_the_plan(small, tmp_path):
    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_media(tmp_path, [load])
    plan = plan_of(open_tables(tmp_path, load), load, 5)
    job = job_of(plan, 2)
    (samples,) = plan(1)
    assert [list(item.box) for item in job.steps[1]] == samples.boxes[:, 0].tolist()
    assert [item.flip for item in job.steps[1]] == samples.flips[
        :, 0
    ].tolist() and job.kind == "image"
    assert [item.path.rpartition("/")[2] for item in job.steps[1]] == [
        f"{item.file}.jpg" for item in job.steps[1]
    ]
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_nothing_is_counted_without_proof(small, tmp_path):
    from benchmarks.peers import PEERS

    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_media(tmp_path, [load])
    job = job_of(plan_of(open_tables(tmp_path, load), load, 5, check=True), 1)
    wanted = wanted_frames(plan_of(open_tables(tmp_path, load), load, 5, check=True), 1)
    check_frames(PEERS["opencv"].deliver(job, way="threads", jump=32), wanted)
    wrong = [[[(file + 1, frames) for file, frames in wanted[0][0]]]]
    with pytest.raises(ValueError, match="wrong frames: step 0"):
        check_frames(PEERS["opencv"].deliver(job, way="threads", jump=32), wrong)
    with pytest.raises(ValueError, match="1 batches instead of 2"):
        check_frames(PEERS["opencv"].deliver(job, way="threads", jump=32), wanted * 2)


def test_the_clock_leaves_out_the_warm_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow_start():
        for number in range(10):
            now[0] += 0.2 if number < 4 else 0.01
            yield torch.zeros(5, 1)

    row = measure(slow_start(), 0.0, 10)
    assert row["clips"] == 30 and row["clips_per_second"] == pytest.approx(500)
    assert row["seconds_to_first_batch"] == pytest.approx(0.2)


def row(loader, rate, workload="W2 tsn-8 h264 gop 16", **more):
    return {
        "bench": "loader",
        "workload": workload,
        "loader": loader,
        "settings": {},
        "clips_per_second": rate,
        "lowest": rate,
        "highest": rate,
        "cpu_ms_per_clip": 100 / rate,
        "seconds_to_first_batch": 1.0,
        "resident_mb": 100,
        "packets_per_clip": 60,
        "frames_per_clip": 8,
        "environment": {"cores": 2},
        **more,
    }


def start_row(photos, start, wall):
    return {
        "bench": "start",
        "source": "list",
        "photos": photos,
        "start": start,
        "wall_seconds": wall,
        "data_seconds": 1.0,
        "batch_seconds": 0.1,
        "cpu_seconds": 2.0,
        "child_cpu_seconds": 0.5,
        "peak_mb": 500.0,
        "child_peak_mb": 20.0,
        "catalog_mb": 1.5,
        "probed": 0,
        "samples": photos,
    }


def test_report(tmp_path):
    rows = [
        row(OURS, 1.0),
        row(OURS, 50.0),
        row("decord", 20.0, cpu_ms_per_clip=1.0),
        row("torchcodec", 40.0),
        row(CODEC, 60.0),
        {
            "bench": "loader",
            "workload": "W2 tsn-8 h264 gop 16",
            "loader": "spdl",
            "settings": {},
            "error": "broke",
        },
        {"bench": "plan", "rows": 5},
        {"what": "another program's record"},
        *(
            start_row(photos, start, wall)
            for photos, start, wall in [
                (9, "first", 50.0),
                (9, "first", 40.0),
                (9, "warm", 3.0),
                (5000, "first", 70.0),
            ]
        ),
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "R.md").write_text(
        f"above\n{BEGIN}\nold\n{END}\n{BEGIN_STARTS}\nold\n{END_STARTS}\nbelow\n"
    )
    for _ in range(2):  # a second time gives the same
        report(tmp_path / "records.jsonl", tmp_path / "R.md", tmp_path / "chart.png")
        text = (tmp_path / "R.md").read_text()
        assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
        # the newest record of a row; 2 cores / (60 * 0.30 + 8 * 0.40) ms
        limit = 2000 / (60 * 0.30 + 8 * 0.40)
        assert (
            f"| W2 tsn-8 h264 gop 16 | 50.0 | torchcodec 40.0 | **1.25** | 2.50 | 0.83 | {50 / limit:.2f} |"
            " 2.0 / 1.0 |"
        ) in text
        lines = [line for line in text.splitlines() if " in a list |" in line]
        assert [line.split("|")[1:4] for line in lines] == [
            [" 9 in a list ", " first ", " 40.0 s "],
            [" 9 in a list ", " warm ", " 3.0 s "],
            [" 5,000 in a list ", " first ", " 70.0 s "],
        ]
        assert "| spdl | broke |" in text and (tmp_path / "chart.png").stat().st_size > 1000
    # nothing of ours to compare
    assert "W1" not in summary([row("decord", 1.0, "W1 jpeg")], ["W1 jpeg"])


def test_bench_mistakes(tmp_path, capsys):
    cases = [
        (
            ["loader", "--out", str(tmp_path), "--workloads", "W9"],
            "expected beginnings of: W1 jpeg",
        ),
        (
            ["peers", "--out", str(tmp_path), "--loaders", "ffcv"],
            "expected some of: omnidali, omnidali, 2 ranks, codec alone",
        ),
        (
            ["report", "--records", str(tmp_path / "none.jsonl")],
            "Run `python -m benchmarks peers` first",
        ),
        (["train", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path)], "none.yaml"),
        (["train", "--config", "x", "--steps", "2"], "more than the 3 of the warm-up"),
    ]
    for arguments, said in cases:
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err


def test_bench_plan(tmp_path):
    small, large = bench_plan(tmp_path, [100, 100_000])
    assert (
        large["rows"] == 100_000 and large["warm_start_seconds"] < 10 and small["ms_per_step"] > 0
    )
    assert large["first_batch_seconds"] > large["warm_start_seconds"] and large["table_mb"] > 1


def test_bench_start(tmp_path, capfd):
    """The second start probes nothing, and the media are gone at the end."""
    command = ["start", "--tree", "40", "--list", "60", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [(row["source"], row["start"], row["photos"], row["probed"]) for row in rows] == [
        ("class folders", "first", 40, 40),
        ("class folders", "warm", 40, 0),
        ("list", "first", 60, 60),
        ("list", "warm", 60, 0),
    ]
    for row in rows:
        assert row["samples"] == row["photos"] and row["catalog_mb"] > 0
        assert row["wall_seconds"] > row["data_seconds"] + row["batch_seconds"] > 0
        assert row["cpu_seconds"] > row["child_cpu_seconds"] >= 0
        # a child that lives shortly may not be seen
        assert row["peak_mb"] > row["child_peak_mb"] >= 0
        assert row["environment"]["versions"]["torch"]
    assert all(row["child_cpu_seconds"] > 0 for row in rows if row["start"] == "first")
    assert all(
        row["child_cpu_seconds"] == row["child_peak_mb"] == 0
        for row in rows
        if row["start"] == "warm"
    )
    assert "| 60 in a list | warm |" in capfd.readouterr().out
    assert not (tmp_path / "media" / "start").exists()


def test_bench_start_where_links_are_not_possible(tmp_path, monkeypatch, capsys):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(starting.os, "link", refuse)
    assert cli.main(["start", "--tree", "4", "--list", "0", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        "hard links" in said
        and "got Operation not permitted. Choose a folder on a local disk" in said
    )
    assert not (tmp_path / "media" / "start").exists()


def test_photos_with_more_names_than_a_file_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "_ORIGINALS", 2)
    monkeypatch.setattr(starting, "_LINKS", 3)
    originals = starting._write_originals(tmp_path / "originals", 10)
    config = starting._make_source(tmp_path / "list", starting.LIST, 10, originals)
    assert len(originals) == 4 and all(path.stat().st_nlink <= 1 + 3 for path in originals)
    paths = [line.split()[0] for line in (config.parent / "list.txt").read_text().splitlines()]
    assert len(set(paths)) == 10 and all(
        (config.parent / "photos" / path).exists() for path in paths
    )


def test_bench_decode(small, tmp_path, capsys, monkeypatch):
    # the quickest of five may be disturbed where other tests run
    monkeypatch.setattr(decode, "_REPEATS", 25)
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "jpeg", "h264-gop8"]) == 0
    video, photo = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert (video["media"], photo["media"]) == ("h264-gop8", "jpeg")
    for name in ("open_ms", "index_ms", "frame_ms", "passed_packet_ms", "bytes_per_frame"):
        assert video[name] > 0
    assert video["index_ms"] < video["open_ms"]  # what the index is for
    assert 0 < photo["half_the_area_ms"] < photo["whole_ms"]
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "x"]) == 2
    assert "expected beginnings of: " in capsys.readouterr().err


@pytest.mark.needs_gpu
def test_bench_decode_on_a_gpu(small, tmp_path):
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "jpeg", "h264-gop8"]) == 0
    for line in (tmp_path / "records.jsonl").read_text().splitlines():
        assert (
            0 < json.loads(line)["best_cpu_share"] < 1
            and json.loads(line)["gpu_samples_per_second_depth_8"] > 0
        )


@pytest.mark.slow
def test_bench_train(media_root, tmp_path, capsys):
    """The real loop, fed three ways; none of them leaves a run folder behind."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert (
        cli.main(
            [
                "train",
                "--config",
                str(tmp_path / "c.yaml"),
                "--out",
                str(tmp_path / "out"),
                "--repeats",
                "1",
                "--steps",
                "6",
                "--precisions",
                "fp32",
                "--set",
                f"data_root={media_root}",
            ]
        )
        == 0
    )
    rows = {
        one["feed"]: one
        for one in map(json.loads, (tmp_path / "out" / "records.jsonl").read_text().splitlines())
    }
    assert set(rows) == {"synthetic", "cached", "real"} and rows["synthetic"]["stall"] == 0
    for one in rows.values():
        assert one["clips_per_second"] > 0
        assert one["stall"] == pytest.approx(
            1 - one["clips_per_second"] / rows["synthetic"]["clips_per_second"], abs=0.2
        )
    assert str(media_root) not in json.dumps(rows) and "| fp32 | real |" in capsys.readouterr().out


def test_bench_probe(tmp_path, monkeypatch, capsys):
    """Beside another checkout, here the same one."""
    monkeypatch.setattr(
        probing, "_MEDIA", {"a.mp4": {"frames": 20}, "b.avi": {"frames": 20, "codec": "mpeg4"}}
    )
    monkeypatch.setattr(probing, "_TURNS", 1)
    command = ["probe", "--out", str(tmp_path)]
    assert cli.main([*command, "--against", str(Path(__file__).parent.parent)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [row["media"] for row in rows] == ["a.mp4", "b.avi"]
    assert all(row["ours_ms"] > 0 and row["theirs_ms"] > 0 and row["ratio"] > 0 for row in rows)
    assert cli.main([*command, "--against", str(tmp_path)]) == 2
    assert "--against: expected the folder of a checkout" in capsys.readouterr().err
