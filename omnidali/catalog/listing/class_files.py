"""Files of class names and label maps, in the forms that data sets come with."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from omnidali.errors import UserError
from omnidali.utils.text_files import is_whole, parse_json, read_lines

MAX_LABEL = 1_000_000  # a slip in a list must not make a classifier that no memory holds
_NUMBER_NAME = re.compile(r"(\d+)\s*[,\s]\s*(.+)")
# what the columns of a label map are called
_HEADER = re.compile(
    r"\b(id|ids|idx|ind|index|indices|no|num|number|label|labels|class|classes|class_?id|label_?id"
    r"|name|names|class_?name|label_?name|category|key)\b",
    re.IGNORECASE,
)


class ClassNames(list[str]):
    """Class names in label order, and what numbers in lists mean.

    Args:
        names: in label order.
        first: the number of the first class in lists whose labels are numbers.
        counted_from: the number beside the first name, in a file that has numbers; None: in others.
        origin: where the names come from, if that does not say which number a list gives to each:
            then a number cannot be the label of an item. Empty: it does.
        note: a line for people that says from where lists count; empty: from 0, as always.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        first: int = 0,
        counted_from: int | None = None,
        origin: str = "",
        note: str = "",
    ):
        super().__init__(names)
        self.first = first
        self.counted_from = counted_from
        self.origin = origin
        self.note = note


def signed_names(names: Sequence[str] | None) -> tuple[object, str]:
    """What the labels of lists depend on, for JSON: names with their numbers; and their origin."""
    if not isinstance(names, ClassNames):
        return names, ""
    if names.counted_from is None:
        return list(names), names.origin
    return [list(names), names.first, names.counted_from], names.origin


class ClassIndex:
    """The labels of classes by name.

    Names that look the same are the same: in both of Unicode's forms, and with underscores instead
    of spaces, as scripts name folders, unless two classes differ by these alone.

    Args:
        names: in label order.

    >>> index = ClassIndex(["eating cake", "archery"])
    >>> index.find("eating_cake"), index.find("archery"), index.find("cake")
    (0, 1, None)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = {same_form(name): label for label, name in enumerate(names)}
        spaced = Counter(map(_with_spaces, self._exact))
        self._spaced = {
            _with_spaces(name): label
            for name, label in self._exact.items()
            if spaced[_with_spaces(name)] == 1
        }

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, name: str) -> int | None:
        """The label of a class; None if there is no such class."""
        label = self._exact.get(same_form(name))
        return self._spaced.get(_with_spaces(same_form(name))) if label is None else label


def _with_spaces(name: str) -> str:
    return name.replace("_", " ")


class _Pair(NamedTuple):
    """A key with its number, as text, and where they stand."""

    where: str
    key: str
    number: str


def same_form(name: str) -> str:
    """A name in Unicode's composed form (NFC), for comparisons: two forms look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_class_names(path: Path) -> ClassNames:
    """Read class names in label order.

    A file has one name a line; the line number, counted from 0, is the label. Or it has a number
    beside each name, as UCF101's ``classInd.txt`` and the label maps of Kinetics have
    (``1 Archery``, ``Archery,1``): then these give the order, from 0 or from 1 without a gap. JSON
    lists of names and objects {name: number} or {number: name} are read alike.

    Args:
        path: of the file.

    Raises:
        UserError: if the file is missing or empty, names a class twice, or has numbers with a gap;
            with its line if it is a text.
    """
    lines = list(read_lines(path, "classes"))
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise UserError(
            str(path), "one class name a line", "an empty file", "Write the names in label order."
        )

    text = "\n".join(line for _, line in lines)
    if text.lstrip().startswith(("{", "[")):
        pairs = _json_pairs(path, text)
        is_numbered = parse_json(text, str(path)).__class__ is dict
    else:
        found = _numbered_names(lines)
        is_numbered = found is not None
        pairs = found or [
            _Pair(where, name, str(number)) for number, (where, name) in enumerate(lines)
        ]

    first = 0
    if is_numbered:
        pairs = sorted(pairs, key=lambda pair: _class_number(pair))
        first = _require_contiguous(pairs)
    names = [pair.key for pair in pairs]
    _require_different(names, pairs)
    return ClassNames(names, first=first, counted_from=first if is_numbered else None)


