"""Encoders that change how the system schedules this process."""

import contextlib
import os
from collections.abc import Iterator


def _scheduling() -> tuple[int, int]:
    """The policy and the priority of the main thread, which other threads and processes inherit."""
    process = os.getpid()
    return os.sched_getscheduler(process), os.sched_getparam(process).sched_priority


_USUAL = _scheduling()  # before any encoder


@contextlib.contextmanager
def keeping_priority() -> Iterator[None]:
    """Give this process its usual scheduling back after an encoder has changed it.

    Where it may, as root may, SVT-AV1 makes the whole process a real-time one, and the processes
    that it starts later, too. Threads that wait for each other in a loop, such as OpenMP's, then
    keep all others off the cores, maybe for ever. Several threads may be inside.
    """
    try:
        yield
    finally:
        if _scheduling() != _USUAL:
            policy, priority = _USUAL
            os.sched_setscheduler(os.getpid(), policy, os.sched_param(priority))
