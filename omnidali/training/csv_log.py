"""The figures of a run as a table."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path

from omnidali.training.loggers import Logger, append_whole, flatten
from omnidali.utils.atomic_write import csv_lines, write_whole

_FIRST = ("kind", "step", "time")


class CsvLog(Logger):
    """Appends figures to ``metrics.csv``: a row a line of the console, and a row an evaluation.

    The columns are ``kind`` (``train`` or ``evaluation``), ``step``, ``time`` (seconds since 1970),
    and the figures by name, empty where a row has none. Columns keep their place, also over
    resumes; the first row with a new figure adds its column at the end. Rows that a full disk
    refuses wait for space.

    Args:
        folder: of the run.
    """

    name = "table of metrics"

    def __init__(self, folder: Path):
        self.place = folder / "metrics.csv"
        self._columns: list[str] | None = None  # of the file; None before it was read
        self._rows: list[dict[str, object]] = []

    def log_values(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Write a row.

        Raises:
            OSError: if it cannot be written now; the next call writes it, too.
        """
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._rows.append({**row, **dict(flatten(values))})
        if self._columns is None:
            self._columns = self._read_columns()
        self._write(self._columns)
        self._rows.clear()

    def _read_columns(self) -> list[str]:
        """The columns of the file, whose last row is removed if a crash has cut it off."""
        if not self.place.exists():
            return []
        data = self.place.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_whole(self.place, whole)
        first = whole.decode("utf-8", "replace").partition("\n")[0]
        return next(csv.reader([first]), [])

    def _write(self, columns: list[str]) -> None:
        names = [*_FIRST, *(name for row in self._rows for name in row)]
        new = [name for name in dict.fromkeys(names) if name not in columns]
        wide = [*columns, *new]
        lines = "".join(csv_lines([row.get(name, "") for name in wide] for row in self._rows))
        if new:
            # rare: rows of one kind have the same figures, but for sources without a clip
            write_whole(self.place, self._widened(columns, wide) + lines)
            self._columns = wide
        else:
            append_whole(self.place, lines.encode())

    def _widened(self, columns: list[str], wide: list[str]) -> str:
        """The file with more columns."""
        header = "".join(csv_lines([wide]))
        if not columns:
            return header
        with open(self.place, encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.reader(file))[1:]
        missing = [""] * (len(wide) - len(columns))
        return header + "".join(csv_lines([*row, *missing] for row in rows))
