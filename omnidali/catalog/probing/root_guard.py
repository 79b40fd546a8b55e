"""The rule that no path of a list or a tar leads out of its source's root."""

import functools
import os
import re

# Characters. The kernel accepts no longer path, and a check of every parent folder takes time.
MAX_PATH = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://|(file|concat|concatf|pipe|data|subfile|crypto|async|cache|fd):"
)
OUTSIDE = "absolute path that is not below the root (root: / takes any)"
LEAVES = "path leaves the root"
LINK_LEAVES = "link that leads out of the root (links: follow takes any)"


def escape_reason(root: str, path: str, follows_links: bool = False) -> str | None:
    """Why ``path`` does not stay below ``root``, or None if it does.

    Args:
        root: a real path (``os.path.realpath``).
        path: of a list or a tar.
        follows_links: whether links may end anywhere; else they have to end below the root.
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
        return OUTSIDE

    full = os.path.join(root, path)
    if not _is_below(root, os.path.normpath(full)):
        return LEAVES
    if not follows_links and not _is_below(root, os.path.realpath(full)):
        return LINK_LEAVES
    return None


def _is_below(root: str, path: str) -> bool:
    return f"{path}{os.sep}".startswith(root.rstrip(os.sep) + os.sep)


class RootPaths:
    """Makes the absolute paths of lists relative to a source's root.

    Lists may name the root by a link, as its user does, or by its real path.

    Args:
        root: as the user names it, absolute.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        # the longer one first: one of them may lie in the other
        names = {self._root, os.path.normpath(root)}
        self._prefixes = sorted((f"{name.rstrip(os.sep)}{os.sep}" for name in names), key=len)
        self._prefixes.reverse()
        self._real_folder = functools.lru_cache(maxsize=10_000)(os.path.realpath)

    def relative(self, path: str) -> str:
        """The path below the root; a path that does not lie there, or is no absolute one, as it is.

        Args:
            path: of a list.
        """
        if not path.startswith(os.sep) or "\0" in path or len(path) > MAX_PATH:
            return path
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return path.removeprefix(prefix).lstrip(os.sep) or path

        # through another link: a look at the disk for each folder
        folder, _, name = path.rpartition(os.sep)
        real = self._real_folder(folder or os.sep)
        inside = _is_below(self._root, real)
        return os.path.relpath(os.path.join(real, name), self._root) if inside else path
