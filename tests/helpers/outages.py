"""Disks that fail on purpose, and small sources of every kind of media to fail with."""

from __future__ import annotations

import builtins
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.pipelines import Graph, PipelineError
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import write_image
from omnidali.testing.odd_media import odd_video

FILES = 8  # of a source, in two classes

ONE_FRAME = ClipConfig(num_clips=1, size=40, crop="center", flip=0.0)
FOUR_FRAMES = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)


class Outage:
    """Some files cannot be opened or read while it lasts.

    Args:
        monkeypatch: of the test.
        number: of the error, as in :mod:`errno`; None: every open or read hangs.
        at: ``open``, or ``read`` for files that can be opened.
        after: bytes of each file that can be read all the same.

    Attributes:
        paths: of the files and folders; the test fills it.
        opened: paths of these that were opened.
    """

    def __init__(self, monkeypatch, number: int | None, at: str = "open", after: int = 0):
        self.number = number
        self.at = at
        self.after = after
        self.paths: set[str] = set()
        self.opened: list[str] = []
        self.over = threading.Event()
        self._open = builtins.open
        self._pread = os.pread
        self._preadv = os.preadv
        monkeypatch.setattr(builtins, "open", self._checked_open)
        monkeypatch.setattr(os, "pread", self._checked_pread)
        monkeypatch.setattr(os, "preadv", self._checked_preadv)

    def end(self) -> None:
        """Let all files be as they were."""
        self.paths.clear()
        self.over.set()

    def _fail(self, path: str) -> None:
        if self.number is None:
            self.over.wait(60)
        else:
            raise OSError(self.number, os.strerror(self.number), path)

    def _hits(self, path: object) -> bool:
        return isinstance(path, (str, Path)) and any(
            str(path) == bad or str(path).startswith(bad + os.sep) for bad in self.paths.copy()
        )

    def _checked_open(self, path, *arguments, **options):
        if self._hits(path):
            self.opened.append(str(path))
            if self.at == "open":
                self._fail(str(path))
        return self._open(path, *arguments, **options)

    def _left(self, file: int, count: int, offset: int) -> int:
        """How many bytes can be read there, as a disk with a bad sector gives those before it."""
        if not self.paths or self.at != "read":
            return count
        path = os.readlink(f"/proc/self/fd/{file}")
        if not self._hits(path) or offset + count <= self.after:
            return count
        if offset >= self.after:
            self._fail(path)
        return max(0, self.after - offset)

    def _checked_pread(self, file, count, offset):
        return self._pread(file, self._left(file, count, offset), offset)

    def _checked_preadv(self, file, buffers, offset):
        left = self._left(file, sum(map(len, buffers)), offset)
        return self._preadv(file, [memoryview(buffers[0])[:left]], offset)


class FileKind(NamedTuple):
    """How the items of a source lie on the disk."""

    ending: str
    media_kind: str
    make: Callable[[Path, int], object]


def _make_image(path: Path, number: int) -> None:
    write_image(path, number, 60, 50)


def _make_folder(path: Path, number: int) -> None:
    for frame in range(3):
        write_image(path / f"img_{frame + 1:05}.jpg", number, 60, 50, frame=frame)


def _tar_of(make: Callable[[Path, int], object], ending: str) -> Callable[[Path, int], None]:
    def make_tar(path: Path, number: int) -> None:
        member = path.with_suffix(ending)
        make(member, number)
        with tarfile.open(path, "w") as tar:
            tar.add(member, f"{number % 2}/{member.name}")
        member.unlink()

    return make_tar


KINDS = {
    "index": FileKind(".mp4", "video", odd_video()),
    "demuxer": FileKind(".ts", "video", odd_video("mpegts")),
    "image": FileKind(".jpg", "image", _make_image),
    "frames": FileKind("", "frames", _make_folder),
    "tar of images": FileKind(".tar", "image", _tar_of(_make_image, ".jpg")),
    "tar of videos": FileKind(".tar", "video", _tar_of(odd_video(), ".mp4")),
}


def make_source(
    folder: Path, kind: str, count: int = FILES, decode: str = "cpu"
) -> tuple[SourceTable, dict[str, SourceConfig], list[Path]]:
    """A source of files in two classes: its table, its settings, and the files or folders."""
    root = folder / "media"
    root.mkdir(parents=True)
    ending, media_kind, make = KINDS[kind]
    paths = [root / f"{number}{ending}" for number in range(count)]
    lines = []
    for number, path in enumerate(paths):
        make(path, number)
        frames = "3 " if kind == "frames" else ""
        lines.append(f"{path.name} {frames}{number % 2}\n")
    (folder / "list.txt").write_text("".join(lines))

    files = {"tars": "*.tar"} if kind.startswith("tar") else {"list": "list.txt"}
    sources = {"web": SourceConfig(kind=media_kind, root="media", decode=decode, **files)}
    build_catalog(folder / "catalog.sqlite", sources, folder, progress=False)
    return CatalogReader(folder / "catalog.sqlite").table("web"), sources, paths


def open_source(
    table: SourceTable,
    sources: dict[str, SourceConfig],
    steps: int = 8,
    clip: ClipConfig = ONE_FRAME,
    **options,
) -> FusionIterator:
    """A loader over one source, four clips a step."""
    plan = TrainPlan([table], list(sources.values()), clip, 4, seed=5)
    settings = list(sources.values())
    return FusionIterator(plan, settings, end=steps, **{"threads": 2, **options})


def load(table: SourceTable, sources: dict[str, SourceConfig], **options):
    """All batches of a loader over one source, and the source's figures."""
    options = {"max_bad_ratio": 1.0, "max_bad_in_a_row": 1000, **options}
    with open_source(table, sources, clip=FOUR_FRAMES, **options) as loader:
        batches = list(loader)
        return batches, loader.stats()["web"]


def attempts(batches) -> int:
    """How many clips of these batches are substitutes."""
    return int(sum((batch.samples[0].attempts > 0).sum() for batch in batches))


def dali_refuses(monkeypatch, refused) -> None:
    """Let every batch of DALI fail that holds one of these files or packets, given by bytes."""
    start = Graph.start
    collect = Graph.collect

    def remember(graph, feeds):
        graph.fails = any(part in data.tobytes() for data in feeds["data"] for part in refused)
        start(graph, feeds)

    def fail(graph):
        outputs = collect(graph)
        if graph.fails:
            raise PipelineError("no such codec")
        return outputs

    monkeypatch.setattr(Graph, "start", remember)
    monkeypatch.setattr(Graph, "collect", fail)
