"""What a source holds before anything is probed: from its list, its class folders or its tars."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from omnidali.catalog.listing.folders import class_folders, scan_folder
from omnidali.catalog.listing.labels import Labels, read_label_map
from omnidali.catalog.listing.list_formats import Entry, find_class_names, read_list, whole_file
from omnidali.catalog.listing.tars import find_tars, read_tar
from omnidali.config.schema import MediaConfig, key_of
from omnidali.utils.text_files import NOT_UTF8
from omnidali.utils.untrusted_text import for_terminal

_WHOLE = (None, None, None)  # archive, offset, size of a file of its own
_LOOKED_AT = 1000  # entries of a list whose files are looked for


def list_source(
    name: str,
    source: MediaConfig,
    root: str,
    data_root: Path,
    classes: list[str] | None,
    left_out: Counter,
) -> tuple[str, Iterator[tuple], list[str]]:
    """The format, rows of (*Entry, archive, offset, size), and the files to watch for changes.

    Args:
        root: real path of the source's folder. left_out: gets reasons and counts while the rows are
            read.

    Raises:
        UserError: for missing files and wrong lines, also while the rows are read.
    """
    map_path = data_root / source.labels if source.labels else None
    labels = Labels(classes, read_label_map(map_path) if map_path else None, map_path)
    watched = [str(map_path)] if map_path else []
    if source.tars:
        tars = find_tars(Path(root), source.tars, f"{key_of(name)}.tars")
        return (
            "webdataset tars",
            _from_tars(tars, root, source, labels, left_out),
            watched + [os.path.join(root, tar) for tar in tars],
        )
    odd = _OddNames(left_out)
    if source.list:
        path = data_root / source.list
        form, entries = read_list(path, source, labels, name, root=root, leave_out=odd.add)
        return form, _chosen(_below_root(entries, root), source), [*watched, str(path)]
    found, folders = scan_folder(Path(root), source.kind, classes, odd.add)
    rows = ((*whole_file(path, label, source), *_WHOLE) for path, label in found)
    return "class folders", rows, watched + folders


class _OddNames:
    """Counts what is left out as its name is not UTF-8, under one reason that shows the first."""

    def __init__(self, left_out: Counter):
        self._left_out = left_out
        self._reason = ""

    def add(self, path: str, where: str = "") -> None:
        """Count a path; ``where`` is the line of a list."""
        if not self._reason:
            self._reason = f"{NOT_UTF8}, such as {for_terminal(path)}{where and f' ({where})'}"
        self._left_out[self._reason] += 1


def source_class_names(name: str, source: MediaConfig, data_root: Path) -> list[str] | None:
    """Class names that a source itself gives: its folders' names, or the labels of its list where
    they are names.
    """
    root = data_root / source.root
    if source.labels or not os.path.isdir(root):  # what is wrong with it, the build tells
        return None
    if source.tars:
        members = [
            member
            for tar in find_tars(root, source.tars, f"{key_of(name)}.tars")
            for member in read_tar(str(root), tar, source.kind).members
        ]
        texts = {member[3] for member in members if member[3] is not None}
        return None if all(text.isdigit() for text in texts) else sorted(texts)
    if source.list:
        return find_class_names(data_root / source.list, source, name, root)
    return class_folders(root) or None


def _chosen(entries: Iterator[Entry], source: MediaConfig) -> Iterator[tuple]:
    """Rows of what training will ask for: pieces that never are drawn need not be probed."""
    return ((*entry, *_WHOLE) for entry in entries if source.pieces != "positive" or entry.positive)


def _below_root(entries: Iterator[Entry], root: str) -> Iterator[Entry]:
    """Lists whose paths begin with the root's own name mean what lies in it."""
    prefix = os.path.basename(root) + "/"
    first = list(itertools.islice(entries, _LOOKED_AT))
    strips = False
    for entry in first:  # the first file that is there, one way or the other, tells
        if os.path.exists(os.path.join(root, entry.path)):
            break
        if entry.path.startswith(prefix) and os.path.exists(
            os.path.join(root, entry.path.removeprefix(prefix))
        ):
            strips = True
            break
    for entry in itertools.chain(first, entries):
        if strips:
            entry = entry._replace(
                path=entry.path.removeprefix(prefix), video=entry.video.removeprefix(prefix)
            )
        yield entry


def _from_tars(
    tars: list[str], root: str, source: MediaConfig, labels: Labels, left_out: Counter
) -> Iterator[tuple]:
    for name in tars:
        tar = read_tar(root, name, source.kind)
        left_out.update(tar.left_out)
        for member, offset, size, text in tar.members:
            if text is None and not source.labels:
                left_out["member without a class"] += 1
            else:
                label = labels.number(text, f"{name}: {member}", member)
                yield (*Entry(f"{name}:{member}", label), name, offset, size)
