"""Shortages of memory or descriptors while files are decoded: no file is to blame, so the same one
is tried again.
"""

from __future__ import annotations

import threading
import time

from omnidali.decoding.failure_cause import Cause
from omnidali.utils.log import LOG

_WARN_AGAIN_SECONDS = 60.0


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
        self._warned_at = -_WARN_AGAIN_SECONDS
        self._hopeless: set[str] = set()  # files that were waited for to the end

    def on_decoded(self) -> None:
        """A clip decoded: the shortage is over."""
        if self._since is None:
            return
        with self._lock:
            since = self._since
            self._since = None
        if since is not None and self._warned_at >= since:
            LOG.warning(
                "%s: the machine is out of trouble after %.1f s",
                self._name,
                time.monotonic() - since,
            )

    def holds(self, path: str, cause: Cause, begun: float) -> bool:
        """Whether a clip is to be tried again, as the machine is to blame.

        Args:
            path: of the file that failed.
            cause: why it failed.
            begun: when its clip was tried first, by the monotonic clock.
        """
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if now - begun >= self._patience:
                self._hopeless.add(path)
            if path in self._hopeless or now - self._since >= self._patience:
                return False
            warns = now - self._warned_at >= _WARN_AGAIN_SECONDS
            if warns:
                self._warned_at = now

        if warns:
            LOG.warning(
                "%s: the machine is in trouble, not a file (%s): clips wait for up to %g s",
                self._name,
                cause.reason,
                self._patience,
            )
        return True
