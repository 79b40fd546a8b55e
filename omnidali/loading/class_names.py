"""The names of a config's classes, and what numbers in its lists mean."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from omnidali.catalog.listing.class_files import (
    ClassNames,
    are_positions,
    name_by_numbers,
    read_class_names,
)
from omnidali.catalog.listing.folder_walk import class_folders
from omnidali.catalog.listing.folders import endings_of
from omnidali.catalog.listing.label_zero import find_zero
from omnidali.catalog.listing.labels import UNLABELLED, Labels
from omnidali.catalog.listing.scan import SourceScan, source_class_names
from omnidali.config.files import data_file
from omnidali.config.schema import Config
from omnidali.config.sources import MediaConfig, key_of
from omnidali.errors import UserError
from omnidali.utils.text_files import require_utf8_names


def find_names(config: Config, trained: Sequence[str] | None = None) -> ClassNames | None:
    """The class names: of the config's file, of the target's folders, or of its list.

    One rule says for all sources, that of the evaluation among them, what a number in a list means.
    If the file of class names counts from 1, so do the lists, unless one of them holds a 0. If its
    names are numbers, though not their own labels, numbers in lists are these names. Names of
    folders and words of lists say nothing about numbers.

    Args:
        config: of the run.
        trained: names that a network was trained on, which hold where the config names no file.

    Returns:
        None if the target's labels are numbers.

    Raises:
        UserError: for a wrong file, and if the target has numbers and another source class folders:
            the numbers of those are unknown.
    """
    require_utf8_names()
    root = Path(config.data_root)
    sources = config.all_sources
    if config.classes:
        path = data_file(root, config.classes, "classes", "a file of class names")
        return _count_labels(
            read_class_names(path), path, sources, root, multi_label=config.multi_label
        )

    if trained:
        return class_names_from(trained, "those of the checkpoint")

    (target, source), *others = sources.items()
    names = source_class_names(target, source, root, config.multi_label)
    if names is not None:
        return class_names_from(names, _origin(target, source))

    for name, other in others:
        if not (other.list or other.tars) and source_class_names(name, other, root):
            raise UserError(
                "classes",
                f"a file that names the classes, as {key_of(name)} is class folders and"
                f" {key_of(target)} is not",
                "nothing",
                "Add it: one name a line, in label order.",
            )
    return None


def class_names_from(names: Sequence[str], origin: str) -> ClassNames:
    """Class names that no file gives: numbers in lists mean them only where the names are numbers.

    Args:
        names: in label order.
        origin: where they come from, for errors.
    """
    are_numbers = name_by_numbers(names)
    return ClassNames(names, origin="" if are_positions(names) else origin, are_numbers=are_numbers)


def check_first_labels(
    sources: Mapping[str, MediaConfig],
    names: Sequence[str] | None,
    data_root: Path,
    multi_label: bool = False,
    *,
    labelled: bool = True,
) -> None:
    """Read label maps and the first line of each list, before files are probed, for hours maybe.

    Args:
        sources: by name.
        names: of the classes; None: numbers alone.
        data_root: folder that lists and roots start from.
        multi_label: whether an item may have several labels.
        labelled: whether each item must have a label.

    Raises:
        UserError: for a list of an unknown form, where its first label fits no class or is missing,
            and for a label map that contradicts the class names.
    """
    for name, source in sources.items():
        if source.list or source.labels:
            scan = SourceScan.of(name, source, data_root, classes=None, multi_label=multi_label)
            labels = Labels(names, data_root / source.labels if source.labels else None)
        if source.list:
            _, entries = scan.read_lists(labels.number)
            first = next(entries, None)
            if labelled and first is not None and first.label == UNLABELLED:
                raise no_labels(name, f"paths alone in {source.list}")
        elif labelled and source.tars and source.format == "paths":
            raise no_labels(name, "tars of format: paths")
        elif labelled and not source.tars and _is_flat(data_root / source.root, source):
            raise no_labels(name, f"files without class folders in {source.root}")


def _is_flat(root: Path, source: MediaConfig) -> bool:
    """Whether a folder of a source has media of its own and no class folders."""
    endings = endings_of(source.media_kind)
    if not root.is_dir() or class_folders(root):
        return False
    return any(os.path.splitext(name)[1].lower() in endings for name in os.listdir(root))


def no_labels(name: str, got: str) -> UserError:
    """The error for a source without labels, where they are needed.

    Args:
        name: of the source.
        got: what there is instead.
    """
    return UserError(
        key_of(name),
        "a label for every item",
        got,
        "Add the labels, in the list or by class folders. `omnidali filter --relabel` lets a"
        " teacher give them; `omnidali predict` needs none.",
    )


def _origin(name: str, source: MediaConfig) -> str:
    """Where a source's names come from, for errors about numbers elsewhere."""
    if source.tars:
        return f"the words in the tars of {key_of(name)}"
    what = "the words in the list of" if source.list else "the folders of"
    return f"{what} {key_of(name)}"


def _count_labels(
    names: ClassNames,
    path: Path,
    sources: dict[str, MediaConfig],
    root: Path,
    *,
    multi_label: bool,
) -> ClassNames:
    """Decide from where the lists count that give classes by number.

    Args:
        names: of the file.
        path: of the file.
        sources: all that are labelled, by name.
        root: folder that their lists start from.
        multi_label: whether an item may have several labels.
    """
    if names.are_numbers:
        note = f"numbers in lists are names of classes, as {path.name} names classes by numbers"
        return ClassNames(names, are_numbers=True, note=note)
    if names.counted_from != 1:
        return names
    for name, source in sources.items():
        zero = find_zero(name, source, root, multi_label)
        if zero is not None:
            note = f"labels count from 0, as in {zero}, though {path.name} counts from 1"
            return ClassNames(names, counted_from=1, note=note)
    return ClassNames(
        names, first=1, counted_from=1, note=f"labels count from 1, as in {path.name}"
    )
