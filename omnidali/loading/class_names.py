"""The names of a config's classes, and what numbers in its lists mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omnidali.catalog.listing.class_files import (
    ClassNames,
    are_positions,
    name_by_numbers,
    read_class_names,
)
from omnidali.catalog.listing.label_zero import find_zero
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.scan import SourceScan, source_class_names
from omnidali.config.files import data_file
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, MediaConfig, key_of
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
    sources = _all_sources(config)
    if config.classes:
        path = data_file(root, config.classes, "classes", "a file of class names")
        return _count_labels(read_class_names(path), path, sources, root)

    if trained:
        return class_names_from(trained, "those of the checkpoint")

    (target, source), *others = sources.items()
    names = source_class_names(target, source, root)
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
    sources: Mapping[str, MediaConfig], names: Sequence[str] | None, data_root: Path
) -> None:
    """Read label maps and the first line of each list, before files are probed, for hours maybe.

    Args:
        sources: by name.
        names: of the classes; None: numbers alone.
        data_root: folder that lists and roots start from.

    Raises:
        UserError: for a list of an unknown form, where its first label fits no class, and for a
            label map that contradicts the class names.
    """
    for name, source in sources.items():
        if source.list or source.labels:
            scan = SourceScan.of(name, source, data_root, classes=None)
            labels = Labels(names, data_root / source.labels if source.labels else None)
        if source.list:
            _, entries = scan.read_lists(labels.number)
            next(entries, None)


def _all_sources(config: Config) -> dict[str, MediaConfig]:
    """The training sources, the target first, and the held-out one."""
    held_out = config.evaluation.source
    return {**config.sources, **({EVALUATION: held_out} if held_out is not None else {})}


def _origin(name: str, source: MediaConfig) -> str:
    """Where a source's names come from, for errors about numbers elsewhere."""
    if source.tars:
        return f"the words in the tars of {key_of(name)}"
    what = "the words in the list of" if source.list else "the folders of"
    return f"{what} {key_of(name)}"


def _count_labels(
    names: ClassNames, path: Path, sources: dict[str, MediaConfig], root: Path
) -> ClassNames:
    """Decide from where the lists count that give classes by number.

    Args:
        names: of the file.
        path: of the file.
        sources: all that are labelled, by name.
        root: folder that their lists start from.
    """
    if names.are_numbers:
        note = f"numbers in lists are names of classes, as {path.name} names classes by numbers"
        return ClassNames(names, are_numbers=True, note=note)
    if names.counted_from != 1:
        return names
    for name, source in sources.items():
        zero = find_zero(name, source, root)
        if zero is not None:
            note = f"labels count from 0, as in {zero}, though {path.name} counts from 1"
            return ClassNames(names, counted_from=1, note=note)
    return ClassNames(
        names, first=1, counted_from=1, note=f"labels count from 1, as in {path.name}"
    )
