"""The checkpoints of the best evaluations, ``best-STEP-RESULT.pt``: which are kept."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PATTERN = "best-*.pt"  # for a search in a folder
_NAME = re.compile(r"best-(\d+)-(\d+\.\d{3})\.pt")


@dataclass(frozen=True)
class BestFile:
    """A kept checkpoint.

    Attributes:
        step: steps done.
        result: of the evaluation then, percent, with three decimals.
    """

    step: int
    result: float

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The file of a name; None for other files.

        >>> BestFile.parse("best-1200-71.250.pt"), BestFile.parse("best.pt")
        (BestFile(step=1200, result=71.25), None)
        """
        match = _NAME.fullmatch(name)
        return None if match is None else cls(int(match[1]), float(match[2]))

    @property
    def name(self) -> str:
        """Its name."""
        return f"best-{self.step}-{self.result:.3f}.pt"

    def is_better_than(self, other: Self) -> bool:
        """Whether it is kept rather than another one; of equal results, the earlier is better."""
        return (self.result, -self.step) > (other.result, -other.step)


class BestFiles:
    """Decides by the names in a folder, so that a kill at any moment leaves nothing inconsistent.

    Args:
        folder: of the checkpoints.
        keep: how many files.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = folder
        self._keep = keep

    def found(self) -> list[BestFile]:
        """The files that are there, worst first."""
        parsed = [BestFile.parse(path.name) for path in self._folder.glob(PATTERN)]
        files = [file for file in parsed if file is not None]
        return sorted(files, key=lambda file: (file.result, -file.step))

    def name_for(self, step: int, result: float) -> str | None:
        """The name to save a checkpoint under; None if it is not among the best.

        Args:
            step: steps done.
            result: of the evaluation then, percent.
        """
        new = BestFile(step, round(result, 3))
        better = [file for file in self.found() if file.step != step and file.is_better_than(new)]
        return new.name if len(better) < self._keep else None

    def prune(self, new: BestFile) -> None:
        """Remove what is no longer among the best, once a new file is safe.

        Args:
            new: the file, which replaces others of its step.
        """
        found = self.found()
        same_step = [file for file in found if file.step == new.step and file != new]
        rest = [file for file in found if file not in same_step]
        for file in (*same_step, *rest[: max(0, len(rest) - self._keep)]):
            with contextlib.suppress(OSError):
                (self._folder / file.name).unlink(missing_ok=True)
