"""Processes that start within milliseconds, as copies of one that has imported torch."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import free_port

PATIENCE = 300  # seconds until something hangs for sure, also on a machine that is starved


CRASHING = Path(__file__).with_name("crashing.py")


def wait_until(what, seconds=PATIENCE, otherwise=lambda: None):
    last = time.monotonic() + seconds
    while not what():
        if time.monotonic() > last:
            otherwise()
            raise AssertionError(f"nothing within {seconds} s")
        time.sleep(0.01)


def state_of(pid):
    """R, S, T, ... of a process, Z also where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def environment(rank=0, world=1, port=0, **more):
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
        env = environment(**ranks)
        self._warm, self._log, self.folder = warm, folder / f"rank{env['RANK']}.log", folder
        self.pid = warm.ask(
            folder=str(folder),
            arguments=[str(text) for text in arguments],
            log=str(self._log),
            environment=env,
        )
        warm.running.add(self.pid)

    @property
    def said(self):
        return self._log.read_text()

    def ended(self, seconds=PATIENCE):
        """Its exit code."""
        wait_until(
            lambda: state_of(self.pid) == "Z", seconds, lambda: os.kill(self.pid, signal.SIGKILL)
        )
        self._warm.running.discard(self.pid)
        return self._warm.ask(wait=self.pid)

    def reached(self, name="waits0"):
        """Wait for a file of its folder."""
        wait_until(lambda: (self.folder / name).exists() or state_of(self.pid) == "Z")
        assert (self.folder / name).exists(), self.said


class Warm:
    """Starts processes within milliseconds, where importing torch takes seconds."""

    def __init__(self):
        self.running, self.ports = set(), contextlib.ExitStack()
        self.server = subprocess.Popen(
            [sys.executable, CRASHING, "serve"],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **job):
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def ranks(self, folder, *arguments, world=2, **more):
        """The ranks of a job without torchrun, as srun starts them."""
        port = self.ports.enter_context(free_port())
        return [
            Process(self, folder, *arguments, rank=rank, world=world, port=port, **more)
            for rank in range(world)
        ]
