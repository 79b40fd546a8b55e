"""The soak: its verdicts can fail, and the loader holds what they ask, alone and as eight ranks on
two cores.
"""

from dataclasses import replace

import pytest

from benchmarks import __main__ as cli
from benchmarks import soak_limits as verdicts
from benchmarks.soak import judge, soak
from benchmarks.soak_limits import Sample
from benchmarks.soak_media import Damage
from omnidali.testing.damaged_media import EXACT, FAILS, UNSURE

MIB = 1 << 20
SAMPLES = [
    Sample(
        float(second),
        (400 + second % 5) * MIB,
        200 * MIB,
        300 * MIB,
        12 + second % 3,
        9 + (second % 7 == 0),
        64 * second,
    )
    for second in range(180)
]
COUNTS = {"files": 12, "threads": 3}


def growing(**steps):
    """The samples with something added for every second."""
    return [
        replace(
            sample,
            **{
                name: getattr(sample, name) + int(step * sample.seconds)
                for name, step in steps.items()
            },
        )
        for sample in SAMPLES
    ]


def test_memory_that_grows_is_told():
    assert verdicts.memory(SAMPLES, 30).passed  # what goes up and down is no leak
    assert verdicts.memory(growing(rss=0.02 * MIB), 30).passed  # 0.6 % over the time that counts
    leak = verdicts.memory(growing(rss=0.1 * MIB), 30)  # 100 KiB a second
    assert (
        not leak.passed
        and "+2.70 %" in leak.figure
        and str(leak).startswith("FAIL resident memory: 406.9")
    )
    # what grows at the start alone is the warm-up
    assert verdicts.memory(
        [
            replace(sample, rss=sample.rss + min(30, int(sample.seconds)) * MIB)
            for sample in SAMPLES
        ],
        30,
    ).passed
    with pytest.raises(ValueError, match="too few to compare"):
        verdicts.memory(SAMPLES[:34], 30)


def test_descriptors_and_threads_that_stay_are_told():
    assert all(verdict.passed for verdict in verdicts.handles(SAMPLES, 30, COUNTS, COUNTS))
    for name in ("files", "threads"):
        found = verdicts.handles(growing(**{name: 1 / 40}), 30, COUNTS, COUNTS)
        assert [verdict.name for verdict in found if not verdict.passed] == [
            {"files": "open descriptors while it runs", "threads": "threads while it runs"}[name]
        ]
        found = verdicts.handles(SAMPLES, 30, COUNTS, {**COUNTS, name: COUNTS[name] + 1})
        assert [verdict.name for verdict in found if not verdict.passed] == [
            {"files": "open descriptors behind close()", "threads": "threads behind close()"}[name]
        ]


def test_names_that_are_missing_twice_or_wrong_are_told():
    done = [
        Damage("s", "bad", "deleted", FAILS, 100, 101),
        Damage("s", "late", "deleted", FAILS, 900, 901),
        Damage("s", "odd", "half of it", UNSURE),
        Damage("s", "fine", "a copy", EXACT, 100, 101),
    ]
    asked = {"bad": 300.0, "late": 800.0, "odd": 300.0, "good": 300.0, "fine": 300.0}

    def failing(*named):
        lines = [
            {"path": path, "time": moment, "state": (*state, "failed")[0]}
            for path, moment, *state in named
        ]
        found = verdicts.naming(done, lines, asked)
        return [verdict.name for verdict in found if not verdict.passed]

    assert (
        failing(("bad", 150))
        == failing(("bad", 150), ("odd", 150))
        == failing(("bad", 150), ("late", 950))
        == []
    )
    assert failing(("odd", 150)) == ["bad files that were asked for and named"]
    assert failing(("bad", 150), ("bad", 160)) == ["files named more than once"]
    assert failing(("bad", 150, "damaged"), ("bad", 160)) == []  # it has become worse
    for wrong in ("good", "fine"):
        assert failing(("bad", 150), (wrong, 160)) == ["good files that were named"]
    assert failing(("bad", 90)) == ["good files that were named"]  # before it went bad


def test_a_soak_of_seconds_says_nothing_of_leaks(tmp_path):
    (tmp_path / "damaged.json").write_text("[]")
    rows = [[*vars(sample).values()] for sample in SAMPLES]
    seen = [
        {
            "asked": {},
            "steps": 180,
            "clips": 64 * 180,
            "wrong": 0,
            "uneven": 0,
            "stats": {"s": {}},
            "away": 0.0,
            "samples": rows[:count],
            "seconds": float(count),
            "before": COUNTS,
            "closed": COUNTS,
        }
        for count in (180, 8)
    ]
    verdict = {verdict.name: verdict for verdict in judge(tmp_path, seen, 1)}
    assert not verdict["resident memory"].passed and "too few" in verdict["resident memory"].figure
    assert verdict["steps"].passed and "threads while it runs" not in verdict
    verdict = {verdict.name: verdict for verdict in judge(tmp_path, seen[:1], 1)}
    assert verdict["resident memory"].passed and verdict["threads while it runs"].passed


def test_foreign_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["soak", "--out", str(tmp_path)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_eight_ranks_on_two_cores(tmp_path):
    """All faults at once: equal steps, the planned clips, one quarantine that names each bad file
    once.
    """
    row = soak(tmp_path / "soak", 0.5, clips=200, seed=3, ranks=8, scale=0.25)
    assert row["steps"] >= 4 and row["clips"] == 64 * row["steps"]
    # memory is no matter of seconds
    failed = [
        verdict
        for verdict in row["verdicts"]
        if not verdict["passed"] and verdict["name"] != "resident memory"
    ]
    assert not failed
    assert len(list((tmp_path / "soak").glob("**/quarantine.jsonl"))) == 1


@pytest.mark.slow
def test_soak_of_three_minutes(tmp_path, capfd):
    code = cli.main(["soak", "--out", str(tmp_path / "soak"), "--minutes", "3", "--clips", "4000"])
    told = capfd.readouterr().out
    assert code == 0, told[-3000:]
    assert "ok   resident memory" in told and (tmp_path / "soak" / "records.jsonl").exists()
