"""Records of failures that tests make, and the lines of a quarantine."""

from __future__ import annotations

import json
from pathlib import Path

from omnidali.catalog.probing.file_span import stamp_of
from omnidali.loading.failures.quarantine import FailureRecord


def failure_record(
    path: str,
    state: str = "failed",
    *,
    reason: str = "Input/output error",
    trouble: str = "disk",
    step: int = 3,
    rank: int = 0,
) -> FailureRecord:
    """A failure of a file of the source ``web``."""
    size, mtime_ns = stamp_of(path)
    return FailureRecord(
        source="web",
        path=path,
        reason=reason,
        state=state,
        step=step,
        rank=rank,
        file=path,
        size=size,
        mtime_ns=mtime_ns,
        time=100.0,
        trouble=trouble,
    )


def lines_of(path: Path) -> list[dict]:
    """The lines of a quarantine; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def states(path: Path) -> list[str]:
    return [line["state"] for line in lines_of(path)]
