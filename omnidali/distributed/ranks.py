"""The processes of one job: torchrun starts them, here they find each other."""

from __future__ import annotations

import datetime
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from omnidali.distributed import failure_monitor
from omnidali.errors import UserError
from omnidali.processes.child import end_with_parent

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    Attributes:
        rank, world: number of this process and of all. local_world: processes on this machine.
        device: the GPU of this process, or the CPU.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """This process's share of the machine's cores, at least 1."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world)

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on rank 0 and return its result, or raise its error, on every rank.

        The others' copy has no traceback; ``told_by_main`` keeps them from telling it before rank 0
        does.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as raised:  # every rank must hear of it, or the others wait for ever
                error = raised
        if self.world > 1:
            box = [result, error]
            dist.broadcast_object_list(box, src=0, group=_patient_group())
            result, error = box
        if error is not None:
            error.told_by_main = not self.is_main
            raise error
        return result

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model whose gradients are averaged over the ranks; itself on a single one.

        Each rank keeps its own batch-norm statistics, as the reference does.
        """
        if self.world == 1:
            return model
        # torch 2.13 renamed the switch and warns about the old name
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        keep = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        network = DistributedDataParallel(
            model, device_ids=[self.device] if self.device.type == "cuda" else None, **{keep: False}
        )
        if self.device.type == "cpu":
            network.register_comm_hook(self.world, _average_each_alone)
        return network

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """What every rank gives, in their order, on the main rank; nothing on the others."""
        if self.world == 1:
            return [value]
        box = [None] * self.world if self.is_main else None
        dist.gather_object(value, box, dst=0, group=_patient_group())
        return box or []

    def meet(self) -> None:
        """Wait until every rank is here, so that what each has written is there for all.

        Neither half does it alone: a broadcast is handed on down a tree, whose root goes on without
        waiting for those who come late; of a gathering only the main rank waits.
        """
        self.gather(None)
        self.on_main(lambda: None)

    def any_soon(self, *flags: bool) -> Callable[[], tuple[bool, ...]]:
        """Start to ask which ``flags`` are set on any of several ranks; what is returned waits for
        the answers.
        """
        values = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=_patient_group(), async_op=True)

        def answers() -> tuple[bool, ...]:
            work.wait()
            return tuple(map(bool, values.tolist()))

        return answers

    def require_equal(self, value: int, where: str, expected: str) -> None:
        """Raise UserError on every rank unless all have the same ``value``."""
        values = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        values[self.rank] = value
        values = self.sum(values).tolist()
        if len(set(values)) > 1:
            raise UserError(
                where, expected, f"{values} by rank", "Use a run_dir that all machines share."
            )

    def broadcast_buffers(self, model: torch.nn.Module) -> None:
        """Give every rank the main rank's batch-norm statistics, which each rank gathers on its
        own.
        """
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@functools.lru_cache(maxsize=1)
def _patient_group() -> dist.ProcessGroup:
    """A group without the usual limit of minutes: a first probe of millions of files takes hours."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7))


# DDP refuses annotations that are text, as they are in this file
def _average_each_alone(world, bucket):
    """Average every gradient of a bucket by itself, so that its bits do not depend on what else
    lies in the bucket.

    The first step of a process has other buckets than all later ones, and from three ranks on the
    place in a bucket decides in which order the ranks are summed: a resumed run would leave the
    whole one's track.
    """
    flat = bucket.buffer()
    parts = flat.split([parameter.numel() for parameter in bucket.parameters()])
    sums = [dist.all_reduce(part, async_op=True).get_future() for part in parts]

    def average(collected: torch.futures.Future) -> torch.Tensor:
        for each in collected.wait():
            # raises what went wrong: gradients that were not summed must not move the weights
            each.wait()
        return flat.div_(world)

    return torch.futures.collect_all(sums).then(average)


def start_ranks() -> Ranks:
    """Join the job that torchrun describes in the environment, or stand alone without one.

    Joining waits for the other ranks as long as torch does, 10 minutes with GPUs and 30 without:
    imports from a cold network disk take minutes. A rank that dies before it has joined is noticed
    by that limit only (torchrun and srun end the others at once). From then on the end of a rank is
    told to all.

    torchrun hands SIGTERM on and ends with code 1, whatever its ranks end with. Killed outright it
    would leave them behind: they get a SIGTERM of their own, save and make room for the next start.
    """
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if dist.is_available() and dist.is_torchelastic_launched() and sys.platform == "linux":
        end_with_parent(signal.SIGTERM)
        if _is_orphan():  # torchrun died before, and nobody will end this process
            raise UserError("torchrun", "to be running", "nothing left of it", "Start it again.")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    ranks = Ranks(
        int(os.environ.get("RANK", 0)), world, int(os.environ.get("LOCAL_WORLD_SIZE", 1)), device
    )
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # before a group that is patient for days
        failure_monitor.start(ranks.rank, ranks.local_world == world, _from_main)
    if device.type == "cpu":
        torch.set_num_threads(ranks.threads)
    return ranks


def _is_orphan() -> bool:
    """Whether the parent is who takes in orphans, and not torchrun, which is Python and may be a
    container's first.
    """
    parent = Path(f"/proc/{os.getppid()}")
    try:
        name = (parent / "comm").read_text().strip()
    except OSError:
        return False
    return (
        name == "systemd"
        or parent.name == "1"
        and not name.startswith(("python", "pypy", "torchrun", "pt_"))
    )


def _from_main(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank, within the usual limit."""
    box = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def end_ranks() -> None:
    """Leave the job after a success; safe to call when there is none.

    Not after an error: leaving waits for the others, who may be waiting for this rank.
    """
    failure_monitor.stop()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _patient_group.cache_clear()
