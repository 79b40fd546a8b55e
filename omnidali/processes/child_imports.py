"""Where Python processes that this one starts import modules from: the same places as this one.

``python -c`` and ``python -m`` look first in the current folder. There, a folder that happens to be
called omnidali hides an editable install, and a file such as ``queue.py`` hides Python's own. The
command ``omnidali`` does not look there, and so its child processes shall not, either.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


def import_variables() -> dict[str, str]:
    """Environment variables that give a Python process this one's places to import from.

    The current folder is one of them only if this process imports from it.
    """
    places = [place or os.getcwd() for place in sys.path]
    return {"PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def sharing_imports() -> Iterator[None]:
    """Set the variables of :func:`import_variables` in this process.

    For libraries that start processes, and take no environment for them.
    """
    variables = import_variables()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
