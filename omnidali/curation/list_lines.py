"""The lines of written lists, which read back as they were."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from omnidali.catalog.database.listed_items import ListedItem
from omnidali.errors import UserError
from omnidali.utils.atomic_write import csv_lines

LineFormat = Literal["path_label", "rawframes_offset", "pieces"]


def _path_label_line(item: ListedItem, label: int | str) -> str:
    path = _readable_path(item.path, " \t,")
    # Where a line has a tab, its reader takes the label after the last one.
    separator = "\t" if "\t" in path else " "
    return f"{path}{separator}{label}\n"


def _frames_line(item: ListedItem, label: int | str) -> str:
    return _fields_line(item, item.begin, item.frames, label)


def _piece_line(item: ListedItem, label: int | str) -> str:
    return _fields_line(item, _decimal(item.first), _decimal(item.last), label)


def several_labels_line(form: LineFormat, item: ListedItem, labels: int | str) -> str:
    """The line of an item with several labels; a tab ends its path, which may hold spaces.

    Raises:
        UserError: for a path that would not read back.
    """
    path = _readable_path(item.path, None)
    if "\t" in path:
        raise UserError(
            repr(path),
            "a name that a list of several labels a line can hold",
            "one with a tab",
            "Rename it, in its list too; nothing but the new name is looked at again.",
        )
    numbers = {
        "path_label": "",
        "rawframes_offset": f"{item.begin} {item.frames} ",
        "pieces": f"{_decimal(item.first)} {_decimal(item.last)} ",
    }
    return f"{path}\t{numbers[form]}{labels}\n"


LINE_WRITERS: dict[LineFormat, Callable[[ListedItem, int | str], str]] = {
    "path_label": _path_label_line,
    "rawframes_offset": _frames_line,
    "pieces": _piece_line,
}


def _fields_line(item: ListedItem, *fields: object) -> str:
    row = [_readable_path(item.path, None), *fields]
    if "," in item.path:
        return next(csv_lines([row]))
    return f"{' '.join(str(value) for value in row)}\n"


def _decimal(seconds: float) -> str:
    """Seconds without an exponent.

    >>> _decimal(10.0), _decimal(0.0000001)
    ('10', '0.0000001')
    """
    return np.format_float_positional(seconds, trim="-")


def _readable_path(path: str, stripped: str | None) -> str:
    """A path that a list's reader returns as it is, or with ``./`` before it.

    Args:
        path: of an item.
        stripped: characters that the reader strips from its end; None: all white space.

    Raises:
        UserError: if it ends with one of them.
    """
    if path != path.rstrip(stripped):
        raise UserError(
            repr(path),
            "a name that a list can hold",
            f"one that ends with {path[-1]!r}",
            "Rename it, in its list too; nothing but the new name is looked at again.",
        )
    # A reader would take it for a comment or a byte order mark, or strip white space.
    is_mistaken = path.startswith(("#", "\ufeff")) or path != path.lstrip()
    return f"./{path}" if is_mistaken else path
