"""What paths on a command line mean: the files and folders of frames that are to be predicted."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omnidali.catalog.listing.folder_walk import is_class_name
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.prediction.file_kind import (
    absolute,
    is_image_name,
    is_unread_medium,
    kind_by_name,
    looks_like_text,
    sniff_kind,
    why_unreadable,
)
from omnidali.prediction.frame_folders import frame_pattern
from omnidali.prediction.listed_paths import ListedPath, read_paths

_NO_MATCH = "no file or folder of this pattern"
_NO_MEDIA = "a folder without a video, a photo or frames"
_AS_LIST = "neither a video nor a photo; as a list"
_TAR_ENDING = ".tar"  # compressed ones are refused where tars are read
_DEEPEST = 100  # level of folders that is searched
_LIST_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".list", ".lst")


@dataclass(frozen=True)
class Span:
    """A part of a video or of a folder of frames, as a list names it.

    Attributes:
        unit: what the others count: ``seconds`` or ``frames``.
        first: where it begins.
        last: where it ends, exclusive.
    """

    unit: str
    first: float
    last: float


@dataclass(frozen=True)
class Target:
    """A file or a folder of frames that is to be predicted, or that cannot be.

    Attributes:
        path: for people.
        file: its absolute path.
        kind: as far as its name and first bytes tell; None where ``error`` says why not.
        pattern: of the names in a folder of frames.
        spans: the parts of it that a list names; none: all of it.
        is_tar: whether the media in it are predicted.
        error: why it is not predicted; or empty.
    """

    path: str
    file: str = ""
    kind: MediaKind | None = None
    pattern: str | None = None
    spans: tuple[Span, ...] = ()
    is_tar: bool = False
    error: str = ""


@dataclass(frozen=True)
class Search:
    """How paths are searched.

    Attributes:
        root: folder that relative paths of lists start from; None: the list's own folder, or the
            current one, whichever holds more of them.
        photos: whether every image is a photo, though it looks like a frame of a folder.
        multi_label: whether lines of lists rather have several labels than one.
    """

    root: str | None = None
    photos: bool = False
    multi_label: bool = False

    def find(self, paths: Iterable[str | bytes | os.PathLike]) -> list[Target]:
        """The targets of some paths, in their order; folders in the order of their names.

        Args:
            paths: files, folders, lists and patterns; ``~`` is the user's home.
        """
        return [target for path in paths for target in self._targets(os.fspath(path))]

    def _targets(self, given: str | bytes) -> Iterator[Target]:
        path = os.path.expanduser(os.fsdecode(given))
        if "\0" in path:
            yield Target(path, error="a path with a NUL")
        elif os.path.lexists(path) or not glob.has_magic(path):
            yield from self._target(path)
        else:
            found = sorted(glob.glob(path, recursive=True))
            for match in found:
                yield from self._target(match)
            if not found:
                yield Target(path, error=_NO_MATCH)

    def _target(self, path: str) -> Iterator[Target]:
        """The targets of a path without a pattern."""
        try:
            status = os.stat(path)
        except OSError as error:
            yield Target(path, error=why_unreadable(path, error))
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._in_folder(path)
        elif not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            yield Target(path, error="not a regular file")
        else:
            yield from self._of_file(path)

    def _of_file(self, path: str) -> Iterator[Target]:
        """The target of a file, or those that it lists."""
        if path.lower().endswith(_TAR_ENDING):
            yield Target(path, absolute(path), is_tar=True)
            return
        target = _file_target(path)
        is_list = os.path.splitext(path)[1].lower() in _LIST_ENDINGS
        if target.kind is None and (is_list or looks_like_text(path)):
            yield from self._in_list(path)
        else:
            yield target

    def _in_list(self, path: str) -> Iterator[Target]:
        try:
            listed = read_paths(Path(path), self.root, self.multi_label)
            yield from (self._of_listed(item) for item in listed)
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
            yield Target(path, error=f"{_AS_LIST}: {reason}")

    def _of_listed(self, item: ListedPath) -> Target:
        """The target of an item of a list: a file, or a folder of frames."""
        if item.error:
            return Target(item.path, error=item.error)
        spans = tuple(Span(*span) for span in item.spans)
        if not os.path.isdir(item.path):
            return replace(_file_target(item.path), spans=spans)
        pattern = item.pattern or frame_pattern(item.path)
        if pattern is None:
            return Target(item.path, error="a folder of a list without frames")
        return Target(item.path, absolute(item.path), MediaKind.FRAMES, pattern, spans=spans)

    def _in_folder(self, top: str) -> Iterator[Target]:
        """All media below a folder."""
        count = 0
        for target in self._walk(top, seen=set()):
            count += 1
            yield target
        if not count:
            yield Target(top, error=_NO_MEDIA)

    def _walk(self, folder: str, seen: set[tuple[int, int]], depth: int = 0) -> Iterator[Target]:
        """Yield the media of a folder and of those below it.

        Args:
            folder: to look into.
            seen: device and number of the folders that were looked into.
            depth: of the folder.
        """
        if depth > _DEEPEST:
            yield Target(folder, error=f"more than {_DEEPEST} folders deep")
            return
        try:
            status = os.stat(folder)
            names = sorted(os.listdir(folder))
        except OSError as error:
            yield Target(folder, error=why_unreadable(folder, error))
            return
        # a link may lead to a folder above it
        place = (status.st_dev, status.st_ino)
        if place in seen:
            return
        seen.add(place)

        pattern = None if self.photos else frame_pattern(folder, names)
        if pattern is not None:
            yield Target(folder, absolute(folder), MediaKind.FRAMES, pattern)
        for name in names:
            path = os.path.join(folder, name)
            if not is_class_name(name):  # hidden, or an operating system's
                continue
            if os.path.isdir(path):
                yield from self._walk(path, seen, depth + 1)
            elif name.lower().endswith(_TAR_ENDING):
                yield Target(path, absolute(path), is_tar=True)
            elif not (pattern is not None and is_image_name(name)):
                yield from _media_in_folder(path)


def _file_target(path: str) -> Target:
    """The target of a file: by its ending, else by its first bytes.

    Where they differ, the probe finds it out: it has limits, and does not hang.
    """
    kind = kind_by_name(path)
    error = ""
    if kind is None or not os.path.exists(path):
        kind, error = sniff_kind(path)
    return Target(path, error=error) if kind is None else Target(path, absolute(path), kind)


def _media_in_folder(path: str) -> Iterator[Target]:
    """The target of a file in a folder; what is no medium by name and content is passed over."""
    target = _file_target(path)
    is_medium = target.kind is not None or kind_by_name(path) is not None
    if is_medium or is_unread_medium(target.error):
        yield target


def unique_files(targets: Sequence[Target]) -> dict[tuple[str, str | None], MediaKind]:
    """The kinds of all files that are to be opened, each once, by path and pattern of frames."""
    return {
        (target.file, target.pattern): target.kind for target in targets if target.kind is not None
    }
