"""Checks of lists: every wrong or repeated line, where the catalog stops at the first one."""

import os
from collections.abc import Sequence
from pathlib import Path

from omnidali.catalog.listing.labels import UNLABELLED, Labels
from omnidali.catalog.listing.scan import SourceScan
from omnidali.config.files import data_file
from omnidali.config.sources import MediaConfig, key_of
from omnidali.curation.lint.findings import Issues
from omnidali.errors import UserError


class _CollectingLabels(Labels):
    """Labels that record problems and continue.

    Args:
        source: name of the source.
        issues: gets the wrong labels.
        words_are_fine: whether a word that is no class name is left to another check.
        names: of the classes, in label order; None if labels are numbers.
        map_path: the label map's file, where the source has one.

    Attributes:
        wrong: whether any label was wrong.
    """

    def __init__(
        self,
        source: str,
        issues: Issues,
        *,
        words_are_fine: bool,
        names: Sequence[str] | None,
        map_path: Path | None,
    ):
        super().__init__(names, map_path)
        self._source = source
        self._issues = issues
        self._words_are_fine = words_are_fine
        self.wrong = False

    def number(self, text: str | None, where: str, path: str, listed: int | None = None) -> int:
        try:
            return super().number(text, where, path, listed)
        except UserError as error:
            self.wrong = True
            if text is None or not self._words_are_fine:
                self._issues.add(self._source, path, "label", str(error))
            return UNLABELLED


def check_list_lines(
    name: str,
    source: MediaConfig,
    data_root: Path,
    names: list[str] | None,
    issues: Issues,
    words_are_fine: bool = False,
    *,
    multi_label: bool = False,
) -> bool:
    """Read the whole list of a source and look for wrong labels and repeated lines.

    Args:
        name: of the source.
        source: its settings.
        data_root: folder that list and root start from.
        names: class names; None if labels are numbers.
        issues: receives the findings.
        words_are_fine: whether labels may be any word, as the class names could not be read.
        multi_label: whether a line may have several labels.

    Returns:
        Whether every line has its label, without which the catalog cannot be built.

    Raises:
        UserError: for a list or a label map that cannot be read, and for the first line of another
            form.
    """
    if not source.list:
        return True

    map_path = None
    if source.labels:
        map_path = data_file(data_root, source.labels, f"{key_of(name)}.labels", "a label map")
    labels = _CollectingLabels(
        name,
        issues,
        words_are_fine=words_are_fine,
        names=names,
        map_path=map_path,
    )
    root = os.path.realpath(data_root / source.root)
    scan = SourceScan(
        name, source, root, data_root=data_root, classes=names, multi_label=multi_label
    )
    _, entries = scan.read_lists(labels.number)

    # Hashes instead of entries: a list may have millions.
    seen: set[int] = set()
    for entry in entries:
        labels_text = entry.labels or str(entry.label)
        line = hash((entry.path, labels_text, entry.unit, entry.first, entry.last))
        if line in seen:
            issues.add(name, entry.path, "repeated line", f"label {labels_text}")
        seen.add(line)
    return not labels.wrong
