"""Measurements as JSON lines, with what is needed to compare and repeat them."""

from __future__ import annotations

import json
import time
from pathlib import Path

from omnidali.environment import describe_environment
from omnidali.errors import UserError


def write_record(folder: str | Path, row: dict) -> dict:
    """Append ``row`` with date, versions, hardware and commit to records.jsonl; returns what was written.

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
        raise UserError(str(path), "a file that can be written", str(error.strerror), "Choose another --out.") from None
    return row
