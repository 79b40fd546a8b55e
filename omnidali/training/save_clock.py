"""The age of the last checkpoint."""

import time


class SaveClock:
    """Decides by a monotonic clock when the last checkpoint is old enough for another one.

    Args:
        minutes: between two checkpoints; 0: never.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Count from now, when a checkpoint was written."""
        self._last = time.monotonic()

    @property
    def is_old(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._seconds
