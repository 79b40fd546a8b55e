"""Ranks that meet, as processes."""

import multiprocessing
import time

import torch.distributed as dist

from omnidali.ranks import Ranks

WORLD, LATE = 8, 1.0


def attend(rank, store, times):
    """Come, the last rank late, and say when this one came and went."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    ranks = Ranks(rank, WORLD, WORLD)
    ranks.meet()  # the patient group is made, for which all wait
    time.sleep(LATE * (rank == WORLD - 1))
    came = time.monotonic()  # one clock for all processes
    ranks.meet()
    times.put((came, time.monotonic()))
    ranks.meet()
    dist.destroy_process_group()


def test_nobody_goes_before_all_have_come(tmp_path):
    context = multiprocessing.get_context("forkserver")  # torch is imported once
    context.set_forkserver_preload(["omnidali.ranks"])
    times = context.Queue()
    processes = [context.Process(target=attend, args=(rank, tmp_path / "store", times)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    seen = [times.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * WORLD
    assert min(went for _, went in seen) >= max(came for came, _ in seen)
