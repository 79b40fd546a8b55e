"""Pauses between several tries of the same thing."""

import math
import time


class Backoff:
    """Sleeps between two tries, twice as long each time.

    Args:
        first: seconds of the first pause.
        longest: seconds that no pause exceeds.
    """

    def __init__(self, first: float, longest: float):
        self._next = first
        self._longest = longest

    def pause(self, at_most: float = math.inf) -> None:
        """Sleep, but not longer than ``at_most`` seconds."""
        time.sleep(min(self._next, at_most))
        self._next = min(2 * self._next, self._longest)
