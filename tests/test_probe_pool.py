"""A file that crashes, blocks or starves the probe fails alone."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.small_builds import ROOT, make_images, run_build, write
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing import probe_child, probe_pool
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.processes.isolated_process import IsolatedProcess
from omnidali.testing.numbered_media import write_image

# For a slow file, the rest of its alarm passes 40 times as fast. The limit itself stays long: a
# starved machine needs it for good files.
HOSTILE = """
import os, signal, time, omnidali.catalog.probing.probe_child as worker
worker.SECONDS = 40.0
original = worker.probe_file
def time_flies():
    signal.setitimer(signal.ITIMER_REAL, signal.getitimer(signal.ITIMER_REAL)[0] / 40)
    time.sleep(1000)
def probe_file(task, request, size, missing):
    root, path = task.root, request.path
    if "segfault" in path or ("later" in path and os.path.exists(os.path.join(root, "poisoned"))):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "poison" in path:
        open(os.path.join(root, "poisoned"), "w")
    if "hang" in path:
        while True: time.sleep(1)
    if "slow" in path:
        time_flies()
    if "hog" in path:
        held = [bytearray(1 << 26) for _ in range(1000)]
    if "lie" in path:
        os.write(1, b"[]")
        os._exit(0)
    return original(task, request, size, missing)
worker.probe_file = probe_file
worker.main({memory})
""".strip().replace("\n", "\\n")


@pytest.fixture
def hostile_worker(monkeypatch):
    monkeypatch.setattr(probe_pool, "_MAIN", f'exec("""{HOSTILE}""")')
    monkeypatch.setattr(probe_child, "SECONDS", 40.0)
    monkeypatch.setattr(probe_pool, "MEMORY", 1 << 29)


def test_hostile_file_fails_alone_in_the_probe(tmp_path, hostile_worker):
    make_images(tmp_path, 12)
    names = ["segfault", "slow", "hog", "lie"]
    for name in names:
        write_image(tmp_path / f"pics/{name}.jpg", 1, 40, 30)
    lines = (tmp_path / "l.txt").read_text().splitlines()
    for place, name in enumerate(names):
        lines.insert(3 * place + 1, f"{name}.jpg 0")
    write(tmp_path / "l.txt", "\n".join(lines))
    summary = run_build(tmp_path, threads=2)
    assert summary.usable == 12 and summary.refused == {
        "crashes the probe": 2,
        "takes more than 40 s to probe": 1,
        "needs too much memory": 1,
    }
    assert run_build(tmp_path).probed == 0  # and the next start does not try them again


def test_hanging_stat_does_not_block_the_build(tmp_path, hostile_worker, monkeypatch):
    make_images(tmp_path, 3)
    stall = (
        "real = worker.stamp_of\\n"
        'worker.stamp_of = lambda path: time_flies() if "1.jpg" in path else real(path)\\n'
    )
    monkeypatch.setattr(
        probe_pool, "_MAIN", probe_pool._MAIN.replace("worker.main(", stall + "worker.main(")
    )
    monkeypatch.setattr(probe_pool, "stamp_of", lambda path: time.sleep(60))
    monkeypatch.setattr(probe_pool, "STAMP_SECONDS", 0.2)
    summary = run_build(tmp_path)
    assert summary.usable == 2 and summary.refused == {"takes more than 40 s to probe": 1}
    monkeypatch.undo()
    assert run_build(tmp_path).usable == 3


def test_rest_of_a_batch_is_probed_again_after_a_crash(tmp_path, hostile_worker):
    """A process may die of what an earlier file left in it: the file after it is not blamed."""
    make_images(tmp_path, 3)
    write(tmp_path / "l.txt", "0.jpg 0\nonce.jpg 0\n1.jpg 1\n2.jpg 1\n")
    marker = tmp_path / "died"
    code = HOSTILE.replace(
        'if "segfault" in path',
        f'if "once" in path and not os.path.exists({str(marker)!r}):'
        f'\\n        open({str(marker)!r}, "w")\\n        os.kill(os.getpid(), 11)'
        '\\n    if "segfault" in path',
    )
    write_image(tmp_path / "pics/once.jpg", 1, 40, 30)
    probe_pool._MAIN = f'exec("""{code}""")'  # the fixture puts the old one back
    assert run_build(tmp_path).usable == 4 and marker.exists()


OUTAGE = """
import errno, os
import omnidali.catalog.probing.probe_child as worker
original = worker.probe_image
def probe_image(span):
    if "1.jpg" in span.path and os.path.exists(os.path.join(os.path.dirname(span.path), "outage")):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return original(span)
