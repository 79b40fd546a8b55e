"""Records of measurements, with the versions, hardware and commit that make them comparable."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from omnidali.errors import UserError

_PACKAGES = ("omnidali", "torch", "nvidia-dali-cuda120", "av", "opencv-python-headless", "numpy")


def write_record(folder: str | Path, row: dict) -> dict:
    """Append ``row`` with date, versions, hardware and commit to records.jsonl; returns what was
    written.

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
            str(path), "a file that can be written", str(error.strerror), "Choose another."
        ) from None
    return row


def describe_environment() -> dict[str, object]:
    """Versions, hardware and commit, for records that others can compare with."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    try:
        commit = (
            subprocess.run(
                ["git", "describe", "--always", "--dirty"],
                cwd=Path(__file__).parent,
                text=True,
                capture_output=True,
                timeout=10,
            ).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        commit = None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        "gpu": gpu,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
