"""Processes that start within milliseconds, as copies of one that has imported torch."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import free_port

PATIENCE = 300  # seconds until something hangs for sure, also on a busy machine
CRASHING = Path(__file__).with_name("crashing.py")


def wait_until(condition, seconds=PATIENCE, otherwise=lambda: None):
    """Poll ``condition``; fail after so many seconds, and call ``otherwise`` before."""
    last = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > last:
            otherwise()
            raise AssertionError(f"nothing within {seconds} s")
        time.sleep(0.01)


def wait_for_files(folder, *names, otherwise=lambda: False):
    """Wait until all of ``names`` exist in a folder, or ``otherwise`` is true."""
    wait_until(lambda: all((folder / name).exists() for name in names) or otherwise())


def state_of(pid):
    """R, S, T, ... of a process, Z also where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def rank_environment(rank=0, world=1, port=0, **more):
    """The environment that torchrun gives a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **{key: str(value) for key, value in more.items()},
    }


class Process:
    """A copy of the warm process, in a folder and with a log of its own."""

    def __init__(self, warm, folder, *arguments, **ranks):
        folder.mkdir(parents=True, exist_ok=True)
        environment = rank_environment(**ranks)
        self.folder = folder
        self._warm = warm
        self._log = folder / f"rank{environment['RANK']}.log"
        self.pid = warm.ask(
            folder=str(folder),
            arguments=[str(text) for text in arguments],
            log=str(self._log),
            environment=environment,
        )
        warm.running.add(self.pid)

    @property
    def output(self):
        return self._log.read_text()

    def wait(self, seconds=PATIENCE):
        """Wait for its end; returns its exit code."""
        kill = functools.partial(os.kill, self.pid, signal.SIGKILL)
        wait_until(lambda: state_of(self.pid) == "Z", seconds, otherwise=kill)
        self._warm.running.discard(self.pid)
        return self._warm.ask(wait=self.pid)

    def wait_for_file(self, name="waits0"):
        """Wait for a file of its folder."""
        wait_for_files(self.folder, name, otherwise=lambda: state_of(self.pid) == "Z")
        assert (self.folder / name).exists(), self.output


class WarmProcess:
    """Starts processes within milliseconds, where importing torch takes seconds."""

    def __init__(self):
        self.running = set()
        self._ports = contextlib.ExitStack()
        self._server = subprocess.Popen(
            [sys.executable, CRASHING, "serve"],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **task):
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start_ranks(self, folder, *arguments, world=2, **more):
        """Start the ranks of a job without torchrun, as srun does."""
        port = self._ports.enter_context(free_port())
        return [
            Process(self, folder, *arguments, rank=rank, world=world, port=port, **more)
            for rank in range(world)
        ]

    def close(self):
        for pid in self.running:  # of a test that failed
            os.kill(pid, signal.SIGKILL)
        self._server.stdin.close()
        self._server.wait(PATIENCE)
        self._ports.close()


def start_torchrun(folder, *arguments, **more):
    """Start two ranks on two cores, and so with one thread each, as the warm process's have."""
    folder.mkdir()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    try:
        with open(folder / "log", "w") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run"),
                    *("--standalone", "--nproc-per-node=2"),
                    *(CRASHING, "train", folder, *arguments),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **more},
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, before)
