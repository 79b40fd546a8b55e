"""The rule that no path of a list or a tar leads out of its source's root."""

import os
import re

# Characters. The kernel accepts no longer path, and a check of every parent folder takes time.
MAX_PATH = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://|(file|concat|concatf|pipe|data|subfile|crypto|async|cache|fd):"
)


def escape_reason(root: str, path: str) -> str | None:
    """Why ``path`` does not stay below ``root``, or None if it does.

    ``root`` must be a real path (``os.path.realpath``). Links are followed.
    """
    if "\0" in path:
        return "path holds a NUL byte"
    if _CONTROL.search(path):
        return "path holds control characters"
    if len(path) > MAX_PATH:
        return "path is too long"
    if _URL.match(path):
        return "path is a URL"
    if os.path.isabs(path):
        return "path is absolute"
    if not (os.path.realpath(os.path.join(root, path)) + os.sep).startswith(
        root.rstrip(os.sep) + os.sep
    ):
        return "path leaves the root"
    return None