def read_label_map(path: Path) -> dict[str, int]:
    """Read which number a list's word for a class means: its name, a video's id, another number.

    JSON objects {key: number} or {number: key} and lists of names, and text files with lines of
    names, ``key number``, ``key,number``, ``number name`` or ``number,name`` are understood;
    numbers may be written as text.

    Args:
        path: of the file.

    Returns:
        Numbers by key; keys are in Unicode's composed form.

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
    for pair in pairs:
        key, number = same_form(pair.key), _class_number(pair)
        if mapping.setdefault(key, number) != number:
            raise UserError(
                pair.where,
                "every key once",
                f"{key[:200]!r} again with another number",
                "Remove one of them.",
            )
    if not mapping:
        raise UserError(
            str(path), "classes and their numbers", "an empty file", "Fill it, or leave labels out."
        )
    return mapping


def _class_number(pair: _Pair) -> int:
    if not (is_whole(pair.number) and int(pair.number) <= MAX_LABEL):
        raise UserError(
            pair.where,
            f"a class number from 0 to {MAX_LABEL:,}",
            repr(f"{pair.key[:100]}: {pair.number[:100]}"),
            "Correct the file.",
        )
    return int(pair.number)


def _require_contiguous(pairs: Sequence[_Pair]) -> int:
    """The first of the sorted numbers beside class names.

    Raises:
        UserError: at the first one that does not follow the one before, or that is not 0 or 1.
    """
    first = min(int(pairs[0].number), 1)
    for place, pair in enumerate(pairs, first):
        if int(pair.number) != place:
            following = f"the number {place} after {place - 1}"
            raise UserError(
                pair.where,
                following if place > first else "class numbers from 0 or 1",
                f"{pair.number} for {pair.key[:100]!r}",
                "Correct the numbers, or write the names alone in label order.",
            )
    return first


def _require_different(names: Sequence[str], pairs: Sequence[_Pair]) -> None:
    seen: dict[str, str] = {}
    for name, pair in zip(names, pairs, strict=True):
        before = seen.setdefault(same_form(name), pair.where)
        if not name or before != pair.where:
            got = f"{name[:200]!r}, which {before} names, too" if name else "none"
            raise UserError(pair.where, "a class name of its own", got, "Correct the line.")


def _json_pairs(path: Path, text: str) -> list[_Pair]:
    values = parse_json(text, str(path))
    if isinstance(values, list):
        return [_Pair(str(path), str(name), str(number)) for number, name in enumerate(values)]
    assert isinstance(values, dict)
    # PySlowFast's names keep the quotes of a CSV in the JSON's own
    pairs = [(_unquoted(str(key)), str(value)) for key, value in values.items()]
    if all(is_whole(key) and not is_whole(value) for key, value in pairs):  # {number: name}
        pairs = [(value, key) for key, value in pairs]
    return [_Pair(str(path), key, number) for key, number in pairs]


def _numbered_names(lines: Sequence[tuple[str, str]]) -> list[_Pair] | None:
    """Names with the numbers beside them; None where lines are names alone.

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
        # without their numbers, "take 1" and "take 2" would be one name
        if pairs is not None and len({pair.key for pair in pairs}) == len(pairs):
            return pairs
    return None


def _line_pairs(lines: Sequence[tuple[str, str]]) -> list[_Pair]:
    for parse in (_key_number, _number_name):
        pairs = _parsed(lines, parse)
        if pairs is not None:
            return pairs
    return [_Pair(where, name, str(number)) for number, (where, name) in enumerate(lines)]


def _parsed(
    lines: Sequence[tuple[str, str]], parse: Callable[[str], tuple[str, str] | None]
) -> list[_Pair] | None:
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
    return [_Pair(where, *pair) for where, _, pair in found if pair is not None]


def _key_number(line: str) -> tuple[str, str] | None:
    """(key, number) of ``key number`` or ``key,number``."""
    head = line.rstrip("0123456789")
    key = head.rstrip().removesuffix(",").rstrip()
    return (key, line[len(head) :]) if key and key != head and head != line else None


def _number_name(line: str) -> tuple[str, str] | None:
    """(name, number) of ``number name`` or ``number,name``."""
    match = _NUMBER_NAME.fullmatch(line)
    return (match[2], match[1]) if match else None


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name
