"""Where a run's figures and pictures go: lines of JSON, image files, and whatever users add."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from omnidali.utils.plots import write_png


class Logger:
    """Takes the figures and pictures of a run, on its main rank.

    A subclass needs only the methods that do something; those of this class do nothing.

    An OSError or UserError of a method is a warning, and the next call may succeed; any other error
    ends the run, after a save.

    Attributes:
        name: what it writes, for warnings.
        place: where it writes to, for warnings.
    """

    name: str = "figures of a logger"
    place: Path = Path("logger")

    def log_values(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Take figures.

        Args:
            kind: ``train`` or ``evaluation``.
            step: steps done.
            values: numbers by name; a value may be a mapping itself.
        """

    def log_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Take a picture.

        Args:
            tag: ``clips/SOURCE`` or ``evaluation/confusion``.
            step: steps done.
            image: RGB, uint8 (H, W, 3).
        """

    def close(self) -> None:
        """Free what it holds; nothing is logged any more."""


class MetricsLog(Logger):
    """Appends figures to ``metrics.jsonl``; lines that a full disk refuses wait for space.

    Args:
        folder: of the run.
    """

    name = "metrics"

    def __init__(self, folder: Path):
        self.place = folder / "metrics.jsonl"
        self._lines: list[str] = []

    def log_values(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Write a line.

        Raises:
            OSError: if it cannot be written now; the next call writes it, too.
        """
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._lines.append(json.dumps({**row, **values}) + "\n")
        append_whole(self.place, "".join(self._lines).encode())
        self._lines.clear()


class PictureLog(Logger):
    """Writes pictures as ``pictures/stepN-NAME.png``.

    Args:
        folder: of the run.
    """

    name = "pictures"

    def __init__(self, folder: Path):
        self.place = folder / "pictures"

    def log_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Write a file; its name ends with the last part of the tag."""
        write_png(self.place / f"step{step}-{tag.rpartition('/')[2]}.png", image)


def flatten(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings, with their names joined by slashes.

    >>> dict(flatten({"lr": 0.1, "sources": {"all": {"loss": 2.0}}}))
    {'lr': 0.1, 'sources/all/loss': 2.0}
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value


def append_whole(path: Path, data: bytes) -> None:
    """Append all of ``data`` or nothing, so that no line is cut in the middle."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise
