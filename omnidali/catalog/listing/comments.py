"""Which lines of a list are comments, and which name files: ``#`` begins names, too."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from omnidali.catalog.probing.root_guard import MAX_PATH, escape_reason
from omnidali.utils.text_files import NOT_UTF8, is_text

# receives (path, reason, "FILE, line N") of a line that is left out
NoteLine: TypeAlias = Callable[[str, str, str], None]
TAKEN_FOR_COMMENT = "begins with # and names no file: taken for a comment"
_SEPARATORS = re.compile(r"[ \t,;]+|$")
_ASKED_ALONE = 100  # lines for which the disk is asked, each alone
_ENDS = 64  # of paths in a line: a path may hold spaces and commas


def ignore(path: str, reason: str, where: str) -> None:
    """Leave out a line without a word, where another reading of the list names it."""


@dataclass(frozen=True)
class CommentRule:
    """Decides which lines of one list are comments, and which are left out.

    Args:
        root: of the source; none: not known, so that ``#`` always begins a comment.
        leave_out: receives each line that is left out, though it looks like an item.
        is_item: whether a line looks like an item of the list's format.
        follows_links: whether links may lead out of the root.
    """

    root: str | Path | None = None
    leave_out: NoteLine = ignore
    is_item: Callable[[str], bool] = lambda line: False
    follows_links: bool = False

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self.root or "")

    def leaves_out(self, where: str, line: str) -> bool:
        """Whether to leave out a line that is not UTF-8.

        It is if it names what lies below the root: then the list is right, and the file has a name
        that the catalog cannot hold.

        Args:
            where: file and line.
            line: with surrogate escapes for its other bytes.
        """
        for path in _beginnings(line):
            if not is_text(path) and self._exists(_up_to_odd_part(path)):
                self.leave_out(path, NOT_UTF8, where)
                return True
        return False

    def is_comment(self, where: str, line: str) -> bool:
        """Whether a line is a comment: it begins with ``#`` and names nothing below the root.

        Args:
            where: file and line.
            line: of the list.
        """
        if not line.startswith("#"):
            return False
        if self.root is None:
            return True
        if self._names_file(line):
            return False
        if self.is_item(line):
            self.leave_out(next(_beginnings(line), line), TAKEN_FOR_COMMENT, where)
        return True

    def _names_file(self, line: str) -> bool:
        # a list with a million comments asks the disk once
        if next(self._asked) >= _ASKED_ALONE:
            first = {path.partition("/")[0] for path in _beginnings(line)}
            if first.isdisjoint(self._names_in_root):
                return False
        return any(map(self._exists, _beginnings(line)))

    @cached_property
    def _asked(self) -> Iterator[int]:
        return itertools.count()

    @cached_property
    def _names_in_root(self) -> frozenset[str]:
        """The names in the root that begin with ``#``, and the root's own."""
        try:
            names = os.listdir(self._real_root)
        except OSError:
            names = []
        found = [name for name in names if name.startswith("#")]
        return frozenset([*found, os.path.basename(self._real_root)])

    def _exists(self, path: str) -> bool:
        """Whether a path lies below the root; lists may begin with the root's own name."""
        if self.root is None:
            return False
        root = self._real_root
        names = [path]
        if path.startswith(f"{os.path.basename(root)}/"):
            names.append(path.partition("/")[2])
        return any(
            name
            and escape_reason(root, name, self.follows_links) is None
            and os.path.lexists(os.path.join(root, name))
            for name in names
        )


def _beginnings(line: str) -> Iterator[str]:
    """The beginnings of a line that may be its path, the shortest first."""
    ends: Iterable[re.Match[str]] = _SEPARATORS.finditer(line[: MAX_PATH + 1])
    for end in itertools.islice(ends, _ENDS):
        path = line[: end.start()].strip('"')
        if path:
            yield path


def _up_to_odd_part(path: str) -> str:
    """A path up to the first of its names that is not UTF-8."""
    parts = path.split("/")
    odd = next(place for place, part in enumerate(parts) if not is_text(part))
    return "/".join(parts[: odd + 1])
