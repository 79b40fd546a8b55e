"""Every item is scored once, whatever is killed or fails."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from conftest import free_port
from helpers.filtering import (
    BROKEN,
    PHOTOS,
    command,
)
from helpers.running import small_disk
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.database.teacher_scores import Scorer, ScoreStore
from omnidali.cli import main as cli
from omnidali.media_kind import MediaKind

pytestmark = pytest.mark.usefixtures("one_thread")


def test_another_rule_scores_nothing_again(world, filtered, teacher, capsys):
    def kept(*more):
        assert (
            cli.main(command(world, filtered, teacher, "--sources", "photos", *more, out="again"))
            == 0
        )
        assert "40 items, 0 scored now" in capsys.readouterr().out
        return [
            line.rsplit(" ", 1)[0]
            for line in (filtered / "again/photos.txt").read_text().splitlines()
        ]

    lists = {
        line.rsplit(" ", 1)[0] for line in (filtered / "out/photos.txt").read_text().splitlines()
    }
    top, quantile = kept("--rule", "topk"), kept("--rule", "quantile", "--keep", "0.3")
    assert len(quantile) == 12 == len(set(quantile)) and set(top) != set(quantile)
    assert set(kept("--rule", "threshold", "topk", "--threshold", "0.4")) == lists & set(top)


def test_only_a_changed_file_is_scored_again(world, filtered, teacher, capsys):
    os.utime(world / "crawl/some photos/3.jpg", ns=(0, 10**18))
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--score-only", out="changed")
        )
        == 0
    )
    assert "40 items, 1 scored now" in capsys.readouterr().out
    assert (
        not (filtered / "changed/config.yaml").exists()
        and not (filtered / "changed/photos.txt").exists()
    )
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--score-only",
                out="changed",
                sets=["evaluation.test.crops=three"],
            )
        )
        == 0
    )
    assert f"40 items, {BROKEN} scored now" in capsys.readouterr().out


def test_undecodable_items_are_scored_once_they_decode(world, teacher, tmp_path, capsys):
    names = [f"{n}.jpg" for n in range(12)]
    whole = {name: (world / "crawl/some photos" / name).read_bytes() for name in names}

    def write(readable):
        for place, (name, data) in enumerate(whole.items()):
            path, scan = tmp_path / "crawl" / name, data.index(b"\xff\xda")
            path.write_bytes(
                data if readable or place % 2 else data[:scan] + bytes(len(data) - scan)
            )
            os.utime(path, ns=(0, 10**18))

    def scored():
        arguments = command(
            world,
            tmp_path,
            teacher,
            "--sources",
            "photos",
            "--score-only",
            sets=[
                f"sources.photos.root={tmp_path}/crawl",
                f"sources.photos.list={tmp_path}/photos.txt",
                "loader.max_bad_in_a_row=3",
            ],
        )
        assert cli.main(arguments) == 0
        return int(capsys.readouterr().out.split("12 items, ")[1].split()[0])

    (tmp_path / "crawl").mkdir()
    (tmp_path / "photos.txt").write_text(
        "".join(f"{name} {place % 4}\n" for place, name in enumerate(names))
    )
    write(readable=False)
    assert scored() == 6
    assert scored() == 0  # six in a row fail again
    write(readable=True)
    assert scored() == 0  # the quarantine still names them: size and time are the same
    (tmp_path / "out/quarantine.jsonl").unlink()
    assert scored() == 6


def test_score_with_a_flipped_bit_is_made_again(world, filtered, teacher, capsys):
    with sqlite3.connect(filtered / "run/catalog.sqlite") as db:
        db.execute("UPDATE scores SET logs = zeroblob(8) WHERE path LIKE '%/7.jpg'")
    assert (
        cli.main(
            command(world, filtered, teacher, "--sources", "photos", "--score-only", out="changed")
        )
        == 0
    )
    assert "40 items, 1 scored now" in capsys.readouterr().out


def test_missing_scores_are_found_without_all_scores_in_memory(tmp_path, monkeypatch):
    count, classes = 6000, 400
    with contextlib.closing(connect(tmp_path / "c.sqlite")) as db, db:
        db.execute(
            "INSERT INTO sources (id, name, kind, root) VALUES (1, 'photos', 'image', '/photos')"
        )
        db.executemany(
            "INSERT INTO media (id, source, path, state, bytes, mtime_ns)"
            " VALUES (?, 1, ?, 'ok', 1, 1)",
            ((n + 1, f"{n}.jpg") for n in range(count)),
        )
    zeros = np.zeros(count, np.int32)
    table = SourceTable(
        "photos", MediaKind.IMAGE, np.arange(1, count + 1), zeros, zeros, zeros, zeros + 1, zeros
    )
    monkeypatch.setattr("omnidali.catalog.database.teacher_scores._CHUNK", 500)
    with ScoreStore(
        tmp_path / "c.sqlite", Scorer("digest", "name", tuple(map(str, range(classes))), "")
    ) as store:
        rows = np.arange(3, count)  # three have none, and one of the others did not decode
        store.add(table, rows, np.broadcast_to(np.float32(-1), (len(rows), classes)), rows != 7)
        tracemalloc.start()
        missing, tried = store.missing(table)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (missing.tolist(), tried) == ([0, 1, 2, 7], 1)
    assert peak < 2 * count * classes / 2  # half of what the scores take


KILLED = """
import os, signal, sys
from omnidali.cli import main as cli
import torch
from omnidali.catalog.database import teacher_scores as scores
torch.set_num_threads = lambda count: None
scores._COMMIT_SECONDS, die, calls, add = 0.0, int(sys.argv.pop(1)), [], scores.ScoreStore.add

