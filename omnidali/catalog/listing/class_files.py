"""Files of class names and label maps, in the forms that data sets come with."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from omnidali.catalog.listing.class_lines import ClassPair, json_pairs, line_pairs, numbered_names
from omnidali.errors import UserError
from omnidali.utils.text_files import is_whole, parse_json, read_lines

MAX_LABEL = 1_000_000  # a slip in a list must not make a classifier that no memory holds


class ClassNames(list[str]):
    """Class names in label order, and what numbers in lists mean.

    Args:
        names: in label order.
        first: the number of the first class in lists whose labels are numbers.
        counted_from: the number beside the first name, in a file that has numbers; None: in others.
        origin: where the names come from, if that does not say which number a list gives to each:
            then a number cannot be the label of an item. Empty: it does.
        are_numbers: whether all names are numbers, though not their own labels, as those of folders
            1, 2 and 3 are: then a number in a list is a name.
        note: a line for people that says what numbers in lists are; empty: labels from 0.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        first: int = 0,
        counted_from: int | None = None,
        origin: str = "",
        are_numbers: bool = False,
        note: str = "",
    ):
        super().__init__(names)
        self.first = first
        self.counted_from = counted_from
        self.origin = origin
        self.are_numbers = are_numbers
        self.note = note


class LabelMap(dict[str, int]):
    """Numbers by key, and the place of each key for errors: "FILE, line N", or the file of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}


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


def same_form(name: str) -> str:
    """A name in Unicode's composed form (NFC), for comparisons: two forms look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_class_names(path: Path) -> ClassNames:
    """Read class names in label order.

    A file has one name a line; the line number, counted from 0, is the label. Or it has a number
    beside each name, as UCF101's ``classInd.txt`` and the label maps of Kinetics have
    (``1 Archery``, ``1. Archery``, ``Archery,1``): then these give the order, from 0 or from 1
    without a gap. JSON lists of names and objects {name: number} or {number: name} are read alike.

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
        pairs = json_pairs(path, text)
        is_numbered = parse_json(text, str(path)).__class__ is dict
    else:
        found = numbered_names(lines)
        is_numbered = found is not None
        pairs = found or [
            ClassPair(where, name, str(number)) for number, (where, name) in enumerate(lines)
        ]

    first = 0
    if is_numbered:
        pairs = sorted(pairs, key=lambda pair: _class_number(pair))
        first = _require_contiguous(pairs)
    names = [pair.key for pair in pairs]
    _require_different(names, pairs)
    return ClassNames(
        names,
        first=first,
        counted_from=first if is_numbered else None,
        are_numbers=not is_numbered and name_by_numbers(names),
    )


def name_by_numbers(names: Sequence[str]) -> bool:
    """Whether all classes are named by numbers that are not their own labels.

    >>> name_by_numbers(["1", "2"]), name_by_numbers(["0", "1"]), name_by_numbers(["1", "a"])
    (True, False, False)
    """
    return all(map(is_whole, names)) and not are_positions(names)


def are_positions(names: Sequence[str]) -> bool:
    """Whether each class is named by its own label.

    >>> are_positions(["00", "01"]), are_positions(["1", "2"]), are_positions(["a"])
    (True, False, False)
    """
    return all(is_whole(name) and int(name) == label for label, name in enumerate(names))


def read_label_map(path: Path) -> LabelMap:
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
        pairs = json_pairs(path, text)
    else:
        pairs = line_pairs([row for row in lines if row[1] and not row[1].startswith("#")])

    mapping = LabelMap()
    for pair in pairs:
        key, number = same_form(pair.key), _class_number(pair)
        mapping.places.setdefault(key, pair.where)
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


def _class_number(pair: ClassPair) -> int:
    if not (is_whole(pair.number) and int(pair.number) <= MAX_LABEL):
        raise UserError(
            pair.where,
            f"a class number from 0 to {MAX_LABEL:,}",
            repr(f"{pair.key[:100]}: {pair.number[:100]}"),
            "Correct the file.",
        )
    return int(pair.number)


def _require_contiguous(pairs: Sequence[ClassPair]) -> int:
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


def _require_different(names: Sequence[str], pairs: Sequence[ClassPair]) -> None:
    seen: dict[str, str] = {}
    for name, pair in zip(names, pairs, strict=True):
        before = seen.get(same_form(name))
        if not name or before is not None:
            got = f"{name[:200]!r}, which {before} names, too" if name else "none"
            raise UserError(
                pair.where,
                "a class name of its own",
                got,
                "Correct the line; where numbers belong to the names, write a JSON list of them.",
            )
        seen[same_form(name)] = pair.where
