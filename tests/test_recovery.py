"""Files that decode again leave the count of failures; those that are still bad stay in it."""

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import hurry
from helpers.failures import failure_record, lines_of, states
from helpers.outages import KINDS, Outage, attempts, make_source, open_source
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.config.schema import ClipConfig
from omnidali.curation.lint import info
from omnidali.errors import BadSourceError
from omnidali.loading.failures import recovery, tracker
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.recovery import Recovery

FREE = {"max_bad_ratio": 1.0, "max_bad_in_a_row": 1000}


def open_loader(table, sources, steps=30, **options):
    return open_source(table, sources, steps, **{"prefetch": 1, **FREE, **options})


def rewritten(file, data):
    """Rewrite a file with other bytes and another time."""
    file.write_bytes(data)
    os.utime(file, ns=(10**18, 10**18))


def zero_the_end(table, file):
    """Silently lose the packets of a video from its third keyframe on; returns the bytes."""
    index = PacketIndex.unpack(table.media_at(str(file)).packets)
    data = file.read_bytes()
    status = file.stat()
    begin = int(index.offsets[16])
    end = int(index.offsets[-1] + index.sizes[-1])
    file.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return data


def record(number):
    return failure_record(f"/{number}")


@pytest.fixture
def few_allowed(monkeypatch):
    """Two files of a source may fail."""
    monkeypatch.setattr(tracker, "ALLOWED", 2)
    return {"max_bad_ratio": 0.01, "max_bad_in_a_row": 1000}


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("kind", KINDS)
def test_file_that_decodes_again_leaves_the_count(tmp_path, monkeypatch, caplog, kind, error):
    table, sources, files = make_source(tmp_path, kind)
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    outage = Outage(monkeypatch, error)
    outage.paths |= {str(files[2]), str(files[5])}
    path = tmp_path / "q.jsonl"

    with open_loader(table, sources, quarantine=Quarantine(path)) as loader:
        before = [next(loader) for _ in range(10)]
        assert loader.stats()["web"].bad_files == 2 and attempts(before) > 0
        outage.end()
        after = list(loader)[4:]
        assert loader.stats()["web"].bad_files == 0 and attempts(after) == 0

    first = "failed" if error in (errno.EIO, errno.ESTALE) else "quarantined"

    for file in (files[2], files[5]):
        named = [
            (line["state"], line["trouble"]) for line in lines_of(path) if line["file"] == str(file)
        ]
        assert named == [(first, "disk"), ("recovered", "disk")]
        assert (
            len([line for line in caplog.text.splitlines() if f"web: recovered: {file}" in line])
            == 1
        )

    assert not Quarantine(path).failing("web") and Quarantine(path).count("web") == 0
    assert info._quarantined(path) == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("kind", ["index", "image", "tar of images"])
def test_file_that_decodes_at_the_next_start_leaves_the_count(tmp_path, monkeypatch, kind, error):
    """Its size and time are as they were: they do not show that it can be read again."""
    table, sources, files = make_source(tmp_path, kind)
    path = tmp_path / "q.jsonl"

    with monkeypatch.context() as patches:
        outage = Outage(patches, error)
        outage.paths.add(str(files[2]))
        with open_loader(table, sources, quarantine=Quarantine(path)) as loader:
            list(loader)

    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    again = Quarantine(path)
    assert again.count("web") == 1
    with open_loader(table, sources, quarantine=again) as loader:
        assert attempts(list(loader)[4:]) == 0 and loader.stats()["web"].bad_files == 0

    assert states(path)[1:] == ["recovered"]


@pytest.mark.parametrize("is_over", [True, False])
def test_file_that_hung_at_an_earlier_start_is_rechecked_aside(tmp_path, monkeypatch, is_over):
    table, sources, files = make_source(tmp_path, "image")
    path = tmp_path / "q.jsonl"
    outage = Outage(monkeypatch, None)
    outage.paths.add(str(files[2]))
    hurry(monkeypatch, [str(files[2])], 60)
    limits = {"max_bad_ratio": 1.0, "max_bad_in_a_row": 1000, "hang_seconds": 30.0}
    with open_loader(table, sources, quarantine=Quarantine(path), **limits) as loader:
        list(loader)
    assert [(line["state"], line["trouble"]) for line in lines_of(path)] == [
        ("quarantined", "hang")
    ]
    if is_over:
        outage.end()
    began = time.monotonic()

    with open_loader(table, sources, quarantine=Quarantine(path), **limits, steps=60) as loader:
        for _ in range(30):
            next(loader)
        end = time.monotonic() + (5 if is_over else 0.2)
        while loader.stats()["web"].bad_files and time.monotonic() < end:
            time.sleep(0.01)
        assert loader.stats()["web"].bad_files == (0 if is_over else 1)
        rest = list(loader)[4:]
        assert (attempts(rest) == 0) == is_over

    assert time.monotonic() - began < 15
    outage.end()


