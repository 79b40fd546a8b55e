"""What stands around the loop: closing the loader, and the garbage collector held back."""

from __future__ import annotations

import contextlib
import gc

from omnidali.loading.fusion import FusionIterator
from omnidali.training.retry import warn


@contextlib.contextmanager
def closing_behind(loader: FusionIterator):
    """Close the loader at the end; an error of closing does not hide the one before it."""
    try:
        yield
    except BaseException:
        try:
            loader.close()
        except Exception as second:
            warn(f"while the loader was closed: {second}")
        raise
    loader.close()


@contextlib.contextmanager
def collecting_when_told():
    """Keep Python's garbage collector from stopping one rank in mid-step, for which all others
    would wait.

    The loop collects young objects when it logs, and all when it saves.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
