"""What a check of lists and media finds: a line for each file, and verdicts that say what to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.utils.atomic_write import table_lines
from omnidali.utils.untrusted_text import for_terminal

ERROR, WARN, OK = "ERROR", "WARN", "ok"
LEVELS = (ERROR, WARN, OK)

# problem: how bad it is, what it is said to be, what to do
PROBLEMS = {
    "leak by content": (
        ERROR,
        "files equal one of the evaluation",
        "Remove their lines from the list.",
    ),
    "leak by video id": (
        ERROR,
        "files are of a video of the evaluation, by its id",
        "Remove their lines from the list.",
    ),
    "label": (
        ERROR,
        "items have a wrong label or none",
        "Correct them; the source was not compared with others.",
    ),
    "missing": (
        WARN,
        "files are missing",
        "Correct root and list, fetch them again, or remove their lines.",
    ),
    "not UTF-8": (
        WARN,
        "files have a name that is not UTF-8",
        "Rename them, in their list too; training leaves them out.",
    ),
    "refused": (
        WARN,
        "files are refused",
        "Fetch them again, or remove their lines; training leaves them out.",
    ),
    "other frames": (
        WARN,
        "files have other frames than their headers say",
        "Trainings go by the frames that come; one that was stopped must be started anew.",
    ),
    "not decoded": (
        WARN,
        "files could not be decoded to their end",
        "Look for what is wrong with them or the disk.",
    ),
    "not compared": (
        WARN,
        "files could not be read to be compared with others",
        "Look for what is wrong with the disk.",
    ),
    "damaged": (
        WARN,
        "files are damaged, or used in part",
        "Fetch them again; training uses what decodes.",
    ),
    "pixels": (
        WARN,
        "files have pixels that are not square, which is ignored, as by the reference",
        "Set pixel_aspect: apply to stretch them.",
    ),
    "ending": (
        WARN,
        "files have an ending that is not looked at",
        "Rename them; contents are told by first bytes.",
    ),
    "left out": (WARN, "items are left out", "Correct the list; training goes on without them."),
    "two labels": (WARN, "files stand under several labels", "Keep one line of each, or none."),
    "copy": (
        WARN,
        "files equal another one of the same label",
        "Remove their lines; a copy counts twice.",
    ),
    "repeated line": (WARN, "lines repeat another", "Remove them; training counts them once."),
    "same name": (
        WARN,
        "files are named like one of the evaluation",
        "Look whether they show the same video.",
    ),
    "too short": (
        WARN,
        "clips repeat frames, as their video is too short",
        "Lower clip.frame_interval, clip.clip_len or clip.num_clips, or remove them.",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """One line: how bad, of which source, what was found, and what to do; ``found`` may hold names
    of strangers.
    """

    level: str
    source: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level:5} {self.source}: {self.found}. {self.advice}".rstrip()


class Issues:
    """Lines of ``issues.csv``, written as they are found; a context manager that keeps the file
    only at a good end.

    Attributes:
        counts: by (source, problem). examples: path and detail of the first of each.
    """

    def __init__(self, path: Path):
        self._path, self._part = path, path.with_name(path.name + ".part")
        self.counts: Counter = Counter()
        self.examples: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, source: str, path: str, problem: str, detail: str, count: int = 1) -> None:
        """Note ``count`` times a problem of :data:`PROBLEMS`."""
        self._file.writelines(table_lines([[source, path, problem, detail]]))
        self.counts[source, problem] += count
        self.examples.setdefault((source, problem), (path, detail))

    def verdicts(self, source: str) -> list[Verdict]:
        """A verdict for each problem of a source."""
        lines = []
        for problem, (level, found, advice) in PROBLEMS.items():
            count = self.counts[source, problem]
            if count:
                path, detail = self.examples[source, problem]
                known = [for_terminal(text) for text in (path, detail) if text]
                example = f"{known[0]} ({known[1]})" if len(known) > 1 else "".join(known)
                lines.append(
                    Verdict(level, source, f"{count:,} {found}, such as {example}", advice)
                )
        return lines

    def __enter__(self) -> Issues:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._part, "w", encoding="utf-8", newline="")
        self._file.writelines(table_lines([["source", "path", "problem", "detail"]]))
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self._file.close()
            if kind is None:
                os.replace(self._part, self._path)
        finally:
            self._part.unlink(missing_ok=True)


def sort_verdicts(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The worst first; equal ones in their order."""
    return sorted(verdicts, key=lambda verdict: LEVELS.index(verdict.level))
