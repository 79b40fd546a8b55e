"""From what a list says of a class to the class's number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omnidali.catalog.listing.class_files import (
    MAX_LABEL,
    ClassIndex,
    ClassNames,
    LabelMap,
    read_label_map,
    same_form,
)
from omnidali.errors import UserError
from omnidali.utils.text_files import is_line, is_whole

UNLABELLED = -1
_SEPARATORS = "|;,\t"  # of several labels, besides spaces
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


def label_texts(value: object) -> tuple[str, ...] | None:
    """What a JSON list says of an item's classes; None if it is no list of labels.

    >>> label_texts([3, "run"]), label_texts(3), label_texts([]), label_texts([[1]])
    (('3', 'run'), None, None, None)
    """
    if not isinstance(value, list):
        return None
    texts = tuple(text for text in map(label_text, value) if text is not None)
    return texts if texts and len(texts) == len(value) else None


def split_labels(text: str, by_space: bool = False) -> list[str]:
    """The labels of a text that may hold several, as it has them.

    Args:
        text: with ``|``, ``;``, commas or tabs between them, the first of these that occurs, or
            spaces. What stands after the last separator may be empty, as in tables whose rows have
            different lengths.
        by_space: whether spaces separate names, too, and not numbers alone.

    >>> split_labels("1 3 5"), split_labels("high jump"), split_labels("run; high jump")
    (['1', '3', '5'], ['high jump'], ['run', 'high jump'])
    >>> split_labels("run jump", by_space=True), split_labels("1,3,,")
    (['run', 'jump'], ['1', '3'])
    """
    for separator in _SEPARATORS:
        if separator in text.strip():
            parts = [part.strip() for part in text.split(separator)]
            break
    else:
        parts = text.split()
        if not by_space and not all(map(is_whole, parts)):
            parts = [text.strip()]
    while parts and not parts[-1]:
        parts.pop()
    return parts


class Labels:
    """Numbers for the words that lists use for classes.

    Args:
        names: class names in label order, which limit the numbers. Those of a
            :class:`~omnidali.catalog.listing.class_files.ClassNames` say from where lists count.
        map_path: a file for :func:`~omnidali.catalog.listing.class_files.read_label_map`, through
            which everything that a list says then goes. Where its keys are names of a file of class
            names, its numbers are their labels, from 0 or from 1.

    Raises:
        UserError: for a label map that cannot be read, or that contradicts the class names.
    """

    def __init__(self, names: Sequence[str] | None = None, map_path: Path | None = None):
        known = names if isinstance(names, ClassNames) else ClassNames(names or ())
        self.names = names
        self._first = known.first
        self._counted_from = known.counted_from
        self._origin = known.origin
        self._are_numbers = known.are_numbers
        self._by_name = ClassIndex(known)
        self._map_path = map_path
        self._mapping = read_label_map(map_path) if map_path else LabelMap()
        self._map_first = self._first_of_map()

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
            label = self._mapped(text, where, path, listed=listed)
        elif text is None:
            raise UserError(
                where,
                "a label after the path",
                repr(path[:200]),
                "Add the label, or name a label map with `labels:`.",
            )
        elif text.isascii() and text.isdigit():
            label = self._numbered(text, where)
        else:
            label = self._named(text, where, listed)

        # a label map may give another class to the word or to its number
        is_named = text is not None and self._by_name.find(text) == label
        if listed is not None and self._counted_from == 1 and is_named and listed != label + 1:
            raise UserError(
                where,
                f"{label + 1}, the number of {text} in the file of class names",
                str(listed),
                "Correct the line, or name the list's `format:` if its classes are numbers alone.",
            )
        return label

    def _first_of_map(self) -> int | None:
        """From where the label map counts, as its keys that are class names say; None: none is.

        Raises:
            UserError: if its numbers are not the labels of these names, from 0 or from 1.
        """
        if self._origin:  # numbers are no labels
            return None
        known: list[tuple[str, int, int]] = []
        for key, number in self._mapping.items():
            label = self._by_name.find(key)
            # other numbers of a list are keys, too
            if label is not None and (self._are_numbers or not key.isdigit()):
                known.append((key, number, label))
        if not known:
            return None

        _, number, label = known[0]
        first = int(number == label + 1 and 0 not in self._mapping.values())
        for key, number, label in known:
            if number != label + first:
                raise UserError(
                    self._mapping.places[key],
                    f"{label + first}, the number of {key[:200]!r} in the file of class names",
                    str(number),
                    "Correct the label map, or the order of the class names.",
                )
        return first

    def _numbered(self, text: str, where: str) -> int:
        """The label of a number in a list: of the class that it names, or the number itself.

        Raises:
            UserError: as :meth:`_counted`; for a number that is none of the names where all are.
        """
        if self._origin or self._are_numbers:
            label = self._by_name.find(text)
            if label is not None:
                return label
        if self._are_numbers and not self._origin:
            raise UserError(
                where,
                f"one of {len(self._by_name)} class names, which are numbers",
                text[:200],
                "Correct the label, or give each name its number in the file of class names.",
            )
        number = int(text) if len(text) < 10 else MAX_LABEL + 2
        return self._counted(number, where, text, first=self._first)

    def _counted(self, number: int, where: str, text: str, *, first: int) -> int:
        """The label of a number that a list or a label map, which counts from ``first``, has.

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
        label = number - first
        if label > MAX_LABEL:
            raise UserError(
                where, f"a label of at most {MAX_LABEL:,}", text[:200], "Correct the line."
            )
        if self.names is None or 0 <= label < len(self.names):
            return label
        last = len(self.names) - 1 + first
        expected = f"a label below {len(self.names)}, the number of class names"
        if first:
            expected = f"a label from {first} to {last}, as in the file of class names"
        raise UserError(where, expected, str(number), "Correct the label or add the class name.")

    def _mapped(self, text: str | None, where: str, path: str, *, listed: int | None) -> int:
        """The label by the map, of the arguments of :meth:`number`."""
        keys = [] if text is None else [text]
        if listed is not None:
            keys.append(str(listed))
        item = Path(path)
        # UCF101's lists say nothing of a class but in the paths
        if text is None or text == item.parent.name:
            keys += [path, item.name, item.stem]

        found = [key for key in map(same_form, keys) if key in self._mapping]
        if not found:
            raise UserError(
                where,
                f"a class that the label map {self._map_path} holds",
                repr((keys[-1] if text is None else text)[:200]),
                "Add it to the map, or remove the line.",
            )
        number = self._mapping[found[0]]
        if self._map_first is None and self._are_numbers and not self._origin:
            return self._numbered(str(number), where)
        first = self._first if self._map_first is None else self._map_first
        return self._counted(number, where, str(number), first=first)

    def _named(self, text: str, where: str, listed: int | None) -> int:
        label = self._by_name.find(text)
        if label is not None:
            return label
        expected = "a class number of 0 or more"
        if len(self._by_name):
            expected += f", or one of {len(self._by_name)} class names"
        if self._origin:
            expected = f"one of {len(self._by_name)} class names, which are {self._origin}"
        advice = "Correct the label, or name the classes with `classes:`."
        if len(split_labels(text)) > 1:
            advice = "Correct the label, or set `multi_label: true` if these are several."
        if listed is not None and not len(self._by_name):
            # a list of UCF101's paths that holds no class 0 may count from 0 all the same
            advice = (
                "Name the list's `format: path_label` if its numbers are the labels, or name the"
                " classes with `classes:`."
            )
        raise UserError(where, expected, repr(text[:200]), advice)
