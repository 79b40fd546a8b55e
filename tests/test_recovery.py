"""Faults that are over: files that decode again leave the count, those that are still bad stay in
it.
"""

import errno
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.soak_limits import naming
from benchmarks.soak_media import Damage
from conftest import hurry
from helpers.outages import KINDS, Outage, make_source
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.config.schema import ClipConfig
from omnidali.curation import info
from omnidali.errors import BadSourceError
from omnidali.loading import producer
from omnidali.loading.failures import recovery
from omnidali.loading.failures import tracker as faults
from omnidali.loading.failures.quarantine import Fault, Quarantine
from omnidali.loading.failures.recovery import Recovery
from omnidali.loading.failures.tracker import Limits
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import TrainPlan

CLIP = ClipConfig(num_clips=1, size=40, crop="center", flip=0.0)
FREE = Limits(1.0, 1000)


def open_source(table, sources, steps=30, clip=CLIP, **options):
    plan = TrainPlan([table], list(sources.values()), clip, 4, seed=5)
    return FusionIterator(
        plan,
        list(sources.values()),
        end=steps,
        **{"threads": 2, "prefetch": 1, "limits": FREE, **options},
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def states(path):
    return [line["state"] for line in lines_of(path)]


def attempts(batches):
    return int(sum((batch.samples[0].attempts > 0).sum() for batch in batches))


def rewritten(file, data):
    """The same path with other bytes, and another time."""
    file.write_bytes(data)
    os.utime(file, ns=(10**18, 10**18))


def zero_the_end(table, file):
    """Lose the packets of a video from its third keyframe on, as a disk does that tells nobody;
    returns the bytes.
    """
    index = PacketIndex.unpack(table.media_at(str(file)).packets)
    data, status = file.read_bytes(), file.stat()
    begin, end = int(index.offsets[16]), int(index.offsets[-1] + index.sizes[-1])
    file.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return data


@pytest.fixture
def few_allowed(monkeypatch):
    """Two files of a source may fail."""
    monkeypatch.setattr(faults, "ALLOWED", 2)
    return Limits(0.01, 1000)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_decodes_again_leaves_the_count(tmp_path, monkeypatch, caplog, kind, error):
    table, sources, files = make_source(tmp_path, kind)
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    outage = Outage(monkeypatch, error)
    outage.paths |= {str(files[2]), str(files[5])}
    path = tmp_path / "q.jsonl"
    with open_source(table, sources, quarantine=Quarantine(path)) as loader:
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
@pytest.mark.parametrize("kind", ["index", "photo", "tar of photos"])
def test_a_file_that_decodes_at_the_next_start_leaves_the_count(tmp_path, monkeypatch, kind, error):
    """Its size and time are as they were: they do not tell that it can be read again."""
    table, sources, files = make_source(tmp_path, kind)
    path = tmp_path / "q.jsonl"
    with monkeypatch.context() as patches:
        outage = Outage(patches, error)
        outage.paths.add(str(files[2]))
        with open_source(table, sources, quarantine=Quarantine(path)) as loader:
            list(loader)
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    again = Quarantine(path)
    assert again.count("web") == 1
    with open_source(table, sources, quarantine=again) as loader:
        assert attempts(list(loader)[4:]) == 0 and loader.stats()["web"].bad_files == 0
    assert states(path)[1:] == ["recovered"]


@pytest.mark.parametrize("is_over", [True, False])
def test_a_file_that_hung_at_an_earlier_start_is_looked_at_aside(tmp_path, monkeypatch, is_over):
    table, sources, files = make_source(tmp_path, "photo")
    path = tmp_path / "q.jsonl"
    outage = Outage(monkeypatch, None)
    outage.paths.add(str(files[2]))
    hurry(monkeypatch, [str(files[2])], 60)
    limits = Limits(1.0, 1000, hang_seconds=30.0)
    with open_source(table, sources, quarantine=Quarantine(path), limits=limits) as loader:
        list(loader)
    assert [(line["state"], line["trouble"]) for line in lines_of(path)] == [
        ("quarantined", "hang")
    ]
    if is_over:
        outage.end()
    began = time.monotonic()
    with open_source(
        table, sources, quarantine=Quarantine(path), limits=limits, steps=60
    ) as loader:
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
def test_a_limit_that_is_met_behind_an_outage_does_not_end_the_run(
    tmp_path, monkeypatch, few_allowed, trouble
):
    """Two files failed and were restored; a third one that is broken is the only one that counts."""
    table, sources, files = make_source(tmp_path, "photo")
    whole = [file.read_bytes() for file in files]
    path, bad = tmp_path / "q.jsonl", [str(files[2]), str(files[5])]
    outage = Outage(monkeypatch, None if trouble == "hanging" else errno.ENOENT)
    hurry(monkeypatch, bad, 60)
    if trouble == "replaced":
        for file in (files[2], files[5]):
            file.write_bytes(whole[2][:200])
    else:
        outage.paths |= set(bad)
    limits = Limits(few_allowed.max_bad_ratio, 1000, hang_seconds=30.0)
    with open_source(
        table, sources, quarantine=Quarantine(path), limits=limits, threads=4, steps=60
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
def test_an_outage_that_is_not_over_ends_the_run_soon(tmp_path, monkeypatch, few_allowed, error):
    """None: the disk hangs, also when the files are looked at again."""
    table, sources, files = make_source(tmp_path, "photo")
    bad = [str(files[number]) for number in (0, 2, 5)]
    outage = Outage(monkeypatch, error)
    outage.paths |= set(bad)
    hurry(monkeypatch, bad, 60)
    monkeypatch.setattr(faults, "LOOK_SECONDS", 1.0)
    limits = Limits(few_allowed.max_bad_ratio, 1000, hang_seconds=30.0)
    began = time.monotonic()
    with (
        open_source(table, sources, limits=limits, threads=4) as loader,
        pytest.raises(
            BadSourceError,
            match="at most 2 of 8 files to fail .loader.max_bad_ratio., got 3: 3 disk: ",
        ),
    ):
        list(loader)
    assert time.monotonic() - began < 12
    outage.end()


def test_a_start_behind_an_outage_that_ended_a_run_goes_on(tmp_path, monkeypatch, few_allowed):
    table, sources, files = make_source(tmp_path, "photo")
    path = tmp_path / "q.jsonl"
    with monkeypatch.context() as patches:
        outage = Outage(patches, errno.EACCES)
        outage.paths |= {str(files[number]) for number in (0, 2, 5)}
        with open_source(table, sources, quarantine=Quarantine(path), limits=few_allowed) as loader:
            with pytest.raises(BadSourceError):
                list(loader)
    again = Quarantine(path)
    assert again.count("web") == 3
    with open_source(table, sources, quarantine=again, limits=few_allowed) as loader:
        assert len(list(loader)) == 30 and loader.stats()["web"].bad_files == 0


@pytest.mark.parametrize("num_clips, state", [(1, "failed"), (6, "damaged")])
def test_a_broken_file_leaves_when_it_is_repaired(tmp_path, num_clips, state):
    """Not before: clips of other places decode all the time."""
    table, sources, files = make_source(tmp_path, "index")
    path, clip = (
        tmp_path / "q.jsonl",
        ClipConfig(num_clips=num_clips, size=40, crop="center", flip=0.0),
    )
    whole = {file: zero_the_end(table, file) for file in files[:2]}
    with open_source(table, sources, clip=clip, quarantine=Quarantine(path), steps=60) as loader:
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


def test_a_file_that_comes_back_broken_is_named_as_broken(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "photo")
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    path, data = tmp_path / "q.jsonl", files[2].read_bytes()
    files[2].unlink()
    with open_source(table, sources, quarantine=Quarantine(path)) as loader:
        for _ in range(10):
            next(loader)
        files[2].write_bytes(data[:200])
        list(loader)
        assert loader.stats()["web"].bad_files == 1
    assert [(line["state"], line["trouble"]) for line in lines_of(path)] == [
        ("quarantined", "disk"),
        ("quarantined", "file"),
    ]


def test_a_file_that_is_gone_for_good_is_named_once_and_costs_little(tmp_path, monkeypatch):
    """However often it is tried again, what stands for it is the same."""
    seen = {}
    for seconds in (300.0, 0.0):
        table, sources, files = make_source(tmp_path / str(seconds), "photo")
        monkeypatch.setattr(recovery, "RETRY_SECONDS", seconds)
        with monkeypatch.context() as patches:
            outage = Outage(patches, errno.ENOENT)
            outage.paths.add(str(files[2]))
            path = tmp_path / f"{seconds}.jsonl"
            with open_source(table, sources, quarantine=Quarantine(path), threads=1) as loader:
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


def fault(number, state="failed", trouble="disk", stamp=(1, 2)):
    return Fault(
        "web", f"/{number}", "Input/output error", state, 3, 0, f"/{number}", *stamp, 100.0, trouble
    )


def add(quarantine, one, rank=0):
    quarantine.add(
        one.source,
        one.path,
        one.file,
        one.reason,
        one.state,
        one.step,
        rank,
        one.stamp,
        one.trouble,
    )


def test_ranks_learn_of_files_that_recovered(tmp_path, caplog):
    path = tmp_path / "q.jsonl"
    mine, other = Quarantine(path), Quarantine(path)
    add(mine, fault(1, "quarantined"))
    assert other.count("web") == 1 and other.blocks("web", "/1")
    for rank, quarantine in enumerate((other, mine, other)):
        quarantine.recover(fault(1), 7, rank)
    assert mine.count("web") == other.count("web") == 0 and not mine.blocks("web", "/1")
    assert states(path) == ["quarantined", "recovered"] and caplog.text.count("recovered") == 1
    add(mine, fault(1), 0)
    add(other, fault(1), 1)
    # it fails again: named again, once
    assert states(path) == ["quarantined", "recovered", "failed"]
    assert mine.count("web") == other.count("web") == 1
    assert [row["state"] for row in info._quarantined(path)] == ["failed"]


def test_many_ranks_name_a_recovery_once(tmp_path):
    path = tmp_path / "q.jsonl"
    ranks = [Quarantine(path) for _ in range(4)]
    for number in range(20):
        add(ranks[0], fault(number))
    for quarantine in ranks:
        quarantine.count("web")

    def recover_all(quarantine):
        for number in range(20):
            quarantine.recover(fault(number), 9, 0)

    threads = [threading.Thread(target=recover_all, args=(quarantine,)) for quarantine in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states(path)) == ["failed"] * 20 + ["recovered"] * 20
    assert all(quarantine.count("web") == 0 for quarantine in ranks)


def test_a_file_that_comes_and_goes_stays_counted(tmp_path):
    """As one with a bad sector, of which most clips decode: the file of faults does not grow for
    ever.
    """
    quarantine = Quarantine(tmp_path / "q.jsonl")
    for _ in range(20):
        add(quarantine, fault(1))
        quarantine.recover(fault(1), 7, 0)
    assert states(tmp_path / "q.jsonl") == ["failed", "recovered"] * 3 + ["failed"]
    assert quarantine.count("web") == 1


def test_older_lines_and_lines_of_recovery_are_read(tmp_path):
    (tmp_path / "a").write_text("x")
    status = (tmp_path / "a").stat()
    old = {
        "source": "web",
        "path": "a",
        "reason": "cut off",
        "state": "quarantined",
        "step": 3,
        "rank": 0,
        "file": str(tmp_path / "a"),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "time": 1.5,
    }
    path = tmp_path / "q.jsonl"
    path.write_text(
        json.dumps(old) + "\n" + json.dumps({**old, "path": "b", "trouble": "disk"}) + "\n"
    )
    quarantine = Quarantine(path)
    assert quarantine.blocks("web", "a") and quarantine.get("web", "a").trouble == "file"
    assert str(quarantine.get("web", "b").cause) == "disk: cut off"
    assert [row["trouble"] for row in info._quarantined(path)] == ["file", "disk"]
    with open(path, "a") as file:
        file.write(json.dumps({**old, "state": "recovered"}) + "\n")
    assert not Quarantine(path).blocks("web", "a") and Quarantine(path).blocks("web", "b")
    with open(path, "a") as file:  # of a later start, where it failed again
        file.write(json.dumps(old) + "\n")
    assert Quarantine(path).blocks("web", "a")


def test_a_real_outage_is_looked_at_once(monkeypatch):
    """Each of many failures asks; what was looked at in vain is left alone for a while, and what
    hangs longer.
    """
    looks, found, hangs = [], [], threading.Event()
    monkeypatch.setattr(
        recovery,
        "surely_decodes",
        lambda media, kind, patience: looks.append(media) or (media == "/7" and hangs.wait(20)),
    )
    monkeypatch.setattr(recovery, "_AGAIN_SECONDS", 0.5)
    again = Recovery(SimpleNamespace(media_at=lambda path: path, kind="image"), found.append)
    many = [fault(number) for number in range(2000)]
    began = time.monotonic()
    for count in (1000, 1000, 1001, 2000):
        assert again.look(many[:count], 0.3)
    assert time.monotonic() - began < 5
    assert sorted(looks) == sorted(one.path for one in many)
    time.sleep(0.6)
    again.look(many, 5.0)
    assert looks.count("/7") == 1 and looks.count("/8") == 2
    hangs.set()  # it comes back late
    end = time.monotonic() + 5
    while not found and time.monotonic() < end:
        time.sleep(0.01)
    assert [one.path for one in found] == ["/7"]


def test_one_thread_looks_and_the_others_go_on(monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(recovery, "surely_decodes", lambda *_: hangs.wait(20))
    again = Recovery(SimpleNamespace(media_at=lambda path: path, kind="image"), lambda _: None)
    first = threading.Thread(target=again.look, args=([fault(1)], 5.0))
    first.start()
    end = time.monotonic() + 5
    while not again._busy.locked() and time.monotonic() < end:
        time.sleep(0.01)
    assert again.look([fault(2)], 5.0) is False
    hangs.set()
    first.join()


def test_a_soak_counts_a_file_that_failed_again_as_named_again():
    damage = Damage(
        **{
            field: {"path": "/1", "fault": "x", "outcome": "fails", "begun": 0.0, "done": 1.0}.get(
                field, 0
            )
            for field in Damage.__dataclass_fields__
        }
    )
    lines = [
        {"path": "/1", "state": state, "time": 5.0} for state in ("failed", "recovered", "failed")
    ]
    assert all(verdict.passed for verdict in naming([damage], lines, {"/1": 4.0}))
    assert not all(verdict.passed for verdict in naming([damage], [*lines, lines[-1]], {"/1": 4.0}))


def test_a_catalog_finds_files_by_their_paths(tmp_path):
    table, _, files = make_source(tmp_path, "photo")
    for row, file in enumerate(files):
        assert table.media_at(str(file)) == table.media(table.records[row])
    assert table.media_at(str(Path(files[0]).parent / "none.jpg")) is None
    assert np.array_equal(np.unique(table.records), np.sort(table.records))


@pytest.mark.parametrize("kind", ["photo", "frames"])
def test_a_file_that_dali_decodes_again_leaves_the_count(tmp_path, monkeypatch, kind):
    table, sources, files = make_source(tmp_path, kind, decode="dali")
    outage = Outage(monkeypatch, errno.EIO)
    outage.paths.add(str(files[2]))
    path = tmp_path / "q.jsonl"
    with open_source(table, sources, quarantine=Quarantine(path)) as loader:
        for _ in range(10):
            next(loader)
        assert states(path) == ["failed"]
        outage.end()
        monkeypatch.setattr(producer, "decode_image", None)  # the CPU has no part in it
        monkeypatch.setattr(producer, "decode_frames", None)
        for _ in range(4):
            next(loader)
        assert attempts(list(loader)) == 0
        end = time.monotonic() + 5
        while loader.stats()["web"].bad_files and time.monotonic() < end:
            time.sleep(0.01)
    assert states(path) == ["failed", "recovered"]
