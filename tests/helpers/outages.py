"""Disks that fail on purpose, and small sources of every kind of media to fail with."""

from __future__ import annotations

import builtins
import os
import tarfile
import threading
from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader, SourceTable
from omnidali.config.schema import SourceConfig
from omnidali.pipelines.feeds import Graph, PipelineError
from omnidali.testing import odd_media as odd
from omnidali.testing.numbered_media import write_photo

FILES = 8  # of a source, in two classes
KINDS = ("index", "demuxer", "photo", "frames", "tar of photos", "tar of videos")


class Outage:
    """Some files cannot be opened or read while it lasts.

    Args:
        number: of the error, as in :mod:`errno`; None: whoever asks waits.
        at: ``open``, or ``read`` for files that can be opened.
        after: bytes of each file that can be read all the same.
    """

    def __init__(self, monkeypatch, number: int | None, at: str = "open", after: int = 0):
        self.number, self.at, self.after = number, at, after
        self.paths: set[str] = set()
        self.opened: list[str] = []
        self.over = threading.Event()
        self._open, self._pread, self._preadv = builtins.open, os.pread, os.preadv
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


def make_source(
    folder: Path, kind: str, count: int = FILES, decode: str = "cpu"
) -> tuple[SourceTable, dict[str, SourceConfig], list[Path]]:
    """A source of files in two classes: its table, its settings, and what lies on the disk of each
    file.
    """
    root = folder / "media"
    root.mkdir(parents=True)
    names = [f"{number}{_ENDINGS[kind]}" for number in range(count)]
    for number, name in enumerate(names):
        _make(root / name, kind, number)
    (folder / "list.txt").write_text(
        "".join(
            f"{name} {frames}{number % 2}\n"
            for number, name in enumerate(names)
            for frames in ["3 " if kind == "frames" else ""]
        )
    )
    media = {"photo": "image", "frames": "frames", "tar of photos": "image"}.get(kind, "video")
    files = {"tars": "*.tar"} if kind.startswith("tar") else {"list": "list.txt"}
    sources = {"web": SourceConfig(kind=media, root="media", decode=decode, **files)}
    build_catalog(folder / "catalog.sqlite", sources, folder, progress=False)
    return (
        CatalogReader(folder / "catalog.sqlite").table("web"),
        sources,
        [root / name for name in names],
    )


_ENDINGS = {
    "index": ".mp4",
    "demuxer": ".ts",
    "photo": ".jpg",
    "frames": "",
    "tar of photos": ".tar",
    "tar of videos": ".tar",
}
_VIDEOS = {"index": odd.video(), "demuxer": odd.video("mpegts"), "tar of videos": odd.video()}


def _make(path: Path, kind: str, number: int) -> None:
    if kind == "photo":
        write_photo(path, number, 60, 50)
    elif kind == "frames":
        for frame in range(3):
            write_photo(path / f"img_{frame + 1:05}.jpg", number, 60, 50, frame=frame)
    elif kind.startswith("tar"):
        member = path.with_suffix(".jpg" if kind == "tar of photos" else ".mp4")
        write_photo(member, number, 60, 50) if kind == "tar of photos" else _VIDEOS[kind](
            member, number
        )
        with tarfile.open(path, "w") as tar:
            tar.add(member, f"{number % 2}/{member.name}")
        member.unlink()
    else:
        _VIDEOS[kind](path, number)


def dali_refuses(monkeypatch, refused) -> None:
    """Let every batch of DALI fail that holds one of these files, given by their bytes."""
    start, collect = Graph.start, Graph.collect

    def remember(graph, feeds):
        graph.fails = any(data.tobytes() in refused for data in feeds["data"])
        start(graph, feeds)

    def fail(graph):
        outputs = collect(graph)
        if graph.fails:
            raise PipelineError("no such codec")
        return outputs

    monkeypatch.setattr(Graph, "start", remember)
    monkeypatch.setattr(Graph, "collect", fail)
