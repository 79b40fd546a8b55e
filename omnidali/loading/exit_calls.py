"""What is still open when the program ends.

Python kills the threads that are left then. One that is inside a decoder takes the whole process
along: it aborts, with exit code 134, after all its work was done.
"""

import atexit
import os
import weakref
from collections.abc import Callable

# by method, the process that it belongs to; they keep no object alive
_CALLS: dict[weakref.WeakMethod, int] = {}


def call_at_exit(method: Callable[[], None]) -> None:
    """Call a bound method when this process ends, if its object is still there.

    Args:
        method: that ends threads. A process that is forked from this one has none of them, and does
            not call it.
    """
    reference = weakref.WeakMethod(method, _forget)
    _CALLS[reference] = os.getpid()


def _forget(reference: weakref.WeakMethod) -> None:
    _CALLS.pop(reference, None)


@atexit.register
def _make_calls() -> None:
    for reference, process in list(_CALLS.items()):
        method = reference()
        if method is not None and process == os.getpid():
            method()
