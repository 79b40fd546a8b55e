"""Memory or descriptors that ran out while files were decoded: no file is to blame, so the same one
is tried again.
"""

from __future__ import annotations

import threading
import time

from omnidali.decoding.failure_cause import Cause
from omnidali.utils.log import LOG

# seconds between two tries; each pause is twice as long as the one before
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_TOLD_AGAIN = 60.0  # seconds


class Pauses:
    """Sleeps between the tries of one clip, for longer each time."""

    def __init__(self):
        self._next = _FIRST_PAUSE

    def __call__(self) -> None:
        time.sleep(self._next)
        self._next = min(2 * self._next, _LONGEST_PAUSE)


class Shortage:
    """Holds up the clips of one source while the machine lacks something, within bounds.

    A shortage that lasts holds up everything once. A file that asks for more memory than there ever
    is holds up its own clip once, for as long as one that hangs: others decode meanwhile.

    Args:
        name: of the source.
        patience: seconds for which a clip, and the whole source, are held up at most.
    """

    def __init__(self, name: str, patience: float):
        self._name = name
        self._patience = patience
        self._lock = threading.Lock()
        self._since: float | None = None  # nothing has decoded since then
        self._told_at = -_TOLD_AGAIN
        self._in_vain: set[str] = set()  # files that were waited for to the end

    def is_over(self) -> None:
        """A clip decoded."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None and self._told_at >= since:
            LOG.warning(
                "%s: the machine is out of trouble after %.1f s",
                self._name,
                time.monotonic() - since,
            )

    def holds(self, path: str, cause: Cause, begun: float) -> bool:
        """Whether a clip is to be tried again, as the machine is to blame.

        Args:
            path: of the file that failed.
            begun: when its clip was tried first, by the monotonic clock.
        """
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if now - begun >= self._patience:
                self._in_vain.add(path)
            if path in self._in_vain or now - self._since >= self._patience:
                return False
            is_news = now - self._told_at >= _TOLD_AGAIN
            if is_news:
                self._told_at = now
        if is_news:
            LOG.warning(
                "%s: the machine is in trouble, not a file (%s): clips wait for up to %g s",
                self._name,
                cause.reason,
                self._patience,
            )
        return True
