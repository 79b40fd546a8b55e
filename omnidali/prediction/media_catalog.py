"""The catalog of a prediction: its files probed as those of a training, in a folder of its own."""

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.left_out_table import read_left_out
from omnidali.catalog.database.listed_items import read_items
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.root_guard import escape_reason
from omnidali.config.sources import MediaConfig
from omnidali.errors import NoUsableFilesError, UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.atomic_write import write_whole
from omnidali.utils.text_files import is_text

ROOT = "/"
UNKNOWN = "left out by the probe"
_GLOB_MARKS = "*?[]{}"  # which mean something in a pattern of tars
_OTHER_MEMBER = "member that is no "  # how the reason begins for which a member is of another kind
_IN_TARS: tuple[Literal["image", "video"], ...] = ("image", "video")
# of what the probe says of a file of the other kind
_OTHER_KIND = re.compile(r"not a (?:video|photo): a (photo|video|animated picture) \(")


@dataclass(frozen=True, repr=False)
class OpenedMedia:
    """The usable files of one kind.

    Attributes:
        table: a row a file.
        source: settings for a loader.
        files: the path of each row's file, as it was asked for.
    """

    table: SourceTable
    source: MediaConfig
    files: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Probed:
    """What the probe found.

    Attributes:
        opened: the usable files, by kind and pattern.
        refused: reasons, by path as it was asked for.
    """

    opened: list[OpenedMedia] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """All paths."""
        return {file for media in self.opened for file in media.files} | set(self.refused)

    def add(self, opened: OpenedMedia | None, refused: Mapping[str, str]) -> None:
        """Add what the probe found of one source."""
        self.refused.update(refused)
        if opened is not None:
            self.opened.append(opened)


