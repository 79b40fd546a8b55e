"""The entries of a source before the probe: from its list, its class folders or its tars."""

import dataclasses
import glob
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidali.catalog.listing.class_files import same_form, signed_names
from omnidali.catalog.listing.comments import NoteLine, ignore
from omnidali.catalog.listing.folder_walk import class_folders
from omnidali.catalog.listing.folders import scan_folder
from omnidali.catalog.listing.labels import UNLABELLED, Labels, NumberLabel
from omnidali.catalog.listing.left_out import LeftOut, LeftOutItem
from omnidali.catalog.listing.list_file import Entry, cut_into_windows, joined_labels
from omnidali.catalog.listing.list_reader import find_lists, read_list
from omnidali.catalog.listing.tars import SEVERAL_CLASSES, TarMember, find_tars, read_tar
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.catalog.probing.root_guard import RootPaths
from omnidali.config.files import data_file
from omnidali.config.sources import EVALUATION, MediaConfig, key_of
from omnidali.errors import UserError, start_of
from omnidali.utils.text_files import is_text

# an entry, and archive, offset and size where it is a member of a tar
ScanRow = tuple[object, ...]
# Of the rules by which lists, folders and tars are read: where they change, a start reads again.
RULES = 2

MULTI_LABEL = "multi_label"  # in signatures of lists whose items may have several labels
# Settings that decide what reading finds.
SIGNED = [field.name for field in dataclasses.fields(MediaConfig) if field.name != "decode"]
_FILES = {"list": "a list file", "labels": "a label map"}  # that settings name
_WHOLE = (None, None, None)  # archive, offset, size of a file of its own
_LOOKED_AT = 1000  # entries of a list whose files are looked for


@dataclass(frozen=True)
class SourceScan:
    """A source whose files are to be found.

    Attributes:
        name: of the source.
        config: of the source.
        root: real path of its folder.
        data_root: folder that its list and label map are relative to.
        classes: class names in label order; none: numbers alone.
        multi_label: whether an item may have several labels.
    """

    name: str
    config: MediaConfig
    root: str
    data_root: Path
    classes: list[str] | None
    multi_label: bool = False

    @property
    def split(self) -> str:
        """``train`` or ``test``: the part that is read of a list that holds both."""
        if self.config.split != "auto":
            return self.config.split
        return "test" if self.name == EVALUATION else "train"

    @classmethod
    def of(
        cls,
        name: str,
        config: MediaConfig,
        data_root: str | Path,
        classes: list[str] | None,
        multi_label: bool = False,
    ) -> "SourceScan":
        """Find the root of a source, and the files that it names.

        Raises:
            UserError: if the root is no folder, or a file is missing.
        """
        root = os.path.realpath(Path(data_root) / config.root)
        if not os.path.isdir(root):
            state = "is no folder" if os.path.exists(root) else "does not exist"
            raise UserError(
                f"{key_of(name)}.root",
                "a folder",
                f"{config.root}, which {state}{start_of(config.root, data_root, 'data_root')}",
                "Check root and data_root (on the command line: data_root=DIR).",
            )
        if not is_text(root):
            raise UserError(
                f"{key_of(name)}.root",
                "a folder with a name in UTF-8",
                f"{root}, which is not",
                "Rename it, or move the data.",
            )
        scan = cls(name, config, root, Path(data_root), classes, multi_label=multi_label)
        # now, as the probe of the sources before may take hours
        scan.lists()
        if config.labels:
            scan._file("labels")
        return scan

    def tars(self) -> list[str]:
        """The names of the source's tars, if it has any.

        Raises:
            UserError: for a bad pattern, and where a tar is missing.
        """
        pattern = self.config.tars
        return find_tars(Path(self.root), pattern, f"{key_of(self.name)}.tars") if pattern else []

    def matches(self) -> list[str]:
        """The files that the source's pattern of tars or lists fits now; none without one."""
        if self.config.list and glob.has_magic(self.config.list):
            return [str(path) for path in self.lists()]
        return self.tars()

    def signature(self, watched: Sequence[str], matches: Sequence[str]) -> str:
        """Text that stays the same as long as reading would find the same entries again.

        Args:
            watched: paths of lists and folders.
            matches: those of :meth:`matches`.
        """
        settings = [getattr(self.config, name) for name in SIGNED]
        stamps = [[path, stamp_of(path)] for path in watched]
        # how lists count their labels follows from all of them
        classes, origin = signed_names(self.classes)
        several = [MULTI_LABEL] if self.multi_label else []
        return json.dumps([settings, self.root, classes, matches, stamps, RULES, origin, *several])

    def read(self, left_out: LeftOut) -> tuple[str, Iterator[ScanRow], list[str]]:
        """The format, the rows, and the files to watch for changes.

        Args:
            left_out: receives what is left out while the rows are read.

        Raises:
            UserError: for missing files and wrong lines, also while the rows are read.
        """
        source = self.config
        map_path = self._file("labels") if source.labels else None
        labels = Labels(self.classes, map_path)
        also = [str(map_path)] if map_path else []

        if source.tars:
            tars = self.tars()
            watched = [os.path.join(self.root, tar) for tar in tars]
            return "webdataset tars", self._from_tars(tars, labels, left_out), watched + also

        if source.list:
            form, entries = self._from_list(labels, left_out)
            watched = list(map(str, self.lists()))  # entries hold their places
        else:
            form = "class folders"
            found, folders = scan_folder(
                Path(self.root),
                source.media_kind,
                self.classes,
                left_out=left_out,
                follows_links=self.config.follows_links,
            )
            entries = cut_into_windows(itertools.starmap(Entry, found), source)
            watched = folders
        return form, ((*entry, *_WHOLE) for entry in entries), watched + also

    def lists(self) -> list[Path]:
        """The source's list, or the lists that fit a pattern, in sorted order.

        Raises:
            UserError: if there is none.
        """
        return find_lists(self.name, self.config, self.data_root)

    def read_lists(
        self, number: NumberLabel, leave_out: NoteLine = ignore
    ) -> tuple[str, Iterator[Entry]]:
        """The format of the source's lists, and their entries as they are written.

        Args:
            number: gives the label of an item.
            leave_out: as in :func:`~omnidali.catalog.listing.list_reader.read_list`.

        Raises:
            UserError: as there.
        """
        return read_list(
            self.lists(),
            self.config,
            number,
            self.name,
            root=self.root,
            leave_out=leave_out,
            split=self.split,
            multi_label=self.multi_label,
        )

    def read_tar(self, name: str) -> tuple[list[TarMember], list[LeftOutItem]]:
        """The members of one of the source's tars, and what of it is left out."""
        return read_tar(self.root, name, self.config.media_kind, self.config.follows_links)

    def _from_list(self, labels: Labels, left_out: LeftOut) -> tuple[str, Iterator[Entry]]:
        form, entries = self.read_lists(labels.number, left_out.add)
        entries = _below_root(entries, self.root, Path(self.data_root, self.config.root))
        if self.config.pieces == "positive":  # the other ones are never drawn, nor probed
            entries = (entry for entry in entries if entry.positive)
        return form, entries

    def _file(self, setting: str) -> Path:
        """The path of a file that a setting of the source names."""
        key = f"{key_of(self.name)}.{setting}"
        return data_file(self.data_root, getattr(self.config, setting), key, _FILES[setting])

    def _from_tars(self, tars: list[str], labels: Labels, left_out: LeftOut) -> Iterator[ScanRow]:
        for name in tars:
            members, unused = self.read_tar(name)
            for item in unused:
                left_out.add(*item)
            for member in members:
                path = f"{name}:{member.name}"
                if self.config.format == "paths":  # whatever the tar says of classes
                    entry = Entry(path, UNLABELLED)
                    yield (*entry, name, member.offset, member.size)
                    continue
                texts = member.texts(self.multi_label)
                if not texts and not self.config.labels:
                    reason = SEVERAL_CLASSES if member.labels else "member without a class"
                    left_out.add(path, reason)
                    continue
                given: Sequence[str | None] = texts or [None]
                where = f"{name}: {member.name}"
                found = sorted({labels.number(text, where, member.name) for text in given})
                entry = Entry(path, found[0], labels=joined_labels(found))
                yield (*entry, name, member.offset, member.size)


