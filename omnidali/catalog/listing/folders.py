"""Media found in folders."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from omnidali.catalog.listing.labels import UNLABELLED
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.utils.text_files import is_line, is_text

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".jpe"}
VIDEO_ENDINGS = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".flv",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".ivf",
    ".3gp",
    ".wmv",
}


def is_video_name(path: str) -> bool:
    """Whether a path ends like a video file."""
    return os.path.splitext(path)[1].lower() in VIDEO_ENDINGS


def endings_of(kind: MediaKind) -> set[str]:
    """The endings of the files that items of a kind are, or consist of."""
    return IMAGE_ENDINGS if kind.has_images else VIDEO_ENDINGS


def scan_folder(
    root: Path,
    kind: MediaKind,
    names: list[str] | None,
    leave_out: Callable[[str], None] = lambda path: None,
) -> tuple[list[tuple[str, int]], list[str]]:
    """Find media below ``root``, a folder of class folders (ImageFolder) or of unlabelled files.

    Args:
        root: of the source.
        kind: of the source.
        names: class names; none: the sorted folder names are the classes.
        leave_out: is called with each path that is not UTF-8, which neither lists nor the catalog
            can hold.

    Returns:
        (path, label) in sorted order, and the folders that were visited.

    Raises:
        UserError: for a folder that is no class or cannot be read, and for no media at all.
    """
    folders = class_folders(root)
    labels = _folder_labels(root, folders, names)
    endings = endings_of(kind)

    entries = []
    visited = []
    for folder, files in walk(root, folders):
        visited.append(folder)
        relative = os.path.relpath(folder, root)
        label = labels.get(relative.split(os.sep)[0], UNLABELLED)
        found = [name for name in sorted(files) if os.path.splitext(name)[1].lower() in endings]
        if kind.is_folder:
            found = [""] if found else []
        for name in found:
            path = os.path.normpath(os.path.join(relative, name))
            if is_text(path):
                entries.append((path, label))
            else:
                leave_out(path)

    if not entries:
        raise UserError(
            str(root), f"{kind} files in class folders", "none", "Check root, or name a list."
        )
    if folders:  # loose files beside class folders have no class
        entries = [entry for entry in entries if entry[1] != UNLABELLED]
    return entries, visited


def _folder_labels(root: Path, folders: list[str], names: list[str] | None) -> dict[str, int]:
    names = folders if names is None else names
    labels = {name: label for label, name in enumerate(names)}
    for folder in folders:
        if folder not in labels:
            raise UserError(
                str(root / folder),
                f"a folder named like a class ({names[0]}, ...)",
                repr(folder),
                "Rename or move it, or use a list.",
            )
    return {folder: labels[folder] for folder in folders}


def walk(root: str | Path, folders: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) of ``root`` and all below its ``folders``, sorted.

    Args:
        root: of the source.
        folders: as :func:`class_folders` gives them; none: all of them, hidden ones too.

    Raises:
        UserError: for a folder that cannot be read; its files would be gone without a word.
    """

    def refuse(error: OSError) -> None:
        # a folder deleted since its parent was listed is no loss: a start a moment later would find
        # the same
        if not isinstance(error, FileNotFoundError):
            raise _unreadable(root, error) from None

    try:
        for folder, below, files in os.walk(root, onerror=refuse):
            below[:] = folders if folders and folder == str(root) else sorted(below)
            yield folder, files
    except RecursionError:
        raise UserError(
            str(root), "folders of a few levels", "hundreds of levels", "Flatten them."
        ) from None


def class_folders(root: str | Path) -> list[str]:
    """The sorted names of the folders in ``root``, hidden ones aside.

    Raises:
        UserError: if it cannot be read, or a name cannot be that of a class: it has to fit into a
            line of a list.
    """
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(root)
            if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise _unreadable(root, error) from None

    for name in names:
        if not is_line(name):
            got = "a name with a line break" if is_text(name) else "a name that is not UTF-8"
            raise UserError(
                os.path.join(root, name),
                "a class folder whose name is a line of UTF-8",
                got,
                "Rename it.",
            )
    return names


def _unreadable(root: str | Path, error: OSError) -> UserError:
    return UserError(
        str(error.filename or root),
        "a folder that can be read",
        str(error.strerror),
        "Correct its permissions, or start again once its disk answers.",
    )
