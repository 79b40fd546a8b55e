"""How long work says that it goes on: a file is given up where nothing moves, not where there is
much to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOCAL = threading.local()  # each thread has its own watcher


@contextmanager
def watched(moved: Callable[[], object]) -> Iterator[None]:
    """Have ``moved`` called at every :func:`moves_on` of this thread; what it raises ends the work."""
    before, _LOCAL.moved = getattr(_LOCAL, "moved", None), moved
    try:
        yield
    finally:
        _LOCAL.moved = before


def moves_on() -> None:
    """Say that another packet or frame is done; costs next to nothing where nobody watches."""
    moved = getattr(_LOCAL, "moved", None)
    if moved is not None:
        moved()
