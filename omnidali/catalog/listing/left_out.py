"""What reading a source leaves out, each with its reason, so that nothing is lost silently."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from omnidali.utils.untrusted_text import for_terminal

_KEPT = 10_000  # items in memory: a list may leave out millions


class LeftOutItem(NamedTuple):
    """A file, folder, line or member that no sample is made of.

    Attributes:
        path: below the source's root; of a member: the tar and its name.
        reason: the same words for all items of a kind, as starts count them.
        where: "FILE, line N" of the list that names it, or empty.
        detail: what differs from item to item.
    """

    path: str
    reason: str
    where: str = ""
    detail: str = ""


class LeftOut:
    """Counts what is left out by reason, and hands the items on in parts.

    Args:
        write: receives the items; none: they are only counted.

    Attributes:
        counts: of items by reason.

    >>> left_out = LeftOut()
    >>> left_out.add("a/notes.txt", "not a photo: text")
    >>> left_out.counts
    Counter({'not a photo: text': 1})
    """

    def __init__(self, write: Callable[[Sequence[LeftOutItem]], None] | None = None) -> None:
        self._write = write
        self._items: list[LeftOutItem] = []
        self.counts: Counter[str] = Counter()

    def add(self, path: str, reason: str, where: str = "", detail: str = "") -> None:
        """Note an item; arguments are the attributes of :class:`LeftOutItem`."""
        self.counts[reason] += 1
        if self._write is None:
            return
        # a name that is not UTF-8 fits into no table
        self._items.append(
            LeftOutItem(for_terminal(path, None), reason, for_terminal(where, None), detail)
        )
        if len(self._items) >= _KEPT:
            self.flush()

    def flush(self) -> None:
        """Hand on the items that are still here."""
        if self._write is not None and self._items:
            self._write(self._items)
        self._items = []
