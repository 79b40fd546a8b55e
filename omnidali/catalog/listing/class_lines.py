"""Names with numbers beside them, of lines and JSON, for files of class names and label maps."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from omnidali.errors import UserError
from omnidali.utils.text_files import is_whole, parse_json

# 1 Archery; 1,Archery; 0;Archery; 1. Archery; 1: Archery; 1) Archery; but not 1.5 miles
_NUMBER_NAME = re.compile(r"(\d+)(\s*[,;]\s*|\s*[.:)]\s+|[.:)](?=[^\d\s])|\s+)(.+)")
_QUOTED = re.compile(r'"((?:[^"]|"")+)"')
# what the columns of a label map are called
_HEADER = re.compile(
    r"\b(id|ids|idx|ind|index|indices|no|num|number|label|labels|class|classes|class_?id|label_?id"
    r"|name|names|class_?name|label_?name|category|key)\b",
    re.IGNORECASE,
)


class ClassPair(NamedTuple):
    """A key with its number, as text, and where they stand."""

    where: str
    key: str
    number: str


def json_pairs(path: Path, text: str) -> list[ClassPair]:
    """Names and numbers of a JSON list of names, or of {name: number} or {number: name}.

    Raises:
        UserError: if it is no JSON, or holds lists or objects in place of names and numbers.
    """
    values = parse_json(text, str(path))
    assert isinstance(values, list | dict)
    for item in values if isinstance(values, list) else values.values():
        if isinstance(item, list | dict) or item is None:
            raise UserError(
                str(path),
                "a class number or a class name at each place of the JSON",
                repr(item)[:200],
                "Write a list of names, or an object such as {name: number}.",
            )

    if isinstance(values, list):
        return [ClassPair(str(path), str(name), str(number)) for number, name in enumerate(values)]
    # PySlowFast's names keep the quotes of a CSV in the JSON's own
    pairs = [(_unquoted(str(key)), str(value)) for key, value in values.items()]
    if all(is_whole(key) and not is_whole(value) for key, value in pairs):  # {number: name}
        pairs = [(value, key) for key, value in pairs]
    return [ClassPair(str(path), key, number) for key, number in pairs]


def numbered_names(lines: Sequence[tuple[str, str]]) -> list[ClassPair] | None:
    """Names with the numbers beside them; None where lines are names alone.

    Args:
        lines: ("FILE, line N", line) of each.

    Raises:
        UserError: for a line without a number among others that have one.
    """
    for parse in (_number_name, _key_number):
        # a number beyond the count of lines belongs to the name: "500 meters"
        found = [pair for pair in (parse(line) for _, line in lines) if pair]
        near = [number for _, number in found if is_whole(number) and int(number) <= len(lines) + 1]
        if 3 * len(near) < 2 * len(lines):
            continue
        pairs = _parsed(lines, parse)
        if pairs is None:
            continue
        # without their numbers, "take 1" and "take 2" would be one name
        if len({pair.key for pair in pairs}) == len(pairs):
            return pairs
        # a column of numbers: a name is there twice, which its reader refuses
        is_column = parse is _number_name or all(_has_mark(line) for _, line in lines[1:])
        if is_column and _are_contiguous([pair.number for pair in pairs]):
            return pairs
    return None


def line_pairs(lines: Sequence[tuple[str, str]]) -> list[ClassPair]:
    """The keys and numbers of the lines of a label map; lines of names alone count from 0.

    Args:
        lines: ("FILE, line N", line) of each.

    Raises:
        UserError: for an odd line among others.
    """
    for parse in (_key_number, _number_name):
        pairs = _parsed(lines, parse)
        if pairs is not None:
            return pairs
    return [ClassPair(where, name, str(number)) for number, (where, name) in enumerate(lines)]


def _are_contiguous(numbers: Sequence[str]) -> bool:
    """Whether numbers in any order count from 0 or 1."""
    found = sorted(int(number) for number in numbers if is_whole(number))
    return (
        len(found) == len(numbers)
        and found[0] in (0, 1)
        and found == list(range(found[0], found[0] + len(found)))
    )


def _parsed(
    lines: Sequence[tuple[str, str]], parse: Callable[[str], tuple[str, str] | None]
) -> list[ClassPair] | None:
    """Key and number of each line but a header; None if fewer than two thirds have both.

    Raises:
        UserError: for an odd line among others.
    """
    found = [(where, line, parse(line)) for where, line in lines]
    if found and found[0][2] is None and _HEADER.search(found[0][1]) and len(found) > 1:
        found = found[1:]
    odd = [(where, line) for where, line, pair in found if pair is None]
    if not found or 3 * len(odd) > len(found):
        return None
    if odd:
        where, line = odd[0]
        raise UserError(
            where,
            "a class and its number, as in other lines",
            repr(line[:200]),
            "Add what is missing.",
        )
    return [ClassPair(where, *pair) for where, _, pair in found if pair is not None]


def _key_number(line: str) -> tuple[str, str] | None:
    """(key, number) of ``key number``, ``key,number``, ``key;number`` or ``key: number``."""
    head = line.rstrip("0123456789")
    key = head.rstrip()
    if key[-1:] in (",", ";", ":"):
        mark = key[-1]
        key = key[:-1].rstrip()
        if mark != ":":
            key = _csv_field(key)
    return (key, line[len(head) :]) if key and key != head and head != line else None


def _number_name(line: str) -> tuple[str, str] | None:
    """(name, number) of ``number name``, ``number,name``, ``number. name`` and the like."""
    match = _NUMBER_NAME.fullmatch(line)
    if not match:
        return None
    number, mark, name = match.groups()
    return (_csv_field(name) if mark.strip() in (",", ";") else name, number)


def _has_mark(line: str) -> bool:
    """Whether a comma or semicolon separates a line's number from what is before it."""
    return line.rstrip("0123456789").rstrip()[-1:] in (",", ";")


def _csv_field(text: str) -> str:
    """A field of a CSV without its quotes."""
    match = _QUOTED.fullmatch(text)
    return match[1].replace('""', '"') if match else text


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name
