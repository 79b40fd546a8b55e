"""Jobs of two ranks as two agents of torchrun start them, or as srun's tasks."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from helpers.warm_process import CRASHING, PATIENCE


@contextmanager
def two_agents(folder, arguments, *program, **more):
    """Start two agents on this machine, each with one rank that has one core.

    Args:
        folder: for the logs, agent0.log and agent1.log.
        arguments: a function of the agent's number that gives torchrun's arguments.
        *program: of a rank.
        **more: variables.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    with _ending(
        [
            _start(folder, f"agent{number}", number, [*command, *arguments(number), *program], more)
            for number in range(2)
        ]
    ) as agents:
        yield agents


@contextmanager
def two_tasks(folder, environments, *program):
    """Start processes as srun does: each with its variables and a core of its own.

    Args:
        folder: for the logs, task0.log and task1.log.
        environments: SLURM's variables for each process.
        *program: of a rank.
    """
    with _ending(
        [
            _start(folder, f"task{rank}", rank, [sys.executable, *program], environment)
            for rank, environment in enumerate(environments)
        ]
    ) as tasks:
        yield tasks


def crashing(name, folder, *arguments):
    """The command line of one of crashing.py's programs."""
    return [str(CRASHING), name, str(folder), *map(str, arguments)]


def _start(folder, name, number, command, more):
    folder.mkdir(exist_ok=True)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        with open(folder / f"{name}.log", "w") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **more},
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _ending(processes):
    """Kill what a test leaves."""
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.kill()
            process.wait(PATIENCE)
