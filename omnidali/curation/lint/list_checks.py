"""Every wrong and repeated line of a list, where the catalog stops at the first wrong one."""

from __future__ import annotations

import os
from pathlib import Path

from omnidali.catalog.listing.folders import IMAGE_ENDINGS, VIDEO_ENDINGS, class_folders, walk
from omnidali.catalog.listing.labels import UNLABELLED, Labels, read_label_map
from omnidali.catalog.listing.list_formats import read_list
from omnidali.config.schema import MediaConfig
from omnidali.curation.lint.findings import Issues
from omnidali.errors import UserError
from omnidali.utils.text_files import is_text


class _Collecting(Labels):
    """Labels that note what is wrong and go on."""

    def __init__(self, source: str, issues: Issues, words_are_fine: bool, names, mapping, map_path):
        super().__init__(names, mapping, map_path)
        self._source, self._issues, self._words_are_fine = source, issues, words_are_fine
        self.wrong = False

    def number(self, text: str | None, where: str, path: str = "") -> int:
        try:
            return super().number(text, where, path)
        except UserError as error:
            self.wrong = True
            if text is None or not self._words_are_fine:
                self._issues.add(self._source, path, "label", str(error))
            return UNLABELLED


def check_names(name: str, source: MediaConfig, data_root: Path, issues: Issues) -> None:
    """Files in class folders that are left out by their name go to ``issues``: those whose ending
    is none of the source's kind, and those whose name is not UTF-8.

    Raises:
        UserError: for a folder that cannot be read.
    """
    root = os.path.realpath(data_root / source.root)
    # the build tells of one that is missing
    if source.list or source.tars or not os.path.isdir(root):
        return
    endings = IMAGE_ENDINGS if source.kind in ("image", "frames") else VIDEO_ENDINGS
    for folder, files in walk(root, class_folders(root)):
        for file in sorted(files):
            ending, path = (
                os.path.splitext(file)[1],
                os.path.relpath(os.path.join(folder, file), root),
            )
            if ending.lower() in endings:
                if not is_text(path):
                    issues.add(name, path, "not UTF-8", "")
            elif not file.startswith("."):
                issues.add(name, path, "ending", ending or "none")


def check_list(
    name: str,
    source: MediaConfig,
    data_root: Path,
    names: list[str] | None,
    issues: Issues,
    words_are_fine: bool = False,
) -> bool:
    """Read the whole list of a source; wrong labels and repeated lines go to ``issues``.

    Args:
        names: class names; None where labels are numbers. words_are_fine: as the names could not be
            read.

    Returns:
        Whether every line has its label, which the catalog asks for.

    Raises:
        UserError: for a list or a label map that cannot be read, and for the first line of another
            form.
    """
    if not source.list:
        return True
    map_path = data_root / source.labels if source.labels else None
    labels = _Collecting(
        name,
        issues,
        words_are_fine,
        names,
        read_label_map(map_path) if map_path else None,
        map_path,
    )
    seen: set[int] = set()
    entries = read_list(
        data_root / source.list,
        source,
        labels,
        name,
        root=data_root / source.root,
        leave_out=lambda path, where: issues.add(name, path, "not UTF-8", where),
    )[1]
    for entry in entries:
        before = len(seen)
        # numbers instead of entries: a list may have millions
        seen.add(hash((entry.path, entry.label, entry.unit, entry.first, entry.last)))
        if len(seen) == before:
            issues.add(name, entry.path, "repeated line", f"label {entry.label}")
    return not labels.wrong
