"""The processes of one job: torchrun or srun starts them, and here they join each other."""

import datetime
import functools
import inspect
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from omnidali.distributed import failure_monitor
from omnidali.distributed.main_address import LOOPBACK, MainView, choose_addresses, view_main
from omnidali.distributed.slurm import adopt_step
from omnidali.errors import UserError
from omnidali.processes.signals import end_with_parent
from omnidali.utils.untrusted_text import say

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    Attributes:
        rank: number of this process.
        world: number of all processes.
        core_sharers: number of the processes that may use this one's cores, itself included.
        local_rank: number of this process among those that one launcher started on this machine.
        device: the GPU of this process, or the CPU; of
            :func:`~omnidali.distributed.devices.take_device`.
    """

    rank: int = 0
    world: int = 1
    core_sharers: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """This process's share of the cores that it may use, at least 1."""
        return max(1, len(os.sched_getaffinity(0)) // self.core_sharers)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The group whose collectives take tensors of :attr:`device`; None for torch's own one."""
        return _gpu_group() if self.world > 1 and self.device.type == "cuda" else None

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on rank 0, and return its result or raise its error on every rank.

        The others' copy of an error has no traceback; ``reported_by_main`` keeps them from printing
        it before rank 0 does.
        """
        box: list = [None, None]
        if self.is_main:
            try:
                box[0] = work()
            except Exception as raised:  # every rank must get it, or the others wait for ever
                box[1] = raised
        if self.world > 1:
            dist.broadcast_object_list(box, src=0, group=_patient_group())

        result, error = box
        if error is not None:
            error.reported_by_main = not self.is_main
            raise error
        return result

    def wrap(self, model: torch.nn.Module, *, skips_weights: bool = False) -> torch.nn.Module:
        """Average the model's gradients over the ranks; returns it as it is on a single one.

        Each rank keeps its own batch-norm statistics, as the reference does.

        Args:
            model: the network.
            skips_weights: whether a forward pass may leave weights out, whose gradients nobody
                must wait for.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        wrap = functools.partial(
            DistributedDataParallel,
            model,
            devices,
            process_group=self.group,
            find_unused_parameters=skips_weights,
        )
        if "forward_sync_buffers" in known:  # since torch 2.13, which warns about the old name
            network = wrap(forward_sync_buffers=False)
        else:
            network = wrap(broadcast_buffers=False)
        if self.device.type == "cpu":
            network.register_comm_hook(self.world, _average_each_alone)
        return network

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def gather(self, value: T) -> list[T]:
        """Collect every rank's value, in their order, on the main rank; nothing on the others."""
        if self.world == 1:
            return [value]
        box: list | None = [None] * self.world if self.is_main else None
        dist.gather_object(value, box, dst=0, group=_patient_group())
        return box or []

    def barrier(self) -> None:
        """Wait until every rank is here, so that all see what each has written.

        Neither half does it alone: a broadcast is passed on down a tree, whose root does not wait
        for late ranks; in a gathering only the main rank waits.
        """
        self.gather(None)
        self.on_main(lambda: None)

    def any_async(self, *flags: bool) -> Callable[[], tuple[bool, ...]]:
        """Start to compare ``flags`` over several ranks.

        Returns:
            A function that waits, and gives for each flag whether it is set on any rank.
        """
        values = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=_patient_group(), async_op=True)

        def wait() -> tuple[bool, ...]:
            work.wait()
            return tuple(map(bool, values.tolist()))

        return wait

    def require_equal(self, value: int, where: str, expected: str) -> None:
        """Raise UserError on every rank unless all have the same ``value``."""
        box = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        box[self.rank] = value
        values = self.sum(box).tolist()
        if len(set(values)) > 1:
            raise UserError(
                where, expected, f"{values} by rank", "Use a run_dir that all machines share."
            )

    def broadcast_buffers(self, model: torch.nn.Module) -> None:
        """Give every rank the main rank's batch-norm statistics, instead of its own."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0, group=self.group)


@functools.lru_cache(maxsize=1)
def _patient_group() -> dist.ProcessGroup:
    """A group without the usual limit of minutes: a first probe of many files takes hours."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7))


@functools.lru_cache(maxsize=1)
def _gpu_group() -> dist.ProcessGroup:
    """A group for tensors on GPUs. All ranks make it together, once each has a GPU of its own."""
    return dist.new_group(backend="nccl")


