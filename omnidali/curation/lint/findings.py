"""Findings of a check: issues of single files, and findings about sources that say what to do."""

import contextlib
import enum
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from omnidali.utils.atomic_write import table_lines
from omnidali.utils.untrusted_text import for_terminal


class Level(enum.StrEnum):
    """How bad a finding is, the worst first."""

    ERROR = "ERROR"
    WARN = "WARN"
    OK = "ok"


class Problem(NamedTuple):
    """A kind of issue: how bad it is, what a report says of the files, and what to do."""

    level: Level
    description: str
    advice: str


# By the name that issues.csv gives them, in the order of a report.
PROBLEMS = {
    "leak by content": Problem(
        Level.ERROR,
        "files equal one of the evaluation",
        "Remove their lines from the list.",
    ),
    "leak by video id": Problem(
        Level.ERROR,
        "files are of a video of the evaluation, by its id",
        "Remove their lines from the list.",
    ),
    "label": Problem(
        Level.ERROR,
        "items have a wrong label or none",
        "Correct them; the source was not compared with others.",
    ),
    "missing": Problem(
        Level.WARN,
        "files are missing",
        "Correct root and list, fetch them again, or remove their lines.",
    ),
    "not UTF-8": Problem(
        Level.WARN,
        "files have a name that is not UTF-8",
        "Rename them, in their list too; training leaves them out.",
    ),
    "refused": Problem(
        Level.WARN,
        "files are refused",
        "Fetch them again, or remove their lines; training leaves them out.",
    ),
    "other frames": Problem(
        Level.WARN,
        "files have other frames than their headers say",
        "Trainings go by the frames that come; one that was stopped must be started anew.",
    ),
    "not decoded": Problem(
        Level.WARN,
        "files could not be decoded to their end",
        "Look for what is wrong with them or the disk.",
    ),
    "not compared": Problem(
        Level.WARN,
        "files could not be read to be compared with others",
        "Look for what is wrong with the disk.",
    ),
    "damaged": Problem(
        Level.WARN,
        "files are damaged, or used in part",
        "Fetch them again; training uses what decodes.",
    ),
    "pixels": Problem(
        Level.WARN,
        "files have pixels that are not square, which is ignored, as by the reference",
        "Set pixel_aspect: apply to stretch them.",
    ),
    "left out": Problem(
        Level.WARN,
        "items are left out",
        "Correct the list, the folder or the tar; training goes on without them.",
    ),
    "two labels": Problem(
        Level.WARN,
        "files are listed with different labels",
        "Keep one line of each, or none.",
    ),
    "copy": Problem(
        Level.WARN,
        "files equal another one of the same label",
        "Remove their lines; a copy counts twice.",
    ),
    "repeated line": Problem(
        Level.WARN,
        "lines repeat another",
        "Remove them; training counts them once.",
    ),
    "same name": Problem(
        Level.WARN,
        "files are named like one of the evaluation",
        "Check whether they show the same video.",
    ),
    "too short": Problem(
        Level.WARN,
        "clips repeat frames, as their video is too short",
        "Lower clip.frame_interval, clip.clip_len or clip.num_clips, or remove them.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        level: how bad it is.
        source: name of the source.
        text: the finding; it may hold untrusted names.
        advice: what to do.
    """

    level: Level
    source: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level:5} {self.source}: {self.text}. {self.advice}".rstrip()


class Issues:
    """The lines of ``issues.csv``, which are written as they are found.

    Args:
        file: gets the lines.

    Attributes:
        counts: number of issues by (source, problem).
        examples: path and detail of the first issue, by (source, problem).
    """

    def __init__(self, file: TextIO):
        self._file = file
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, source: str, path: str, problem: str, detail: str, count: int = 1) -> None:
        """Note an issue.

        Args:
            source: name of the source.
            path: of the file; empty if no single file is the reason.
            problem: a key of :data:`PROBLEMS`.
            detail: what is wrong in this case.
            count: how often it was found.
        """
        self._file.writelines(table_lines([[source, path, problem, detail]]))
        self.counts[source, problem] += count
        self.examples.setdefault((source, problem), (path, detail))

    def findings(self, source: str) -> list[Finding]:
        """One finding for each problem of a source."""
        return [
            self._finding(source, name, problem)
            for name, problem in PROBLEMS.items()
            if self.counts[source, name]
        ]

    def _finding(self, source: str, name: str, problem: Problem) -> Finding:
        path, detail = (for_terminal(text) for text in self.examples[source, name])
        example = f"{path} ({detail})" if path and detail else path or detail
        text = f"{self.counts[source, name]:,} {problem.description}, such as {example}"
        return Finding(problem.level, source, text, problem.advice)


@contextlib.contextmanager
def writing_issues(path: Path) -> Iterator[Issues]:
    """Write issues to a file, which is kept only if the block ends without an error.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            file.writelines(table_lines([["source", "path", "problem", "detail"]]))
            yield Issues(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
