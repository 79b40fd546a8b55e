"""One loader on one workload: no figure without a proof of the frames."""

import time

import pytest
import torch

from benchmarks.loader_task import LoaderTask
from benchmarks.measure_loader import check_numbers, measure_batches, wanted_frames
from benchmarks.peers import PEERS
from benchmarks.workloads import (
    WORKLOADS,
    loader_task_of,
    make_workload_media,
    open_tables,
    workload_plan,
)
from of_benchmarks.small_workloads import shrink_workloads


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_workloads(monkeypatch)


def test_loader_task_is_the_plan(tmp_path):
    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_workload_media(tmp_path, [load])
    plan = workload_plan(open_tables(tmp_path, load), load, 5)
    job = loader_task_of(plan, 2)
    (samples,) = plan(1)
    assert [list(item.box) for item in job.steps[1]] == samples.boxes[:, 0].tolist()
    assert [item.flip for item in job.steps[1]] == samples.flips[
        :, 0
    ].tolist() and job.kind == "image"
    assert [item.path.rpartition("/")[2] for item in job.steps[1]] == [
        f"{item.file}.jpg" for item in job.steps[1]
    ]
    job.write(tmp_path / "job.json")
    assert LoaderTask.read(tmp_path / "job.json") == job


def test_check_numbers_refuses_wrong_frames_and_missing_batches(tmp_path):
    load = next(load for load in WORKLOADS if load.name == "W1 jpeg")
    make_workload_media(tmp_path, [load])
    job = loader_task_of(workload_plan(open_tables(tmp_path, load), load, 5, check=True), 1)
    wanted = wanted_frames(workload_plan(open_tables(tmp_path, load), load, 5, check=True), 1)
    check_numbers(PEERS["opencv"].deliver(job, way="threads", jump=32), wanted)
    wrong = [[[(file + 1, frames) for file, frames in wanted[0][0]]]]
    with pytest.raises(ValueError, match="wrong frames: step 0"):
        check_numbers(PEERS["opencv"].deliver(job, way="threads", jump=32), wrong)
    with pytest.raises(ValueError, match="1 batches instead of 2"):
        check_numbers(PEERS["opencv"].deliver(job, way="threads", jump=32), wanted * 2)


def test_measure_batches_leaves_out_the_warm_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow_start():
        for number in range(10):
            now[0] += 0.2 if number < 4 else 0.01
            yield torch.zeros(5, 1)

    row = measure_batches(slow_start(), 0.0, 10)
    assert row["clips"] == 30 and row["clips_per_second"] == pytest.approx(500)
    assert row["seconds_to_first_batch"] == pytest.approx(0.2)
