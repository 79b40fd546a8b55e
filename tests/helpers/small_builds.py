"""Catalogs of a few small files that a test damages."""

import os
from collections import Counter
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.listing.tars import read_tar
from omnidali.config.sources import SourceConfig
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image

ROOT = str(Path(__file__).parents[2])
IMAGES = {"s": SourceConfig(kind="image", root="pics", list="l.txt")}
VIDEOS = {"s": SourceConfig(kind="video", root="pics", list="l.txt")}


_scandir = os.scandir


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    return path


def run_build(folder, sources=IMAGES, **options):
    return build_catalog(folder / "c.sqlite", sources, folder, progress=False, **options)[0]


def read_members(folder, name, kind=MediaKind.IMAGE):
    """The members of a tar that are media, and the counts of what is not used by reason."""
    members, left_out = read_tar(str(folder), name, kind)
    return members, Counter(item.reason for item in left_out)


def make_images(folder, count=6):
    for n in range(count):
        write_image(folder / "pics" / f"{n}.jpg", n, 40, 30)
    write(folder / "l.txt", "".join(f"{n}.jpg {n % 2}\n" for n in range(count)))


def fail_to_list(monkeypatch, folder, error):
    """Let the listing of one folder fail with an error number; of others it works (again)."""

    def scandir(path="."):
        if os.fspath(path) == str(folder):
            raise OSError(error, os.strerror(error), str(path))
        return _scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
