"""Writes that may fail without ending a run: a full disk can be freed while the training goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say

_REMIND_SECONDS = 300.0


class Attempts:
    """Tells of a failing kind of write once, again every few minutes, and when it works again."""

    def __init__(self):
        self._told: dict[str, float] = {}

    def __call__(self, kind: str, path: Path, write: Callable[[], None]) -> UserError | None:
        """Run ``write``; returns what went wrong instead of raising it.

        Args:
            kind: of file, for the messages. path: named in them.
        """
        try:
            write()
        except UserError as error:
            failure = error
        except OSError as error:
            failure = UserError(
                str(path),
                "a file that can be written",
                str(error.strerror or error),
                "Free space or correct the permissions.",
            )
        else:
            if self._told.pop(kind, None) is not None:
                warn(f"{kind} can be written again: {path}")
            return None
        now = time.monotonic()
        if kind not in self._told or now - self._told[kind] >= _REMIND_SECONDS:
            self._told[kind] = now
            warn(f"warning: {failure} It is tried again.")
        return failure


def warn(line: str) -> None:
    """A line on stderr, if anybody can read it: it may be a file on a full disk, or a terminal that
    is gone.
    """
    with contextlib.suppress(OSError, ValueError):
        say(line, error=True)