@pytest.mark.parametrize("trouble", ["gone", "hanging", "replaced"])
def test_limit_after_an_outage_does_not_end_the_run(tmp_path, monkeypatch, few_allowed, trouble):
    """Two files failed and were restored; only a third one, which is broken, counts."""
    table, sources, files = make_source(tmp_path, "image")
    whole = [file.read_bytes() for file in files]
    path = tmp_path / "q.jsonl"
    bad = [str(files[2]), str(files[5])]
    outage = Outage(monkeypatch, None if trouble == "hanging" else errno.ENOENT)
    hurry(monkeypatch, bad, 60)
    if trouble == "replaced":
        for file in (files[2], files[5]):
            file.write_bytes(whole[2][:200])
    else:
        outage.paths |= set(bad)
    limits = {**few_allowed, "hang_seconds": 30.0}

    with open_loader(
        table, sources, quarantine=Quarantine(path), **limits, threads=4, steps=60
    ) as loader:
        for _ in range(10):
            next(loader)
        assert loader.stats()["web"].bad_files == 2 and states(path) == ["quarantined"] * 2
        outage.end()
        for number in (2, 5) if trouble == "replaced" else ():
            rewritten(files[number], whole[number])
        rewritten(files[0], whole[0][:200])
        assert len(list(loader)) == 50
        assert loader.stats()["web"].bad_files == 1

    named = {line["file"]: line["state"] for line in lines_of(path)}

    assert named == {bad[0]: "recovered", bad[1]: "recovered", str(files[0]): "quarantined"}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOENT, None])
def test_lasting_outage_ends_the_run_soon(tmp_path, monkeypatch, few_allowed, error):
    """Without an error number the disk hangs, also during the recheck."""
    table, sources, files = make_source(tmp_path, "image")
    bad = [str(files[number]) for number in (0, 2, 5)]
    outage = Outage(monkeypatch, error)
    outage.paths |= set(bad)
    hurry(monkeypatch, bad, 60)
    monkeypatch.setattr(tracker, "RECHECK_ALL_SECONDS", 1.0)
    limits = {**few_allowed, "hang_seconds": 30.0}
    began = time.monotonic()

    with (
        open_loader(table, sources, **limits, threads=4) as loader,
        pytest.raises(
            BadSourceError,
            match="at most 2 of 8 files to fail .loader.max_bad_ratio., got 3: 3 disk: ",
        ),
    ):
        list(loader)

    assert time.monotonic() - began < 12
    outage.end()


def test_start_after_an_outage_that_ended_a_run_goes_on(tmp_path, monkeypatch, few_allowed):
    table, sources, files = make_source(tmp_path, "image")
    path = tmp_path / "q.jsonl"

    with monkeypatch.context() as patches:
        outage = Outage(patches, errno.EACCES)
        outage.paths |= {str(files[number]) for number in (0, 2, 5)}
        with (
            open_loader(table, sources, quarantine=Quarantine(path), **few_allowed) as loader,
            pytest.raises(BadSourceError),
        ):
            list(loader)

    again = Quarantine(path)
    assert again.count("web") == 3
    with open_loader(table, sources, quarantine=again, **few_allowed) as loader:
        assert len(list(loader)) == 30 and loader.stats()["web"].bad_files == 0


@pytest.mark.parametrize("num_clips, state", [(1, "failed"), (6, "damaged")])
def test_broken_file_leaves_the_count_when_it_is_repaired(tmp_path, num_clips, state):
    """It does not leave earlier, although clips of its other parts decode all the time."""
    table, sources, files = make_source(tmp_path, "index")
    path = tmp_path / "q.jsonl"
    clip = ClipConfig(num_clips=num_clips, size=40, crop="center", flip=0.0)
    whole = {file: zero_the_end(table, file) for file in files[:2]}

    with open_loader(table, sources, clip=clip, quarantine=Quarantine(path), steps=60) as loader:
        for _ in range(30):
            next(loader)
        assert loader.stats()["web"].bad_files == 2
        assert states(path) == [state] * 2 and {line["trouble"] for line in lines_of(path)} == {
            "file"
        }
        rewritten(files[0], whole[files[0]])
        list(loader)
        assert loader.stats()["web"].bad_files == 1

    assert [(line["state"], line["file"]) for line in lines_of(path)[2:]] == [
        ("recovered", str(files[0]))
    ]
    assert [row["path"] for row in info._quarantined(path)] == [str(files[1])]


