"""The quarantine: what it names, on all ranks and over all starts."""

import json
import os
import threading

from helpers.failures import failure_record, lines_of, states
from helpers.image_source import clips_by_slot, image_source, open_images, truncate
from omnidali.curation.lint import info
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.testing.numbered_media import write_image


def record(number, state="failed", rank=0):
    return failure_record(f"/{number}", state, rank=rank)


def test_quarantine_holds_until_the_file_changes(tmp_path):
    table, source, pics = image_source(tmp_path)
    good = (pics / "5.png").read_bytes()
    truncate(pics / "5.png")
    with open_images(table, source, quarantine=Quarantine(tmp_path / "q.jsonl")) as batches:
        first = clips_by_slot(batches)
    status = (pics / "5.png").stat()
    (pics / "5.png").write_bytes(good[:90])  # as it was: it would be tried in vain
    os.utime(pics / "5.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Quarantine(tmp_path / "q.jsonl").blocks("web", str(pics / "5.png"))
    with open_images(table, source, quarantine=Quarantine(tmp_path / "q.jsonl")) as batches:
        assert clips_by_slot(batches) == first
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1
    (pics / "5.png").write_bytes(good)
    again = Quarantine(tmp_path / "q.jsonl")
    assert not again.blocks("web", str(pics / "5.png")) and again.count("web") == 0
    with open_images(table, source, quarantine=again) as batches:
        assert clips_by_slot(batches) != first
    with open(tmp_path / "q.jsonl", "a") as file:
        file.write('{"source": "we')  # cut off by a crash
    (pics / "4.png").unlink()
    gone = failure_record(str(pics / "4.png"), "quarantined")
    Quarantine(tmp_path / "q.jsonl").add(gone)

    assert Quarantine(tmp_path / "q.jsonl").blocks("web", str(pics / "4.png"))


def test_quarantine_is_shared_by_ranks(tmp_path, caplog):
    ranks = [Quarantine(tmp_path / "q.jsonl") for _ in range(4)]

    def name_all(quarantine):
        for n in range(30):
            quarantine.add(failure_record(f"/{n}", "quarantined"))

    threads = [threading.Thread(target=name_all, args=(quarantine,)) for quarantine in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [line["path"] for line in lines_of(tmp_path / "q.jsonl")]
    assert sorted(rows) == sorted(f"/{n}" for n in range(30))
    assert all(quarantine.count("web") == 30 for quarantine in ranks)


def test_damaged_file_that_fails_later_counts_on_all_ranks(tmp_path, caplog):
    write_image(tmp_path / "a.jpg", 1, 60, 50)
    path = tmp_path / "q.jsonl"
    file = str(tmp_path / "a.jpg")
    mine = Quarantine(path)
    other = Quarantine(path)

    for step, state in enumerate(("damaged", "failed", "damaged", "failed", "quarantined")):
        mine.add(failure_record(file, state, step=step))
        other.add(failure_record(file, state, step=step, rank=1))
        for quarantine in (mine, other, Quarantine(path)):
            assert quarantine.count("web") == 1 and len(quarantine.failing("web")) == (step > 0)

    assert states(path) == [
        "damaged",
        "failed",
        "quarantined",
    ]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "damaged",
        "quarantined",
    ]


def test_quarantine_survives_full_disk(tmp_path, monkeypatch):
    quarantine = Quarantine(tmp_path / "none" / "q.jsonl")
    (tmp_path / "none").write_text("a file where the folder should be")
    quarantine.add(failure_record("/1", "quarantined"))
    assert quarantine.blocks("web", "/1")
    (tmp_path / "none").unlink()
    quarantine.add(failure_record("/2", "quarantined"))
    assert [line["path"] for line in lines_of(quarantine.path)] == [
        "/1",
        "/2",
    ]


def test_recovery_is_learnt_by_other_ranks(tmp_path, caplog):
    path = tmp_path / "q.jsonl"
    mine = Quarantine(path)
    other = Quarantine(path)
    mine.add(record(1, "quarantined"))
    assert other.count("web") == 1 and other.blocks("web", "/1")
    for rank, quarantine in enumerate((other, mine, other)):
        quarantine.recover(record(1), 7, rank)
    assert mine.count("web") == other.count("web") == 0 and not mine.blocks("web", "/1")
    assert states(path) == ["quarantined", "recovered"] and caplog.text.count("recovered") == 1
    mine.add(record(1))
    other.add(record(1, rank=1))

    # it fails again: named again, once
    assert states(path) == ["quarantined", "recovered", "failed"]
    assert mine.count("web") == other.count("web") == 1
    assert [row["state"] for row in info._quarantined(path)] == ["failed"]


def test_recovery_seen_by_many_ranks_is_named_once(tmp_path):
    path = tmp_path / "q.jsonl"
    ranks = [Quarantine(path) for _ in range(4)]
    for number in range(20):
        ranks[0].add(record(number))
    for quarantine in ranks:
        quarantine.count("web")

    def recover_all(quarantine):
        for number in range(20):
            quarantine.recover(record(number), 9, 0)

    threads = [threading.Thread(target=recover_all, args=(quarantine,)) for quarantine in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states(path)) == ["failed"] * 20 + ["recovered"] * 20
    assert all(quarantine.count("web") == 0 for quarantine in ranks)


def test_file_that_comes_and_goes_stays_counted(tmp_path):
    """A file with a bad sector, of which most clips decode, does not fill the quarantine's file."""
    quarantine = Quarantine(tmp_path / "q.jsonl")
    for _ in range(20):
        quarantine.add(record(1))
        quarantine.recover(record(1), 7, 0)
    assert states(tmp_path / "q.jsonl") == ["failed", "recovered"] * 3 + ["failed"]
    assert quarantine.count("web") == 1


def test_quarantine_reads_older_lines_and_recoveries(tmp_path):
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
