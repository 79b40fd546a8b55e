"""Lists of the items that a command keeps, and the config that names them."""

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np

from omnidali.catalog.database.connection import open_to_copy
from omnidali.catalog.database.listed_items import (
    ListedItem,
    list_format,
    listed_pieces,
    read_items,
)
from omnidali.catalog.listing.class_files import read_class_names
from omnidali.catalog.listing.folders import is_video_name
from omnidali.catalog.listing.list_formats import REMOVED
from omnidali.config.load import dump_config
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig
from omnidali.curation.source_selection import files_of
from omnidali.errors import UserError
from omnidali.utils.atomic_write import csv_lines, write_whole

_MediaT = TypeVar("_MediaT", bound=MediaConfig)
LineFormat = Literal["path_label", "rawframes_offset", "pieces"]
WrittenFormat = Literal[LineFormat, "parts_json"]


def write_list(
    folder: Path,
    catalog: str,
    name: str,
    source: _MediaT,
    kept: np.ndarray,
    labels: np.ndarray,
    stays: np.ndarray | None = None,
    removed: np.ndarray | None = None,
    first_label: int = 0,
    names: Sequence[str] | None = None,
) -> tuple[_MediaT, int]:
    """Write the list of a source's kept items.

    Arrays are those of the source's items in the order of
    :func:`~omnidali.catalog.database.listed_items.read_items`.

    Args:
        folder: that gets the list.
        catalog: its file, which must know all pieces of the source.
        name: of the source.
        source: its settings, with the length of windows that was used.
        kept: bool (n,).
        labels: int (n,).
        stays: bool (n,): pieces of long videos that stay, though none of their pieces may be kept;
            None: those that are kept.
        removed: bool (n,): pieces that no use of the list shall draw or score again, as pieces that
            do not show their class may be. Pieces that the old list calls removed stay so.
        first_label: the number that lists give to the first class.
        names: what lists call the classes; None: their numbers.

    Returns:
        The source with the new list, and the number of samples in it.

    Raises:
        UserError: for a path that would not read back.
        OSError: if the list cannot be written.
    """
    form = _list_format(catalog, name, source)
    items = read_items(catalog, name)

    def listed_class(label: int) -> int | str:
        return label + first_label if names is None else names[label]

    if form == "parts_json":
        path = folder / f"{name}.json"
        stays = kept if stays is None else stays
        removed = np.zeros_like(kept) if removed is None else removed
        videos = _video_rows(
            zip(items, kept.tolist(), stays.tolist(), removed.tolist(), strict=True),
            listed_pieces(catalog, name),
            listed_class=listed_class,
        )
        rows = [json.dumps(video, ensure_ascii=False) for video in videos]
        write_whole(path, ["[\n", ",\n".join(rows), "\n]\n"])
        count = len(rows)
    else:
        path = folder / f"{name}.txt"
        write_line = LINE_WRITERS[form]
        listed = zip(items, kept.tolist(), map(listed_class, labels.tolist()), strict=True)
        write_whole(path, (write_line(item, label) for item, is_kept, label in listed if is_kept))
        count = int(kept.sum())

    return replace(source, list=str(path), format=form, labels=None), count


def check_list_paths(catalog: str, name: str, source: MediaConfig, kept: np.ndarray) -> None:
    """Refuse paths that :func:`write_list` would refuse, before the first list is written.

    Args:
        catalog: its file.
        name: of the source.
        source: its settings.
        kept: bool (n,), as for :func:`write_list`.

    Raises:
        UserError: for a path that would not read back.
    """
    form = _list_format(catalog, name, source)
    if form != "parts_json":
        for item in itertools.compress(read_items(catalog, name), kept.tolist()):
            LINE_WRITERS[form](item, 0)


def _list_format(catalog: str, name: str, source: MediaConfig) -> WrittenFormat:
    """The format that holds the items of a source."""
    kind = source.media_kind
    if kind.has_pieces:
        # The release's format if pieces have numbers; else pieces by their seconds.
        has_numbers = list_format(catalog, name) in ("parts", "parts_json") or all(
            item.unit == "windows" and is_video_name(item.video)
            for item in read_items(catalog, name)
        )
        return "parts_json" if has_numbers else "pieces"
    if kind.is_folder and next(read_items(catalog, name)).unit:
        return "rawframes_offset"
    return "path_label"


