"""Signals: handlers for a while, and the one that the kernel sends at the end of a parent."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# from a command to the program that it runs
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_parent(number: int) -> None:
    """Have the kernel signal this process when the thread that started it ends; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


@contextmanager
def handling_signals(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Handle signals with ``handler``; threads other than the main one cannot, and do nothing.

    A signal that is ignored stays so: `nohup` ignores SIGHUP, and shells ignore SIGINT for
    background jobs.
    """
    old = {}
    if threading.current_thread() is threading.main_thread():
        heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        old = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
