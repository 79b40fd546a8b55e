"""All checks in their order, within a budget of time, and the report."""

import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import omnidali
from omnidali.doctor.advice import LOADER, advise
from omnidali.doctor.driver import has_gpu
from omnidali.doctor.findings import BAD, GOOD, NOTE, Context
from omnidali.doctor.runner import Check, Outcome, run_check
from omnidali.errors import UserError, start_of
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.untrusted_text import say

FORMAT = 1  # of the JSON file
_SECONDS = 30.0  # of a machine without a GPU
_GPU_SECONDS = 290.0
_QUICK_GPU_SECONDS = 90.0
_MARKS = {GOOD: "ok  ", NOTE: "note", BAD: "BAD "}

_MODULE = "omnidali.doctor."
_VERSIONS = Check("versions", _MODULE + "versions:look_at_versions", 25.0)
_DRIVER = Check("driver", _MODULE + "driver:look_at_driver", 15.0)
# the most important ones first: time may run out
_GPU = (
    Check("first look", _MODULE + "first_look:look_first", 45.0, case_seconds=30.0),
    Check("codecs and sizes", _MODULE + "codec_matrix:look_at_codecs", 60.0),
    Check("odd and damaged files", _MODULE + "faults:look_at_faults", 60.0, case_seconds=30.0),
    Check("photos", _MODULE + "photos:look_at_photos", 30.0),
    Check(LOADER, _MODULE + "loader_speed:look_at_loader", 80.0, case_seconds=60.0),
    Check("stages", _MODULE + "stages:look_at_stages", 45.0),
    Check("training", _MODULE + "training:look_at_training", 90.0, case_seconds=60.0),
)
_MACHINE = (
    Check("machine", _MODULE + "machine:look_at_machine", 5.0),
    Check("folders", _MODULE + "disks:look_at_folders", 15.0, case_seconds=10.0),
    Check("decoding on the CPU", _MODULE + "cpu_road:look_at_cpu", 20.0),
)


@dataclass(frozen=True)
class Examination:
    """What to look at.

    Attributes:
        folders: that the user wants to be looked at besides.
        quick: a few examples only.
        rehearse: run the GPU's checks on the CPU, which shows that they work.
    """

    folders: tuple[str, ...] = ()
    quick: bool = False
    rehearse: bool = False


def examine(wanted: Examination, out: str | Path) -> bool:
    """Run all checks, print what they find, and write it to a JSON file.

    Args:
        wanted: what to look at.
        out: the file; it is written anew after each check, so that an end in between keeps it.

    Returns:
        Whether everything works.

    Raises:
        UserError: if the file cannot be written.
    """
    begun = time.monotonic()
    on_gpu = has_gpu()
    seconds = _budget(wanted, on_gpu)
    report = Report(Path(out), wanted, on_gpu)
    report.write()

    with tempfile.TemporaryDirectory(prefix="omnidali-doctor-") as scratch:
        context = Context(
            scratch=scratch,
            device_id=0 if on_gpu else None,
            quick=wanted.quick,
            folders=wanted.folders,
        )
        for check in _checks(on_gpu, wanted.rehearse):
            if check in _GPU and report.lacks_device:
                continue
            left = seconds - (time.monotonic() - begun)
            report.begin(check)
            report.add(run_check(check, replace(context, seconds=left), report.line))

    report.end(time.monotonic() - begun)
    return report.is_good


def _budget(wanted: Examination, on_gpu: bool) -> float:
    if not on_gpu and not wanted.rehearse:
        return _SECONDS
    return _QUICK_GPU_SECONDS if wanted.quick else _GPU_SECONDS


def _checks(on_gpu: bool, rehearse: bool) -> list[Check]:
    driver = [_DRIVER] if on_gpu else []
    gpu = _GPU if on_gpu or rehearse else ()
    # torch takes minutes to load from a cold network disk: what needs it comes later
    return [*_MACHINE, _VERSIONS, *driver, *gpu]


class Report:
    """What was found, as it is printed and written.

    Args:
        path: of the JSON file.
        wanted: what was to be looked at.
        on_gpu: whether there is a GPU.
    """

    def __init__(self, path: Path, wanted: Examination, on_gpu: bool):
        self._path = path
        self._on_gpu = on_gpu
        self._outcomes: list[Outcome] = []
        self._head = {
            "format": FORMAT,
            "omnidali": omnidali.__version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "python": sys.version,
            "gpu": on_gpu,
            "wanted": vars(wanted),
        }
        self._closing: dict[str, object] = {}

    @property
    def is_good(self) -> bool:
        """Whether nothing was found broken so far."""
        return not any(outcome.is_bad for outcome in self._outcomes)

    @property
    def lacks_device(self) -> bool:
        """Whether the driver was looked at, and gave no device."""
        driver = [outcome for outcome in self._outcomes if outcome.name == _DRIVER.name]
        return any("device" not in outcome.facts for outcome in driver)

    def begin(self, check: Check) -> None:
        """Print the head of a check."""
        say(f"{check.name}:")

    def line(self, level: str, text: str) -> None:
        """Print a line of a check."""
        say(f"  {_MARKS[level]} {text}")

    def add(self, outcome: Outcome) -> None:
        """Keep what came of a check."""
        self._outcomes.append(outcome)
        self.write()

    def end(self, seconds: float) -> None:
        """Print the advice, and what is broken; write the whole file."""
        facts = {outcome.name: outcome.facts for outcome in self._outcomes}
        advice = advise(facts, on_gpu=self._on_gpu)
        broken = [outcome.name for outcome in self._outcomes if outcome.is_bad]
        self._closing = {"seconds": round(seconds, 1), "broken": broken, "advice": advice}
        self.write()
        say("advice:", *(f"  {line}" for line in advice["lines"]))
        end = f"broken: {', '.join(broken)}" if broken else "everything that was looked at works"
        unfinished = [outcome.name for outcome in self._outcomes if not outcome.ended]
        if unfinished:
            say(f"not finished: {', '.join(unfinished)}")
        say(f"{end} ({seconds:.0f} s); everything that was found: {self._path}")

    def write(self) -> None:
        """Write the JSON file.

        Raises:
            UserError: if it cannot be written.
        """
        checks = [vars(outcome) for outcome in self._outcomes]
        found = {**self._head, **self._closing, "checks": checks}
        try:
            write_whole(self._path, json.dumps(found, indent=1))
        except OSError as error:
            raise UserError(
                "--out",
                "a file that can be written",
                f"{self._path}: {error.strerror}{start_of(self._path)}",
                "Name another one.",
            ) from None
