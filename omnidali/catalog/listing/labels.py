"""From what a list says of a class to the class's number."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from omnidali.errors import UserError
from omnidali.utils.text_files import is_whole, parse_json, read_lines

UNLABELLED = -1
MAX_LABEL = 1_000_000  # a slip in a list must not make a classifier that no memory holds
# the label of an item, by the arguments of :meth:`Labels.number`
NumberLabel: TypeAlias = Callable[[str | None, str, str], int]
_NUMBER_NAME = re.compile(r"(\d+)\s*[,\s]\s*(.+)")


def read_class_names(path: Path) -> list[str]:
    """Read class names, one a line; the line number, counted from 0, is the label.

    Raises:
        UserError: if the file is missing, empty or names a class twice.
    """
    lines = list(read_lines(path, "classes"))
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise UserError(
            str(path), "one class name a line", "an empty file", "Write the names in label order."
        )

    names: dict[str, int] = {}
    for where, name in lines:
        if not name or name in names:
            raise UserError(where, "a class name of its own", repr(name[:200]), "Correct the line.")
        names[name] = len(names)
    return list(names)


def read_label_map(path: Path) -> dict[str, int]:
    """Read which number a list's word for a class means: its name, a video's id, another number.

    JSON objects {key: number} and lists of names, and text files with lines of names, ``key
    number`` or ``number,name`` are understood; numbers may be written as text.

    Raises:
        UserError: naming the file, and its line if there is one.
    """
    lines = list(read_lines(path, "label map"))
    text = "\n".join(line for _, line in lines)
    if text.lstrip().startswith(("{", "[")):
        pairs = _json_pairs(path, text)
    else:
        pairs = _line_pairs([row for row in lines if row[1] and not row[1].startswith("#")])

    mapping: dict[str, int] = {}
    for where, key, number in pairs:
        if not (is_whole(number) and int(number) <= MAX_LABEL):
            raise UserError(
                where,
                f"a class number from 0 to {MAX_LABEL:,}",
                repr(f"{key[:100]}: {number[:100]}"),
                "Correct the label map.",
            )
        if mapping.setdefault(key, int(number)) != int(number):
            raise UserError(
                where,
                "every key once",
                f"{key[:200]!r} again with another number",
                "Remove one of them.",
            )
    if not mapping:
        raise UserError(
            str(path), "classes and their numbers", "an empty file", "Fill it, or leave labels out."
        )
    return mapping


def _json_pairs(path: Path, text: str) -> list[tuple[str, str, str]]:
    values = parse_json(text, str(path))
    if isinstance(values, dict):
        return [(str(path), str(key), str(number)) for key, number in values.items()]
    assert isinstance(values, list)
    return [(str(path), str(name), str(number)) for number, name in enumerate(values)]


def _line_pairs(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    for parse in (_key_number, _number_name):
        found = [parse(line) for _, line in lines]
        # the first line may be a header
        if sum(map(bool, found)) >= len(lines) - 1 and all(found[1:]):
            return [(where, *pair) for (where, _), pair in zip(lines, found, strict=True) if pair]
    return [(where, name, str(number)) for number, (where, name) in enumerate(lines)]


def _key_number(line: str) -> tuple[str, str] | None:
    """(key, number) of ``key number`` or ``key,number``."""
    head = line.rstrip("0123456789")
    key = head.rstrip().removesuffix(",").rstrip()
    return (key, line[len(head) :]) if key and key != head and head != line else None


def _number_name(line: str) -> tuple[str, str] | None:
    """(name, number) of ``number,name``."""
    match = _NUMBER_NAME.fullmatch(line)
    return (match[2], match[1]) if match else None


class Labels:
    """Numbers for the words that lists use for classes.

    Args:
        names: class names in label order, which limit the numbers.
        map_path: a file for :func:`read_label_map`, through which everything that a list says then
            goes.

    Raises:
        UserError: for a label map that cannot be read.
    """

    def __init__(self, names: Sequence[str] | None = None, map_path: Path | None = None):
        self.names = names
        self._map_path = map_path
        self._mapping = read_label_map(map_path) if map_path else {}
        self._by_name = {name: number for number, name in enumerate(names or ())}

    def number(self, text: str | None, where: str, path: str) -> int:
        """The label of an item.

        Args:
            text: what the list says of its class; none: the label map knows the path or its stem.
            where: file and line, for errors.
            path: of the item.

        Raises:
            UserError: with ``where``.
        """
        if self._mapping:
            keys = [text] if text is not None else [path, Path(path).name, Path(path).stem]
            label = self._mapped(keys, where)
        elif text is None:
            raise UserError(
                where,
                "a label after the path",
                repr(path[:200]),
                "Add the label, or name a label map with `labels:`.",
            )
        elif text.isascii() and text.isdigit():
            label = int(text) if len(text) < 10 else MAX_LABEL + 1
        else:
            label = self._named(text, where)

        if label > MAX_LABEL:
            raise UserError(
                where, f"a label of at most {MAX_LABEL:,}", str(text)[:200], "Correct the line."
            )
        if self.names is not None and label >= len(self.names):
            raise UserError(
                where,
                f"a label below {len(self.names)}, the number of class names",
                str(label),
                "Correct the label or add the class name.",
            )
        return label

    def _mapped(self, keys: Sequence[str], where: str) -> int:
        for key in keys:
            if key in self._mapping:
                return self._mapping[key]
        raise UserError(
            where,
            f"a class that the label map {self._map_path} holds",
            repr(keys[-1][:200]),
            "Add it to the map, or remove the line.",
        )

    def _named(self, text: str, where: str) -> int:
        if text in self._by_name:
            return self._by_name[text]
        expected = "a class number of 0 or more"
        if self._by_name:
            expected += f", or one of {len(self._by_name)} class names"
        raise UserError(
            where,
            expected,
            repr(text[:200]),
            "Correct the label, or name the classes with `classes:`.",
        )
