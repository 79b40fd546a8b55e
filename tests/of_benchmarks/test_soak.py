"""The soak: its checks can fail, and the loader passes them, alone and as eight ranks."""

from dataclasses import replace

import pytest

from benchmarks import __main__ as cli
from benchmarks.soak import check_limits, soak
from benchmarks.soak_limits import ProcessSample, check_handles, check_memory, check_naming
from benchmarks.soak_media import AppliedFault
from omnidali.testing.damaged_media import EXACT, FAILS, UNSURE

MIB = 1 << 20
SAMPLES = [
    ProcessSample(
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


def test_check_memory_fails_where_memory_grows():
    assert check_memory(SAMPLES, 30).passed  # what goes up and down is no leak
    assert check_memory(growing(rss=0.02 * MIB), 30).passed  # 0.6 % over the time that counts
    leak = check_memory(growing(rss=0.2 * MIB), 30)  # 200 KiB a second
    assert (
        not leak.passed
        and "+5.39 %" in leak.figure
        and str(leak).startswith("FAIL resident memory: 408.2")
    )
    hour = [replace(sample, seconds=sample.seconds * 20) for sample in growing(rss=0.1 * MIB)]
    assert not check_memory(hour, 30).passed  # 2.7 %, which is much for an hour
    # what grows at the start alone is the warm-up
    assert check_memory(
        [
            replace(sample, rss=sample.rss + min(30, int(sample.seconds)) * MIB)
            for sample in SAMPLES
        ],
        30,
    ).passed
    # what is under way at the end for some time
    busy = [replace(sample, rss=sample.rss + 16 * MIB) for sample in SAMPLES[145:170]]
    assert check_memory([*SAMPLES[:145], *busy, *SAMPLES[170:]], 30).passed
    with pytest.raises(ValueError, match="too few to compare"):
        check_memory(SAMPLES[:34], 30)


def test_check_handles_fails_where_descriptors_or_threads_stay():
    assert all(check.passed for check in check_handles(SAMPLES, 30, COUNTS, COUNTS))
    for name in ("files", "threads"):
        found = check_handles(growing(**{name: 1 / 40}), 30, COUNTS, COUNTS)
        assert [check.name for check in found if not check.passed] == [
            {"files": "open descriptors while it runs", "threads": "threads while it runs"}[name]
        ]
        found = check_handles(SAMPLES, 30, COUNTS, {**COUNTS, name: COUNTS[name] + 1})
        assert [check.name for check in found if not check.passed] == [
            {"files": "open descriptors behind close()", "threads": "threads behind close()"}[name]
        ]


def test_check_naming_fails_for_missing_repeated_and_wrong_names():
    faults = [
        AppliedFault("s", "bad", "deleted", FAILS, 100, 101),
        AppliedFault("s", "late", "deleted", FAILS, 900, 901),
        AppliedFault("s", "odd", "half of it", UNSURE),
        AppliedFault("s", "fine", "a copy", EXACT, 100, 101),
    ]
    asked = {"bad": 300.0, "late": 800.0, "odd": 300.0, "good": 300.0, "fine": 300.0}

    def failing(*named):
        lines = [
            {"path": path, "time": moment, "state": (*state, "failed")[0]}
            for path, moment, *state in named
        ]
        found = check_naming(faults, lines, asked)
        return [check.name for check in found if not check.passed]

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


def test_soak_of_seconds_does_not_check_leaks(tmp_path):
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
    check = {check.name: check for check in check_limits(tmp_path, seen, 1)}
    assert not check["resident memory"].passed and "too few" in check["resident memory"].figure
    assert check["steps"].passed and "threads while it runs" not in check
    check = {check.name: check for check in check_limits(tmp_path, seen[:1], 1)}
    assert check["resident memory"].passed and check["threads while it runs"].passed


def test_soak_refuses_foreign_folders(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["soak", "--out", str(tmp_path)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_eight_ranks_pass_on_two_cores(tmp_path):
    """All faults at once: equal steps, the planned clips, one quarantine that names each bad file
    once.
    """
    row = soak(tmp_path / "soak", 0.5, clips=200, seed=3, ranks=8, scale=0.25)
    assert row["steps"] >= 4 and row["clips"] == 64 * row["steps"]
    # memory is no matter of seconds
    failed = [
        check
        for check in row["verdicts"]
        if not check["passed"] and check["name"] != "resident memory"
    ]
    assert not failed
    assert len(list((tmp_path / "soak").glob("**/quarantine.jsonl"))) == 1


@pytest.mark.slow
def test_soak_of_two_minutes_passes(tmp_path, capfd):
    code = cli.main(["soak", "--out", str(tmp_path / "soak"), "--minutes", "2", "--clips", "4000"])
    told = capfd.readouterr().out
    assert code == 0, told[-3000:]
    assert "ok   resident memory" in told and (tmp_path / "soak" / "records.jsonl").exists()