class MediaCatalog:
    """Probes files, and opens them for a loader.

    Args:
        folder: for its lists and links, and for the catalog unless there is one.
        catalog: file of a catalog that outlives the prediction; None: one in the folder.
        pixel_aspect: setting of the sources.
        progress: whether to show bars.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Path | None = None,
        *,
        pixel_aspect: str = "ignore",
        progress: bool = False,
    ) -> None:
        self._folder = folder
        self.path = catalog or folder / "catalog.sqlite"
        self._pixel_aspect = pixel_aspect
        self._progress = progress
        self._numbers = itertools.count()  # of lists and links

    def probe(self, files: Mapping[tuple[str, str | None], MediaKind]) -> Probed:
        """Probe files; one that turns out to be of the other kind is probed as that.

        Args:
            files: kinds by path, and pattern of frames.

        Raises:
            UserError: if the catalog cannot be written.
        """
        probed = Probed()
        self._open(files, probed)
        others: dict[tuple[str, str | None], MediaKind] = {
            (file, None): _OTHERS[files[file, None]]
            for file, reason in probed.refused.items()
            if (file, None) in files and _OTHER_KIND.match(reason)
        }
        if others:
            self._open(others, probed, suffix=" by content")
        return probed

    def probe_tar(self, file: str) -> Probed:
        """Probe the photos and videos in a tar; their paths are those of the tar and the member.

        Raises:
            UserError: if the catalog cannot be written.
        """
        probed = Probed()
        folder, name = os.path.split(self._listed_name(file, _GLOB_MARKS))
        for kind in _IN_TARS:
            source = MediaConfig(
                kind=kind,
                root=folder,
                tars=name,
                format="paths",
                links="follow",
                pixel_aspect=self._pixel_aspect,  # type: ignore[arg-type]  # of a checked config
            )
            opened, refused = self._build(
                f"predict {kind} in {folder}/{name}",
                source,
                lambda path: f"{file}{path.removeprefix(name)}",
            )
            probed.add(opened, refused)
        return probed

    def _open(
        self,
        files: Mapping[tuple[str, str | None], MediaKind],
        probed: Probed,
        suffix: str = "",
    ) -> None:
        """Add to ``probed`` what becomes of files; ``suffix`` ends the names of their sources."""
        groups: dict[tuple[MediaKind, str | None], list[str]] = {}
        for (file, pattern), kind in files.items():
            groups.setdefault((kind, pattern), []).append(file)
        for (kind, pattern), members in groups.items():
            name = " ".join(filter(None, ("predict", kind.value, pattern))) + suffix
            names = {self._listed_name(file): file for file in members}
            opened, refused = self._open_list(name, kind, pattern, names)
            for file in members:
                probed.refused.pop(file, None)
            probed.add(opened, refused)

    def _open_list(
        self, name: str, kind: MediaKind, pattern: str | None, names: Mapping[str, str]
    ) -> tuple[OpenedMedia | None, dict[str, str]]:
        """The usable files of a source, and why the others are not.

        Args:
            name: of the source.
            kind: of its files.
            pattern: of the names of frames.
            names: the files, by their path as the list has it.
        """
        listed = self._folder / f"{next(self._numbers)}.txt"
        try:
            write_whole(listed, (f"{path}\n" for path in names))
        except OSError as error:
            raise no_room(error) from None
        source = MediaConfig(
            kind=kind.value,
            root=ROOT,
            list=str(listed),
            format="paths",
            pattern=pattern,
            links="follow",
            pixel_aspect=self._pixel_aspect,  # type: ignore[arg-type]  # of a checked config
        )
        opened, refused = self._build(name, source, lambda path: names.get(f"{ROOT}{path}", ""))
        used = set(opened.files) if opened is not None else set()
        lost = set(names.values()) - used - set(refused)
        return opened, {**refused, **dict.fromkeys(lost, UNKNOWN)}

    def _build(
        self, name: str, source: MediaConfig, file_of: Callable[[str], str]
    ) -> tuple[OpenedMedia | None, dict[str, str]]:
        """Probe a source; its usable files, and why the others are not, by path.

        Args:
            name: of the source.
            source: its settings.
            file_of: gives the path that was asked for, by that in the catalog.
        """
        with contextlib.suppress(NoUsableFilesError):  # the catalog has the reasons
            build_catalog(self.path, {name: source}, ROOT, progress=self._progress)

        refused = {file_of(path): reason for path, reason in self._left_out(name)}
        files = tuple(file_of(item.path) for item in read_items(self.path, name))
        if not files:
            return None, refused
        return OpenedMedia(CatalogReader(self.path).table(name), source, files), refused

    def _left_out(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the paths that a source leaves out, and why."""
        with contextlib.closing(connect(self.path, read_only=True)) as db:
            for row in read_left_out(db):
                if row.source == name and not row.reason.startswith(_OTHER_MEMBER):
                    yield row.path, f"{row.reason} ({row.detail})" if row.detail else row.reason

    def _listed_name(self, file: str, marks: str = "") -> str:
        """A path by which a list and the catalog can name a file: its own, or that of a link.

        A name may hold a line break, or bytes that are not UTF-8.

        Args:
            file: its absolute path.
            marks: characters that its name may not hold, either.
        """
        is_plain = is_text(file) and file == file.strip() and _is_accepted(file)
        is_plain = is_plain and not set(marks) & set(os.path.basename(file))
        if is_plain:
            return file
        links = self._folder / "links"
        links.mkdir(exist_ok=True)
        ending = os.path.splitext(file)[1]
        link = links / f"{next(self._numbers)}{ending if ending[1:].isalnum() else ''}"
        os.symlink(file, link)
        return str(link)


_OTHERS = {MediaKind.VIDEO: MediaKind.IMAGE, MediaKind.IMAGE: MediaKind.VIDEO}


def _is_accepted(file: str) -> bool:
    return escape_reason(ROOT, file.lstrip("/"), follows_links=True) is None


def no_room(error: OSError) -> UserError:
    """The error that the folder for temporary files cannot be written."""
    return UserError(
        "TMPDIR",
        "a folder with room for temporary files",
        str(error.strerror or error),
        "Set it to another folder.",
    )
