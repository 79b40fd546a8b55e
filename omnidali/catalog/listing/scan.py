"""The entries of a source before the probe: from its list, its class folders or its tars."""

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omnidali.catalog.listing.folders import class_folders, scan_folder
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_formats import Entry, whole_files
from omnidali.catalog.listing.list_reader import find_class_names, read_list
from omnidali.catalog.listing.tars import find_tars, read_tar
from omnidali.catalog.probing.file_span import stamp_of
from omnidali.config.files import data_file
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError, start_of
from omnidali.utils.text_files import NOT_UTF8, is_text
from omnidali.utils.untrusted_text import for_terminal

# an entry, and archive, offset and size where it is a member of a tar
ScanRow = tuple[object, ...]

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
    """

    name: str
    config: MediaConfig
    root: str
    data_root: Path
    classes: list[str] | None

    @classmethod
    def of(
        cls, name: str, config: MediaConfig, data_root: str | Path, classes: list[str] | None
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
        scan = cls(name, config, root, Path(data_root), classes)
        for setting in _FILES:  # now, as the probe of the sources before may take hours
            if getattr(config, setting):
                scan._file(setting)
        return scan

    def tars(self) -> list[str]:
        """The names of the source's tars, if it has any.

        Raises:
            UserError: for a bad pattern, and where a tar is missing.
        """
        pattern = self.config.tars
        return find_tars(Path(self.root), pattern, f"{key_of(self.name)}.tars") if pattern else []

    def signature(self, watched: Sequence[str], tars: Sequence[str]) -> str:
        """Text that stays the same as long as reading would find the same entries again.

        Args:
            watched: paths of lists and folders.
            tars: names of the source's tars.
        """
        settings = [
            getattr(self.config, field.name)
            for field in dataclasses.fields(MediaConfig)
            if field.name != "decode"
        ]
        stamps = [[path, stamp_of(path)] for path in watched]
        return json.dumps([settings, self.root, self.classes, tars, stamps])

    def read(self, left_out: Counter[str]) -> tuple[str, Iterator[ScanRow], list[str]]:
        """The format, the rows, and the files to watch for changes.

        Args:
            left_out: gets reasons and counts while the rows are read.

        Raises:
            UserError: for missing files and wrong lines, also while the rows are read.
        """
        source = self.config
        map_path = self._file("labels") if source.labels else None
        labels = Labels(self.classes, map_path)
        watched = [str(map_path)] if map_path else []

        if source.tars:
            tars = self.tars()
            watched += [os.path.join(self.root, tar) for tar in tars]
            return "webdataset tars", self._from_tars(tars, labels, left_out), watched

        leave_out = partial(_count_odd_name, left_out)
        if source.list:
            path = self._file("list")
            form, entries = read_list(
                path, source, labels.number, self.name, root=self.root, leave_out=leave_out
            )
            entries = _below_root(entries, self.root)
            if source.pieces == "positive":  # the other ones are never drawn, nor probed
                entries = (entry for entry in entries if entry.positive)
            watched.append(str(path))
        else:
            form = "class folders"
            found, folders = scan_folder(
                Path(self.root), source.media_kind, self.classes, leave_out
            )
            entries = whole_files(found, source)
            watched += folders
        return form, ((*entry, *_WHOLE) for entry in entries), watched

    def _file(self, setting: str) -> Path:
        """The path of a file that a setting of the source names."""
        key = f"{key_of(self.name)}.{setting}"
        return data_file(self.data_root, getattr(self.config, setting), key, _FILES[setting])

    def _from_tars(
        self, tars: list[str], labels: Labels, left_out: Counter[str]
    ) -> Iterator[ScanRow]:
        for name in tars:
            members, unused = read_tar(self.root, name, self.config.media_kind)
            left_out.update(unused)
            for member, offset, size, text in members:
                if text is None and not self.config.labels:
                    left_out["member without a class"] += 1
                else:
                    label = labels.number(text, f"{name}: {member}", member)
                    yield (*Entry(f"{name}:{member}", label), name, offset, size)


def source_class_names(name: str, source: MediaConfig, data_root: Path) -> list[str] | None:
    """Find the class names that a source itself gives; None if it has none.

    They are its folders' names, or the labels of its list where they are names.
    """
    root = data_root / source.root
    if source.labels or not os.path.isdir(root):  # the build reports the error
        return None
    if source.tars:
        texts = {
            member[3]
            for tar in find_tars(root, source.tars, f"{key_of(name)}.tars")
            for member in read_tar(str(root), tar, source.media_kind)[0]
            if member[3] is not None
        }
        return None if all(text.isdigit() for text in texts) else sorted(texts)
    if source.list:
        path = data_file(data_root, source.list, f"{key_of(name)}.list", "a list file")
        return find_class_names(path, source, name, root)
    return class_folders(root) or None


def _count_odd_name(left_out: Counter[str], path: str, where: str = "") -> None:
    """Count a file whose name is not UTF-8, under one reason that shows the first.

    Args:
        left_out: reasons and counts.
        path: of the file.
        where: line of a list that names it.
    """
    begin = f"{NOT_UTF8}, such as "
    place = f" ({where})" if where else ""
    new = f"{begin}{for_terminal(path)}{place}"
    left_out[next((reason for reason in left_out if reason.startswith(begin)), new)] += 1


def _below_root(entries: Iterator[Entry], root: str) -> Iterator[Entry]:
    """Let lists whose paths begin with the root's own name mean what lies in it."""
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
