"""Writes that may fail without ending a run: a full disk can be freed while training continues."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from omnidali.errors import UserError
from omnidali.utils.untrusted_text import warn

_REMIND_SECONDS = 300.0


class RetriedWrites:
    """Warns of a failing kind of file once, again every few minutes, and when it works again."""

    def __init__(self) -> None:
        self._warned: dict[str, float] = {}  # time of the last warning by kind

    def attempt(self, kind: str, path: Path, write: Callable[[], None]) -> UserError | None:
        """Call ``write``; returns its error instead of raising it.

        Args:
            kind: of file, for the messages.
            path: for the messages.
            write: writes the file.
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
            if self._warned.pop(kind, None) is not None:
                warn(f"{kind} can be written again: {path}")
            return None

        now = time.monotonic()
        if now - self._warned.get(kind, -math.inf) >= _REMIND_SECONDS:
            self._warned[kind] = now
            warn(f"warning: {failure} It is tried again.")
        return failure
