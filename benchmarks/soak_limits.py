"""What a soak must show, each with the figure and the limit: pure functions of the record."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.soak_media import AppliedFault
from omnidali.loading.failures.quarantine import RECOVERED
from omnidali.testing.damaged_media import EXACT, FAILS, REFUSED

GROWTH = 0.02  # of the memory after the warm-up
# of a soak of a few minutes, whose floor alone goes up and down by nearly 2 %
SHORT_GROWTH = 0.04
_SHORT_SECONDS = 600.0
_AT_ONCE = 2  # descriptors that come and go as files are read; the least of many samples has fewer
_WINDOW = 0.15  # of the time after the warm-up, but no less than
# as memory goes up and down by 4 % with what is under way, for ten seconds and more
_WINDOW_SECONDS = 40.0


@dataclass(frozen=True)
class LimitCheck:
    """One figure with its limit.

    Attributes:
        name: of what was measured.
        figure: that was measured, in words.
        limit: in words.
        passed: whether the figure is within the limit.
    """

    name: str
    figure: str
    limit: str
    passed: bool

    def __str__(self) -> str:
        mark = "ok  " if self.passed else "FAIL"
        return f"{mark} {self.name}: {self.figure} (limit: {self.limit})"


@dataclass(frozen=True)
class ProcessSample:
    """The process at one moment.

    Attributes:
        seconds: since the first batch.
        rss: resident memory, bytes.
        own: the part of it that belongs to no file, bytes.
        pss: resident memory with the share of what several processes use, bytes.
        files: open descriptors.
        threads: of the process.
        clips: delivered so far.
    """

    seconds: float
    rss: int
    own: int
    pss: int
    files: int
    threads: int
    clips: int


def first_and_last(
    samples: Sequence[ProcessSample], warm_up: float
) -> tuple[list[ProcessSample], list[ProcessSample]]:
    """The first and the last samples of the time after the warm-up (seconds).

    Raises:
        ValueError: if there are too few to compare.
    """
    warm = [sample for sample in samples if sample.seconds >= warm_up]
    if len(warm) < 6:
        raise ValueError(
            f"{len(warm)} samples after a warm-up of {warm_up:.0f} s: too few to compare"
        )
    share = max(_WINDOW, _WINDOW_SECONDS / (warm[-1].seconds - warm[0].seconds))
    length = min(max(3, int(share * len(warm))), len(warm) // 2)
    return warm[:length], warm[-length:]


def check_memory(samples: Sequence[ProcessSample], warm_up: float) -> LimitCheck:
    """Check that the memory falls as low at the end as it did after the warm-up.

    The lowest tenth of the samples counts: a leak raises it, and what is under way for some seconds
    does not.
    """
    before, after = (
        sorted(sample.rss for sample in part)[len(part) // 10]
        for part in first_and_last(samples, warm_up)
    )
    growth = after / before - 1
    most = SHORT_GROWTH if samples[-1].seconds < _SHORT_SECONDS else GROWTH
    return LimitCheck(
        "resident memory",
        f"{before / 2**20:.1f} MiB became {after / 2**20:.1f} MiB, {100 * growth:+.2f} %",
        f"below {100 * most:+.0f} %",
        passed=growth < most,
    )


def check_handles(
    samples: Sequence[ProcessSample],
    warm_up: float,
    before: Mapping[str, int],
    closed: Mapping[str, int],
) -> list[LimitCheck]:
    """Check that descriptors and threads stay as many, and are gone after ``close``.

    Args:
        samples: of the run.
        warm_up: seconds.
        before: how many ``files`` and ``threads`` there were before the loader was opened.
        closed: how many there are after its end.
    """
    first, last = first_and_last(samples, warm_up)

    checks = []
    for name, text, under_way in (
        ("files", "open descriptors", _AT_ONCE),
        ("threads", "threads", 0),
    ):
        early, late = (min(getattr(sample, name) for sample in part) for part in (first, last))
        checks += [
            LimitCheck(
                f"{text} while it runs",
                f"{early} became {late}",
                f"{early + under_way}",
                passed=late <= early + under_way,
            ),
            LimitCheck(
                f"{text} behind close()",
                f"{closed[name]}",
                f"{before[name]}, as before",
                passed=closed[name] <= before[name],
            ),
        ]
    return checks


def check_naming(
    faults: Iterable[AppliedFault], named: Sequence[Mapping], asked: Mapping[str, float]
) -> list[LimitCheck]:
    """Check that each bad file was named once for each of its states, and no good one.

    Args:
        faults: all that were applied.
        named: the lines of the quarantine, with ``path``, ``state`` and ``time``.
        asked: when a clip of a path was decided on last, seconds since 1970.
    """
    bad = {fault.path: fault for fault in faults if fault.outcome not in (EXACT, REFUSED)}
    lives: Counter[str] = Counter()  # a file that recovered and fails again is named again
    counts: Counter[tuple[str, str, int]] = Counter()
    for line in named:
        path = line["path"]
        counts[path, line["state"], lives[path]] += 1
        lives[path] += line["state"] == RECOVERED

    paths = {path for path, *_ in counts}
    twice = [path for (path, *_), count in counts.items() if count > 1]
    wrongly = [
        line["path"]
        for line in named
        if line["path"] not in bad or line["time"] < bad[line["path"]].begun - 1
    ]
    due = [
        fault
        for fault in bad.values()
        if fault.outcome == FAILS and asked.get(fault.path, 0) > fault.done
    ]
    missed = [f"{fault.path} ({fault.fault})" for fault in due if fault.path not in paths]
    return [
        LimitCheck(
            "bad files that were asked for and named",
            f"{len(due) - len(missed)}{_example(missed)}",
            f"all {len(due)}",
            passed=bool(due) and not missed,
        ),
        LimitCheck(
            "files named more than once",
            f"{len(twice)}{_example(twice)}",
            "0",
            passed=not twice,
        ),
        LimitCheck(
            "good files that were named",
            f"{len(wrongly)}{_example(wrongly)}",
            "0",
            passed=not wrongly,
        ),
    ]


def _example(paths: Sequence[str]) -> str:
    return f", such as {paths[0]}" if paths else ""
