"""What a soak must show, each with the figure and the limit: pure functions of what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.soak_media import Damage
from omnidali.loading.failures.quarantine import RECOVERED
from omnidali.testing.damaged_media import EXACT, FAILS, REFUSED

GROWTH = 0.02  # of the memory behind the warm-up
_AT_ONCE = 2  # descriptors that come and go as files are read; the least of many samples has fewer
_WINDOW = 0.15  # of the time behind the warm-up, but no less than
# as memory goes up and down by 2 % with what is under way, for ten seconds and more
_WINDOW_SECONDS = 40.0


@dataclass(frozen=True)
class Verdict:
    """One thing that was checked."""

    name: str
    figure: str
    limit: str
    passed: bool

    def __str__(self) -> str:
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.figure} (limit: {self.limit})"
        )


@dataclass(frozen=True)
class Sample:
    """The process at one moment.

    Attributes:
        seconds: since the first batch. rss, own, pss: resident memory, the part that belongs to no
            file, and the share of what several processes use; bytes.
        files, threads: descriptors and threads of the process.
        clips: delivered so far.
    """

    seconds: float
    rss: int
    own: int
    pss: int
    files: int
    threads: int
    clips: int


def windows(samples: Sequence[Sample], warm_up: float) -> tuple[list[Sample], list[Sample]]:
    """The first and the last samples of the time behind the warm-up (seconds).

    Raises:
        ValueError: if there are too few to tell anything.
    """
    warm = [sample for sample in samples if sample.seconds >= warm_up]
    if len(warm) < 6:
        raise ValueError(
            f"{len(warm)} samples behind a warm-up of {warm_up:.0f} s: too few to compare"
        )
    share = max(_WINDOW, _WINDOW_SECONDS / (warm[-1].seconds - warm[0].seconds))
    length = min(max(3, int(share * len(warm))), len(warm) // 2)
    return warm[:length], warm[-length:]


def memory(samples: Sequence[Sample], warm_up: float) -> Verdict:
    """Whether memory stays as it is behind the warm-up: the median of the last samples against that
    of the first.
    """
    before, after = (median(sample.rss for sample in part) for part in windows(samples, warm_up))
    growth = after / before - 1
    return Verdict(
        "resident memory",
        f"{before / 2**20:.1f} MiB became {after / 2**20:.1f} MiB, {100 * growth:+.2f} %",
        f"below {100 * GROWTH:+.0f} %",
        growth < GROWTH,
    )


def handles(
    samples: Sequence[Sample], warm_up: float, before: Mapping[str, int], closed: Mapping[str, int]
) -> list[Verdict]:
    """Whether descriptors and threads stay as many, and are gone behind ``close``.

    Args:
        before: how many ``files`` and ``threads`` there were before the loader was opened. closed:
            and behind its end.
    """
    verdicts, parts = [], windows(samples, warm_up)
    for name, text, under_way in (
        ("files", "open descriptors", _AT_ONCE),
        ("threads", "threads", 0),
    ):
        early, late = (min(getattr(sample, name) for sample in part) for part in parts)
        verdicts.append(
            Verdict(
                f"{text} while it runs",
                f"{early} became {late}",
                f"{early + under_way}",
                late <= early + under_way,
            )
        )
        verdicts.append(
            Verdict(
                f"{text} behind close()",
                f"{closed[name]}",
                f"{before[name]}, as before",
                closed[name] <= before[name],
            )
        )
    return verdicts


def naming(
    damages: Iterable[Damage], named: Sequence[Mapping], asked: Mapping[str, float]
) -> list[Verdict]:
    """Whether each bad file was named once for each state that it had, and no good one.

    Args:
        damages: all that was done. named: the lines of the quarantine, with ``path``, ``state`` and
            ``time``.
        asked: when a clip of a path was decided on last, seconds since 1970.
    """
    bad = {damage.path: damage for damage in damages if damage.outcome not in (EXACT, REFUSED)}
    lives: Counter[str] = Counter()  # a file that recovered and fails again is named again
    counts: Counter[tuple[str, str, int]] = Counter()
    for line in named:
        counts[line["path"], line["state"], lives[line["path"]]] += 1
        lives[line["path"]] += line["state"] == RECOVERED
    twice = [path for (path, *_), count in counts.items() if count > 1]
    paths = {path for path, *_ in counts}
    wrongly = [
        line["path"]
        for line in named
        if line["path"] not in bad or line["time"] < bad[line["path"]].begun - 1
    ]
    certain = [damage for damage in bad.values() if damage.outcome == FAILS]
    due = [damage for damage in certain if asked.get(damage.path, 0) > damage.done]
    missed = [damage for damage in due if damage.path not in paths]
    return [
        Verdict(
            "bad files that were asked for and named",
            f"{len(due) - len(missed)}"
            + _such(f"{damage.path} ({damage.fault})" for damage in missed),
            f"all {len(due)}",
            bool(due) and not missed,
        ),
        Verdict("files named more than once", f"{len(twice)}" + _such(twice), "0", not twice),
        Verdict("good files that were named", f"{len(wrongly)}" + _such(wrongly), "0", not wrongly),
    ]


def _such(paths: Iterable[str]) -> str:
    first = next(iter(paths), None)
    return "" if first is None else f", such as {first}"
