"""Whether a source counts its classes from 0."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from omnidali.catalog.listing.class_files import read_label_map
from omnidali.catalog.listing.scan import SourceScan
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError


def find_zero(
    name: str, source: MediaConfig, data_root: Path, multi_label: bool = False
) -> str | None:
    """Where a source calls a class 0: in its label map, its list or its tars; None if nowhere.

    What cannot be read holds no 0: the build says what is wrong with it.

    Args:
        name: of the source.
        source: its settings.
        data_root: folder that its files start from.
        multi_label: whether an item may have several labels.
    """
    if source.format == "paths":
        return None
    with contextlib.suppress(UserError):
        scan = SourceScan.of(name, source, data_root, classes=None, multi_label=multi_label)
        if source.labels:
            path = data_root / source.labels
            return str(path) if 0 in read_label_map(path).values() else None
        texts = _tar_labels(scan) if source.tars else _list_labels(scan)
        return next((where for text, where in texts if text.strip("0") == ""), None)
    return None


def _tar_labels(scan: SourceScan) -> Iterator[tuple[str, str]]:
    """Yield (label, place) of the members of a source's tars."""
    for tar in scan.tars():
        for member in scan.read_tar(tar)[0]:
            for text in filter(None, member.texts(scan.multi_label)):
                yield text, f"{tar}: {member.name}"


def _list_labels(scan: SourceScan) -> Iterator[tuple[str, str]]:
    """Yield (label, "FILE, line N") of the entries of a source's list; nothing of class folders."""
    if not scan.config.list:
        return
    found: list[tuple[str, str]] = []

    def collect(text: str | None, where: str, path: str, listed: int | None = None) -> int:
        if text:
            found.append((text, where))
        return 0

    _, entries = scan.read_lists(collect)
    for _ in entries:
        yield from found
        found.clear()
