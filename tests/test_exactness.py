"""Killed and resumed, on any number of ranks, a run consumes what the uninterrupted one does.

OMNIDALI_KILLS=1000 goes on until so many runs were killed; OMNIDALI_RECORDS=FOLDER keeps the
figures.
"""

import json
import os
import shutil

import pytest

from helpers.killed_runs import (
    SETTINGS,
    KilledRuns,
    after_seconds,
    after_steps,
    within_a_save,
)
from omnidali.utils.run_record import write_record


@pytest.fixture(scope="module")
def runner(media_root, request, tmp_path_factory):
    runner = KilledRuns(media_root, tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()
    if runner.figures["kills"]:
        figures = {
            name: runner.figures[name]
            for name in (
                "kills",
                "kills_in_saves",
                "resumes",
                "steps_compared",
                "steps_consumed_again",
                "steps_differing",
                "runs",
                "checkpoints_equal",
            )
        }
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nexactness: {figures}")
        if os.environ.get("OMNIDALI_RECORDS"):
            write_record(os.environ["OMNIDALI_RECORDS"], {"reliability": figures})


def test_kills_within_an_epoch_and_within_saves(runner, tmp_path):
    """With accumulation, averaged weights, evaluations and prefetch; also before the first save."""
    runner.check(
        tmp_path,
        "summed",
        [
            (1, after_seconds(0.3)),
            (1, after_steps(3)),
            (1, after_steps(3, 0.02)),
            (1, within_a_save(2)),
            (1, within_a_save(0, "best*.part")),
            (1, after_steps(7)),
            (1, within_a_save(1)),
        ],
    )
    assert runner.figures["kills_in_saves"] and runner.figures["resumes"] >= 2


def test_kills_of_alternating_steps(runner, tmp_path):
    runner.check(
        tmp_path,
        "alternating",
        [(1, after_steps(5)), (1, after_steps(3)), (1, within_a_save(2))],
    )


def test_kills_and_resumes_on_other_numbers_of_ranks(runner, tmp_path):
    """The second life is torchrun's, with blends of two sources."""
    runner.check(
        tmp_path,
        "mixup",
        [
            (1, after_steps(5)),
            (2, after_steps(5), True),
            (4, after_steps(4, 0.03)),
            (1, within_a_save(1)),
        ],
    )


def test_kills_with_broken_files(runner, tmp_path):
    """Substitutes stay the same on any number of ranks, with a quarantine or without."""
    runner.check(
        tmp_path,
        "broken",
        [(1, after_steps(5)), (4, after_steps(6)), (2, after_steps(4, 0.03))],
    )
    _, steps = runner.whole("broken")
    attempts = [item[6] for slots in steps.values() for item in slots.values()]
    assert sum(map(bool, attempts)) > 5
    states = {}
    for folder in (tmp_path, runner.whole("broken")[0]):
        rows = [
            json.loads(line)
            for line in (folder / "run" / "quarantine.jsonl").read_text().splitlines()
        ]
        states[folder] = {row["path"]: row["state"] for row in rows}
        assert len(rows) == len(states[folder])
    assert states[tmp_path].keys() >= {
        str(runner.roots["broken"] / "photos" / f"{n}.jpg") for n in (2, 5, 6, 11)
    }
    assert "quarantined" in states[tmp_path].values()


def test_kills_on_four_ranks_end_with_same_bits(runner, tmp_path):
    runner.check(tmp_path, "warp", [(4, after_steps(5)), (4, after_steps(4))])


@pytest.mark.skipif("OMNIDALI_KILLS" not in os.environ, reason="OMNIDALI_KILLS=N kills N runs")
def test_kills_at_random(runner, tmp_path):
    """Kill as often as the option asks for, at any moment, on any number of ranks."""
    wanted = int(os.environ["OMNIDALI_KILLS"])
    draw = runner.random
    number = 0
    while runner.figures["kills"] < wanted:
        folder = tmp_path / str(number)
        folder.mkdir()
        name = draw.choice(list(SETTINGS))
        worlds = [1, 2, 4] if name in ("mixup", "warp", "broken") else [1]
        constant = draw.choice(worlds)
        changes = draw.random() < 0.5
        lives = []
        for _ in range(draw.randint(1, 6)):
            ranks = draw.choice(worlds) if changes else constant
            kills = [
                after_seconds(draw.uniform(0, 3)),
                after_steps(draw.randint(1, 8), draw.uniform(0, 0.1)),
                within_a_save(draw.randint(0, 3)),
            ]
            lives.append((ranks, draw.choice(kills)))
        runner.check(folder, name, lives)
        shutil.rmtree(folder)
        number += 1
