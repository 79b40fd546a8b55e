"""Lists and a config for what is left of a config's sources; no media are touched."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import numpy as np

from omnidali.catalog.labels import Labels, read_label_map
from omnidali.catalog.lists import read_list
from omnidali.catalog.pack import listed_pieces
from omnidali.catalog.store import SourceTable
from omnidali.config import EVALUATION, Config, MediaConfig, key_of
from omnidali.errors import UserError
from omnidali.settings import dump_config

_FILES = ("list", "labels", "motion")  # settings of a source that name a file


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(str(path), "a file that can be written", str(error.strerror or error),
                        "Make room or choose another --out; a second start goes on where this one stopped.") from None


def relative_paths(table: SourceTable) -> dict[int, str]:
    """Every file's path below its source's root, by catalog id."""
    return dict(table.files("path"))


def write_kept(config: Config, out: Path, tables: Mapping[str, SourceTable], dropped: Mapping[str, np.ndarray],
               names: Sequence[str]) -> Config:
    """Write a list of what is left of every source in ``dropped``, and OUT/config.yaml that names these lists.

    Args:
        tables: of the catalog, whole. dropped: bool, by piece of the source's table. names: of the classes.

    Returns:
        The new config.

    Raises:
        UserError: if a file cannot be written.
    """
    data_root, new = Path(os.path.abspath(config.data_root)), {}
    sources = {**config.sources, EVALUATION: config.evaluation.source}
    for name, source in sources.items():
        if source is None:
            continue
        paths = {key: str(data_root / getattr(source, key)) for key in _FILES if getattr(source, key, None)}
        new[name] = replace(source, root=str(data_root / source.root), **paths)
        if name in dropped:
            form, ending, text = _list_of(new[name], name, tables[name], dropped[name], names)
            path = out / "lists" / f"{name}{ending}"
            write_text(path, text)
            new[name] = replace(new[name], list=str(path), format=form, labels=None)
    classes = config.classes and str(data_root / config.classes)
    if classes is None and list(names) != [str(number) for number in range(len(names))]:
        classes = str(out / "classes.txt")
        write_text(Path(classes), "".join(f"{name}\n" for name in names))
    evaluation = replace(config.evaluation, source=new.pop(EVALUATION, None))
    catalog = os.path.abspath(config.catalog) if config.catalog else str(out / "catalog.sqlite")
    config = replace(config, data_root=str(data_root), sources=MappingProxyType(new), evaluation=evaluation,
                     classes=classes, catalog=catalog, run_dir=str(out / "run"))
    write_text(out / "config.yaml", dump_config(config))
    return config


def _list_of(source: MediaConfig, name: str, table: SourceTable, dropped: np.ndarray,
             names: Sequence[str]) -> tuple[str, str, str]:
    """Format, ending and text of the list of what is left."""
    if source.kind == "untrimmed":
        return _pieces_list(source, name, table, dropped, names)
    paths, lines = relative_paths(table), []
    for row in np.flatnonzero(~dropped).tolist():
        path, label = paths[int(table.records[row])], int(table.labels[row])
        path = f"./{path}" if path.startswith("#") else path  # or it would be a comment
        if source.kind == "frames":
            first = 0 if table.firsts is None else int(table.firsts[row])
            lines.append(_quoted([path, first, int(table.frames[row]), label]) if "," in path else
                         f"{path} {first} {int(table.frames[row])} {label}\n")
        else:
            lines.append(f"{path}\t{label}\n" if "\t" in path else f"{path} {label}\n")
    return "rawframes_offset" if source.kind == "frames" else "path_label", ".txt", "".join(lines)


def _quoted(fields: list) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _pieces_list(source: MediaConfig, name: str, table: SourceTable, dropped: np.ndarray,
                 names: Sequence[str]) -> tuple[str, str, str]:
    """The list of long videos: objects of the release with fewer positive pieces, or `path start end label`."""
    paths = relative_paths(table)
    firsts = np.zeros(len(table.records), np.int64) if table.firsts is None else table.firsts
    gone = {(paths[record], first) for record, first in
            zip(table.records[dropped].tolist(), firsts[dropped].tolist())}
    left: dict[tuple[str, int], list] = {}  # of every video and label, its entries with what is left of each
    for entry, spans in listed_pieces(table):
        kept = [(entry.path, first) not in gone for first, _ in spans]
        left.setdefault((entry.video, entry.label), []).append((entry, kept))
    if all(entry.unit == "windows" for entries in left.values() for entry, _ in entries):
        objects = [(video, label, len(kept), np.flatnonzero(kept).tolist())
                   for (video, label), ((_, kept),) in left.items()]
        return "parts_json", ".json", _json_list(objects)
    if any(entry.unit for entries in left.values() for entry, _ in entries):
        if _form_of(source, name, names) not in ("parts", "parts_json"):
            lines = [f"{entry.path} {entry.first:.6f} {entry.last:.6f} {label}\n" if "," not in entry.path else
                     _quoted([entry.path, f"{entry.first:.6f}", f"{entry.last:.6f}", label])
                     for (_, label), entries in left.items() for entry, kept in entries if any(kept)]
            return "pieces", ".txt", "".join(lines)
    shown = {(video, label, entry.path, entry.first) for (video, label), entries in left.items()
             for entry, kept in entries if entry.positive and any(kept)}
    objects = []
    # from the list itself: the catalog leaves out the pieces that training does not ask for
    entries = _entries(source, name, names)[1]
    for (video, label), group in groupby(entries, key=lambda entry: (entry.video, entry.label)):
        group, tail = list(group), ""
        if (video, label) not in left:  # the list begins its paths with the root's name
            tail = f"{os.path.basename(os.path.realpath(source.root))}/"
        video = video.removeprefix(tail)
        positives = [number for number, entry in enumerate(group)
                     if (video, label, entry.path.removeprefix(tail), entry.first) in shown]
        if positives:
            objects.append((video, label, len(group), positives))
    return "parts_json", ".json", _json_list(objects)


def _entries(source: MediaConfig, name: str, names: Sequence[str]):
    mapping = read_label_map(Path(source.labels)) if source.labels else None
    labels = Labels(list(names), mapping, Path(source.labels) if source.labels else None)
    return read_list(Path(source.list), source, labels, name)


def _form_of(source: MediaConfig, name: str, names: Sequence[str]) -> str:
    return _entries(source, name, names)[0] if source.list else "class folders"


def _json_list(objects: list[tuple[str, int, int, list[int]]]) -> str:
    return "[" + ",\n ".join(json.dumps({"video_dir": video, "label": label, "num_clips": count,
                                         "positive_clip_inds": positives})
                             for video, label, count, positives in objects if positives) + "]\n"


def refuse_tars(config: Config, names: Sequence[str]) -> None:
    """Raise UserError for sources that are tars: they hold no list that could name some of their members."""
    for name in names:
        if config.sources[name].tars:
            raise UserError(key_of(name), "a source with a list or class folders", config.sources[name].tars,
                            "Unpack the tars, or leave the source out with --sources.")
