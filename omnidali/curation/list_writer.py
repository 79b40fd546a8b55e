"""Lists of what a command keeps, in formats that the catalog reads, and the config that names them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.catalog.database.connection import open_to_copy
from omnidali.catalog.database.listed_items import (
    Item,
    count_pieces,
    list_format,
    read_items,
    removed_pieces,
)
from omnidali.catalog.listing.folders import is_video_name
from omnidali.catalog.listing.list_formats import REMOVED
from omnidali.config.load import dump_config
from omnidali.config.schema import EVALUATION, Config, MediaConfig
from omnidali.curation.source_selection import all_sources, files_of
from omnidali.errors import UserError
from omnidali.utils.atomic_write import csv_lines, write_whole


def write_list(
    folder: Path,
    catalog: str,
    name: str,
    source: MediaConfig,
    kept: np.ndarray,
    labels: np.ndarray,
    stays: np.ndarray | None = None,
    removed: np.ndarray | None = None,
) -> tuple[MediaConfig, int]:
    """Write the list of a source's kept items.

    Args:
        source: with the length of windows that was looked at; the catalog must know all of its
            pieces. kept: bool, labels: int, of the source's items in the order of
            :func:`~omnidali.catalog.database.listed_items.read_items`.
        stays: bool, of the same items: pieces whose long video stays though none of its pieces is
            kept.
        removed: bool, of the same items: pieces that no use of the list shall bring back, as pieces
            that do not show their class may be drawn, and scored again. What the old list calls
            removed stays so.

    Returns:
        The source with the new list, and how many samples it has.

    Raises:
        UserError: for a path that would not read back. OSError: if it cannot be written.
    """
    form = _form_of(catalog, name, source)
    path = folder / f"{name}{'.json' if form == 'parts_json' else '.txt'}"
    if form == "parts_json":
        marks = (
            kept,
            kept if stays is None else stays,
            np.zeros_like(kept) if removed is None else removed,
        )
        found = zip(read_items(catalog, name), *(mark.tolist() for mark in marks))
        count = write_parts(
            path, _videos(found, count_pieces(catalog, name), removed_pieces(catalog, name))
        )
    else:
        line = _LINES[form]
        count = int(kept.sum())
        found = zip(read_items(catalog, name), kept.tolist(), labels.tolist())
        write_whole(path, (line(item, label) for item, good, label in found if good))
    return replace(source, list=str(path), format=form, labels=None), count


def check_list(catalog: str, name: str, source: MediaConfig, kept: np.ndarray) -> None:
    """Refuse what :func:`write_list` would refuse; for commands that write several lists, all of
    them or none.

    Raises:
        UserError: for a path that would not read back.
    """
    form = _form_of(catalog, name, source)
    if form != "parts_json":
        line = _LINES[form]
        for item, good in zip(read_items(catalog, name), kept.tolist()):
            if good:
                line(item, 0)


def write_parts(path: Path, videos: Iterable[tuple[str, int, int, list[int], list[int]]]) -> int:
    """Write the release's list of (folder or long video, label, pieces, positive pieces, removed
    pieces); returns how many there are.

    Raises:
        OSError: if it cannot be written.
    """
    keys = ("video_dir", "label", "num_clips", "positive_clip_inds", REMOVED)
    # the last key is not the release's: only where it says something
    rows = [
        json.dumps(dict(zip(keys, video if video[-1] else video[:-1])), ensure_ascii=False)
        for video in videos
    ]
    write_whole(path, ["[\n", ",\n".join(rows), "\n]\n"])
    return len(rows)


def _form_of(catalog: str, name: str, source: MediaConfig) -> str:
    """The format that the list of a source's items is written in."""
    if source.kind == "untrimmed":
        return _form_of_pieces(catalog, name)
    if source.kind == "frames" and next(read_items(catalog, name)).unit:
        return "rawframes_offset"
    return "path_label"


def _form_of_pieces(catalog: str, name: str) -> str:
    """The release's format where pieces have numbers; else pieces by their seconds."""
    if list_format(catalog, name) in ("parts", "parts_json"):
        return "parts_json"
    windows = all(
        item.unit == "windows" and is_video_name(item.video) for item in read_items(catalog, name)
    )
    return "parts_json" if windows else "pieces"