worker.probe_image = probe_image
worker.main({memory})
""".strip().replace("\n", "\\n")


def test_unreadable_file_is_tried_at_each_start(tmp_path, monkeypatch):
    make_images(tmp_path, 4)
    monkeypatch.setattr(probe_pool, "_MAIN", f'exec("""{OUTAGE}""")')
    write(tmp_path / "pics/outage", "")
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.refused) == (
        3,
        4,
        {"unreadable: Stale file handle": 1},
    )
    before = CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint
    assert run_build(tmp_path).probed == 0  # nothing is made anew for what stays as it is
    assert CatalogReader(tmp_path / "c.sqlite").table("s").fingerprint == before
    (tmp_path / "pics/outage").unlink()
    summary = run_build(tmp_path)
    assert (summary.usable, summary.probed, summary.refused) == (4, 1, {})
    assert run_build(tmp_path).probed == 0


def test_probe_process_that_cannot_start_is_reported(tmp_path, monkeypatch):
    make_images(tmp_path, 2)
    monkeypatch.setattr(probe_pool, "_MAIN", "raise ImportError('no such library')")
    with pytest.raises(UserError, match="its end at the start: ImportError: no such library"):
        run_build(tmp_path)


def test_probe_processes_start_for_new_files_and_are_reused(tmp_path, monkeypatch):
    make_images(tmp_path, 6)
    started = []

    def start(main):
        started.append(IsolatedProcess(main))
        return started[-1]

    monkeypatch.setattr(probe_pool, "IsolatedProcess", start)
    sources = {
        name: SourceConfig(kind="image", root="pics", list="l.txt") for name in ("a", "b", "c")
    }
    run_build(tmp_path, sources, threads=2)
    # few files need one, and all sources share it
    assert len(started) == 1 and not started[0].is_alive
    run_build(tmp_path, sources, threads=2)
    assert len(started) == 1


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killed_build_leaves_no_process_and_resumes(tmp_path):
    make_images(tmp_path, 30)
    write_image(tmp_path / "pics/hang.jpg", 1, 40, 30)
    with open(tmp_path / "l.txt", "a") as file:
        file.write("hang.jpg 0\n")
    main = f'exec("""{HOSTILE}""")'
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from omnidali.catalog import build, probe_new\n"
        "from omnidali.catalog.probing import probe_pool\n"
        "from omnidali.config.schema import SourceConfig\n"
        f"probe_pool._MAIN = {main!r}\n"
        "probe_new._COMMIT_SECONDS = 0\n"
        "sources = {'s': SourceConfig(kind='image', root='pics', list='l.txt')}\n"
        "build.build_catalog('c.sqlite', sources, '.', threads=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    probed, db = 0, None
    for _ in range(900):
        time.sleep(0.1)
        if (tmp_path / "c.sqlite").exists():
            try:
                db = sqlite3.connect(tmp_path / "c.sqlite", timeout=0)
                (probed,) = db.execute("SELECT COUNT(*) FROM media WHERE state = 'ok'").fetchone()
                db.close()
            except sqlite3.OperationalError:
                pass
        if probed >= 30:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or [
        child
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert probed == 30 and children and all(map(alive, children))
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(50):
        if not any(map(alive, children)):
            break
        time.sleep(0.1)
    assert not any(map(alive, children))  # although the last one hangs in its file
    summary = run_build(tmp_path)
    assert summary.usable == 31 and summary.probed == 31 - probed
