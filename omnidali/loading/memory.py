"""Free memory goes back to the system: decoders leave holes all over the heaps of their threads."""

from __future__ import annotations

import ctypes
import time

_SECONDS = 60.0  # between two times; one takes milliseconds


class Trimmer:
    """Calls glibc's ``malloc_trim`` once a minute; does nothing with another C library.

    Without it, resident memory of a loader over damaged files grew by 10 % in half a million clips, all of it free.
    """

    def __init__(self):
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._last = time.monotonic()

    def __call__(self) -> None:
        """To be called often."""
        if self._trim is not None and time.monotonic() - self._last > _SECONDS:
            self._last = time.monotonic()
            self._trim(0)
