"""Odd places to run in: closed or full streams, no home, a plain locale, few descriptors."""

import fcntl
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.running import HELD_OUT, options_of, step_of
from omnidali.catalog.build import build_catalog
from omnidali.config.load import load_config
from omnidali.utils.streams import DroppingStream

CRASHING = Path(__file__).parent / "helpers" / "crashing.py"
PATIENCE = 300  # seconds until something hangs for sure
SCARCE = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
PLACES = {  # how a shell starts a program there, and what is left of what it prints to stdout
    "stderr is closed": ("{} 2>&-", "all"),
    "stdout is closed": ("{} >&-", "nothing"),
    "all are closed": ("{} <&- >&- 2>&-", "nothing"),
    "a reader that leaves": ("set -o pipefail; {} | head -1", "a line"),
    "no asserts": ("PYTHONOPTIMIZE=2 {}", "all"),
    "plain locale": ("LC_ALL=C {}", "all"),
    "ASCII alone": ("LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 {}", "all"),
    "few descriptors": ("ulimit -n 256; {}", "all"),
}


def shell(template, words, out=subprocess.PIPE, **more):
    """Start ``words`` in a shell, without a home."""
    command = template.format(words)
    return subprocess.Popen(
        ["bash", "-c", command], stdout=out, stderr=subprocess.PIPE, text=True, env=SCARCE, **more
    )


@pytest.mark.parametrize("place", PLACES)
def test_training_runs_in_odd_places(media_root, tmp_path, place):
    words = shlex.join(
        [
            sys.executable,
            str(CRASHING),
            "train",
            str(tmp_path),
            *options_of(media_root, tmp_path),
            "train.steps=6",
            "train.log_every=1",
            "evaluation.batch=1",
            HELD_OUT,
        ]
    )
    template, shown = PLACES[place]
    process = shell(template, words)
    out, err = process.communicate(timeout=PATIENCE)
    if place == "ASCII alone":  # a program of ours starts itself anew; this one is a test's
        assert (
            process.returncode == 2
            and "Set PYTHONUTF8=1 in the environment" in err
            and "Traceback" not in err
        )
        return
    assert process.returncode == 0 and "Traceback" not in err, err
    assert step_of(tmp_path / "run") == 6 and step_of(tmp_path / "run", "best.pt") in (4, 6)
    assert "Exception ignored" not in err and "Broken pipe" not in err
    assert {"all": "step 6/6" in out, "a line": out.count("\n") == 1, "nothing": not out}[shown], (
        out
    )


@pytest.mark.parametrize("place", [place for place in PLACES if place != "all are closed"])
def test_command_runs_or_ends_quietly_in_odd_places(media_root, tmp_path, place):
    config = options_of(media_root, tmp_path)
    words = shlex.join([sys.executable, "-m", "omnidali", "lint", *config[:2], *config[2:]])
    process = shell(PLACES[place][0], words, cwd=Path(__file__).parent.parent)
    out, err = process.communicate(timeout=PATIENCE)
    # 1: lint finds no validation data; 141: a reader that leaves ends most programs so
    assert process.returncode in (0, 1, 141), err
    assert "Traceback" not in err and "Exception ignored" not in err and "Broken pipe" not in err
    assert (tmp_path / "run/catalog.sqlite").exists()


@pytest.mark.parametrize(
    "words", ["-m omnidali train --print-config", "-m omnidali info", "-m omnidali lint"]
)
def test_full_disk_under_stdout_is_reported_in_one_line(media_root, tmp_path, words):
    config = options_of(media_root, tmp_path)
    more = config[2:] if "train" in words else [*config[2:]]
    if "info" in words:
        build_catalog(
            tmp_path / "run/catalog.sqlite",
            load_config(config[1]).sources,
            media_root,
            progress=False,
        )
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{shlex.join([sys.executable, *words.split(), *config[:2], *more])} >/dev/full",
        ],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (
        done.returncode == 2
        and "stdout: expected a place that takes what is printed, got No space" in done.stderr
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_training_drops_lines_that_nobody_reads(media_root, tmp_path):
    """A training goes on at a full pipe; dropped lines are counted once somebody reads again."""
    words = shlex.join(
        [
            sys.executable,
            str(CRASHING),
            "train",
            str(tmp_path),
            *options_of(media_root, tmp_path),
            "train.steps=60",
            "train.log_every=1",
            "train.checkpoint_every=40",
        ]
    )
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    process = shell("OMNIDALI_WAITS=50 {}", words, out=write)
    os.close(write)

    end = time.monotonic() + PATIENCE
    while not (tmp_path / "waits0").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    assert step_of(tmp_path / "run") == 40
    unread = os.read(read, 1 << 16).decode()
    assert "step 1/60" in unread and "step 49/60" not in unread
    (tmp_path / "go").touch()
    with open(read) as rest:
        later = rest.read()
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    count, _, end = later.partition(" lines were dropped here, as nobody read them]\n")
    shown = sum(f"step {step}/60" in unread for step in range(1, 51))
    assert int(count.rpartition("[")[2]) >= 49 - shown and "step 60/60" in end


@pytest.mark.parametrize("waits", [True, False])
def test_dropped_lines_are_counted(monkeypatch, waits):
    monkeypatch.setattr("omnidali.utils.streams._PATIENCE_MS", 10)
    read_end, number = os.pipe()
    fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, 4096)  # one page, which is all that poll() calls ready
    os.set_blocking(number, waits)
    stream = DroppingStream(os.fdopen(number, "w", encoding="utf-8", closefd=False))
    stream.write("not yet")
    stream.write(", now\n" + "x" * 4082 + "\n")
    for dropped in range(7):
        stream.write(f"dropped {dropped}\n")
    assert stream.dropped == 7 and stream.writable() and not stream.isatty()
    assert os.read(read_end, 5000).decode() == "not yet, now\n" + "x" * 4082 + "\n"
    stream.write("again\n")
    assert stream.dropped == 0
    assert os.read(read_end, 5000) == b"[7 lines were dropped here, as nobody read them]\nagain\n"

    os.close(read_end)
    stream.write("gone\n")
    os.close(number)
    stream.write("closed\n")
    assert stream.dropped == 2
