"""Tiny data sets, laid out as they are downloaded, and what a loader finds in them."""

import csv
import functools
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omnidali.config.load import load_config
from omnidali.config.sources import EVALUATION
from omnidali.loading.data import open_data
from omnidali.testing.numbered_media import write_image, write_video

# container by ending: codec and options of an encoder that is fast
_CODECS = {
    ".mp4": ("libx264", {"preset": "ultrafast"}),
    ".mkv": ("libx264", {"preset": "ultrafast"}),
    ".avi": ("mpeg4", {}),
    ".webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
}
FRAMES = 6


@functools.lru_cache
def _template(ending):
    """A file with this ending that is made once and copied."""
    folder = Path(tempfile.mkdtemp(prefix="omnidali-data-sets-"))
    path = folder / f"x{ending}"
    if ending in _CODECS:
        codec, options = _CODECS[ending]
        write_video(path, 1, FRAMES, width=64, height=48, codec=codec, options=options)
    else:
        write_image(path, 1, 64, 48)
    data = path.read_bytes()
    shutil.rmtree(folder)
    return data


def add_media(root, *names, like=None):
    """Put videos and photos into a folder, each in the format of its ending or of ``like``."""
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_template(like or os.path.splitext(name)[1]))


def add_frames(root, *names, count=FRAMES, pattern="img_{:05}.jpg"):
    """Put folders of frames into a folder."""
    for name in names:
        add_media(root, *(f"{name}/{pattern.format(number + 1)}" for number in range(count)))


def add_text(root, name, text, ending="\n"):
    """Write a text file with these line endings."""
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", ending).encode())


@dataclass(frozen=True)
class Found:
    """What a start finds.

    Attributes:
        samples: by source, the name of the class by path below the root.
        forms: by source, what it was read as.
        left_out: by source, the reasons by path.
        lines: that the start prints.
        classes: names in label order.
    """

    samples: dict
    forms: dict
    left_out: dict
    lines: list
    classes: list


def open_folder(folder, config, *overrides):
    """Open a data set as a training does; ``config`` is the part of a config about it."""
    path = Path(folder, "config.yaml")
    path.write_text(f"{config}\ntrain: {{steps: 1, batch: 4}}\n", encoding="utf-8")
    settings = load_config(path, [f"data_root={folder}", f"run_dir={folder}/run", *overrides])
    data = open_data(settings)
    tables = {table.name: table for table in data.tables}
    sources = dict(settings.sources)
    if data.evaluation is not None:
        tables[EVALUATION] = data.evaluation
        sources[EVALUATION] = settings.evaluation.source

    samples = {}
    for name, table in tables.items():
        root = os.path.realpath(Path(folder, sources[name].root))
        samples[name] = {
            os.path.relpath(table.media(table.first_record(row)).path, root): data.class_names[
                table.labels[row]
            ]
            for row in range(len(table))
        }
    forms = {
        line.partition(":")[0]: re.search("read as (.*?) \\(", line)[1]
        for line in data.summary
        if "read as" in line
    }
    return Found(samples, forms, _left_out(folder), list(data.summary), list(data.class_names))


def _left_out(folder):
    """The rows of the table of what is left out."""
    path = Path(folder, "run/catalog.left_out.csv")
    found = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["source"], {})[row["path"]] = row["reason"]
    return found
