"""The line that a run prints every few steps, and its figures."""

import contextlib
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.accuracy import Accuracy
from omnidali.evaluation.precision import LabelPrecision
from omnidali.loading.batch import StepBatch
from omnidali.loading.stats import SourceStats
from omnidali.utils.untrusted_text import say


def print_on_main(ranks: Ranks, *lines: object) -> None:
    """Print lines on the main rank alone; a full disk under the output does not stop the run."""
    if ranks.is_main and lines:
        with contextlib.suppress(OSError):
            say(*lines)


class ThroughputMeter:
    """Throughput and waiting of this rank since the last line; occupancy and mix since the start.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int):
        self._steps = steps
        self.begin(0)
        self._wait = 0.0
        self._source_waits: dict[str, float] = {}

    def begin(self, step: int) -> None:
        """Count from now; ``step`` is the number of steps done."""
        self._step = step
        self._begun = time.perf_counter()  # of the interval since the last line

    def timing(self, batches: Iterable[StepBatch]) -> Iterator[StepBatch]:
        """Yield the batches, and count the time that the loop waits for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._wait += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out time that is neither training nor waiting, such as an evaluation."""
        paused = time.perf_counter()
        yield
        self._begun += time.perf_counter() - paused

    def read(
        self, step: int, clips: float, stats: Mapping[str, SourceStats], device: torch.device
    ) -> dict:
        """Figures since the last call.

        Args:
            step: steps done.
            clips: of all ranks since the last call.
            stats: of the loader, by source.
            device: whose memory is read.
        """
        now = time.perf_counter()
        seconds = max(now - self._begun, 1e-9)
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
            "left_to_cpu": {name: row.left_to_cpu for name, row in stats.items()},
            "memory_gib": _peak_memory(device),
            "eta_seconds": (self._steps - step) * seconds / max(done, 1),
        }

        self._begun = now
        self._step = step
        self._wait = 0.0
        self._source_waits = {name: row.wait_seconds for name, row in stats.items()}
        return figures


def evaluation_line(step: int, accuracy: Accuracy | LabelPrecision) -> str:
    """Format the line of an evaluation after ``step`` steps."""
    unreadable = f", {accuracy.unreadable} items unreadable" if accuracy.unreadable else ""
    return f"evaluation at step {step}: {accuracy.summary}{unreadable}"


def step_line(
    step: int,
    steps: int,
    *,
    sources: Mapping[str, Mapping[str, float]],
    throughput: Mapping,
    lr: float,
) -> str:
    """Format the line of a step.

    For example: step 1200/90000 1.3% | loss 3.412 | top1 31.2 (k400 35.0, web 20.1) | lr 0.01 |
    1,842 clips/s | wait 2.1% (k400 1.8, web 0.3) | mix 66.7/33.3 | bad files: web 3, 5 clips
    substituted | 14.2 GiB | eta 5h12m
    """
    total = sources["all"]
    accuracies = {name: row["top1"] for name, row in sources.items() if name != "all"}
    bad_files = _counts(throughput["bad_files"])
    left = _counts(throughput["left_to_cpu"])
    faults = [f"bad files: {bad_files}, {total['substituted']} clips substituted"]

    parts = [
        f"step {step}/{steps} {100 * step / steps:.1f}%",
        f"loss {total['loss']:.3f}",
        f"top1 {total['top1']:.1f}{_by_source(accuracies)}",
        f"lr {lr:.3g}",
        f"{throughput['clips_per_second']:,.0f} clips/s",
        f"wait {throughput['wait_percent']:.1f}%{_by_source(throughput['wait_percent_by_source'])}",
        "mix " + "/".join(f"{share:.1f}" for share in throughput["mix_percent"].values()),
        *(faults if bad_files else ()),
        *([f"left to the CPU: {left} files"] if left else ()),
        f"{throughput['memory_gib']:.1f} GiB",
        f"eta {format_seconds(throughput['eta_seconds'])}",
    ]
    return " | ".join(parts)


def _counts(by_source: Mapping[str, int]) -> str:
    """Sources with a number that is not 0, and the number."""
    return ", ".join(f"{name} {count}" for name, count in by_source.items() if count)


def _by_source(values: Mapping[str, float]) -> str:
    """The value of each source in brackets, if there are several."""
    parts = [f"{name} {value:.1f}" for name, value in values.items()]
    return f" ({', '.join(parts)})" if len(parts) > 1 else ""


def format_seconds(seconds: float) -> str:
    """Format a duration.

    >>> format_seconds(18720), format_seconds(75)
    ('5h12m', '1m15s')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def format_age(path: Path) -> str:
    """When a file was written, in words; without its age if the clock went back since."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return ""
    seconds = time.time() - written
    ago = f", {format_seconds(seconds)} ago" if seconds >= 0 else ""
    return f" ({time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(written))}{ago})"


def _peak_memory(device: torch.device) -> float:
    """GiB of the GPU if there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
