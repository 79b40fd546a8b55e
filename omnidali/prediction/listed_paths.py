"""The paths that a list names, whatever its format and whether or not it has labels."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from omnidali.catalog.listing.comments import NoteLine, ignore
from omnidali.catalog.listing.labels import UNLABELLED
from omnidali.catalog.listing.list_file import Entry
from omnidali.catalog.listing.list_reader import read_list
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError
from omnidali.prediction.frame_folders import frame_pattern
from omnidali.utils.text_files import begins_as_json, parse_json

_LOOKED_AT = 200  # items that decide where the paths start, and of which kind they are
_Kind: TypeAlias = Literal["video", "frames", "image", "untrimmed"]
_KINDS: tuple[_Kind, ...] = ("video", "frames", "image", "untrimmed")


_HEADERS = ("path", "file", "filename", "video", "image", "name")
_TIME = re.compile(r"[0-9]+\.[0-9]+")  # in seconds


@dataclass(frozen=True)
class ListedPath:
    """An item of a list.

    Attributes:
        path: of a file, or of a folder of frames.
        pattern: of the names in the folder, where the list says it.
        spans: (unit, first, last) of the parts that the list names; none: all of it.
        error: why its line is left out; or empty.
    """

    path: str
    pattern: str | None = None
    spans: tuple[tuple[str, float, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Reading:
    """A way to read a list, whose items get no label.

    Attributes:
        source: kind, format and pattern.
        root: folder that the paths start from.
        multi_label: whether a line may have several labels.
        found: how many different paths of the first items are there, as files of this kind.
        is_doubtful: whether another reading that finds as much is better: whole videos as lines of
            ``video label num_clips positive ...`` look as with several labels.
    """

    source: MediaConfig
    root: str
    multi_label: bool
    found: int = 0
    is_doubtful: bool = False

    def entries(self, path: Path, leave_out: NoteLine = ignore) -> tuple[str, Iterator[Entry]]:
        """The format of a list, and its entries.

        Args:
            path: of the list.
            leave_out: as of :func:`~omnidali.catalog.listing.list_reader.read_list`.
        """
        return read_list(
            path,
            self.source,
            _no_label,
            str(path),
            root=os.path.realpath(self.root),
            leave_out=leave_out,
            multi_label=self.multi_label,
        )

    def try_on(self, path: Path) -> "_Reading":
        """This reading with what it finds of a list.

        Raises:
            UserError: if the list cannot be read so.
        """
        form, entries = self.entries(path)
        first = list(itertools.islice(entries, _LOOKED_AT))
        paths = {entry.path for entry in first}
        return replace(
            self,
            found=sum(self._is_there(item) for item in paths),
            is_doubtful=form == "parts" and any(entry.unit for entry in first),
        )

    def _is_there(self, item: str) -> bool:
        path = _join(self.root, item)
        is_folder = self.source.media_kind.is_folder
        return os.path.isdir(path) if is_folder else os.path.isfile(path)


def read_paths(path: Path, root: str | None = None, multi_label: bool = False) -> list[ListedPath]:
    """The items of a list in their order, one with parts once with all of them.

    Lines that are left out come last, with the reason.

    The kind, the format and the folder that paths start from are those with which most of the
    first items are there. What the list says about classes is passed over.

    Args:
        path: of the list.
        root: folder that relative paths start from; None: that of the list, or the current one.
        multi_label: whether lines rather have several labels than one.

    Raises:
        UserError: if it is no list, a line of it is wrong, or nothing that it names is there.
    """
    roots = [root] if root else list(dict.fromkeys([str(path.parent), "."]))
    plain = _json_paths(path)
    if plain is not None:
        start = max(roots, key=lambda folder: sum(os.path.exists(_join(folder, p)) for p in plain))
        return [ListedPath(_join(start, item)) for item in plain]

    reading = _choose(path, roots, multi_label)
    left_out: list[ListedPath] = []
    _, entries = reading.entries(
        path, lambda item, reason, where: left_out.append(ListedPath(item, error=reason))
    )
    if not reading.found:
        first = next(entries)
        raise UserError(
            str(path),
            f"paths that start from {' or '.join(roots)}",
            f"{first.path}, which is not there",
            "Correct the list, or name the folder that its paths start from with --root.",
        )

    # what is left out is known once all entries are read
    items = _items_of(entries, reading)
    return [*items, *left_out]


def _items_of(entries: Iterator[Entry], reading: _Reading) -> list[ListedPath]:
    """The items of a list; the entries of one file's parts make one item."""
    found: list[tuple[str, list[tuple[str, float, float]]]] = []
    cut: dict[str, list[tuple[str, float, float]]] = {}  # the parts of files that have some
    for entry in entries:
        if entry.positive is None:  # curation has taken it out
            continue
        path = _join(reading.root, entry.path)
        is_header = not found and entry.path.strip('"').lower() in _HEADERS
        if is_header and not os.path.exists(path):
            continue
        if entry.unit not in ("seconds", "frames"):
            found.append((path, []))
            continue

        if path not in cut:
            found.append((path, cut.setdefault(path, [])))
        cut[path].append((entry.unit, entry.first, entry.last))
    return [ListedPath(path, _pattern(path, reading.source), tuple(parts)) for path, parts in found]


def _choose(path: Path, roots: Sequence[str], multi_label: bool) -> _Reading:
    """The reading with which most items are found; of equal ones the first.

    Raises:
        UserError: if the list can be read in no way.
    """
    refusal: UserError | None = None
    readings = []
    for root, several, kind in itertools.product(roots, (multi_label, not multi_label), _KINDS):
        source = MediaConfig(kind=kind, root=root, list=str(path), links="follow")
        try:
            readings.append(_Reading(source, root, several).try_on(path))
        except UserError as error:
            refusal = refusal or error
    if not readings:
        assert refusal is not None
        raise refusal
    return max(readings, key=lambda reading: (reading.found, not reading.is_doubtful))


def _join(root: str, item: str) -> str:
    """The path of an item, without the quotes of a CSV if there is no such file with them."""
    path = os.path.join(root, item)
    if item[:1] == item[-1:] == '"' and len(item) > 2 and not os.path.exists(path):
        return os.path.join(root, item[1:-1])
    return path


def _json_paths(path: Path) -> list[str] | None:
    """The paths of a JSON list of texts, or of lines that are objects with a `path`; None if it is
    neither.
    """
    try:
        if not begins_as_json(path):
            return None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None
    with contextlib.suppress(UserError):
        found = parse_json(text, str(path))
        items = found if isinstance(found, list) else [found]
        return _path_texts(items)
    with contextlib.suppress(UserError):
        lines = [line for line in text.splitlines() if line.strip()]
        return _path_texts([parse_json(line, str(path)) for line in lines])
    return None


def _path_texts(items: Sequence[object]) -> list[str] | None:
    """The paths in values of JSON; None if one has none."""
    found = [item.get("path") if isinstance(item, dict) else item for item in items]
    paths = [item for item in found if isinstance(item, str)]
    return paths if paths and len(paths) == len(items) else None


def _no_label(text: str | None, where: str, *_: object) -> int:
    """No label for any item; a time is no label, so that a line with times is not read as labels.

    Raises:
        UserError: with the line.
    """
    if text is not None and _TIME.fullmatch(text):
        raise UserError(where, "a class", text, "Correct the line.")
    return UNLABELLED


def _pattern(path: str, source: MediaConfig) -> str | None:
    return frame_pattern(path) if source.media_kind.is_folder else None
