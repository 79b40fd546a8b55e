"""Two halves of what was crawled, so that no teacher judges what it has learned by heart.

A student that was given wrong labels agrees with them: however good it is, what the round before has kept by mistake
stays. Judged by a student of the other half, it goes (out-of-sample probabilities: Northcutt et al., Confident
Learning, JAIR 2021, Sec. 3).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from omnidali.catalog.items import Item, read_items
from omnidali.config import Config
from omnidali.curation.kept_lists import write_config, write_list
from omnidali.loading.data import open_data
from omnidali.settings import load_config
from omnidali.writing import write_whole, writing_to

HALVES = ("half1", "half2")  # folders


def half_of(item: Item) -> int:
    """0 or 1; the same for all pieces of a video, in any list and on any machine."""
    return zlib.crc32((item.video or item.path).encode("utf-8", "surrogateescape")) & 1


def split(config: Config, out: Path) -> tuple[Path, Path]:
    """Write two configs below ``out``: the target whole, one half each of what every other source trains on.

    Returns:
        Their paths.

    Raises:
        UserError: if a file cannot be written, or a list cannot be read.
    """
    data, written = open_data(config), []
    with writing_to(out):
        for half, folder in enumerate(out / name for name in HALVES):
            new = {}
            for name in list(config.sources)[1:]:
                items = list(read_items(config.catalog_path, name))
                mine = np.array([half_of(item) == half for item in items], bool)
                shown = np.array([item.positive for item in items], bool)
                labels = np.array([item.label for item in items], np.int64)
                source = config.sources[name]
                new[name], _ = write_list(folder, config.catalog_path, name, source, mine & shown, labels,
                                          mine if source.pieces == "all" else None)
            write_config(folder, config, new, data.class_names if data.named else None)
            written.append(folder / "config.yaml")
    return tuple(written)


def join(halves: tuple[Path, Path], out: Path) -> Path:
    """Write the config, and lists, of what the configs of two halves hold together.

    Raises:
        UserError: if a file cannot be written.
    """
    first, second = (load_config(str(path)) for path in halves)
    new = {}
    with writing_to(out):
        for name in list(first.sources)[1:]:
            lists = [Path(config.sources[name].list) for config in (first, second)]
            texts = [path.read_text(encoding="utf-8", errors="surrogateescape") for path in lists]
            path = out / lists[0].name
            if path.suffix == ".json":
                rows = [row for text in texts for row in json.loads(text)]
                write_whole(path, json.dumps(rows, ensure_ascii=False, indent=0))
            else:
                write_whole(path, "".join(texts))
            new[name] = replace(first.sources[name], list=str(path))
        write_config(out, first, new, None)
    return out / "config.yaml"
