"""Signs of life from long work: a file is given up if nothing moves, not if it takes long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOCAL = threading.local()  # each thread has a listener of its own


@contextmanager
def on_progress(listener: Callable[[], object]) -> Iterator[None]:
    """Call ``listener`` at every :func:`report_progress` of this thread.

    An exception that it raises ends the work.
    """
    before = getattr(_LOCAL, "listener", None)
    _LOCAL.listener = listener
    try:
        yield
    finally:
        _LOCAL.listener = before


def report_progress() -> None:
    """Report that a packet or frame is done; costs next to nothing without a listener."""
    listener = getattr(_LOCAL, "listener", None)
    if listener is not None:
        listener()