def _average_each_alone(world: int, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average every gradient of a bucket by itself, so that its neighbours do not change its bits.

    The first step of a process has other buckets than all later ones, and from three ranks on the
    place in a bucket decides in which order the ranks are summed: a resumed run would end with
    other weights than the whole one.
    """
    flat = bucket.buffer()
    parts = flat.split([parameter.numel() for parameter in bucket.parameters()])
    sums = [dist.all_reduce(part, async_op=True).get_future() for part in parts]

    def average(collected: torch.futures.Future) -> torch.Tensor:
        for each in collected.wait():
            # raises its error: gradients that were not summed must not move the weights
            each.wait()
        return flat.div_(world)

    return torch.futures.collect_all(sums).then(average)


def start_process_group() -> Ranks:
    """Join the job that torchrun or srun describes in the environment, or stand alone without one.

    Joining waits for the other ranks as long as torch does, 30 minutes: imports from a cold network
    disk take minutes. Only that limit notices a rank that dies before it has joined, unless the
    launcher ends the others: torchrun does, srun with --kill-on-bad-exit. From then on all ranks
    learn of the failure of one.

    The ranks join over gloo, and have the CPU: whether each has a GPU can only be asked when all
    hear the answer. :func:`~omnidali.distributed.devices.take_device` comes next.

    torchrun forwards SIGTERM and ends with code 1, whatever its ranks end with. If it is killed,
    the kernel sends them a SIGTERM: they save, and make room for the next start.
    """
    adopt_step()
    if dist.is_available() and dist.is_torchelastic_launched() and sys.platform == "linux":
        end_with_parent(signal.SIGTERM)
        if _is_orphan():  # torchrun died before, and nobody will end this process
            raise UserError("torchrun", "to be running", "nothing left of it", "Start it again.")

    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    core_sharers = 1
    if world > 1:
        is_joining = not dist.is_initialized()
        if is_joining:
            _init_process_group()

        is_single_host = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == world
        # a single host needs no look-up of names, which may take seconds
        places = _gather_places(world, MainView((), ()) if is_single_host else view_main())
        core_sharers = places[rank].count_core_sharers(places)

        if is_joining:  # before any collective of the group that is patient for days
            addresses = LOOPBACK if is_single_host else choose_addresses([p.main for p in places])
            relay = _broadcast_from_main(lambda: failure_monitor.open_relay(addresses))
            if relay is not None:
                failure_monitor.join(rank, relay)

    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return Ranks(rank, world, core_sharers=core_sharers, local_rank=local_rank)


def joined_ranks() -> Ranks:
    """The ranks of the process group that this program has joined by itself; one without a group.

    Raises:
        UserError: if a launcher has started several processes, and this one has not joined them.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if dist.is_available() and dist.is_initialized():
        return Ranks(
            dist.get_rank(),
            dist.get_world_size(),
            core_sharers=int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())),
            local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        )
    if world > 1:
        raise UserError(
            "WORLD_SIZE",
            "a process group that this process has joined",
            f"none, but {world} processes",
            "Call torch.distributed.init_process_group, or make Accelerate's Accelerator, before"
            " the loader; with Lightning open the loader in train_dataloader.",
        )
    return Ranks()


def _init_process_group() -> None:
    if "SLURM_STEP_ID" in os.environ and os.environ["RANK"] == "0":
        # variables that are left over from a step of srun would look like a program that hangs
        place = f"{os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}"
        say(f"waiting for {os.environ['WORLD_SIZE']} ranks at {place}")
    try:
        dist.init_process_group("gloo")
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            "MASTER_PORT",
            "a free port of the main rank's machine",
            f"{os.environ['MASTER_PORT']}, which another program uses",
            "Set it to another one, on all ranks.",
        ) from None


@dataclass(frozen=True)
class _Place:
    """Where a rank runs: the machine, the cores that it may use, and how it reaches rank 0."""

    machine: str
    cores: frozenset[int]
    main: MainView

    def count_core_sharers(self, places: Sequence["_Place"]) -> int:
        """The number of ``places`` that share cores with this one, which is one of them.

        torchrun's ranks share all cores of a machine; srun may bind each to its own.
        """
        return sum(
            place.machine == self.machine and not place.cores.isdisjoint(self.cores)
            for place in places
        )


def _gather_places(world: int, main: MainView) -> list[_Place]:
    """The places of all ranks, on every rank; ``main`` is how this one reaches rank 0."""
    try:  # two containers of one machine share its cores
        machine = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        machine = socket.gethostname()
    places: list = [None] * world
    dist.all_gather_object(places, _Place(machine, frozenset(os.sched_getaffinity(0)), main))
    return places


def _is_orphan() -> bool:
    """Whether the parent adopts orphans, and is not torchrun, which may be a container's first."""
    parent = Path(f"/proc/{os.getppid()}")
    try:
        name = (parent / "comm").read_text().strip()
    except OSError:
        return False
    is_python = name.startswith(("python", "pypy", "torchrun", "pt_"))
    return name in ("systemd", "slurmstepd") or (parent.name == "1" and not is_python)


def _broadcast_from_main(make: Callable[[], T]) -> T:
    """Call ``make`` on rank 0, and return its result on every rank, within the usual limit."""
    box: list = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def end_process_group() -> None:
    """Leave the job after a success; safe to call when there is none.

    Not after an error: leaving waits for the others, who may be waiting for this rank.
    """
    failure_monitor.stop()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _patient_group.cache_clear()
        _gpu_group.cache_clear()
