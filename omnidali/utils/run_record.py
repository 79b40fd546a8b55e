"""Records of measurements, with the versions, hardware and commit that make them comparable."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import omnidali
from omnidali.errors import UserError, start_of

_PACKAGES = ("torch", "nvidia-dali-cuda120", "av", "opencv-python-headless", "numpy")


def write_record(folder: str | Path, row: dict) -> dict:
    """Append ``row`` with date, versions, hardware and commit to records.jsonl.

    Returns:
        The row that was written.

    Raises:
        UserError: if the file cannot be written.
    """
    row = {"date": time.strftime("%Y-%m-%d"), **row, "environment": describe_environment()}
    path = Path(folder) / "records.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            str(path),
            "a file that can be written",
            f"{error.strerror}{start_of(path)}",
            "Choose another.",
        ) from None
    return row


def describe_environment() -> dict[str, object]:
    """Versions, hardware and commit, for records that others can compare with."""
    return {
        "python": platform.python_version(),
        "versions": {
            "omnidali": omnidali.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "commit": _first_line("git", "describe", "--always", "--dirty"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        # from the driver, as this package must not import torch
        "gpu": _first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    """The first line that a program prints; None if it is missing or fails."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, text=True, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0] or None if done.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
