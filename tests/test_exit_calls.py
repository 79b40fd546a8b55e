"""Loaders that are still open when the program ends."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import SOURCES
from helpers.image_source import RANDOM, make_plan
from omnidali.loading import exit_calls
from omnidali.loading.fusion import FusionIterator

ROOT = Path(__file__).parent.parent
# four decoding threads are in the middle of it when the program ends
PROGRAM = """
import sys
from omnidali import load_config, open_loader

settings = ["train.steps=1000", "train.batch=64", "loader.threads=4", "loader.prefetch=20"]
loader = open_loader(load_config(sys.argv[1], settings))
print(next(loader).step, flush=True)
"""


def open_fusion(tables):
    return FusionIterator(make_plan(tables, SOURCES, RANDOM), list(SOURCES.values()), threads=2)


def test_open_loader_is_closed_at_the_end(tables):
    before = threading.active_count()
    loader = open_fusion(tables)
    next(loader)
    exit_calls._make_calls()
    assert threading.active_count() <= before
    with pytest.raises(RuntimeError, match="was closed"):
        next(loader)


def test_loader_of_another_process_is_left_alone(tables, monkeypatch):
    other = os.getpid() + 1
    with open_fusion(tables) as loader:
        with monkeypatch.context() as patch:
            patch.setattr(exit_calls.os, "getpid", lambda: other)
            exit_calls._make_calls()
        next(loader)


def test_lost_loader_is_forgotten(tables):
    gc.collect()
    before = len(exit_calls._CALLS)
    loader = open_fusion(tables)
    assert len(exit_calls._CALLS) == before + 1
    loader.close()
    del loader
    gc.collect()
    assert len(exit_calls._CALLS) == before


def test_program_ends_well_with_a_loader_in_full_work(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"data_root: {media_root}\nrun_dir: {tmp_path}/run\ndevice: cpu\n"
        "sources:\n  clips: {kind: video, root: clips, list: clips.txt}\nclip: {size: 224}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "c.yaml"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
