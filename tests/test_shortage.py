"""A machine that runs out of descriptors, memory or threads while a loader is at work."""

import contextlib
import errno
import logging
import threading
import time

import pytest

from helpers.outages import KINDS, Outage, make_source, open_source
from omnidali.decoding.failure_cause import Cause
from omnidali.errors import MACHINE, UserError
from omnidali.loading import sample_decoder
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.sample_decoder import Shortage
from omnidali.loading.thread_pool import AbandonableThreadPool

OUT_OF_MEMORY = Cause("out of memory", MACHINE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "number, at", [(errno.EMFILE, "open"), (errno.ENFILE, "open"), (errno.ENOMEM, "read")]
)
def test_short_shortage_costs_time_and_no_clip(tmp_path, monkeypatch, caplog, kind, number, at):
    table, sources, files = make_source(tmp_path, kind)
    outage = Outage(monkeypatch, number, at)
    quarantine = Quarantine(tmp_path / "q.jsonl")

    with (
        open_source(
            table, sources, quarantine=quarantine, max_bad_ratio=0.0, max_bad_in_a_row=0
        ) as loader,
        caplog.at_level(logging.WARNING, "omnidali"),
    ):
        next(loader)
        outage.paths.update(map(str, files))
        threading.Timer(0.6, outage.end).start()
        assert len(list(loader)) == 7
        figures = loader.stats()["web"]

    assert (figures.substituted, figures.replaced_frames, figures.bad_files) == (0, 0, 0)
    assert not (tmp_path / "q.jsonl").exists()
    begin, end = [line for line in caplog.messages if "the machine is" in line]
    assert "in trouble, not a file" in begin and "out of trouble after" in end


def test_lasting_shortage_is_waited_for_once(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "index")
    outage = Outage(monkeypatch, errno.EMFILE)
    outage.paths.update(map(str, files))
    begun = time.monotonic()
    with (
        pytest.raises(UserError, match="machine: Too many open files"),
        open_source(table, sources, max_bad_ratio=0.0, hang_seconds=1.0) as loader,
    ):
        list(loader)
    assert 1.0 <= time.monotonic() - begun < 10


def test_file_that_always_needs_too_much_holds_up_its_own_clip_once(tmp_path, monkeypatch):
    """To the loader it looks like a shortage; an untrusted file must not cost a minute a clip."""
    table, sources, files = make_source(tmp_path, "image")
    outage = Outage(monkeypatch, errno.ENOMEM, "read")
    outage.paths.add(str(files[3]))
    begun = time.monotonic()

    with open_source(
        table,
        sources,
        steps=20,
        quarantine=Quarantine(tmp_path / "q.jsonl"),
        max_bad_ratio=1.0,
        max_bad_in_a_row=1000,
        hang_seconds=1.0,
    ) as loader:
        assert len(list(loader)) == 20
        figures = loader.stats()["web"]

    assert figures.bad_files == 1 and figures.substituted > 3 and time.monotonic() - begun < 6


def test_closed_loader_does_not_wait_for_the_machine(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "index")
    outage = Outage(monkeypatch, errno.EMFILE)
    loader = open_source(table, sources)
    next(loader)
    outage.paths.update(map(str, files))
    with contextlib.suppress(Exception):
        threading.Timer(0.5, loader.close).start()
        list(loader)
    begun = time.monotonic()
    loader.close()
    assert time.monotonic() - begun < 10


def test_shortage_holds_clips_within_bounds(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(sample_decoder.time, "monotonic", lambda: now[0])
    lack = Shortage("web", 60.0)

    with caplog.at_level(logging.WARNING, "omnidali"):
        assert lack.holds("a", OUT_OF_MEMORY, 100.0)
        for now[0] in range(101, 160):  # others decode
            lack.on_decoded()
            assert lack.holds("a", OUT_OF_MEMORY, 100.0)
        now[0] = 160.0
        assert not lack.holds("a", OUT_OF_MEMORY, 100.0) and not lack.holds(
            "a", OUT_OF_MEMORY, 160.0
        )
        assert lack.holds("b", OUT_OF_MEMORY, 160.0)
        now[0] = 225.0
        assert not lack.holds("c", OUT_OF_MEMORY, 225.0)  # nothing has decoded for so long
        lack.on_decoded()
        assert lack.holds("c", OUT_OF_MEMORY, 225.0)

    assert len(caplog.messages) < 6


def no_more_threads(monkeypatch, after, name):
    """Let ``after`` threads of a name start, and refuse the others."""
    start = threading.Thread.start
    left = [after]

    def limited(thread):
        if thread.name.startswith(name):
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return left


@pytest.mark.parametrize(
    "name, problem",
    [
        ("decode", "4 decode threads that can be started, got 2: "),
        ("source", "1 source threads that can be started, got 0: "),
    ],
)
def test_threads_that_cannot_start_are_reported_in_one_line(tmp_path, monkeypatch, name, problem):
    table, sources, _ = make_source(tmp_path, "index")
    no_more_threads(monkeypatch, 2 if name == "decode" else 0, name)
    with open_source(table, sources, threads=4) as loader, pytest.raises(UserError) as caught:
        next(loader)
    assert str(caught.value) == (
        f"loader.threads: expected {problem}can't start new thread. Lower it, or raise the limits"
        " of processes and memory (ulimit -u, ulimit -v)."
    )
    assert caught.value.__suppress_context__


def test_thread_that_cannot_be_replaced_ends_no_run(monkeypatch, caplog):
    workers = AbandonableThreadPool(2, "decode")
    over = threading.Event()

    def hang(task):
        task.mark_file("file")
        over.wait(30)

    task = workers.submit("web", hang)
    left = no_more_threads(monkeypatch, 0, "decode")
    with caplog.at_level(logging.WARNING, "omnidali"):
        while not workers.wait(task, hang_seconds=0.5):
            pass
    assert task.abandoned and workers.submit("web", lambda task: 7).future.result(10) == 7
    assert any("1 of 2 decode threads work" in line for line in caplog.messages)
    left[0] = 1  # the next task tries again
    workers.submit("web", lambda task: 7)
    assert len(workers._threads) == 2
    over.set()
    workers.close(5)
