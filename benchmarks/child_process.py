"""Python programs that a benchmark runs as separate processes."""

import os
import sys
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent


def module_command(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of this checkout."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def child_environment() -> dict[str, str]:
    """The environment of a child that imports ``benchmarks``, in any folder.

    It lies beside the package, so that an installation does not find it.
    """
    paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
