"""Ranks that wait for each other, sum gradients, and outlive torchrun."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from conftest import free_port
from omnidali.distributed.devices import take_device
from omnidali.distributed.main_address import MainView
from omnidali.distributed.ranks import (
    Ranks,
    _average_each_alone,
    _Place,
    end_process_group,
    start_process_group,
)
from omnidali.errors import UserError

WORLD, LATE = 8, 1.0


def pass_barrier(rank, store, times):
    """Pass a barrier, the last rank late; reports when this one came and went."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    ranks = Ranks(rank, WORLD)
    ranks.barrier()  # the first one makes the patient group, for which all wait
    time.sleep(LATE * (rank == WORLD - 1))
    came = time.monotonic()  # one clock for all processes
    ranks.barrier()
    times.put((came, time.monotonic()))
    ranks.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def context():
    """Starts processes that need not import torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omnidali.distributed.ranks"])
    return context


def test_barrier_waits_for_all_ranks(context, tmp_path):
    times = context.Queue()
    processes = [
        context.Process(target=pass_barrier, args=(rank, tmp_path / "store", times))
        for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    seen = [times.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * WORLD
    assert min(went for _, went in seen) >= max(came for came, _ in seen)


def report_threads(rank, port, cores, found):
    """Join a job of two ranks with these cores; reports how many threads this rank has."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    os.sched_getaffinity = lambda _: cores
    ranks = take_device(start_process_group(), "cpu")
    found.put((rank, ranks.threads, torch.get_num_threads()))
    end_process_group()


@pytest.mark.parametrize(
    "cores, threads",
    [
        # torchrun's ranks share the machine
        ([{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}], [4, 4]),
        # srun binds its tasks
        ([{0, 1, 2, 3}, {4, 5, 6, 7}], [4, 4]),
        ([{0, 1}, {2, 3, 4, 5}], [2, 4]),
        ([{0}, {0}], [1, 1]),
    ],
)
def test_ranks_share_only_cores_that_both_may_use(context, cores, threads):
    found = context.Queue()
    with free_port() as port:
        processes = [
            context.Process(target=report_threads, args=(rank, port, cores[rank], found))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        seen = sorted(found.get(timeout=300) for _ in processes)
        for process in processes:
            process.join(300)
    assert seen == [(rank, threads[rank], threads[rank]) for rank in range(2)]


def test_ranks_of_other_machines_share_no_cores():
    view = MainView((), ())
    places = [_Place(machine, frozenset({0, 1}), view) for machine in ("a", "a", "b")]
    assert [place.count_core_sharers(places) for place in places] == [2, 2, 1]


def test_port_of_another_program_is_reported(monkeypatch):
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        given = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(UserError, match=f"MASTER_PORT: expected a free port .* got {port},"):
            start_process_group()


def test_rank_without_its_torchrun_ends(tmp_path):
    """torchrun died before the rank could ask the kernel for a signal, which never comes."""
    code = """
import os, sys, time
from omnidali.cli.error_report import run_reporting_errors
from omnidali.distributed.ranks import start_process_group
while len(sys.argv) > 1 and os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
open("code.part", "w").write(str(run_reporting_errors(lambda: start_process_group() and None)))
os.rename("code.part", "code")
"""
    (tmp_path / "rank.py").write_text(code)
    environment = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    for command, status in (
        (f"{sys.executable} rank.py $$ 2>err &", "2"),
        # a script of the user's lies between
        (f"{sys.executable} rank.py 2>err; true", "0"),
    ):
        subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, timeout=300)
        end = time.monotonic() + 300
        while not (tmp_path / "code").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert (tmp_path / "code").read_text() == status, (tmp_path / "err").read_text()
        (tmp_path / "code").unlink()


def test_failed_sum_of_gradients_raises():
    """Otherwise the optimizer would take a step with one rank's own gradients."""
    failed = torch.futures.Future()
    summed = torch.futures.Future()

    class Bucket:
        def buffer(self):
            return torch.ones(4)

        def parameters(self):
            return [torch.ones(2), torch.ones(2)]

    class Work:
        def __init__(self, future):
            self.future = future

        def get_future(self):
            return self.future

    works = iter([Work(failed), Work(summed)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", lambda *_, **__: next(works))
        averaged = _average_each_alone(2, Bucket())
    summed.set_result([])
    failed.set_exception(RuntimeError("Connection closed by peer"))
    with pytest.raises(RuntimeError, match="Connection closed"):
        averaged.wait()
