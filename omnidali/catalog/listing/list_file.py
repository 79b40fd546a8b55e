"""A list with its lines and objects, and the entries that a reader makes of them."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.listing.comments import CommentRule
from omnidali.catalog.listing.labels import NumberLabel, label_text, label_texts, split_labels
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import read_json, read_lines

NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{0,30})?")
_BEGIN_OF_OBJECT = re.compile(r"[^\s,\[\]]")  # anything but what stands between objects


class Entry(NamedTuple):
    """One item of a list.

    Attributes:
        path: relative to the source's root; a folder where the kind is ``frames``.
        label: number of the class.
        unit: what ``first`` and ``last`` (exclusive) count: ``frames`` or ``seconds`` of a piece;
            ``windows`` for a long video that is cut into pieces of ``last`` seconds; empty for the
            whole file.
        first: begin of the piece.
        last: its end.
        video: of kind ``untrimmed``: entries of one video make one sample, of which each draw takes
            a piece.
        positive: whether the piece shows its class; None for one that was removed, and only counts.
        line: of the list, from 1; 0 without a list.
        list: which of the source's lists it is in, from 0 in sorted order.
        labels: of an item with several, all of them in rising order, as text with commas; else
            empty. ``label`` is then the first one.
    """

    path: str
    label: int
    unit: str = ""
    first: float = 0
    last: float = 0
    video: str = ""
    positive: bool | None = True
    line: int = 0
    list: int = 0
    labels: str = ""


@dataclass(frozen=True)
class ListFile:
    """A list, and what its lines are read with.

    Attributes:
        path: of the list.
        index: which of the source's lists it is.
        name: of the source.
        source: gives kind, pattern and window length.
        number: gives the label of an item.
        form: name of the format.
        expected: what a line looks like.
        comments: tells comments from items, and decides on lines that are not UTF-8.
        split: ``train`` or ``test``, of a list that holds both.
        multi_label: whether an item may have several labels.
    """

    path: Path
    index: int
    name: str
    source: MediaConfig
    number: NumberLabel
    form: str
    expected: str
    comments: CommentRule
    split: str
    multi_label: bool = False

    def lines(self, is_item: Callable[[str], bool] | None = None) -> Iterator[tuple[str, str]]:
        """Yield ("FILE, line N", line) of every line that is neither empty nor a comment.

        Args:
            is_item: of a format without comments: whether a line is an item, though it begins with
                ``#`` and names no path below the root.
        """
        for where, line in read_lines(self.path, "list", self.comments.leaves_out):
            fits = is_item is not None and is_item(line)
            if line and (fits or not self.comments.is_comment(where, line)):
                yield where, line

    def objects(self) -> Iterator[tuple[str, object]]:
        """Yield ("FILE, line N", object) of a JSON list, or of JSON lines."""
        text = "\n".join(line for _, line in read_lines(self.path, "list"))
        position = 0
        line = 1
        while match := _BEGIN_OF_OBJECT.search(text, position):
            line += text.count("\n", position, match.start())
            item, end = read_json(text, match.start(), str(self.path))
            yield f"{self.path}, line {line}", item
            line += text.count("\n", match.start(), end)
            position = end

    def entry(self, path: str, label: int, where: str) -> Entry:
        """The entry of a file with its place in the list, where "FILE, line N" is known."""
        return Entry(path, label, line=_line_of(where), list=self.index)

    def labelled(self, path: str, texts: Sequence[str], where: str) -> Entry:
        """The entry of a file with the labels that the list gives it, a repeated one once.

        Args:
            path: relative to the root.
            texts: of its labels; none: a label map knows the path.
            where: "FILE, line N".

        Raises:
            UserError: for a wrong label.
        """
        given: Sequence[str | None] = texts or [None]
        labels = sorted({self.number(text, where, path) for text in given})
        return self.entry(path, labels[0], where)._replace(labels=joined_labels(labels))

    def texts_of(self, text: str | None) -> list[str]:
        """The labels that a field of the list holds: one, unless there may be several."""
        if text is None:
            return []
        return split_labels(text) if self.multi_label else [text]

    def texts_in(self, value: object) -> Sequence[str] | None:
        """The labels that a JSON value holds, in a list where there may be several; None if it is
        no label.
        """
        several = label_texts(value) if self.multi_label else None
        if several is not None:
            return several
        text = label_text(value)
        return None if text is None else self.texts_of(text)

    def wrong(self, where: str, line: str) -> UserError:
        """The error of a line that does not look as expected."""
        return UserError(
            where,
            f"`{self.expected}` (the format {self.form})",
            repr(line[:200]),
            "Correct the line, or name the list's `format:`.",
        )

    def wrong_object(self, where: str, item: object) -> UserError:
        """The error of a JSON object that does not look as expected."""
        return UserError(where, self.expected, json.dumps(item)[:200], "Correct the object.")

    def fill_pattern(self, default: str, **known: object) -> str:
        """Make a path by the source's pattern, or by the default one."""
        # the pattern of a folder of frames names the images in it
        has_path = self.source.media_kind is not MediaKind.FRAMES
        pattern = (self.source.pattern if has_path else None) or default
        try:
            return pattern.format(**known)
        except (LookupError, ValueError, AttributeError, MemoryError, OverflowError) as error:
            raise UserError(
                f"{key_of(self.name)}.pattern",
                f"a pattern with {', '.join(f'{{{key}}}' for key in known)}",
                f"{pattern!r} ({error})",
                "Correct the pattern.",
            ) from None


def joined_labels(labels: Sequence[int]) -> str:
    """The labels of an item as the catalog keeps them: empty for one.

    >>> joined_labels([1, 3]), joined_labels([3])
    ('1,3', '')
    """
    return ",".join(map(str, labels)) if len(labels) > 1 else ""


def cut_into_windows(entries: Iterator[Entry], source: MediaConfig) -> Iterator[Entry]:
    """The entries of whole files, which are cut into windows where they are long videos."""
    if not source.media_kind.has_pieces:
        return entries
    seconds = source.window_seconds
    return (entry._replace(unit="windows", last=seconds, video=entry.path) for entry in entries)


def _line_of(where: str) -> int:
    """The number of a line, of "FILE, line N"."""
    return int(where[where.rindex(" ") :])


def fields_of(line: str) -> list[str]:
    """Split a line at its commas, or at white space if it has none."""
    if "," not in line:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error:  # a quote that never ends, or a NUL
        return [line]