def _video_rows(
    pieces: Iterable[tuple[ListedItem, bool, bool, bool]],
    listed: Mapping[tuple[str, int], list[bool]],
    listed_class: Callable[[int], int | str],
) -> Iterator[dict[str, object]]:
    """Yield the rows of the release's list: the long videos, or folders of parts, that stay.

    Args:
        pieces: of all videos, one video after the other: each item, and whether it is kept, stays
            and is removed; see :func:`write_list`.
        listed: of each (video, label): whether the old list calls each of its pieces removed.
        listed_class: what lists call the class of a label.
    """
    for (path, label), grouped in itertools.groupby(
        pieces, key=lambda piece: (piece[0].video, piece[0].label)
    ):
        group = list(grouped)
        positives = sorted(item.number for item, is_kept, _, _ in group if is_kept)
        if not positives and not any(stays for _, _, stays, _ in group):
            continue

        last = group[-1][0]
        count = 1 + last.number if last.unit == "windows" else len(listed[path, label])
        gone = {item.number for item, _, _, is_removed in group if is_removed}
        gone.update(np.flatnonzero(listed[path, label]).tolist())
        row: dict[str, object] = {
            "video_dir": path,
            "label": listed_class(label),
            "num_clips": count,
            "positive_clip_inds": positives,
        }
        if gone:  # the key is ours, not the release's
            row[REMOVED] = sorted(gone)
        yield row


def _path_label_line(item: ListedItem, label: int | str) -> str:
    path = _readable_path(item.path, " \t,")
    # Where a line has a tab, its reader takes the label after the last one.
    separator = "\t" if "\t" in path else " "
    return f"{path}{separator}{label}\n"


def _frames_line(item: ListedItem, label: int | str) -> str:
    return _fields_line(item, item.begin, item.frames, label)


def _piece_line(item: ListedItem, label: int | str) -> str:
    return _fields_line(item, _decimal(item.first), _decimal(item.last), label)


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


def write_config(
    out: Path,
    config: Config,
    new: Mapping[str, MediaConfig],
    names: Sequence[str] | None,
    first_label: int = 0,
) -> None:
    """Write ``out/config.yaml``: the config with new sources, absolute paths, and a run folder.

    The run folder and the catalog are in ``out``. The catalog is a copy that knows all files
    already, unless one is there: runs with other lists do not share a catalog, as each would remove
    what the other one needs.

    Args:
        out: folder that gets the config.
        config: names the old sources.
        new: the sources that replace them, ``evaluation`` among them.
        names: of the classes. They are written if the config names no file of them, as new lists
            hold numbers. None: they are unknown.
        first_label: as for :func:`write_list`. Names are also written where the config's file of
            them counts from another number: new lists may have lost the line that tells.

    Raises:
        OSError: if something cannot be written.
    """
    root = os.path.abspath(config.data_root)
    classes = config.classes and os.path.join(root, config.classes)
    if names and (not classes or read_class_names(Path(classes)).first != first_label):
        are_numbered = classes is not None
        classes = str(out / "classes.txt")
        _write_names(Path(classes), names, are_numbered)
    catalog = out / "catalog.sqlite"
    if not catalog.exists():
        _copy_catalog(Path(config.catalog_path), catalog)

    sources = {}
    for name, source in config.sources.items():
        changed = new.get(name, source)
        assert isinstance(changed, SourceConfig)  # a list of a source, and not another source
        sources[name] = _with_absolute_files(changed, root)
    held_out = new.get(EVALUATION, config.evaluation.source)
    if held_out is not None:
        held_out = _with_absolute_files(held_out, root)

    changed_config = replace(
        config,
        data_root=root,
        run_dir=str(out / "run"),
        catalog=str(catalog),
        classes=classes,
        sources=MappingProxyType(sources),
        evaluation=replace(config.evaluation, source=held_out),
    )
    # Last: where it is, everything is.
    write_whole(out / "config.yaml", dump_config(changed_config))


def _write_names(path: Path, names: Sequence[str], are_numbered: bool) -> None:
    """Write a file of class names: a line each, or as JSON where lines would not read back.

    Args:
        path: of the file.
        names: in label order.
        are_numbered: whether lists hold their labels, though the names are other numbers.
    """
    write_whole(path, (f"{name}\n" for name in names))
    with contextlib.suppress(UserError):
        found = read_class_names(path)
        if found.are_numbers and are_numbered:
            write_whole(path, [json.dumps({name: label for label, name in enumerate(names)})])
            return
        if found == list(names):
            return
    write_whole(path, [json.dumps(list(names), ensure_ascii=False)])


def _with_absolute_files(source: _MediaT, root: str) -> _MediaT:
    files: dict[str, Any] = {
        key: os.path.join(root, path) for key, path in files_of(source).items()
    }
    return replace(source, **files)


def _copy_catalog(path: Path, copy: Path) -> None:
    part = copy.with_name(f"{copy.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(open_to_copy(path)) as old,
            contextlib.closing(sqlite3.connect(part)) as new,
        ):
            old.backup(new)
        os.replace(part, copy)
    except sqlite3.Error as error:
        part.unlink(missing_ok=True)
        raise OSError(0, str(error), str(copy)) from None