def add_and_say(self, table, rows, logs, decoded):
    if table.name == "clips":  # those that the teacher is checked on
        return add(self, table, rows, logs, decoded)
    calls.append(1)
    if len(calls) == die:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, table, rows, logs, decoded)
    print("scored", *rows.tolist(), file=sys.stderr, flush=True)

scores.ScoreStore.add = add_and_say
sys.exit(cli.main(sys.argv[1:]))
"""


def run_ranks(arguments, world_size, die=0):
    with free_port() as port:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", KILLED, str(die), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in range(world_size)
        ]
        return [(process, *process.communicate(timeout=600)) for process in processes]


def count_scores(folder):
    with sqlite3.connect(folder / "run/catalog.sqlite") as db:
        return db.execute(
            "SELECT COUNT(*) FROM scores WHERE teacher = 1 AND path LIKE '%.jpg'"
        ).fetchone()[0]


def test_killed_job_is_completed_and_two_ranks_equal_one(world, filtered, teacher, tmp_path):
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--threshold", "0.4")
    (main, _, told), *_ = run_ranks(arguments, 2, die=6)
    committed = count_scores(tmp_path)
    first = [line for line in told.splitlines() if line.startswith("scored")]
    assert main.returncode == -signal.SIGKILL and committed == 20 and len(first) == 5
    (main, out, told), (other, *_) = run_ranks(arguments, 2)
    assert main.returncode == other.returncode == 0, told
    again = [
        int(n) for line in told.splitlines() if line.startswith("scored") for n in line.split()[1:]
    ]
    assert (
        sorted(again) == list(range(PHOTOS - committed))
        and f"{PHOTOS - committed - 1} scored now" in out
    )
    assert count_scores(tmp_path) == PHOTOS
    for name in ("photos.txt", "photos_kept.csv", "photos_dropped.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (filtered / "out" / name).read_bytes()


def test_full_disk_leaves_no_half_list_and_keeps_scores(world, teacher, tmp_path, capsys):
    """No list is half written, and committed scores are not computed again."""
    with small_disk(tmp_path / "disk") as fill:
        arguments = command(
            world,
            tmp_path,
            teacher,
            "--sources",
            "photos",
            out="disk/out",
            sets=[f"catalog={tmp_path}/c.sqlite"],
        )
        fill(True)
        assert cli.main(arguments) == 2
        told = capsys.readouterr()
        assert "Make room or choose another --out" in told.err and "scored now" not in told.out
        fill(False)
        assert cli.main([*arguments, "--score-only"]) == 0
        fill(True)
        assert cli.main(arguments) == 2
        assert "Make room or choose another --out" in capsys.readouterr().err
        assert not list((tmp_path / "disk/out").glob("*.txt")) and not list(
            (tmp_path / "disk/out").glob("*.part")
        )
        fill(False)
        assert cli.main(arguments) == 0
        assert "40 items, 0 scored now" in capsys.readouterr().out


def test_full_catalog_keeps_committed_scores(world, teacher, tmp_path, capsys, monkeypatch):
    make, fresh = ScoreStore.__init__, []

    def limited(self, *given):
        make(self, *given)
        fresh.append(True)
        # after those of the check, and the one that looks for missing scores, half a page is left
        if len(fresh) > 4:
            self._db.executemany(
                "INSERT INTO scores VALUES (99, ?, 0, 1, 0, 0, zeroblob(200), 0)", zip("0123456789")
            )
            self._db.commit()
            self._db.execute("VACUUM")
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            self._db.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr("omnidali.catalog.database.teacher_scores._COMMIT_SECONDS", 0.0)
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--score-only")
    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "__init__", limited)
        assert cli.main(arguments) == 2
    assert (
        "expected a catalog in which scores can be written, got database or disk is full"
        in capsys.readouterr().err
    )
    kept = count_scores(tmp_path)
    assert 0 < kept < PHOTOS and cli.main(arguments) == 0
    assert f"{PHOTOS - kept - 1} scored now" in capsys.readouterr().out


def test_loss_of_scores_with_a_damaged_catalog_is_reported(world, teacher, tmp_path, capsys):
    arguments = command(world, tmp_path, teacher, "--sources", "photos", "--score-only")
    assert cli.main(arguments) == 0
    path = tmp_path / "run/catalog.sqlite"
    path.write_bytes(path.read_bytes()[:-4096])
    capsys.readouterr()
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert (
        "built anew; the scores of teachers that it held went with it" in told.err
        and f"{BROKEN} scored now" in told.out
    )