def _videos(
    found: Iterable[tuple[Item, bool, bool, bool]],
    counts: Mapping[tuple[str, int], int],
    removed: Mapping[tuple[str, int], list[int]],
) -> Iterator[tuple[str, int, int, list[int], list[int]]]:
    """What :func:`write_parts` takes, from pieces that are each kept or not, staying or not,
    removed or not.
    """
    for (video, label), group in itertools.groupby(
        found, key=lambda row: (row[0].video, row[0].label)
    ):
        items, kept, stays, gone = zip(*group)
        positives = sorted(item.number for item in itertools.compress(items, kept))
        if positives or any(stays):
            count = 1 + items[-1].number if items[0].unit == "windows" else counts[video, label]
            yield (
                video,
                label,
                count,
                positives,
                sorted(
                    {
                        *removed.get((video, label), ()),
                        *(item.number for item in itertools.compress(items, gone)),
                    }
                ),
            )


def _path_label(item: Item, label: int) -> str:
    path = _plain(item.path, " \t,")
    # where there is a tab, the label stands behind the last one
    mark = "\t" if "\t" in path else " "
    return f"{path}{mark}{label}\n"


def _folder(item: Item, label: int) -> str:
    return _line(item, item.begin, item.frames, label)


def _piece(item: Item, label: int) -> str:
    return _line(item, _seconds(item.first), _seconds(item.last), label)


def _line(item: Item, *fields: object) -> str:
    row = [_plain(item.path, None), *fields]
    return next(csv_lines([row])) if "," in item.path else f"{' '.join(map(str, row))}\n"


# by format, one of an item
_LINES = {"path_label": _path_label, "rawframes_offset": _folder, "pieces": _piece}


def _seconds(value: float) -> str:
    """
    >>> _seconds(10.0), _seconds(0.0000001)
    ('10', '0.0000001')
    """
    return np.format_float_positional(value, trim="-")


def _plain(path: str, lost: str | None) -> str:
    """A path that a list's reader gives back as it is, or with ``./`` before it.

    Args:
        lost: characters that the reader takes away from its end; None: all white space.

    Raises:
        UserError: if it ends with one of them.
    """
    if path != path.rstrip(lost):
        raise UserError(
            repr(path),
            "a name that a list can hold",
            f"one that ends with {path[-1]!r}",
            "Rename it, in its list too; nothing but the new name is looked at again.",
        )
    # a remark, white space, or a mark of the encoding
    return f"./{path}" if path.startswith(("#", "\ufeff")) or path != path.lstrip() else path


def write_config(
    out: Path, config: Config, new: Mapping[str, MediaConfig], names: Iterable[str] | None
) -> None:
    """Write ``out/config.yaml``: the config with new sources, paths that hold anywhere, and a run
    folder in ``out``.

    A catalog is put beside it that knows all files already, unless one is there: runs with other
    lists do not share one, as each would take out what the other one needs.

    Args:
        names: of the classes; they are written where the config names no file of them, as new lists
            have numbers. None: nobody knows them.

    Raises:
        OSError: if something cannot be written.
    """
    root = os.path.abspath(config.data_root)
    sources = {
        name: replace(
            source, **{key: os.path.join(root, path) for key, path in files_of(source).items()}
        )
        for name, source in {**all_sources(config), **new}.items()
    }
    classes = config.classes and os.path.join(root, config.classes)
    if not classes and names:
        classes = str(out / "classes.txt")
        write_whole(Path(classes), (f"{name}\n" for name in names))
    catalog = out / "catalog.sqlite"
    _copy_catalog(Path(config.catalog_path), catalog)
    evaluation = replace(config.evaluation, source=sources.pop(EVALUATION, None))
    write_whole(
        out / "config.yaml",
        dump_config(
            replace(  # last: where it is, everything is
                config,
                data_root=root,
                run_dir=str(out / "run"),
                catalog=str(catalog),
                classes=classes,
                sources=MappingProxyType(sources),
                evaluation=evaluation,
            )
        ),
    )


def _copy_catalog(path: Path, copy: Path) -> None:
    if copy.exists():
        return
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
