"""Frame caches on disk: allocation, and a killed or a shared computation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.dedup_world import config_of, make_dedup_world, rows_of
from omnidali.curation.dedup.dedup import dedup
from omnidali.curation.dedup.duplicates import DedupSettings
from omnidali.curation.dedup.frame_cache import _allocate
from omnidali.distributed.ranks import Ranks


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_dedup_world(tmp_path_factory.mktemp("dedup"))


@pytest.fixture(scope="module")
def found(world, tmp_path_factory) -> Path:
    """The folder of a search over all sources but the target."""
    folder = tmp_path_factory.mktemp("found")
    dedup(config_of(world, folder / "run"), folder / "out", Ranks())
    return folder / "out"


def test_allocate_takes_the_room_on_the_disk_at_once(tmp_path):
    array = _allocate(tmp_path / "values.npy", (1 << 20, 2), np.dtype(np.float16))
    assert array.shape == (1 << 20, 2) and not array.any()
    assert os.stat(tmp_path / "values.npy").st_blocks * 512 >= array.nbytes


PROGRAM = """
import sys, time
from omnidali.curation.dedup import frame_cache
from omnidali.cli.main import main
frame_cache._FLUSH_SECONDS = 0.0
put, told = frame_cache.FrameCache.put, []
def telling(self, places, decoded, values):
    put(self, places, decoded, values)
    if self.values.shape[1] == 200:
        print("hashed", len(places), flush=True)
        told.append(1)
        if len(told) == int(sys.argv[1]):
            time.sleep(1000)
frame_cache.FrameCache.put = telling
sys.exit(main(sys.argv[2:]))
"""


def command(world: Path, folder: Path, *more: str) -> list[str]:
    return [
        "dedup",
        "--config",
        str(world / "config.yaml"),
        "--out",
        str(folder / "out"),
        *more,
        f"run_dir={folder / 'run'}",
        "evaluation.batch=1",
    ]


def hashed(lines) -> int:
    return sum(int(line.split()[1]) for line in lines if line.startswith("hashed"))


def test_killed_run_goes_on_where_it_was(world, found, tmp_path):
    arguments = command(world, tmp_path, "--sources", "images", "clips")
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "3", *arguments], stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in killed.stdout:
        lines.append(line)
        if len([line for line in lines if line.startswith("hashed")]) == 3:
            break
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # nothing twice
    assert hashed(lines) > 0 and hashed(lines) + hashed(again.stdout.splitlines()) == 13 + 3 + 3
    for source in ("images", "clips"):
        assert rows_of(tmp_path / "out", source) == rows_of(found, source)


def test_two_ranks_find_what_one_rank_finds(world, tmp_path):
    dedup(
        config_of(world, tmp_path / "run"),
        tmp_path / "alone",
        Ranks(),
        settings=DedupSettings(within=True),
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "omnidali",
            *command(world, tmp_path, "--within"),
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for source in ("images", "clips", "long"):
        assert rows_of(tmp_path / "out", source) == rows_of(tmp_path / "alone", source)
    assert "images" in {row["against"] for row in rows_of(tmp_path / "out", "images").values()}
    assert (tmp_path / "out/report.md").read_text() == (tmp_path / "alone/report.md").read_text()
