"""Context managers around the loop: closing the loader, and Python's garbage collector."""

import contextlib
import gc
from collections.abc import Iterator

from omnidali.loading.fusion import FusionIterator
from omnidali.utils.untrusted_text import warn


@contextlib.contextmanager
def closing_loader(loader: FusionIterator) -> Iterator[None]:
    """Close the loader at the end; an error of closing does not hide an earlier one."""
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
def collecting_manually() -> Iterator[None]:
    """Keep Python's garbage collector from stopping one rank in a step, while all others wait.

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