def source_class_names(
    name: str, source: MediaConfig, data_root: Path, multi_label: bool = False
) -> list[str] | None:
    """Find the class names that a source itself gives; None if it has none.

    They are its folders' names, or the labels of its list where they are names.

    Args:
        name: of the source.
        source: its settings.
        data_root: folder that its list and root start from.
        multi_label: whether an item may have several labels.
    """
    root = data_root / source.root
    # without a root the build reports the error
    if source.labels or source.format == "paths" or not os.path.isdir(root):
        return None
    if source.tars:
        scan = SourceScan.of(name, source, data_root, classes=None, multi_label=multi_label)
        texts = {
            text
            for tar in scan.tars()
            for member in scan.read_tar(tar)[0]
            for text in member.texts(multi_label)
        }
        return None if all(text.isdigit() for text in texts) else sorted(texts)
    if source.list:
        scan = SourceScan.of(name, source, data_root, classes=None, multi_label=multi_label)
        return _listed_names(scan)
    return class_folders(root) or None


def _listed_names(scan: SourceScan) -> list[str] | None:
    """The class names that the labels of a source's list are; None if they are numbers.

    They are in the order of the numbers beside them where all have one, else sorted.
    """
    found: dict[str, tuple[str, int | None]] = {}  # two Unicode forms are one name
    numbered: list[str] = []

    def collect(text: str | None, where: str, path: str, listed: int | None = None) -> int:
        if text is None or text.isdigit():
            numbered.append(where)
        else:
            found.setdefault(same_form(text), (text, listed))
        return 0

    _, entries = scan.read_lists(collect)
    for _ in entries:
        if numbered:
            return None
    if not found:  # paths alone
        return None
    order = {text: number for text, number in found.values() if number is not None}
    names = [text for text, _ in found.values()]
    return sorted(names, key=order.__getitem__) if len(order) == len(names) else sorted(names)


def _below_root(entries: Iterator[Entry], root: str, given: Path) -> Iterator[Entry]:
    """Make the paths of a list relative to the root.

    Absolute ones that lie below it lose its path, and those of a list that begins with the root's
    own name lose that.

    Args:
        entries: of the list.
        root: real path.
        given: the root as the config names it, maybe by a link.
    """
    below = RootPaths(os.path.abspath(given)).relative
    entries = (
        entry._replace(path=below(entry.path), video=below(entry.video))
        if entry.path.startswith("/")
        else entry
        for entry in entries
    )

    prefix = os.path.basename(root) + "/"
    first = list(itertools.islice(entries, _LOOKED_AT))
    entries = itertools.chain(first, entries)
    if not _names_root(first, root, prefix):
        return entries
    return (
        entry._replace(path=entry.path.removeprefix(prefix), video=entry.video.removeprefix(prefix))
        for entry in entries
    )


def _names_root(entries: Sequence[Entry], root: str, prefix: str) -> bool:
    """Whether paths begin with the root's name; the first file that is there decides."""
    for entry in entries:
        if os.path.exists(os.path.join(root, entry.path)):
            return False
        if entry.path.startswith(prefix) and os.path.exists(
            os.path.join(root, entry.path.removeprefix(prefix))
        ):
            return True
    return False