def test_file_that_returns_broken_is_named_as_broken(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "image")
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    path = tmp_path / "q.jsonl"
    data = files[2].read_bytes()
    files[2].unlink()

    with open_loader(table, sources, quarantine=Quarantine(path)) as loader:
        for _ in range(10):
            next(loader)
        files[2].write_bytes(data[:200])
        list(loader)
        assert loader.stats()["web"].bad_files == 1

    assert [(line["state"], line["trouble"]) for line in lines_of(path)] == [
        ("quarantined", "disk"),
        ("quarantined", "file"),
    ]


def test_file_that_is_gone_for_good_is_named_once_and_costs_little(tmp_path, monkeypatch):
    """Its substitutes are the same, however often it is tried again."""
    seen = {}
    for seconds in (300.0, 0.0):
        table, sources, files = make_source(tmp_path / str(seconds), "image")
        monkeypatch.setattr(recovery, "RETRY_SECONDS", seconds)
        with monkeypatch.context() as patches:
            outage = Outage(patches, errno.ENOENT)
            outage.paths.add(str(files[2]))
            path = tmp_path / f"{seconds}.jsonl"
            with open_loader(table, sources, quarantine=Quarantine(path), threads=1) as loader:
                batches = list(loader)
            seen[seconds] = [
                (batch.samples[0].rows.tolist(), batch.samples[0].attempts.tolist())
                for batch in batches
            ]
            asked = sum(batch.samples[0].attempts.astype(bool).sum() for batch in batches)
            assert states(path) == ["quarantined"]
            # once for the clip, and once to see whether anything decodes; later not at all
            assert len(outage.opened) <= 2 if seconds else len(outage.opened) > asked - 2

    assert seen[300.0] == seen[0.0]


def test_each_file_of_an_outage_is_rechecked_once(monkeypatch):
    """Each failure asks for a recheck. A file that was rechecked in vain is left alone for a while,
    and one that hangs for longer.
    """
    looks = []
    found = []
    hangs = threading.Event()
    monkeypatch.setattr(
        recovery,
        "is_decodable",
        lambda media, kind, patience: looks.append(media) or (media == "/7" and hangs.wait(20)),
    )
    monkeypatch.setattr(recovery, "_AGAIN_SECONDS", 0.5)
    again = Recovery(SimpleNamespace(media_at=lambda path: path, kind="image"), found.append)
    many = [record(number) for number in range(2000)]
    began = time.monotonic()
    for count in (1000, 1000, 1001, 2000):
        assert again.recheck(many[:count], 0.3)
    assert time.monotonic() - began < 5
    assert sorted(looks) == sorted(one.path for one in many)
    time.sleep(0.6)
    again.recheck(many, 5.0)
    assert looks.count("/7") == 1 and looks.count("/8") == 2
    hangs.set()  # it comes back late
    end = time.monotonic() + 5
    while not found and time.monotonic() < end:
        time.sleep(0.01)

    assert [one.path for one in found] == ["/7"]


def test_one_thread_rechecks_and_the_others_go_on(monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(recovery, "is_decodable", lambda *_: hangs.wait(20))
    again = Recovery(SimpleNamespace(media_at=lambda path: path, kind="image"), lambda _: None)
    first = threading.Thread(target=again.recheck, args=([record(1)], 5.0))
    first.start()
    end = time.monotonic() + 5
    while not again._busy.locked() and time.monotonic() < end:
        time.sleep(0.01)
    assert again.recheck([record(2)], 5.0) is False
    hangs.set()
    first.join()


def test_table_finds_files_by_their_paths(tmp_path):
    table, _, files = make_source(tmp_path, "image")
    for row, file in enumerate(files):
        assert table.media_at(str(file)) == table.media(table.records[row])
    assert table.media_at(str(Path(files[0]).parent / "none.jpg")) is None
    assert np.array_equal(np.unique(table.records), np.sort(table.records))
