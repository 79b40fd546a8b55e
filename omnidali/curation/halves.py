"""Two halves of what was crawled, so that no teacher judges what it has learned by heart.

A student that was given wrong labels agrees with them: however good it is, what the round before has kept by mistake
stays. Judged by a student of the other half, it goes (out-of-sample probabilities: Northcutt et al., Confident
Learning, JAIR 2021, Sec. 3).
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

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
    return blake2b((item.video or item.path).encode("utf-8", "surrogateescape"), digest_size=1).digest()[0] & 1


def split(config: Config, out: Path) -> tuple[Path, Path]:
    """Write two configs below ``out``: the target whole, one half each of what every other source trains on.

    A source of which a half has nothing is left out there.

    Returns:
        Their paths.

    Raises:
        UserError: if a file cannot be written, or a list cannot be read.
    """
    everything = {name: replace(source, pieces="all") if source.kind == "untrimmed" else source
                  for name, source in config.sources.items()}  # all pieces: they have numbers
    data, (target, *web) = open_data(replace(config, sources=MappingProxyType(everything))), config.sources
    written = []
    with writing_to(out):
        for half, folder in enumerate(out / name for name in HALVES):
            new = {}
            for name in web:
                source, items = config.sources[name], list(read_items(config.catalog_path, name))
                mine = np.array([half_of(item) == half for item in items], bool)
                shown = np.array([item.positive for item in items], bool)
                stays = mine if source.pieces == "all" else mine & shown
                if stays.any():
                    labels = np.array([item.label for item in items], np.int64)
                    new[name], _ = write_list(folder, config.catalog_path, name, source, mine & shown, labels, stays)
            mine = replace(config, sources=MappingProxyType({target: config.sources[target], **new}))
            write_config(folder, mine, new, data.class_names if data.named else None)
            written.append(folder / "config.yaml")
    return tuple(written)


def join(halves: tuple[Path, Path], out: Path) -> Path:
    """Write the config, and lists, of what the configs of two halves hold together.

    Raises:
        UserError: if a file cannot be written.
    """
    both = [load_config(str(path)) for path in halves]
    target, new = next(iter(both[0].sources)), {}
    with writing_to(out):
        for name in dict.fromkeys(name for config in both for name in list(config.sources)[1:]):
            sources = [config.sources[name] for config in both if name in config.sources]
            texts = [Path(source.list).read_text(encoding="utf-8", errors="surrogateescape") for source in sources]
            path = out / Path(sources[0].list).name
            if path.suffix == ".json":
                write_whole(path, json.dumps([row for text in texts for row in json.loads(text)], ensure_ascii=False))
            else:
                write_whole(path, "".join(texts))
            new[name] = replace(sources[0], list=str(path))
        config = replace(both[0], sources=MappingProxyType({target: both[0].sources[target], **new}))
        write_config(out, config, new, None)
    return out / "config.yaml"
