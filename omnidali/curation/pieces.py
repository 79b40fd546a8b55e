"""What there is to cut: the pieces of long videos, with their numbers and the places of their
files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.listed_items import Item, read_items, removed_pieces
from omnidali.catalog.database.store import CatalogReader, SourceTable
from omnidali.catalog.listing.folders import is_video_name
from omnidali.config.schema import Config, SourceConfig, key_of
from omnidali.curation.source_selection import choose_sources
from omnidali.errors import UserError
from omnidali.loading.data import find_names
from omnidali.utils.untrusted_text import say


@dataclass(frozen=True)
class Piece:
    """A file to be made: ``frames`` from ``first`` on of the video with this catalog id in
    ``table``.
    """

    path: str  # below the results
    table: SourceTable
    record: int
    number: int
    positive: bool
    first: int
    frames: int


@dataclass
class Video:
    """An object of the release's list: a video under one label, of which ``count`` pieces are
    known, and of them those with the numbers ``removed`` of no use.
    """

    folder: str
    label: int
    count: int
    removed: list[int]
    pieces: list[Piece] = field(default_factory=list)


def long_sources(config: Config, names: Collection[str]) -> dict[str, SourceConfig]:
    """The sources of long videos, or those of them that are named.

    Raises:
        UserError: if there is none, or one that is named is of another kind.
    """
    chosen = choose_sources(config, names)
    for name in names:
        if name not in config.sources or config.sources[name].kind != "untrimmed":
            raise UserError(
                "--sources", "sources of kind untrimmed", name, "Leave it out: it has no pieces."
            )
    sources = {
        name: config.sources[name]
        for name in chosen
        if name in config.sources and config.sources[name].kind == "untrimmed"
    }
    if not sources:
        raise UserError(
            "sources",
            "a source of kind untrimmed",
            ", ".join(config.sources),
            "Name a config with long videos; nothing else has pieces.",
        )
    return sources


def find_pieces(
    config: Config,
    root: Path,
    sources: dict[str, SourceConfig],
    wanted: dict[str, str],
    asked: bool,
) -> tuple[dict[str, list[Video]], list[str] | None]:
    """The videos of every source, and the names of the classes; sources in files already are taken
    out of ``sources``.

    Args:
        wanted: ``positive`` or ``all`` by source. asked: whether the sources were named, so that
            one with nothing to cut is a mistake.

    Raises:
        UserError: if there is nothing to cut.
    """
    class_names = find_names(config)
    # the numbers of pieces count all of them, those that training leaves out, too
    known = {
        name: replace(
            source,
            pieces="all"
            if wanted[name] == "all" and source.pieces != ("one_positive_rest_negative")
            else "one_positive_rest_negative",
        )
        for name, source in sources.items()
    }
    say(*build_catalog(config.catalog_path, known, root, class_names))
    reader, videos = CatalogReader(config.catalog_path), {}
    for name in list(sources):
        items = list(read_items(config.catalog_path, name))
        if any(item.unit for item in items):
            videos[name] = find_videos(
                name,
                reader.table(name),
                items,
                wanted[name],
                removed_pieces(config.catalog_path, name),
            )
        elif asked:
            raise UserError(
                key_of(name),
                "videos that are cut in time",
                "pieces that are files already",
                "Leave it out of --sources.",
            )
        else:
            del sources[name]
    if not videos:
        raise UserError(
            "sources",
            "videos that are cut in time",
            "pieces that are files already",
            "There is nothing to cut.",
        )
    return videos, class_names


def find_videos(
    name: str,
    table: SourceTable,
    items: Collection[Item],
    wanted: str,
    removed: Mapping[tuple[str, int], list[int]] = {},
) -> list[Video]:
    """The videos of a source's table in its order, with the pieces that are wanted.

    Args:
        items: all listed pieces; of those with the same frames the first counts. wanted:
            ``positive`` or ``all``, what lies between listed pieces among them. removed: numbers by
            video and label.
    """
    listed: dict[tuple[int, ...], Item] = {}
    counts: Counter = Counter()
    for item in items:
        listed.setdefault((item.label, item.record, item.begin, item.frames), item)
        counts[item.video, item.label] = max(counts[item.video, item.label], item.number + 1)
    for video, numbers in removed.items():
        counts[video] = max(counts[video], numbers[-1] + 1)
    videos, taken = [], set()
    for row in range(len(table)):
        spans = [
            (int(table.records[place]), int(table.firsts[place]), int(table.frames[place]))
            for place in range(table.starts[row], table.starts[row + 1])
        ]
        label, shown = int(table.labels[row]), dict.fromkeys(spans[: table.positives[row]])
        key = listed[label, *spans[0]].video, label
        video = Video(_folder_of(*key, taken), label, counts[key], list(removed.get(key, ())))
        for span in dict.fromkeys(spans) if wanted == "all" else shown:
            item = listed.get((label, *span))
            if item is None:
                video.count += 1
            number = video.count - 1 if item is None else item.number
            path = f"{name}/{video.folder}/part_{number}.mp4"
            video.pieces.append(Piece(path, table, span[0], number, span in shown, *span[1:]))
        videos.append(video)
    return videos


def _folder_of(path: str, label: int, taken: set[str]) -> str:
    """Where a video's pieces go: its path without the ending, unless that is another's place or a
    video's name.
    """
    path = os.path.normpath(path)
    short = os.path.splitext(path)[0] if is_video_name(path) else path
    for folder in (short, path.replace(".", "_"), f"{path.replace('.', '_')}_label_{label}"):
        if folder not in taken and not is_video_name(folder):
            taken.add(folder)
            return folder
    raise UserError(
        path,
        "a place of its own for its pieces",
        f"{short}, which is another's",
        "Rename the video.",
    )
