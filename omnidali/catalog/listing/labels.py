"""From what a list says of a class to the class's number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omnidali.catalog.listing.class_files import (
    MAX_LABEL,
    ClassIndex,
    ClassNames,
    read_label_map,
    same_form,
)
from omnidali.errors import UserError
from omnidali.utils.text_files import is_line

UNLABELLED = -1
_EXACT = 2**53  # above it, floating-point numbers leave out whole numbers


class NumberLabel(Protocol):
    """Gives the label of an item, by the arguments of :meth:`Labels.number`."""

    def __call__(
        self, text: str | None, where: str, path: str, listed: int | None = None, /
    ) -> int: ...


def label_text(value: object) -> str | None:
    """What a JSON value says of a class, as a list would say it; None if it is no label.

    Args:
        value: a word, or a whole number in any notation.

    >>> label_text(3), label_text(1.0), label_text("archery"), label_text(1.5), label_text(True)
    ('3', '1', 'archery', None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and is_line(value) else None


class Labels:
    """Numbers for the words that lists use for classes.

    Args:
        names: class names in label order, which limit the numbers. Those of a
            :class:`~omnidali.catalog.listing.class_files.ClassNames` say from where lists count.
        map_path: a file for :func:`~omnidali.catalog.listing.class_files.read_label_map`, through
            which everything that a list says then goes.

    Raises:
        UserError: for a label map that cannot be read.
    """

    def __init__(self, names: Sequence[str] | None = None, map_path: Path | None = None):
        known = names if isinstance(names, ClassNames) else ClassNames(names or ())
        self.names = names
        self._first = known.first
        self._counted_from = known.counted_from
        self._origin = known.origin
        self._map_path = map_path
        self._mapping = read_label_map(map_path) if map_path else {}
        self._by_name = ClassIndex(known)

    def number(self, text: str | None, where: str, path: str, listed: int | None = None) -> int:
        """The label of an item.

        Args:
            text: what the list says of its class; none: the label map knows the path or its stem.
            where: file and line, for errors.
            path: of the item.
            listed: the number, counted from 1, that the list has beside a class name.

        Raises:
            UserError: with ``where``.
        """
        if self._mapping:
            keys = [text] if text is not None else [path, Path(path).name, Path(path).stem]
            number = self._mapped(keys, where)
            label = self._counted(number, where, str(number))
        elif text is None:
            raise UserError(
                where,
                "a label after the path",
                repr(path[:200]),
                "Add the label, or name a label map with `labels:`.",
            )
        elif text.isascii() and text.isdigit() and not self._is_name(text):
            number = int(text) if len(text) < 10 else MAX_LABEL + 2
            label = self._counted(number, where, text)
        else:
            label = self._named(text, where)

        if listed is not None and self._counted_from == 1 and listed != label + 1:
            raise UserError(
                where,
                f"{label + 1}, the number of {text} in the file of class names",
                str(listed),
                "Correct the line, or name the list's `format:` if its classes are numbers alone.",
            )
        return label

    def _is_name(self, text: str) -> bool:
        """Whether a number is the name of a class, as that of a folder may be."""
        return bool(self._origin) and self._by_name.find(text) is not None

    def _counted(self, number: int, where: str, text: str) -> int:
        """The label of a number that a list or a label map gives as ``text``.

        Raises:
            UserError: if it is out of range, or nothing says what numbers mean.
        """
        if self._origin:
            raise UserError(
                where,
                f"a class name, as the classes are {self._origin}",
                text[:200],
                "Name a file with `classes:`: one class name a line, in the order of the numbers.",
            )
        label = number - self._first
        if label > MAX_LABEL:
            raise UserError(
                where, f"a label of at most {MAX_LABEL:,}", text[:200], "Correct the line."
            )
        if self.names is None or 0 <= label < len(self.names):
            return label
        last = len(self.names) - 1 + self._first
        expected = f"a label below {len(self.names)}, the number of class names"
        if self._first:
            expected = f"a label from {self._first} to {last}, as in the file of class names"
        raise UserError(where, expected, str(number), "Correct the label or add the class name.")

    def _mapped(self, keys: Sequence[str], where: str) -> int:
        for key in map(same_form, keys):
            if key in self._mapping:
                return self._mapping[key]
        raise UserError(
            where,
            f"a class that the label map {self._map_path} holds",
            repr(keys[-1][:200]),
            "Add it to the map, or remove the line.",
        )

    def _named(self, text: str, where: str) -> int:
        label = self._by_name.find(text)
        if label is not None:
            return label
        expected = "a class number of 0 or more"
        if len(self._by_name):
            expected += f", or one of {len(self._by_name)} class names"
        if self._origin:
            expected = f"one of {len(self._by_name)} class names, which are {self._origin}"
        raise UserError(
            where,
            expected,
            repr(text[:200]),
            "Correct the label, or name the classes with `classes:`.",
        )
