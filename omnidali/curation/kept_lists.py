"""Lists of what a filter keeps, in formats that the catalog reads, and the config that names them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.catalog.folders import is_video_name
from omnidali.catalog.items import Item, count_pieces, list_format, read_items
from omnidali.config import EVALUATION, Config, MediaConfig
from omnidali.settings import dump_config
from omnidali.writing import write_whole

_FILES = ("list", "labels", "motion")  # settings of a source that name a file


def write_list(out: Path, catalog: str, name: str, source: MediaConfig, kept: np.ndarray, labels: np.ndarray,
               keep_negatives: bool) -> tuple[MediaConfig, int]:
    """Write the list of a source's kept items.

    Args:
        source: with the length of windows that was scored. kept: bool, labels: int, of the source's items in the order
            of :func:`~omnidali.catalog.items.read_items`.
        keep_negatives: whether long videos stay of which no piece is kept.

    Returns:
        The source with the new list, and how many samples it has.
    """
    found = zip(read_items(catalog, name), kept.tolist(), labels.tolist())
    form, pattern = "path_label", None
    if source.kind == "untrimmed":
        form, pattern = _form_of_pieces(catalog, name), source.pattern
    elif source.kind == "frames":
        first = next(read_items(catalog, name))
        form, pattern = "rawframes_offset" if first.unit else "path_label", source.pattern
    path = out / f"{name}{'.json' if form == 'parts_json' else '.txt'}"
    if form == "parts_json":
        rows = list(_videos(found, count_pieces(catalog, name), keep_negatives))
        write_whole(path, ["[\n", ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "\n]\n"])
        count = len(rows)
    else:
        line = {"path_label": _path_label, "rawframes_offset": _folder, "pieces": _piece}[form]
        count = int(kept.sum())
        write_whole(path, (f"{line(item, label)}\n" for item, good, label in found if good))
    return replace(source, list=str(path), format=form, pattern=pattern, labels=None, tars=None), count


def _form_of_pieces(catalog: str, name: str) -> str:
    """The release's format where pieces have numbers; else pieces by their seconds."""
    read_as = list_format(catalog, name)
    if read_as in ("parts", "parts_json"):
        return "parts_json"
    windows = all(item.unit == "windows" and is_video_name(item.video) for item in read_items(catalog, name))
    return "parts_json" if windows else "pieces"


def _videos(found: Iterable[tuple[Item, bool, int]], counts: Mapping[tuple[str, int], int],
            keep_negatives: bool) -> Iterator[dict]:
    for (video, label), group in itertools.groupby(found, key=lambda row: (row[0].video, row[0].label)):
        pieces = list(group)
        positives = [item.number for item, good, _ in pieces if good]
        windows = pieces[0][0].unit == "windows"
        count = 1 + max(item.number for item, _, _ in pieces) if windows else counts[video, label]
        if positives or keep_negatives:
            yield {"video_dir": video, "label": label, "num_clips": count, "positive_clip_inds": sorted(positives)}


def _path_label(item: Item, label: int) -> str:
    return f"{_plain(item.path)} {label}"


def _folder(item: Item, label: int) -> str:
    return f"{_plain(item.path)} {item.begin} {item.frames} {label}"


def _piece(item: Item, label: int) -> str:
    first, last = (item.first, item.last) if item.unit == "seconds" else (
        item.number * item.last, (item.number + 1) * item.last)
    return f"{_plain(item.path)} {_seconds(first)} {_seconds(last)} {label}"


def _seconds(value: float) -> str:
    """
    >>> _seconds(10.0), _seconds(0.0000001)
    ('10', '0.0000001')
    """
    return np.format_float_positional(value, trim="-")


def _plain(path: str) -> str:
    """A path that no list takes for a remark."""
    return f"./{path}" if path.startswith("#") else path


def make_config(config: Config, out: Path, sources: Mapping[str, MediaConfig], names: Iterable[str]) -> Config:
    """The config with some sources replaced, paths that hold anywhere, and a run folder and catalog in ``out``.

    Args:
        names: of the classes; they are written where the config names no file of them, as the new lists have numbers.
    """
    root = os.path.abspath(config.data_root)
    every = {**config.sources, EVALUATION: config.evaluation.source}

    def placed(name: str) -> MediaConfig | None:
        source = sources.get(name, every[name])
        files = {key: os.path.join(root, getattr(source, key)) for key in _FILES if getattr(source, key, None)}
        return source and replace(source, **files)

    classes = config.classes and os.path.join(root, config.classes)
    if not classes:
        classes = str(out / "classes.txt")
        write_whole(Path(classes), (f"{name}\n" for name in names))
    catalog = os.path.abspath(config.catalog) if config.catalog else str(out / "catalog.sqlite")
    return replace(config, data_root=root, run_dir=str(out / "run"), catalog=catalog, classes=classes,
                   sources=MappingProxyType({name: placed(name) for name in config.sources}),
                   evaluation=replace(config.evaluation, source=placed(EVALUATION)))


def write_config(out: Path, config: Config) -> None:
    """Write ``out/config.yaml``."""
    write_whole(out / "config.yaml", dump_config(config))
