"""Lists of the items that a command keeps, and the config that names them."""

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np

from omnidali.catalog.database.connection import open_to_copy
from omnidali.catalog.database.label_sets import LabelSets
from omnidali.catalog.database.listed_items import (
    ListedItem,
    SampleKey,
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
from omnidali.curation.list_lines import LINE_WRITERS, LineFormat, several_labels_line
from omnidali.curation.source_selection import files_of
from omnidali.errors import UserError
from omnidali.utils.atomic_write import write_whole

_MediaT = TypeVar("_MediaT", bound=MediaConfig)
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
    label_sets: LabelSets | None = None,
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
        label_sets: of the items, where these may have several labels; they replace ``labels``.

    Returns:
        The source with the new list, and the number of samples in it.

    Raises:
        UserError: for a path that would not read back.
        OSError: if the list cannot be written.
    """
    form = _list_format(catalog, name, source)
    items = read_items(catalog, name)
    listed_class = _class_namer(first_label, names)

    if form == "parts_json":
        path = folder / f"{name}.json"
        stays = kept if stays is None else stays
        removed = np.zeros_like(kept) if removed is None else removed
        pieces = zip(items, kept.tolist(), stays.tolist(), removed.tolist(), strict=True)
        videos = _video_rows(pieces, listed_pieces(catalog, name), listed_class=listed_class)
        count = _write_array(path, videos)
    else:
        path = folder / f"{name}.txt"
        write_line = _line_writer(form, label_sets is not None)
        classes = _listed_classes(labels, label_sets, listed_class)
        listed = zip(items, kept.tolist(), classes, strict=True)
        write_whole(path, (write_line(item, label) for item, is_kept, label in listed if is_kept))
        count = int(kept.sum())

    return replace(source, list=str(path), format=form, labels=None), count


def _write_array(path: Path, rows: Iterable[object]) -> int:
    """Write a JSON array with a line a row; returns the number of rows."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_whole(path, ["[\n", ",\n".join(lines), "\n]\n"])
    return len(lines)


def _line_writer(form: LineFormat, multi_label: bool) -> Callable[[ListedItem, int | str], str]:
    return partial(several_labels_line, form) if multi_label else LINE_WRITERS[form]


def _class_namer(first_label: int, names: Sequence[str] | None) -> Callable[[int], int | str]:
    """What lists call the class of a label."""
    if names is None:
        return lambda label: label + first_label
    return lambda label: names[label]


def _listed_classes(
    labels: np.ndarray,
    label_sets: LabelSets | None,
    listed_class: Callable[[int], int | str],
) -> Iterator[int | str]:
    """Yield what a list calls the class of each item, or its classes with spaces between them."""
    if label_sets is None:
        yield from map(listed_class, labels.tolist())
        return
    for row in range(len(label_sets)):
        yield " ".join(str(listed_class(label)) for label in label_sets.at(row))


def check_list_paths(
    catalog: str, name: str, source: MediaConfig, kept: np.ndarray, *, multi_label: bool = False
) -> None:
    """Refuse paths that :func:`write_list` would refuse, before the first list is written.

    Args:
        catalog: its file.
        name: of the source.
        source: its settings.
        kept: bool (n,), as for :func:`write_list`.
        multi_label: whether items may have several labels.

    Raises:
        UserError: for a path that would not read back.
    """
    form = _list_format(catalog, name, source)
    if form != "parts_json":
        write_line = _line_writer(form, multi_label)
        for item in itertools.compress(read_items(catalog, name), kept.tolist()):
            write_line(item, 0)


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
    listed: Mapping[SampleKey, list[bool]],
    listed_class: Callable[[int], int | str],
) -> Iterator[dict[str, object]]:
    """Yield the rows of the release's list: the long videos, or folders of parts, that stay.

    Args:
        pieces: of all videos, one video after the other: each item, and whether it is kept, stays
            and is removed; see :func:`write_list`.
        listed: of each sample: whether the old list calls each of its pieces removed.
        listed_class: what lists call the class of a label.
    """
    for sample, grouped in itertools.groupby(pieces, key=lambda piece: piece[0].sample):
        group = list(grouped)
        positives = sorted(item.number for item, is_kept, _, _ in group if is_kept)
        if not positives and not any(stays for _, _, stays, _ in group):
            continue

        last = group[-1][0]
        count = 1 + last.number if last.unit == "windows" else len(listed[sample])
        gone = {item.number for item, _, _, is_removed in group if is_removed}
        gone.update(np.flatnonzero(listed[sample]).tolist())
        classes = [listed_class(label) for label in last.label_set]
        row: dict[str, object] = {
            "video_dir": last.video,
            "label": classes if len(classes) > 1 else classes[0],
            "num_clips": count,
            "positive_clip_inds": positives,
        }
        if gone:  # the key is ours, not the release's
            row[REMOVED] = sorted(gone)
        yield row


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
