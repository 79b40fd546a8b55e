"""The line that a run prints every few steps, and the figures behind it."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Mapping

import torch

from omnidali.distributed.ranks import Ranks
from omnidali.loading.stats import SourceStats
from omnidali.utils.untrusted_text import say


def make_say(ranks: Ranks) -> Callable[..., None]:
    """A print for the main rank's lines, which a full disk under its output does not stop."""

    def say_if_main(*lines: object) -> None:
        if ranks.is_main and lines:
            with contextlib.suppress(OSError):
                say(*lines)

    return say_if_main


class Pace:
    """Throughput and waiting of this rank since the last line; occupancy and mix since the start.

    Args:
        step: steps done before this process began. steps: of the whole run.
    """

    def __init__(self, step: int, steps: int):
        self._step, self._steps = step, steps
        self._time, self._wait = time.perf_counter(), 0.0
        self._source_waits: dict[str, float] = {}

    def waited(self, seconds: float) -> None:
        """The loop stood still for the loader."""
        self._wait += seconds

    def paused(self, seconds: float) -> None:
        """Time that was neither training nor waiting, such as an evaluation."""
        self._time += seconds

    def read(
        self, step: int, clips: int, stats: Mapping[str, SourceStats], device: torch.device
    ) -> dict[str, object]:
        """Figures up to ``step`` (steps done); starts again from here.

        Args:
            clips: of all ranks since the last call.
        """
        now = time.perf_counter()
        seconds = max(now - self._time, 1e-9)
        done = step - self._step
        waits = {
            name: row.wait_seconds - self._source_waits.get(name, 0.0)
            for name, row in stats.items()
        }
        figures = {
            "clips_per_second": clips / seconds,
            "seconds_per_step": seconds / max(done, 1),
            "wait_percent": 100 * self._wait / seconds,
            "wait_percent_by_source": {name: 100 * wait / seconds for name, wait in waits.items()},
            "occupancy": {name: row.occupancy for name, row in stats.items()},
            "mix_percent": {name: 100 * row.realised_share for name, row in stats.items()},
            "bad_files": {name: row.bad_files for name, row in stats.items()},
            "memory_gib": _memory(device),
            "eta_seconds": (self._steps - step) * seconds / max(done, 1),
        }
        self._time, self._step, self._wait = now, step, 0.0
        self._source_waits = {name: row.wait_seconds for name, row in stats.items()}
        return figures


def step_line(
    step: int, steps: int, sources: Mapping[str, Mapping[str, float]], pace: Mapping, lr: float
) -> str:
    """One line of a run, for example::

    step 1200/90000 1.3% | loss 3.412 | top1 31.2 (k400 35.0, web 20.1) | lr 0.01 | 1,842
    clips/s | wait 2.1% (k400 1.8, web 0.3) | mix 66.7/33.3 | bad files: web 3, 5 clips
    substituted | 14.2 GiB | eta 5h12m
    """

    def by_source(values: Mapping[str, float]) -> str:
        return (
            f" ({', '.join(f'{name} {value:.1f}' for name, value in values.items())})"
            if len(values) > 1
            else ""
        )

    total = sources["all"]
    accuracy = by_source({name: row["top1"] for name, row in sources.items() if name != "all"})
    parts = [
        f"step {step}/{steps} {100 * step / steps:.1f}%",
        f"loss {total['loss']:.3f}",
        f"top1 {total['top1']:.1f}{accuracy}",
        f"lr {lr:.3g}",
        f"{pace['clips_per_second']:,.0f} clips/s",
        f"wait {pace['wait_percent']:.1f}%{by_source(pace['wait_percent_by_source'])}",
        "mix " + "/".join(f"{share:.1f}" for share in pace["mix_percent"].values()),
        *_faults(total, pace["bad_files"]),
        f"{pace['memory_gib']:.1f} GiB",
        f"eta {format_seconds(pace['eta_seconds'])}",
    ]
    return " | ".join(parts)


def _faults(total: Mapping[str, float], bad_files: Mapping[str, int]) -> list[str]:
    """What failed, where something did."""
    named = ", ".join(f"{name} {count}" for name, count in bad_files.items() if count)
    return [f"bad files: {named}, {total['substituted']} clips substituted"] if named else []


def format_seconds(seconds: float) -> str:
    """
    >>> format_seconds(18720), format_seconds(75)
    ('5h12m', '1m15s')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _memory(device: torch.device) -> float:
    """Peak GiB: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
