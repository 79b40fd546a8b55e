"""train.py, evaluate.py and the commands of omnidali: five ways to start the same program."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.running import HELD_OUT, assert_same, options_of, weights

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
ENTRIES = {
    "omnidali": [str(Path(sys.executable).with_name("omnidali")), "{verb}"],
    "python -m omnidali": [sys.executable, "-m", "omnidali", "{verb}"],
    "python train.py": [sys.executable, str(ROOT / "{verb}.py")],
    "torchrun train.py": [*TORCHRUN, str(ROOT / "{verb}.py")],
    "torchrun -m omnidali": [*TORCHRUN, "-m", "omnidali", "{verb}"],
}


CORES = sorted(os.sched_getaffinity(0))


def start(name, core, verb, *arguments):
    """Run an entry on one core, so that the sums of its threads have the same bits."""
    command = [word.format(verb=verb) for word in ENTRIES[name]]
    done = subprocess.run(
        ["taskset", "-c", str(core), *command, *arguments],
        cwd=Path(arguments[1]).parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_every_entry_trains_and_evaluates_alike(media_root, tmp_path):
    """From a folder that is not the checkout's; those under torchrun evaluate as their twins do."""

    def options(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return [*options_of(media_root, folder), HELD_OUT, "loader.threads=1"]

    def train(name, core):
        start(name, core, "train", *options(name), "train.steps=2")
        return weights(tmp_path / name / "run")

    def evaluate(name, core):
        output = start(name, core, "evaluate", *options("omnidali"))
        return json.loads(output.splitlines()[-1])

    cores = [CORES[number % len(CORES)] for number in range(len(ENTRIES))]
    with ThreadPoolExecutor(len(CORES)) as pool:
        first, *others = pool.map(train, ENTRIES, cores)
        for found in others:
            assert_same(first, found)
        evaluated = ("omnidali", "python train.py", "torchrun -m omnidali")
        row, *rows = pool.map(evaluate, evaluated, cores)
        assert rows == [row, row] and row["items"] == 5
